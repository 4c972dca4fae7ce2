"""`squeezebert-fast predict` gives the model's own answers, in order, in every output format."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from squeezebert_fast import (
    SqueezeBertForMaskedLM,
    SqueezeBertForSequenceClassification,
    SqueezeBertModel,
    SqueezeBertTokenizerFast,
    save_quantized,
)
from squeezebert_fast.answering import running
from tests.cli_helpers import DATA, refuses, run, save_model, succeeds

LABELS = {0: "red", 1: "green", 2: "blue"}
TEXTS = [
    "One.",
    "!",
    "A much longer text about nothing in particular, and more.",
    "Four words are here",
    "One.",
] * 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(SqueezeBertForSequenceClassification, tmp_path_factory.mktemp("model"), id2label=LABELS)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def logits(directory: Path, *texts: Any) -> torch.Tensor:
    """Of each text alone, so without any padding."""
    model = SqueezeBertForSequenceClassification.from_pretrained(directory)
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(directory)
    options: dict[str, Any] = {"truncation": True, "max_length": 64, "return_tensors": "pt"}
    with torch.no_grad():
        alone = [tokenizer(*([text] for text in row), **options) for row in zip(*texts, strict=True)]
        return torch.cat([model(**batch).logits for batch in alone])


def rows_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_each_text_gets_the_answer_it_gets_alone(
    model: Path, texts: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WINDOW_BATCHES", 2)  # several windows, the last one short
    rows = rows_of(succeeds("predict", "-m", model, texts, "--batch-size", batch_size))
    expected = logits(model, TEXTS).softmax(-1).max(-1)
    assert [row["text"] for row in rows] == TEXTS
    assert [row["label"] for row in rows] == [LABELS[index] for index in expected.indices.tolist()]
    torch.testing.assert_close(torch.tensor([row["score"] for row in rows]), expected.values)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_backends_agree(model: Path, texts: Path, backend: str) -> None:
    rows = rows_of(succeeds("predict", "-m", model, texts, "--backend", backend, "--threads", 1))
    torch.testing.assert_close(
        torch.tensor([row["score"] for row in rows]), logits(model, TEXTS).softmax(-1).max(-1).values
    )


def test_an_int8_checkpoint_predicts(model: Path, texts: Path, tmp_path: Path) -> None:
    loaded = SqueezeBertForSequenceClassification.from_pretrained(model)
    save_quantized(loaded, tmp_path / "int8")
    SqueezeBertTokenizerFast.from_pretrained(model).save_pretrained(tmp_path / "int8")
    rows = rows_of(succeeds("predict", "-m", tmp_path / "int8", texts))
    expected = logits(model, TEXTS).softmax(-1).max(-1).values
    torch.testing.assert_close(torch.tensor([row["score"] for row in rows]), expected, rtol=0.1, atol=0.05)
    floats = rows_of(succeeds("predict", "-m", tmp_path / "int8", texts, "--backend", "reference"))
    assert [row["label"] for row in floats] == [row["label"] for row in rows]
    assert [row["score"] for row in floats] != [row["score"] for row in rows]  # dequantized, in PyTorch


def test_pairs_are_classified_together(model: Path, tmp_path: Path) -> None:
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"a": a, "b": b}) for a, b in pairs))
    rows = rows_of(
        succeeds("predict", "-m", model, tmp_path / "p.jsonl", "--column", "a", "--pair-column", "b")
    )
    assert [(row["text"], row["pair"]) for row in rows] == pairs
    expected = logits(model, *zip(*pairs, strict=True)).softmax(-1).max(-1).values
    torch.testing.assert_close(torch.tensor([row["score"] for row in rows]), expected)


def test_top_k_and_all_scores_name_their_labels(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    assert (
        succeeds("predict", "-m", model, DATA / "banking77.csv", "--top-k", 2, "--all-scores", "-o", output)
        == ""
    )
    rows = list(csv.DictReader(io.StringIO(output.read_text(encoding="utf-8"))))
    with (DATA / "banking77.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["text"] for row in rows] == [row["text"] for row in csv.DictReader(stream)]
    for row in rows:
        scores = {label: float(row[f"score[{label}]"]) for label in LABELS.values()}
        first, second, _ = sorted(scores, key=lambda label: -scores[label])
        assert (row["label"], row["label_2"]) == (first, second)
        assert (float(row["score"]), float(row["score_2"])) == (scores[first], scores[second])
        assert sum(scores.values()) == pytest.approx(1.0)
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    "fields",
    [{"num_labels": 1}, {"num_labels": 1, "problem_type": "regression"}, {"problem_type": "regression"}],
)
def test_a_regression_gives_values_and_no_label(fields: dict[str, Any], tmp_path: Path) -> None:
    model = save_model(SqueezeBertForSequenceClassification, tmp_path / "m", **{"num_labels": 2, **fields})
    rows = rows_of(succeeds("predict", "-m", model, "-", stdin="a text\nanother\n"))
    names = ["value"] if fields.get("num_labels") else ["value[LABEL_0]", "value[LABEL_1]"]
    assert [list(row) for row in rows] == [["text", *names]] * 2
    actual = torch.tensor([[row[name] for name in names] for row in rows])
    torch.testing.assert_close(actual, logits(model, ["a text", "another"]))
    refuses(
        "predict", "-m", model, "-", "--top-k", 2, said="--top-k means nothing for regression", stdin="a\n"
    )


def test_a_text_with_several_labels_gets_those_that_reach_the_threshold(tmp_path: Path) -> None:
    fields = {"id2label": LABELS, "problem_type": "multi_label_classification"}
    model = save_model(SqueezeBertForSequenceClassification, tmp_path / "m", **fields)
    expected = logits(model, TEXTS[:5]).sigmoid()
    middle = float(expected.flatten().median())
    asked = ["predict", "-m", model, "-", "--threshold", middle]
    rows = rows_of(succeeds(*asked, "--all-scores", stdin="\n".join(TEXTS[:5]) + "\n"))
    for row, scores in zip(rows, expected.tolist(), strict=True):
        actual = [row[f"score[{label}]"] for label in LABELS.values()]
        assert actual == pytest.approx(scores, rel=1e-4)
        found = sorted((-score, LABELS[at]) for at, score in enumerate(actual) if score >= middle)
        assert row["labels"] == [label for _, label in found]
        assert row["scores"] == [-score for score, _ in found]
    assert {len(row["labels"]) for row in rows} != {0}
    refuses(*asked, "-o", tmp_path / "a.csv", said="are lists, which CSV has no place for", stdin="a\n")
    refuses(*asked, "--threshold", 2, said="--threshold is 2.0, expected a number from 0 to 1", stdin="a\n")


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_an_empty_text_has_a_row_without_an_answer(model: Path, format: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,text\n1,good\n2,\n3," ​"\n4,bad\n')
    output = tmp_path / f"o.{format}"
    result = run("predict", "-m", model, tmp_path / "t.csv", "--top-k", 2, "-o", output)
    assert result.exit_code == 0
    assert result.stderr == (
        f"squeezebert-fast: warning: 2 texts are empty, the first is {tmp_path / 't.csv'}, line 3: "
        "their answer is null\n"
    )
    if format == "csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(output.read_text(encoding="utf-8"))))
    else:
        rows = rows_of(output.read_text(encoding="utf-8"))
    assert [row["text"] for row in rows] == ["good", "", " ​", "bad"]
    for row, answered in zip(rows, (True, False, False, True), strict=True):
        answer = [row[name] for name in ("label", "score", "label_2", "score_2")]
        assert all(answer) if answered else answer == ([""] if format == "csv" else [None]) * 4


def test_a_file_of_empty_texts_alone_is_answered_too(model: Path) -> None:
    result = run("predict", "-m", model, "-", stdin="\n")
    assert rows_of(result.stdout) == [{"text": "", "label": None, "score": None}]
    assert "1 text is empty, the first is standard input, line 1: their answer is null" in result.stderr


def test_a_pair_of_which_one_is_empty_has_no_answer(model: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"a": "x", "b": null}\n{"a": "", "b": "x"}\n{"a": "x", "b": "y"}\n')
    asked = ["predict", "-m", model, tmp_path / "p.jsonl", "--column", "a", "--pair-column", "b"]
    rows = rows_of(run(*asked).stdout)
    assert [row["label"] is None for row in rows] == [True, True, False]
    assert [row["pair"] for row in rows] == ["", "x", "y"]


def test_json_lines_on_stdin_are_never_classified_braces_and_all(model: Path) -> None:
    said = '{"text": "One."}\n{"text": "two"}\n'
    assert [row["text"] for row in rows_of(succeeds("predict", "-m", model, "-", stdin=said))] == [
        "One.",
        "two",
    ]
    refuses("predict", "-m", model, "-", said="line 1 has no column 'text'; it has t", stdin='{"t": "a"}\n')
    as_text = succeeds("predict", "-m", model, "-", "--input-format", "text", stdin=said)
    assert rows_of(as_text)[0]["text"] == '{"text": "One."}'


def test_kept_columns_stand_beside_the_answers(model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Review;No;label;input_label\none;007;gold;x\ntwo;008;;y\n")
    asked = ["predict", "-m", model, tmp_path / "t.csv", "--column", "Review"]

    def header(*arguments: str) -> list[str]:
        return list(rows_of(succeeds(*asked, *arguments))[0])

    assert header() == ["text", "label", "score"]
    assert header("--id", "No") == ["No", "label", "score"]
    assert header("--keep", "Review, No") == ["Review", "No", "label", "score"]
    assert header("--keep", "Review", "--id", "No") == ["No", "Review", "label", "score"]
    assert header("--keep", "Review", "--keep", "No") == ["Review", "No", "label", "score"]
    everything = ["Review", "No", "input_input_label", "input_label", "label", "score"]
    assert header("--keep", "all") == everything
    succeeds(*asked, "--keep", "all", "-o", tmp_path / "out.csv")
    rows = list(csv.reader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert rows[0] == everything
    assert [row[:4] for row in rows[1:]] == [["one", "007", "gold", "x"], ["two", "008", "", "y"]]
    refuses(*asked, "--keep", "Number", said="has no column 'Number'; it has Review, No, label, input_label")


def test_what_csv_has_no_form_for_is_kept_as_json(model: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "x": [1, None], "b": True, "n": None, "f": float("nan")}]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, {"text": "b"}]))
    asked = ["predict", "-m", model, "--keep", "all"]
    refuses(*asked, tmp_path / "t.jsonl", "--format", "csv", said="has other columns than the first (")
    (tmp_path / "t.jsonl").write_text(json.dumps(rows[0]))
    table = list(csv.reader(io.StringIO(succeeds(*asked, tmp_path / "t.jsonl", "--format", "csv"))))
    assert table[1][:5] == ["a", "[1, null]", "true", "", "nan"]
    assert '"f": null' in succeeds(*asked, tmp_path / "t.jsonl")


def test_what_json_or_utf8_has_no_form_for_is_spelled_so_that_it_has(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "x": [1, NaN, {"y": Infinity}], "id": "\\ud800é"}\n')
    asked = ["predict", "-m", model, path, "--keep"]
    lines = succeeds(*asked, "all").splitlines()
    row = json.loads(lines[0], parse_constant=pytest.fail)  # which NaN and Infinity are
    assert (row["x"], row["id"]) == ([1, None, {"y": None}], "\ud800é")
    assert ',"[1, null, {""y"": null}]",' in succeeds(*asked, "text,x", "--format", "csv")
    refuses(*asked, "id", "--format", "csv", said="a row has the lone surrogate '\\ud800'")


def test_files_may_have_their_columns_in_different_orders(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,one\n")
    (tmp_path / "b.csv").write_text("text,id\ntwo,2\n")
    said = succeeds("predict", "-m", model, tmp_path / "*.csv", "--keep", "all", "--format", "csv")
    assert [row[:2] for row in csv.reader(io.StringIO(said))] == [["id", "text"], ["1", "one"], ["2", "two"]]


def test_a_folder_of_files_is_one_table(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for at in (2, 1):
        with gzip.open(tmp_path / "in" / f"{at}.csv.gz", "wt") as stream:
            stream.write(f"id\ttext\n{at}\tgood\n")
    for source in (tmp_path / "in", tmp_path / "in" / "*.gz"):
        rows = rows_of(succeeds("predict", "-m", model, source, "--id", "id"))
        assert [row["id"] for row in rows] == ["1", "2"]
    (tmp_path / "in" / "out.csv").write_text("text\na\n")
    refuses("predict", "-m", model, tmp_path / "in", "-o", tmp_path / "in" / "out.csv", said="is the input")


def test_int8_needs_no_quantize_before(model: Path, texts: Path) -> None:
    scores = [row["score"] for row in rows_of(succeeds("predict", "-m", model, texts, "--precision", "int8"))]
    expected = logits(model, TEXTS).softmax(-1).max(-1).values
    torch.testing.assert_close(torch.tensor(scores), expected, rtol=0.1, atol=0.05)
    assert scores != [row["score"] for row in rows_of(succeeds("predict", "-m", model, texts))]


def test_a_long_text_is_cut_where_asked(model: Path) -> None:
    long, cut = "word " * 500, "word " * 7
    rows = rows_of(succeeds("predict", "-m", model, "-", "--max-length", 9, stdin=f"{long}\n{cut}\n"))
    assert rows[0]["score"] == rows[1]["score"]
    assert len(rows_of(succeeds("predict", "-m", model, "-", stdin=f"{long}\n"))) == 1


def test_an_older_output_is_replaced_and_a_link_is_kept(model: Path, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    succeeds("predict", "-m", model, texts, "-o", tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len((tmp_path / "real.jsonl").read_text().splitlines()) == len(TEXTS)


def test_output_may_go_to_a_device(model: Path, texts: Path) -> None:
    assert succeeds("predict", "-m", model, texts, "-o", os.devnull) == ""
    assert not Path(os.devnull).is_file()


def test_a_dash_is_standard_output(model: Path, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(texts.parent)
    assert succeeds("predict", "-m", model, texts, "-o", "-") == succeeds("predict", "-m", model, texts)
    refuses("embed", "-m", model, texts, "-o", "-", said="the output is -, standard output; expected a file")
    assert os.listdir() == [texts.name]


def test_output_may_go_to_a_pipe_by_its_name(model: Path, texts: Path) -> None:
    words = ["predict", "-m", str(model), str(texts), "-o", "/dev/stdout"]
    program = [sys.executable, "-m", "squeezebert_fast", *words]
    result = subprocess.run(program, stdout=subprocess.PIPE, check=True, text=True)
    assert len(result.stdout.splitlines()) == len(TEXTS)


def test_a_bad_line_leaves_the_older_output(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WINDOW_BATCHES", 1)
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n' * 3 + '{"text": \n')
    (tmp_path / "out.csv").write_text("old")
    refuses(
        "predict",
        "-m",
        model,
        tmp_path / "t.jsonl",
        "-o",
        tmp_path / "out.csv",
        "--batch-size",
        2,
        said="line 4: not valid JSON",
    )
    assert (tmp_path / "out.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "t.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--top-k", 4], "--top-k is 4, but"),
        (["--top-k", 0], "'--top-k'"),
        (["--batch-size", "many"], "'--batch-size'"),
        (["--threads", 0], "'--threads'"),
        (["--max-length", 65], "takes 64 tokens at most"),
        (["--max-length", 1], "max_length is 1; expected at least 2"),
        (["--backend", "fastest"], "backend is 'fastest'"),
        (["--backend", "triton"], "not on a CUDA GPU"),
        (["--format", "xml"], "the output format is 'xml', expected one of jsonl, csv"),
        (["-o", "out.xlsx"], "out.xlsx has the suffix '.xlsx', expected one of .jsonl, .csv"),
        (["-o", "no/such/out.csv"], "there is no directory"),
        (["-o", "."], "is a directory, expected a file"),
        (["-o", "texts.txt", "--format", "csv"], "texts.txt is the input, which it would replace"),
        (["--column", "text"], "which have no columns"),
        (["--keep", ""], "--keep is '', expected names of columns with commas between, or all"),
        (["--keep", "text,"], "--keep is 'text,', expected names of columns"),
        (["--id", ""], "--id is '', expected the name of a column"),
        (["--colour", "red"], "No such option: --colour"),
        (["another.txt"], "unexpected extra argument"),
    ],
)
def test_bad_arguments_are_one_line(
    model: Path, texts: Path, arguments: list[object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(texts.parent)
    refuses("predict", "-m", model, texts, *arguments, said=said)
    assert os.listdir() == [texts.name]
    assert texts.read_text().splitlines() == TEXTS


def test_bad_input_is_one_line(model: Path, tmp_path: Path) -> None:
    refuses("predict", "-m", model, "-", said="standard input holds no texts", stdin="")
    refuses("predict", "-m", model, "-", said="standard input, line 2: the byte 0x80", stdin=b"a\n\x80\n")
    refuses(
        "predict",
        "-m",
        model,
        "-",
        "--input-format",
        "parquet",
        said="can't be read from standard input",
        stdin="x",
    )
    refuses("predict", "-m", model, tmp_path / "none.txt", said="none.txt doesn't exist")
    refuses("predict", "-m", model, said="Missing argument 'INPUT' (see")
    refuses("fill-mask", "a [MASK]", said="Missing option '--model'")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux'")
@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_a_device_without_room_is_named(model: Path, texts: Path, format: str) -> None:
    result = run("predict", "-m", model, texts, "-o", "/dev/full", "--format", format)
    said = "squeezebert-fast: /dev/full can't be written: No space left on device\n"
    assert (result.exit_code, result.stderr) == (1, said)


def test_a_model_that_cannot_classify_is_refused(tmp_path: Path) -> None:
    def refused(directory: Path, said: str) -> None:
        refuses("predict", "-m", directory, "-", said=said, stdin="a\n")

    base = save_model(SqueezeBertModel, tmp_path / "base")
    refused(base, "is a SqueezeBertModel, expected a model for one of sequence classification, token")
    refused(base, "multiple choice; embed is for it")
    refused(save_model(SqueezeBertForMaskedLM, tmp_path / "words"), "fill-mask is for it")
    headless = save_model(SqueezeBertForSequenceClassification, tmp_path / "headless")
    weights = load_file(headless / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "classifier" not in name},
        headless / "model.safetensors",
    )
    refused(headless, "has no weights classifier.*")
    config = json.loads((headless / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    refused(headless, "model_type 'gpt2', expected one of squeezebert, bert, camembert, distilbert")
    refused(tmp_path / "none", "is not a directory on this machine")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no file config.json")


def test_a_vocabulary_that_is_not_the_models_is_refused(tmp_path: Path) -> None:
    model = save_model(SqueezeBertForSequenceClassification, tmp_path, vocab_size=200)
    refuses("predict", "-m", model, "-", said="expected indices from 0 to vocab_size - 1 = 199", stdin="a\n")


def test_an_answer_that_is_no_number_is_refused(tmp_path: Path) -> None:
    model = save_model(SqueezeBertForSequenceClassification, tmp_path / "m")
    weights = load_file(model / "model.safetensors")
    weights["transformer.embeddings.word_embeddings.weight"][1012] = float("nan")  # the full stop's
    save_file(weights, model / "model.safetensors")
    output = tmp_path / "out.csv"
    refuses("predict", "-m", model, "-", "-o", output, said="not finite for the text 'b.'", stdin="a\nb.\n")
    assert not output.exists()
    succeeds("predict", "-m", model, "-", "-o", output, stdin="a\nb\n")


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    directory = save_model(SqueezeBertForSequenceClassification, tmp_path)
    for name in ("vocab.txt", "tokenizer.json"):
        (directory / name).unlink(missing_ok=True)
    refuses("predict", "-m", directory, "-", said="vocab", stdin="a\n")


def test_what_a_model_was_trained_with_is_the_default(tmp_path: Path) -> None:
    model = save_model(SqueezeBertForSequenceClassification, tmp_path / "m", id2label=LABELS)
    config = json.loads((model / "config.json").read_text())
    config["squeezebert_fast"] = {"column": "a", "pair_column": "b", "max_length": 9}
    (model / "config.json").write_text(json.dumps(config))
    long = "word " * 50
    (tmp_path / "t.csv").write_text(f"a,b,c\none,{long},\ntwo,three,\n")
    asked = ["predict", "-m", model, tmp_path / "t.csv"]
    rows = rows_of(succeeds(*asked))
    assert [list(row) for row in rows] == [["text", "pair", "label", "score"]] * 2
    named = ["--column", "a", "--pair-column", "b", "--max-length"]
    assert rows == rows_of(succeeds(*asked, *named, 9)) != rows_of(succeeds(*asked, *named, 64))
    assert list(rows_of(succeeds(*asked, "--pair-column", ""))[0]) == ["text", "label", "score"]
    (tmp_path / "t.csv").write_text("a,c\none,\n")
    refuses(
        *asked,
        said=f"{model} was trained with --pair-column b; give --pair-column for another, or '' for none",
    )
    texts_alone = ["predict", "-m", model, "-"]
    for format in ([], ["--input-format", "text"]):
        refuses(
            *texts_alone,
            *format,
            said="standard input is read as lines of text, which have no columns (see --input-format). "
            f"{model} was trained with --pair-column b; give --pair-column for another, or '' for none",
            stdin="one\n",
        )
    named = "standard input is read as lines of text, which have no columns (see --input-format)\n"
    refuses(*texts_alone, "--pair-column", "b", said=named, stdin="one\n")
    assert len(rows_of(succeeds(*texts_alone, "--pair-column", "", stdin="one\n"))) == 1
