"""`embed` gives what SentenceTransformer.encode gives: where that is installed, it is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import squeezebert_fast
from squeezebert_fast.errors import CheckpointError, UnsupportedError
from squeezebert_fast.loading import sentence_folder
from squeezebert_fast.storage.hub import ModelFiles
from tests.cli_helpers import benched, refuses, run, succeeds
from tests.minilm import minilm_directory
from tests.transformers_folders import MODEL_TYPES, make_sentence_folder, write_json

TEXTS = [
    "it was good",
    "a bad film and so on that we saw in london who lives in rome it was fine",
    "",
    " rome ",
]
PROMPTS: dict[str, Any] = {
    "prompts": {"query": "who lives ", "document": "film "},
    "default_prompt_name": "document",
}


def embedded(folder: Path, to: Path, *options: object) -> Any:
    """With a warning of the empty text, which has a vector all the same."""
    result = run("embed", "-m", folder, "-", "-o", to / "v.npy", *options, stdin="\n".join(TEXTS) + "\n")
    assert result.exit_code == 0, result.stderr or result.exception
    assert result.stderr.endswith(
        "1 text is empty, the first is standard input, line 3: their vectors are of no text\n"
    )
    assert result.stderr.count("\n") == 1
    return np.load(to / "v.npy")


def pooled(folder: Path, inside: str, texts: list[str], *, by: str = "mean", max_length: int = 12) -> Any:
    """The vectors of transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / inside)
    model = transformers.AutoModel.from_pretrained(folder / inside)
    rows = []
    for text in texts:
        with torch.no_grad():
            batch = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
            hidden = model(**batch).last_hidden_state[0]
        rows.append((hidden.mean(0) if by == "mean" else hidden[0]).numpy())
    return np.stack(rows)


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("inside", ["", "0_Transformer"])
def test_mean_pooling_and_normalisation_are_the_folders(model_type: str, inside: str, tmp_path: Path) -> None:
    folder = make_sentence_folder(tmp_path / "m", model_type, inside=inside, normalize=True)
    expected = pooled(folder, inside, TEXTS)
    close(embedded(folder, tmp_path), expected / np.linalg.norm(expected, axis=1, keepdims=True))


def test_the_first_token_is_the_vector_where_the_folder_says_so(tmp_path: Path) -> None:
    for at, pooling in enumerate([{"pooling_mode_cls_token": True}, {"pooling_mode": "cls"}]):
        folder = make_sentence_folder(tmp_path / str(at), pooling=pooling)
        close(embedded(folder, tmp_path), pooled(folder, "", TEXTS, by="cls"))


def test_texts_begin_with_the_prompt(tmp_path: Path) -> None:
    folder = make_sentence_folder(tmp_path / "m", **PROMPTS)
    close(embedded(folder, tmp_path), pooled(folder, "", ["film " + text for text in TEXTS]))
    as_query = embedded(folder, tmp_path, "--prompt-name", "query")
    close(as_query, pooled(folder, "", ["who lives " + text for text in TEXTS]))


def test_a_maximum_length_overrides_the_folders(tmp_path: Path) -> None:
    folder = make_sentence_folder(tmp_path / "m")
    close(embedded(folder, tmp_path, "--max-length", 5), pooled(folder, "", TEXTS, max_length=5))
    close(embedded(folder, tmp_path), pooled(folder, "", TEXTS))


@pytest.mark.slow
def test_other_commands_take_its_transformer(tmp_path: Path) -> None:
    folder = make_sentence_folder(tmp_path / "m", inside="0_Transformer")
    benched(tmp_path / "b.json", "-m", folder, "--shapes", "1x4", "--backends", "cpu", "--repeats", 1)


def test_an_int8_folder_embeds_as_the_patched_one(tmp_path: Path) -> None:
    for inside in ("", "0_Transformer"):
        folder = make_sentence_folder(tmp_path / f"m{inside}", inside=inside, normalize=True, **PROMPTS)
        succeeds("quantize", folder, tmp_path / f"int8{inside}")
        assert not list((tmp_path / f"int8{inside}").rglob("model.safetensors"))
        expected = embedded(folder, tmp_path, "--precision", "int8")
        assert np.array_equal(embedded(tmp_path / f"int8{inside}", tmp_path), expected)


def test_options_that_a_folder_decides_are_refused(tmp_path: Path) -> None:
    folder = make_sentence_folder(tmp_path / "m", **PROMPTS)

    def refused(said: str, *options: object) -> None:
        refuses("embed", "-m", folder, "-", "-o", tmp_path / "v.npy", *options, said=said, stdin="a\n")

    refused("with its own", "--pooling", "mean")
    refused("the prompt is 'poem'", "--prompt-name", "poem")
    refused("takes 64 tokens at most", "--max-length", 65)
    (tmp_path / "pairs.tsv").write_text("text\tother\na\tb\n")
    pairs = [
        "embed",
        "-m",
        folder,
        tmp_path / "pairs.tsv",
        "-o",
        tmp_path / "v.npy",
        "--pair-column",
        "other",
    ]
    refuses(*pairs, said="--pair-column means nothing for")


BEYOND: list[tuple[dict[str, Any], str]] = [
    ({"pooling": {"pooling_mode_max_tokens": True}}, "its pooling is max_tokens"),
    (
        {"pooling": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}},
        "its pooling is ['cls_token",
    ),
    ({"pooling": {"include_prompt": False}}, "include_prompt of its pooling is False"),
]


@pytest.mark.parametrize(("says", "why"), BEYOND)
def test_what_takes_sentence_transformers_says_so_without_it(
    says: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_sentence_folder(tmp_path / "m", **says)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    command = ["embed", "-m", folder, "-", "-o", tmp_path / "v.npy"]
    refuses(*command, said=f"since {why}", stdin="a\n")
    refuses(*command, said="pip install squeezebert-fast[sentence-transformers]", stdin="a\n")


def test_a_dense_layer_and_a_lower_case_of_its_own_take_sentence_transformers(tmp_path: Path) -> None:
    folder = make_sentence_folder(tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    write_json(folder / "modules.json", [*modules, dense])
    found = sentence_folder.read(ModelFiles(folder))
    assert found is not None
    assert found.beyond == "its modules are Transformer, Pooling, Dense"
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": True})
    found = sentence_folder.read(ModelFiles(folder))
    assert found is not None
    assert found.beyond == "do_lower_case of its transformer is True"


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ({"0": "Transformer"}, "holds a JSON dict, expected a list of modules"),
        ([], "begins with a nothing"),
        (["Transformer"], "expected one with a type and a path"),
        ([{"type": "sentence_transformers.models.Transformer", "path": "../m"}], "a path in the folder"),
        ([{"type": "sentence_transformers.models.Transformer", "path": "/etc"}], "a path in the folder"),
        ([{"type": "own.Transformer", "path": ""}], "which is code of its own and isn't run"),
        ([{"type": "sentence_transformers.models.BoW", "path": ""}], "begins with a BoW"),
    ],
)
def test_a_folder_that_is_damaged_or_brings_code_is_refused(modules: Any, said: str, tmp_path: Path) -> None:
    folder = make_sentence_folder(tmp_path / "m")
    write_json(folder / "modules.json", modules)
    with pytest.raises(CheckpointError, match=said):
        sentence_folder.read(ModelFiles(folder))
    refuses("embed", "-m", folder, "-", "-o", tmp_path / "v.npy", said=said, stdin="a\n")


def test_a_sentence_transformer_in_int8_takes_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeds("quantize", make_sentence_folder(tmp_path / "m"), tmp_path / "int8")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UnsupportedError, match="needs sentence-transformers"):
        squeezebert_fast.load_quantized(tmp_path / "int8")


# Where sentence-transformers is installed


def library() -> Any:
    return pytest.importorskip("sentence_transformers")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_vectors_are_those_of_encode(model_type: str, tmp_path: Path) -> None:
    folder = make_sentence_folder(tmp_path / "m", model_type, normalize=True)
    close(embedded(folder, tmp_path), library().SentenceTransformer(str(folder)).encode(TEXTS))


@pytest.mark.parametrize("says", [{}, {"normalize": True}, PROMPTS, *(says for says, _ in BEYOND)])
def test_whatever_the_folder_says_vectors_are_those_of_encode(says: dict[str, Any], tmp_path: Path) -> None:
    folder = make_sentence_folder(tmp_path / "m", **{**says, **PROMPTS} if "pooling" in says else says)
    model = library().SentenceTransformer(str(folder))
    close(embedded(folder, tmp_path), model.encode(TEXTS))
    model.save(str(tmp_path / "again"))  # in the library's present form
    close(embedded(tmp_path / "again", tmp_path), model.encode(TEXTS))
    unit = model.encode(TEXTS, normalize_embeddings=True)
    close(embedded(folder, tmp_path, "--normalize"), unit)
    if model.prompts.get("query"):
        close(embedded(folder, tmp_path, "--prompt-name", "query"), model.encode(TEXTS, prompt_name="query"))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_sentence_transformer_is_saved_and_loaded_in_int8(pooling: str, tmp_path: Path) -> None:
    folder = make_sentence_folder(tmp_path / "m", pooling={"pooling_mode": pooling}, normalize=True)
    model = library().SentenceTransformer(str(folder))
    squeezebert_fast.save_quantized(model, tmp_path / "int8")
    assert not list((tmp_path / "int8").rglob("model.safetensors"))
    loaded = squeezebert_fast.load_quantized(tmp_path / "int8")
    expected = squeezebert_fast.patch(model, precision="int8", keep_original=False).encode(TEXTS)
    assert np.array_equal(loaded.encode(TEXTS), expected)
    assert "from_pretrained" not in vars(transformers.AutoModel)
    succeeds("quantize", folder, tmp_path / "again")
    assert np.array_equal(squeezebert_fast.load_quantized(tmp_path / "again").encode(TEXTS), expected)
    close(embedded(tmp_path / "again", tmp_path), expected)


def test_real_weights_give_what_encode_gives(tmp_path: Path) -> None:
    folder = minilm_directory()
    ours = embedded(folder, tmp_path)
    expected = library().SentenceTransformer(str(folder)).encode(TEXTS)
    np.testing.assert_allclose(ours, expected, atol=2e-6)
    in_int8 = embedded(folder, tmp_path, "--precision", "int8")
    assert (in_int8 * expected).sum(1).min() > 0.99
