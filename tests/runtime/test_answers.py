"""The runtime's answers have the bits of the Python package's, in every precision, for every family that it knows."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import squeezebert_fast
from squeezebert_fast.answering.running import Engine, load_engine
from squeezebert_fast.modeling import (
    SqueezeBertForMaskedLM,
    SqueezeBertForSequenceClassification,
    SqueezeBertModel,
)
from squeezebert_fast.patching.families import word_logits
from squeezebert_fast.pretrained import find, find_sentence_folder
from squeezebert_fast.sentence import mean_pool, to_unit_length
from squeezebert_fast.shipped import SENTIMENT_MODEL
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast
from tests.minilm import minilm_directory
from tests.runtime import library as runtime
from tests.runtime.library import RuntimeFailure, RuntimeModel
from tests.training_helpers import VOCAB, write_vocab
from tests.transformers_folders import make_sentence_folder, save_folder

FAMILIES = ("squeezebert", "bert", "distilbert", "electra")
PRECISIONS = ("float32", "bfloat16", "int8", "an int8 folder")
HEADS: dict[str, Any] = {
    "Model": SqueezeBertModel,
    "ForSequenceClassification": SqueezeBertForSequenceClassification,
    "ForMaskedLM": SqueezeBertForMaskedLM,
}
WORDS = 96  # the decoder runs in the model's precision from 64 on
TEXTS = [
    "the film was good",
    "a " + " ".join(VOCAB[7:40]),
    "",
    "unknown Ünïcode 日本 words!",
    " ".join(VOCAB[5:] * 20),  # cut
]


def make_folder(family: str, head: str, folder: Path, **fields: Any) -> Path:
    """A float folder with a random model."""
    if family != "squeezebert":
        return save_folder(family, head, folder, vocab_size=WORDS, **fields)
    sizes = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4, "num_hidden_layers": 2}
    groups = {"q_groups": 2, "k_groups": 4, "v_groups": 3, "intermediate_groups": 2, "output_groups": 3}
    config = squeezebert_fast.SqueezeBertConfig(
        vocab_size=WORDS, max_position_embeddings=64, initializer_range=0.3, **sizes, **groups, **fields
    )
    torch.manual_seed(0)
    model = HEADS[head](config)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    SqueezeBertTokenizerFast(str(write_vocab(folder))).save_pretrained(folder)
    return folder


def engines(folder: Path, head: str, precision: str, tmp_path: Path) -> tuple[Engine, RuntimeModel]:
    """The same model in Python and in the runtime."""
    wanted: str | None = precision
    if precision == "an int8 folder":
        made = tmp_path / "int8"
        squeezebert_fast.save_quantized(find(folder).load_as_saved(), made)
        for path in folder.iterdir():
            if "token" in path.name or path.name == "vocab.txt":
                shutil.copy(path, made / path.name)
        folder, wanted = made, None
    engine = load_engine(HEADS[head], str(folder), backend="cpu", threads=None, precision=wanted)
    return engine, RuntimeModel(folder, wanted)


def encoded(engine: Engine, text: str, second: str | None = None) -> dict[str, Tensor]:
    return dict(
        engine.tokenizer(text, second, truncation=True, max_length=engine.max_length, return_tensors="pt")
    )


@torch.inference_mode()
def called(engine: Engine, batch: dict[str, Tensor]) -> Any:
    return engine.model(**engine.inputs(batch))


def same_bits(ours: list[float], theirs: Tensor) -> bool:
    return torch.equal(torch.tensor(ours, dtype=torch.float32), theirs.flatten())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_hidden_states(family: str, precision: str, tmp_path: Path) -> None:
    folder = make_folder(family, "ForSequenceClassification", tmp_path / "float", num_labels=3)
    engine, ours = engines(folder, "ForSequenceClassification", precision, tmp_path)
    for text in TEXTS:
        batch = encoded(engine, text)
        output = called(engine, batch)
        logits, scores = ours.classify(text)
        assert same_bits(logits, output.logits), text
        torch.testing.assert_close(torch.tensor(scores), output.logits[0].softmax(-1))
        ids, types = ours.tokenize(text)
        assert ids == batch["input_ids"][0].tolist()
        with torch.inference_mode():
            states = engine.model.base_model(**engine.inputs(batch)).last_hidden_state
        assert same_bits(ours.hidden_states(ids, types), states), text


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_words_for_masks(family: str, precision: str, tmp_path: Path) -> None:
    folder = make_folder(family, "ForMaskedLM", tmp_path / "float")
    engine, ours = engines(folder, "ForMaskedLM", precision, tmp_path)
    known = min(len(engine.tokenizer), WORDS)
    for text in ("the film was [MASK]", f"[MASK] {VOCAB[9]} [MASK] {VOCAB[11]}"):
        batch = encoded(engine, text)
        with torch.inference_mode():
            states = engine.model.base_model(**engine.inputs(batch)).last_hidden_state
            masked = batch["input_ids"][0] == engine.tokenizer.mask_token_id
            logits = word_logits(engine.model, states[0, masked])
        for found, expected in zip(ours.fill(text, known), logits, strict=True):
            by_token = {token: logit for token, logit, _ in found}
            tokens = engine.tokenizer.convert_ids_to_tokens(list(range(known)))
            assert same_bits([by_token[token] for token in tokens], expected[:known])
            best = expected.softmax(-1)[:known].topk(5)
            assert [token for token, _, _ in found[:5]] == [tokens[i] for i in best.indices.tolist()]
            torch.testing.assert_close(torch.tensor([score for *_, score in found[:5]]), best.values)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings(family: str, tmp_path: Path) -> None:
    folder = make_folder(family, "Model", tmp_path / "float")
    engine, ours = engines(folder, "Model", "an int8 folder", tmp_path)
    for text in TEXTS:
        batch = encoded(engine, text)
        pooled = mean_pool(called(engine, batch).last_hidden_state, batch["attention_mask"])
        assert same_bits(ours.embed(text), pooled)
        assert same_bits(ours.embed(text, normalize=True), to_unit_length(pooled))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_sentence_transformers_folder_says_how_to_embed(pooling: str, tmp_path: Path) -> None:
    says = {f"pooling_mode_{name}": name.startswith(pooling) for name in ("cls_token", "mean_tokens")}
    folder = make_sentence_folder(
        tmp_path / "folder",
        inside="0_Transformer",
        normalize=True,
        pooling=says,
        prompts={"query": "the "},
        default_prompt_name="query",
    )
    read = find_sentence_folder(folder)
    assert read is not None
    assert read.beyond is None
    engine = load_engine(
        SqueezeBertModel, find(folder), backend="cpu", threads=None, usual_length=read.max_length
    )
    ours = RuntimeModel(folder)
    for text in TEXTS:
        batch = encoded(engine, "the " + text)
        states = called(engine, batch).last_hidden_state
        pooled = mean_pool(states, batch["attention_mask"]) if pooling == "mean" else states[:, 0]
        assert same_bits(ours.embed(text), to_unit_length(pooled))


def test_a_pooling_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = make_sentence_folder(tmp_path / "folder", pooling={"pooling_mode_max_tokens": True})
    with pytest.raises(RuntimeFailure, match="its pooling is max_tokens") as caught:
        RuntimeModel(folder).embed("the")
    assert caught.value.status == runtime.UNSUPPORTED


@pytest.mark.parametrize("build", squeezebert_fast.backends.cpu.instruction_sets())
def test_real_sentences_by_the_shipped_model(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEEZEBERT_FAST_ISA", build)
    ours = RuntimeModel(SENTIMENT_MODEL)
    rows = Path("examples/heldout_sentiments.tsv").read_text(encoding="utf-8").splitlines()[1:]
    with squeezebert_fast.backends.cpu.use_instruction_set(build):
        engine = load_engine(
            HEADS["ForSequenceClassification"], str(SENTIMENT_MODEL), backend="cpu", threads=None
        )
        for row in rows[:: 1 if build != "scalar" else 8]:
            text = row.split("\t")[-1]
            logits, _ = ours.classify(text)
            assert same_bits(logits, called(engine, encoded(engine, text)).logits), text


def test_real_sentences_by_a_real_bert_in_int8(tmp_path: Path) -> None:
    engine, ours = engines(minilm_directory(), "Model", "an int8 folder", tmp_path)
    for text in ("A man is eating food.", "Ein Mann isst.", "The girl is carrying a baby. " * 60):
        batch = encoded(engine, text)
        pooled = mean_pool(called(engine, batch).last_hidden_state, batch["attention_mask"])
        assert same_bits(ours.embed(text), pooled)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_folder_of_half_precision_runs_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = make_folder("squeezebert", "ForSequenceClassification", tmp_path / "float")
    model = find(folder).load_as_saved()
    model.to(dtype).save_pretrained(folder)
    engine, ours = engines(folder, "ForSequenceClassification", "float32", tmp_path)
    assert same_bits(ours.classify(TEXTS[0])[0], called(engine, encoded(engine, TEXTS[0])).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_has_both_texts(family: str, tmp_path: Path) -> None:
    folder = make_folder(family, "ForSequenceClassification", tmp_path / "float")
    engine, ours = engines(folder, "ForSequenceClassification", "float32", tmp_path)
    batch = encoded(engine, TEXTS[0], TEXTS[1])
    assert same_bits(ours.classify(TEXTS[0], TEXTS[1])[0], called(engine, batch).logits)
    ids, types = ours.tokenize(TEXTS[0], TEXTS[1])
    assert types == batch.get("token_type_ids", torch.tensor([types]))[0].tolist()
    assert len(ours.hidden_states(ids, types)) == len(ids) * ours.channels


def test_a_model_with_one_token_type_takes_no_pairs(tmp_path: Path) -> None:
    folder = make_folder("bert", "ForSequenceClassification", tmp_path, type_vocab_size=1)
    ours = RuntimeModel(folder)
    ours.classify(TEXTS[0])
    with pytest.raises(RuntimeFailure, match="takes no pairs: its type_vocab_size is 1") as caught:
        ours.classify(TEXTS[0], TEXTS[1])
    assert caught.value.status == runtime.UNSUPPORTED


@pytest.mark.parametrize(
    ("fields", "kind", "activation"),
    [
        ({"num_labels": 3}, runtime.SINGLE_LABEL, lambda logits: logits.softmax(-1)),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, runtime.MULTI_LABEL, torch.sigmoid),
        ({"num_labels": 1}, runtime.REGRESSION, lambda logits: logits),
        ({"num_labels": 3, "problem_type": "regression"}, runtime.REGRESSION, lambda logits: logits),
    ],
)
def test_scores_are_what_the_configuration_says(
    fields: dict[str, Any], kind: int, activation: Any, tmp_path: Path
) -> None:
    ours = RuntimeModel(make_folder("squeezebert", "ForSequenceClassification", tmp_path, **fields))
    assert ours.kind == kind
    assert ours.labels == [f"LABEL_{i}" for i in range(fields["num_labels"])]
    logits, scores = ours.classify(TEXTS[0])
    torch.testing.assert_close(torch.tensor(scores), activation(torch.tensor(logits)))


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize(
    ("fields", "activation"),
    [
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, torch.sigmoid),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, torch.tanh),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, None),
        (
            {"sbert_ce_default_activation_function": "Sigmoid", "squeezebert_fast": {"task": "regression"}},
            None,
        ),
    ],
)
def test_a_cross_encoder_says_what_makes_its_scores(
    fields: dict[str, Any], activation: Any, labels: int, tmp_path: Path
) -> None:
    folder = make_folder("bert", "ForSequenceClassification", tmp_path, num_labels=labels)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    about = {"model_type": "CrossEncoder", "prompts": {"query": "the "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(about))
    engine = load_engine(HEADS["ForSequenceClassification"], str(folder), backend="cpu", threads=None)
    logits, scores = RuntimeModel(folder).classify("film", "good")
    assert same_bits(logits, called(engine, encoded(engine, "the film", "good")).logits)
    otherwise = (lambda x: x) if labels == 1 else (lambda x: x.softmax(-1))
    torch.testing.assert_close(torch.tensor(scores), (activation or otherwise)(torch.tensor(logits)))


def test_an_unknown_activation_of_a_cross_encoder_is_refused(tmp_path: Path) -> None:
    folder = make_folder("bert", "ForSequenceClassification", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"sbert_ce_default_activation_function": "my.Code"})
    )
    with pytest.raises(RuntimeFailure, match=r"a CrossEncoder with the activation 'my\.Code'") as caught:
        RuntimeModel(folder)
    assert caught.value.status == runtime.UNSUPPORTED


def test_the_number_of_threads_changes_no_bit() -> None:
    ours = RuntimeModel(SENTIMENT_MODEL)
    text = "The plot is thin, and yet " * 40
    alone = ours.classify(text)
    for threads in (2, 3, 2**31 - 1):
        ours.set_threads(threads)
        assert ours.classify(text) == alone


def test_threads_share_a_model() -> None:
    from concurrent.futures import ThreadPoolExecutor

    ours = RuntimeModel(SENTIMENT_MODEL, threads=2)
    texts = [f"{'very ' * i}good" for i in range(40)]
    expected = [ours.classify(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ours.classify, texts * 3)) == expected * 3


def test_the_version_is_the_packages() -> None:
    assert runtime.library().squeezebert_version().decode() == squeezebert_fast.__version__


def test_an_error_stays_with_its_thread(tmp_path: Path) -> None:
    from threading import Thread

    with pytest.raises(RuntimeFailure, match="missing"):
        RuntimeModel(tmp_path / "missing")
    seen: list[bytes] = []
    thread = Thread(target=lambda: seen.append(runtime.library().squeezebert_last_error()))
    thread.start()
    thread.join()
    assert seen == [b""]
    assert "missing" in runtime.library().squeezebert_last_error().decode()


def test_a_length_without_room_for_the_special_tokens_is_said(tmp_path: Path) -> None:
    folder = make_folder("bert", "ForSequenceClassification", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"squeezebert_fast": {"max_length": 2}}))
    ours = RuntimeModel(folder)
    assert len(ours.tokenize("the")[0]) == 2
    with pytest.raises(RuntimeFailure, match="cuts texts at 2 tokens, expected at least 3") as caught:
        ours.classify("the", "film")
    assert caught.value.status == runtime.UNSUPPORTED


def test_labels_and_tokens_beyond_the_last_are_null() -> None:
    ours = RuntimeModel(SENTIMENT_MODEL)
    call, size = runtime.library(), ctypes.c_size_t(7)
    assert call.squeezebert_label(ours.handle, ctypes.c_size_t(2)) is None
    assert call.squeezebert_token(ours.handle, ctypes.c_int64(10**9), ctypes.byref(size)) is None
    assert size.value == 0
    names = json.loads((SENTIMENT_MODEL / "config.json").read_text())["id2label"]
    assert ours.labels == list(names.values())
