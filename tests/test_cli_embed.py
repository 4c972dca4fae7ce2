"""`squeezebert-fast embed` writes each text's vector, in order, or no file at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from squeezebert_fast import SqueezeBertForMaskedLM, SqueezeBertModel, SqueezeBertTokenizerFast
from squeezebert_fast.cli import running
from tests.cli_helpers import DATA, refuses, run, save_model, succeeds
from tests.minilm import minilm_directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(SqueezeBertModel, tmp_path_factory.mktemp("model"))


def hidden_alone(directory: Path, text: str) -> torch.Tensor:
    """[tokens, channels] of one text, which so has no padding."""
    model = SqueezeBertModel.from_pretrained(directory)
    batch = SqueezeBertTokenizerFast.from_pretrained(directory)(text, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).last_hidden_state[0]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_those_of_each_text_alone(
    model: Path, pooling: str, normalize: bool, tmp_path: Path
) -> None:
    texts = ["One.", "A rather longer text, of a dozen words or thereabouts.", "", "Two words"]
    flags = ["--normalize"] if normalize else []
    output = tmp_path / "v.npy"
    arguments: list[Any] = ["-m", model, "-", "-o", output, "--pooling", pooling, "--batch-size", 3, *flags]
    assert succeeds("embed", *arguments, stdin="\n".join(texts) + "\n") == ""
    vectors = np.load(output)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, 16)
    for text, vector in zip(texts, vectors, strict=True):
        hidden = hidden_alone(model, text)
        expected = hidden.mean(0) if pooling == "mean" else hidden[0]
        if normalize:
            expected = expected / expected.norm()
        torch.testing.assert_close(torch.from_numpy(vector), expected)


def test_the_file_grows_over_many_windows(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WINDOW_BATCHES", 3)
    texts = [f"{number} " * (number % 7) for number in range(1001)]
    (tmp_path / "t.txt").write_text("\n".join(texts) + "\n")
    succeeds("embed", "-m", model, tmp_path / "t.txt", "-o", tmp_path / "v.npy")
    succeeds("embed", "-m", model, tmp_path / "t.txt", "-o", tmp_path / "w.npy", "--batch-size", 77)
    vectors = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert vectors.shape == (1001, 16)
    np.testing.assert_allclose(vectors, np.load(tmp_path / "w.npy"), rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.txt", "v.npy", "w.npy"]


def test_a_column_of_a_table_is_embedded(model: Path, tmp_path: Path) -> None:
    for column, rows in (("text", 24), ("category", 6)):
        table = ["-m", model, DATA / "banking77.csv", "--column", column, "-o", tmp_path / "v.npy"]
        succeeds("embed", *table)
        assert len(np.unique(np.load(tmp_path / "v.npy").round(4), axis=0)) == rows


def test_a_head_is_left_aside(tmp_path: Path) -> None:
    model = save_model(SqueezeBertForMaskedLM, tmp_path / "m")
    assert run("embed", "-m", model, "-", "-o", tmp_path / "v.npy", stdin="a\n").exit_code == 0
    torch.testing.assert_close(
        torch.from_numpy(np.load(tmp_path / "v.npy")[0]), hidden_alone(model, "a").mean(0)
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pooling", "max"], "--pooling is 'max', expected one of mean, cls"),
        (["-o", "."], "is a directory, expected a file"),
        (["-o", "none/v.npy"], "there is no directory"),
        (["-o", "/dev/null"], "is a device or pipe, expected a file"),
        (["--max-length", 1000], "takes 64 tokens at most"),
    ],
)
def test_bad_arguments_are_one_line(
    model: Path, arguments: list[object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refuses("embed", "-m", model, "-", "-o", "v.npy", *arguments, said=said, stdin="a\n")
    assert list(tmp_path.iterdir()) == []


def test_a_bad_line_leaves_no_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "WINDOW_BATCHES", 1)
    arguments = ["-m", model, "-", "-o", tmp_path / "v.npy", "--batch-size", 2]
    refuses("embed", *arguments, said="line 6: the byte 0xff", stdin=b"a\nb\nc\nd\ne\n\xff\n")
    assert list(tmp_path.iterdir()) == []
    refuses("embed", "-m", model, "-", said="Missing option '--output'", stdin="a\n")


@pytest.mark.slow
def test_converted_minilm_embeds_as_bert_does_and_finds_the_same_intent(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bert = minilm_directory()
    said = succeeds("convert", bert, tmp_path / "minilm")
    assert "SqueezeBertModel, 22.7 M parameters" in said
    common = ["-m", tmp_path / "minilm", DATA / "banking77.csv", "--normalize"]
    succeeds("embed", *common, "-o", tmp_path / "text.npy")
    succeeds("embed", *common, "--backend", "reference", "-o", tmp_path / "reference.npy")
    succeeds("embed", *common, "--column", "category", "-o", tmp_path / "category.npy")
    vectors, categories = np.load(tmp_path / "text.npy"), np.load(tmp_path / "category.npy")
    np.testing.assert_allclose(vectors, np.load(tmp_path / "reference.npy"), atol=1e-5)

    tokenizer = transformers.BertTokenizer.from_pretrained(bert)
    model = transformers.BertModel.from_pretrained(bert).eval()
    with torch.no_grad():
        hidden = model(**tokenizer("How do I locate my card?", return_tensors="pt")).last_hidden_state[0]
    expected = hidden.mean(0) / hidden.mean(0).norm()
    np.testing.assert_allclose(vectors[0], expected.numpy(), atol=1e-5)

    likeness = vectors @ vectors.T - 2 * np.eye(len(vectors))
    nearest = likeness.argmax(1)
    assert np.mean(np.arange(24) // 4 == nearest // 4) > 0.8
    assert np.allclose(categories[0], categories[3], atol=1e-6)
