"""`squeezebert-fast predict` for entities, questions, choices and CrossEncoders: their libraries' own answers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from squeezebert_fast import (
    SqueezeBertForMultipleChoice,
    SqueezeBertForQuestionAnswering,
    SqueezeBertForTokenClassification,
    SqueezeBertTokenizerFast,
)
from squeezebert_fast.answering.aggregation import Aggregation, Token
from squeezebert_fast.answering.options import AGGREGATIONS
from squeezebert_fast.training.tasks.questions import LONGEST_ANSWER
from tests.cli_helpers import VOCAB, refuses, run, save_model, succeeds
from tests.transformers_folders import SIZES, save_folder, transformers_class

transformers = pytest.importorskip("transformers")

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SENTENCES = [
    "Wolfgang Amadeus Mozart wasn't born in Reykjavik, was he?",
    "  Zürich   and Nashville: antidisestablishmentarianism!",
    "ROME",
    "Bob lives in Paris \u2603 with naïve Anna\u0301 \U0001f600.",
]


def rows_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def words_folder(head: str, folder: Path, **fields: Any) -> Path:
    """A BERT with the real vocabulary, which cuts words into several tokens."""
    torch.manual_seed(7)
    cls = transformers_class("bert", head)
    config = cls.config_class(**{**SIZES, "vocab_size": 30522, "initializer_range": 0.8, **fields})
    cls(config).save_pretrained(folder)
    transformers.BertTokenizerFast(str(VOCAB)).save_pretrained(folder)
    return folder


def folder_of(model_type: str, head: str, folder: Path, **fields: Any) -> Path:
    return (
        words_folder(head, folder, **fields)
        if model_type == "bert"
        else save_folder(model_type, head, folder, **fields)
    )


# Entities


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize("aggregate", AGGREGATIONS)
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_entities_are_those_of_transformers_pipeline(model_type: str, aggregate: str, tmp_path: Path) -> None:
    folder = folder_of(model_type, "ForTokenClassification", tmp_path, id2label=dict(enumerate(LABELS)))
    pipeline = transformers.pipeline(
        "token-classification", model=str(folder), aggregation_strategy=aggregate, device="cpu"
    )
    found = rows_of(
        succeeds("predict", "-m", folder, "-", "--aggregate", aggregate, stdin="\n".join(SENTENCES) + "\n")
    )
    assert [row["text"] for row in found] == SENTENCES
    for row in found:
        same_entities(row["entities"], pipeline(row["text"]))
    assert any(row["entities"] for row in found)


def same_entities(actual: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    scores = [[each.pop("score") for each in entities] for entities in (actual, expected)]
    assert actual == expected
    assert scores[0] == pytest.approx([float(score) for score in scores[1]], rel=1e-4)


@pytest.mark.parametrize("aggregate", ["simple", "first", "average", "max"])
def test_a_long_text_is_searched_in_windows_as_by_the_pipeline(aggregate: str, tmp_path: Path) -> None:
    folder = words_folder("ForTokenClassification", tmp_path, id2label=dict(enumerate(LABELS)))
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder, model_max_length=16)
    model = transformers.BertForTokenClassification.from_pretrained(folder)
    pipeline = transformers.TokenClassificationPipeline(
        model=model, tokenizer=tokenizer, aggregation_strategy=aggregate, stride=5, device="cpu"
    )
    text = " ".join(SENTENCES * 3)
    asked = ["predict", "-m", folder, "-", "--aggregate", aggregate, "--max-length", 16, "--stride", 5]
    (row,) = rows_of(succeeds(*asked, stdin=text + "\n"))
    assert len(row["entities"]) > 8
    same_entities(row["entities"], pipeline(text))


def test_tokens_of_windows_are_counted_through_the_text(tmp_path: Path) -> None:
    model = save_model(SqueezeBertForTokenClassification, tmp_path, id2label={0: "A", 1: "B"})
    text = "one two three four five six seven eight nine ten"
    asked = ["predict", "-m", model, "-", "--aggregate", "none", "--max-length", 6, "--stride", 2]
    (row,) = rows_of(succeeds(*asked, stdin=text + "\n"))
    assert [each["word"] for each in row["entities"]] == text.split()
    assert [each["index"] for each in row["entities"]] == list(range(1, 11))
    assert [text[each["start"] : each["end"]] for each in row["entities"]] == text.split()


@pytest.mark.parametrize(
    ("labels", "tags", "expected"),
    [
        (["O", "B-X", "I-X", "E-X", "S-X"], "S-X B-X E-X O B-X", [("X", "a"), ("X", "b c"), ("X", "e")]),
        (["O", "B-X", "I-X", "L-X", "U-X"], "B-X I-X L-X U-X O", [("X", "a b c"), ("X", "d")]),
        (["B", "M", "E", "S"], "B M E S S", [("", "a b c"), ("", "d"), ("", "e")]),
        (["NN", "VB", "S"], "NN NN VB S S", [("NN", "a b"), ("VB", "c"), ("S", "d e")]),
        (["O", "B-X", "I-X", "X"], "X B-X I-X X I-X", [("X", "a"), ("X", "b c d e")]),
    ],
)
def test_every_scheme_makes_whole_entities(
    labels: list[str], tags: str, expected: list[tuple[str, str]]
) -> None:
    text = "a b c d e"
    tokenizer = SqueezeBertTokenizerFast(VOCAB)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    scores = torch.eye(len(labels))
    tokens = [
        Token(index, at, 2 * at, 2 * at + 1, scores[labels.index(tag)])
        for at, (index, tag) in enumerate(zip(ids, tags.split(), strict=True))
    ]
    found = Aggregation(tokenizer, labels, "simple").entities(text, tokens)
    assert [(each["entity_group"], each["word"]) for each in found] == expected
    assert [text[each["start"] : each["end"]] for each in found] == [word for _, word in expected]


def test_entities_have_no_place_in_csv_and_empty_texts_none(tmp_path: Path) -> None:
    model = save_model(SqueezeBertForTokenClassification, tmp_path / "m", id2label=dict(enumerate(LABELS)))
    refuses(
        "predict", "-m", model, "-", "--format", "csv", said="lists, which CSV has no place for", stdin="a\n"
    )
    refuses("predict", "-m", model, "-", "--top-k", 2, said="--top-k means nothing for token", stdin="a\n")
    refuses(
        "predict",
        "-m",
        model,
        "-",
        "--aggregate",
        "last",
        said="--aggregate is 'last', expected",
        stdin="a\n",
    )
    refuses(
        "predict", "-m", model, "-", "--pair-column", "b", said="--pair-column means nothing", stdin="a\n"
    )
    refuses("predict", "-m", model, "-", "--max-length", 2, said="leaves no room for a text", stdin="a\n")
    assert rows_of(run("predict", "-m", model, "-", stdin=" \n").stdout) == [{"text": " ", "entities": None}]


# Questions

CONTEXT = (
    "Wolfgang Amadeus Mozart was born in Salzburg in 1756. He lived in Vienna's inner city until 1791, the year of "
    "his untimely death, and wrote antidisestablishmentarian operas; many are played in Reykjavik."
)
QUESTIONS = ["Who was born in Salzburg?", "When?", "Where are they played now?"]


def write_questions(folder: Path, contexts: list[str]) -> Path:
    path = folder / "q.jsonl"
    rows = [{"question": q, "context": c} for q, c in zip(QUESTIONS, contexts, strict=True)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.skipif(
    not hasattr(transformers, "QuestionAnsweringPipeline"), reason="transformers 5 has no such pipeline"
)
@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize("top_k", [1, 4])
@pytest.mark.parametrize("impossible", [True, False])
def test_answers_are_those_of_transformers_pipeline(
    model_type: str, top_k: int, impossible: bool, tmp_path: Path
) -> None:
    sizes = {"max_position_embeddings": 400} if model_type == "roberta" else {}
    folder = folder_of(model_type, "ForQuestionAnswering", tmp_path / "m", **sizes)
    pipeline = transformers.pipeline("question-answering", model=str(folder), device="cpu")
    length = 300 if model_type == "roberta" else 40
    path = write_questions(tmp_path, [CONTEXT, CONTEXT[:60], CONTEXT[::-1]])
    flags = ["--handle-impossible-answer"] if impossible else []
    asked = ["predict", "-m", folder, path, "--top-k", top_k, "--max-length", length, "--stride", 7, *flags]
    for row, given in zip(rows_of(succeeds(*asked)), rows_of(path.read_text()), strict=True):
        expected = pipeline(
            **given,
            top_k=top_k,
            max_answer_len=LONGEST_ANSWER,
            max_seq_len=length,
            doc_stride=7,
            handle_impossible_answer=impossible,
        )
        for place, answer in enumerate([expected] if top_k == 1 else expected, 1):
            suffix = "" if place == 1 else f"_{place}"
            actual = {name: row[f"{name}{suffix}"] for name in ("answer", "score", "start", "end")}
            assert actual.pop("score") == pytest.approx(answer.pop("score"), rel=1e-3)
            assert actual == answer


@pytest.mark.parametrize("own", [True, False])
def test_the_best_answer_is_the_best_of_all_spans(own: bool, tmp_path: Path) -> None:
    """By trying them all, of a context that is one window; transformers 5 has no pipeline to compare with."""
    if own:
        sizes = {"max_position_embeddings": 128}
        folder = save_model(SqueezeBertForQuestionAnswering, tmp_path / "m", **sizes)
        tokenizer: Any = SqueezeBertTokenizerFast.from_pretrained(folder)
        model: Any = SqueezeBertForQuestionAnswering.from_pretrained(folder)
    else:
        folder = words_folder("ForQuestionAnswering", tmp_path / "m", max_position_embeddings=128)
        tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
        model = transformers.BertForQuestionAnswering.from_pretrained(folder)
    path = write_questions(tmp_path, [CONTEXT] * 3)
    for row in rows_of(succeeds("predict", "-m", folder, path, "--top-k", 2)):
        encoded = tokenizer([row["question"]], [CONTEXT], return_tensors="pt")
        with torch.no_grad():
            output = model(**encoded)
        parts = encoded.sequence_ids(0)
        scores = []
        for logits in (output.start_logits[0], output.end_logits[0]):
            kept = [at == 0 or part == 1 for at, part in enumerate(parts)]
            scores.append(logits.masked_fill(~torch.tensor(kept), -torch.inf).softmax(-1).tolist())
        tokens = [at for at, part in enumerate(parts) if part == 1]
        spans = [
            (scores[0][first] * scores[1][last], first, last)
            for first, last in itertools.product(tokens, tokens)
            if first <= last < first + LONGEST_ANSWER
        ]
        found: dict[str, float] = {}
        for score, first, last in sorted(spans, reverse=True)[:14]:
            start = encoded.word_to_chars(0, encoded.token_to_word(0, first), 1)[0]
            end = encoded.word_to_chars(0, encoded.token_to_word(0, last), 1)[1]
            text = CONTEXT[start:end]
            found[text] = found.get(text, 0.0) + score
        best = sorted(found, key=lambda text: -found[text])
        assert [row["answer"], row["answer_2"]] == best[:2]
        assert row["score"] == pytest.approx(found[best[0]], rel=1e-3)
        assert CONTEXT[row["start"] : row["end"]] == row["answer"]


def test_the_columns_of_questions_can_be_named_and_answers_be_csv(tmp_path: Path) -> None:
    model = save_model(SqueezeBertForQuestionAnswering, tmp_path / "m")
    (tmp_path / "t.csv").write_text("nr;ask;in\n1;who?;Bob lives in Rome\n2;who?;\n")
    asked = ["predict", "-m", model, tmp_path / "t.csv", "--id", "nr", "--format", "csv"]
    refuses(*asked, said="has no column 'question'; it has nr, ask, in")
    result = run(*asked, "--column", "ask", "--pair-column", "in")
    header, first, second = result.stdout.splitlines()
    assert header == "nr,answer,score,start,end"
    _, answer, _, start, end = first.split(",")
    assert "Bob lives in Rome"[int(start) : int(end)] == answer
    assert second == "2,,,,"
    assert "1 text is empty, the first is" in result.stderr


# Choices


@pytest.mark.parametrize("library", ["own", "transformers"])
def test_the_best_choice_is_the_models(library: str, tmp_path: Path) -> None:
    if library == "own":
        folder = save_model(SqueezeBertForMultipleChoice, tmp_path / "m")
        tokenizer: Any = SqueezeBertTokenizerFast.from_pretrained(folder)
        model: Any = SqueezeBertForMultipleChoice.from_pretrained(folder)
    else:
        folder = words_folder("ForMultipleChoice", tmp_path / "m")
        tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
        model = transformers.BertForMultipleChoice.from_pretrained(folder)
    rows = [
        {"id": at, "text": text, "a": "it rained", "b": "nobody came at all", "c": "so"}
        for at, text in enumerate(SENTENCES)
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    asked = ["predict", "-m", folder, path, "--choice-columns", "a, b,c", "--all-scores", "--top-k", 2]
    for row, given in zip(rows_of(succeeds(*asked, "--id", "id")), rows, strict=True):
        texts = [str(given[name]) for name in "abc"]
        encoded = tokenizer([str(given["text"])] * 3, texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            scores = model(**{name: value[None] for name, value in encoded.items()}).logits[0].softmax(-1)
        assert [row[f"score[{name}]"] for name in "abc"] == pytest.approx(scores.tolist(), rel=1e-3)
        best = scores.argsort(descending=True).tolist()
        assert [row["choice"], row["choice_2"]] == best[:2]
        assert [row["answer"], row["answer_2"]] == [texts[best[0]], texts[best[1]]]
    refuses("predict", "-m", folder, path, said="multiple choice needs two choices at least")
    refuses(*asked, "--top-k", 4, said="--top-k is 4, but there are 3 choices")
    refuses("predict", "-m", folder, path, "--choice-columns", "a,d", said="has no column 'd'")


# CrossEncoder


of_sentence_transformers = pytest.mark.skipif(
    transformers.__version__.startswith("4."),
    reason="sentence-transformers' datasets needs a newer hub library than transformers 4 takes",
)


@of_sentence_transformers
@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("form", ["today", "config.json", "before 4"])
@pytest.mark.parametrize("activation", ["Sigmoid", "Identity"])
def test_a_cross_encoder_scores_as_its_library_does(
    labels: int, form: str, activation: str, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    base = save_folder("bert", "ForSequenceClassification", tmp_path / "base", num_labels=labels)
    encoder = library.CrossEncoder(str(base), activation_fn=getattr(torch.nn, activation)(), device="cpu")
    folder = tmp_path / "ce"
    if form == "today":
        encoder.save_pretrained(str(folder))
    else:
        base.rename(folder)
        config = json.loads((folder / "config.json").read_text())
        name = f"torch.nn.modules.activation.{activation}"
        config |= (
            {"sentence_transformers": {"activation_fn": name, "version": "5.0.0"}}
            if form == "config.json"
            else {"sbert_ce_default_activation_function": name}
        )
        (folder / "config.json").write_text(json.dumps(config))
    pairs = [("anna lives in paris", "who lives in paris"), ("it was a film", "bob")]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"text": a, "b": b}) for a, b in pairs))
    rows = rows_of(
        succeeds(
            "predict",
            "-m",
            folder,
            tmp_path / "p.jsonl",
            "--pair-column",
            "b",
            *(["--all-scores"] * (labels > 1)),
        )
    )
    expected = torch.tensor(encoder.predict(pairs)).reshape(2, labels)
    if labels == 1:
        actual = [[row["value"]] for row in rows]
    else:
        actual = [[row[f"score[LABEL_{at}]"] for at in range(labels)] for row in rows]
        if activation == "Identity":  # of several labels scores stay what they are for every classifier
            expected = expected.softmax(-1)
    torch.testing.assert_close(torch.tensor(actual), expected, rtol=1e-3, atol=1e-5)


PROMPTS = {"who": "who lives in ", "film": "it was a film: "}


@of_sentence_transformers
@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("default", ["who", None])
def test_a_cross_encoders_prompts_are_its_librarys(labels: int, default: str | None, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", "6")
    base = save_folder("bert", "ForSequenceClassification", tmp_path / "base", num_labels=labels)
    encoder = library.CrossEncoder(str(base), prompts=PROMPTS, default_prompt_name=default, device="cpu")
    folder = tmp_path / "ce"
    encoder.save_pretrained(str(folder))
    pairs = [("anna lives in paris", "who lives in paris"), ("it was a film", "bob")]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"text": a, "b": b, "label": "1"}) for a, b in pairs))
    name = "value" if labels == 1 else "score"
    softmax = {} if labels == 1 else {"activation_fn": torch.nn.Softmax(-1)}

    def scores(*options: object) -> list[float]:
        rows = rows_of(succeeds("predict", "-m", folder, path, "--pair-column", "b", *options))
        assert [row["text"] for row in rows] == [text for text, _ in pairs]
        return [row[name] for row in rows]

    def expected(prompt_name: str | None = None) -> list[float]:
        said = torch.tensor(encoder.predict(pairs, prompt_name=prompt_name, **softmax)).reshape(2, labels)
        return said.max(-1).values.tolist()

    assert scores() == pytest.approx(expected(), rel=1e-3, abs=1e-5)
    assert scores("--prompt-name", "film") == pytest.approx(expected("film"), rel=1e-3, abs=1e-5)
    assert scores("--prompt-name", "film") != scores("--prompt-name", "who")
    said = f"the prompt is 'x', but {folder} has film, who"
    refuses("predict", "-m", folder, path, "--prompt-name", "x", said=said)
    if labels > 1:  # what is measured is what is predicted
        rows = tmp_path / "e.jsonl"
        asked = ["evaluate", "-m", folder, path, "--pair-column", "b"]
        succeeds(*asked, "--labels", "a,b,c", "--predictions", rows)
        assert [row["score"] for row in rows_of(rows.read_text())] == pytest.approx(scores(), rel=1e-5)


def test_prompts_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = save_folder("bert", "ForSequenceClassification", tmp_path, num_labels=1)
    for prompts, default, said in (
        ([], "x", "default_prompt_name is 'x', which is none of the prompts"),
        (["x"], None, "prompts is not a mapping from names to texts"),
        ({"x": 1}, None, "prompts is not a mapping from names to texts"),
    ):
        about = {"model_type": "CrossEncoder", "prompts": prompts, "default_prompt_name": default}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(about))
        refuses("predict", "-m", folder, "-", said=said, stdin="a\n")
    (folder / "config_sentence_transformers.json").unlink()
    said = f"the prompt is 'x', but {folder} has none"
    refuses("predict", "-m", folder, "-", "--prompt-name", "x", said=said, stdin="a\n")


def test_what_was_trained_here_since_answers_as_it_learnt(tmp_path: Path) -> None:
    """Training is on logits, and the configuration of the CrossEncoder that it began from is kept."""
    folder = save_folder("bert", "ForSequenceClassification", tmp_path, num_labels=1)
    config = json.loads((folder / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    logits = []
    for task in (None, "regression"):
        (folder / "config.json").write_text(json.dumps(config | {"squeezebert_fast": {"task": task}}))
        (row,) = rows_of(succeeds("predict", "-m", folder, "-", stdin="anna lives in paris\n"))
        logits.append(torch.tensor(row["value"]))
    torch.testing.assert_close(logits[0], logits[1].sigmoid())


@pytest.mark.parametrize("trained", [None, "regression"])
def test_evaluate_measures_the_values_that_predict_gives(trained: str | None, tmp_path: Path) -> None:
    folder = save_folder("bert", "ForSequenceClassification", tmp_path / "m", num_labels=1)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
        "squeezebert_fast": {"task": trained},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "d.csv").write_text("text,label\nanna lives in paris,0.25\nit was a film,0.75\n")
    values = [row["value"] for row in rows_of(succeeds("predict", "-m", folder, tmp_path / "d.csv"))]
    written = tmp_path / "p.jsonl"
    asked = ("evaluate", tmp_path / "d.csv", "-m", folder, "--predictions", written, "--json")
    report = json.loads(succeeds(*asked))["float32"]
    torch.testing.assert_close([row["prediction"] for row in rows_of(written.read_text())], values)
    expected = sum((value - label) ** 2 for value, label in zip(values, (0.25, 0.75), strict=True)) / 2
    assert report["mse"] == pytest.approx(expected)
    assert report["loss"] == pytest.approx(expected)


def test_an_activation_that_is_not_known_is_refused(tmp_path: Path) -> None:
    folder = save_folder("bert", "ForSequenceClassification", tmp_path, num_labels=1)
    about = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.activation.GELU"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(about))
    refuses(
        "predict",
        "-m",
        folder,
        "-",
        said="with the activation 'torch.nn.modules.activation.GELU'",
        stdin="a\n",
    )


# All


@pytest.mark.parametrize(
    ("head", "flags"),
    [
        (SqueezeBertForTokenClassification, []),
        (SqueezeBertForQuestionAnswering, []),
        (SqueezeBertForMultipleChoice, ["--choice-columns", "context,other"]),
    ],
)
def test_int8_needs_no_quantize_before(head: Any, flags: list[str], tmp_path: Path) -> None:
    model = save_model(head, tmp_path / "m")
    row = {"text": "One.", "question": "one?", "context": "two, three", "other": "four"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    asked = ["predict", "-m", model, tmp_path / "t.jsonl", *flags]
    floats = succeeds(*asked)
    succeeds("quantize", model, tmp_path / "int8")
    int8 = succeeds(*asked, "--precision", "int8")
    assert int8 != floats
    asked[2] = tmp_path / "int8"
    assert rows_of(succeeds(*asked))[0].keys() == rows_of(int8)[0].keys()


def test_a_model_that_lacks_its_head_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for head, part in (
        (SqueezeBertForTokenClassification, "classifier"),
        (SqueezeBertForQuestionAnswering, "qa_outputs"),
    ):
        model = save_model(head, tmp_path / part)
        weights = load_file(model / "model.safetensors")
        save_file({n: w for n, w in weights.items() if part not in n}, model / "model.safetensors")
        (tmp_path / "t.jsonl").write_text('{"text": "a", "question": "a", "context": "a"}')
        refuses("predict", "-m", model, tmp_path / "t.jsonl", said=f"has no weights {part}.*")
