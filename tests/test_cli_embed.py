"""`squeezebert-fast embed` writes each text's vector, in order, or no file at all."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from squeezebert_fast import SqueezeBertForMaskedLM, SqueezeBertModel, SqueezeBertTokenizerFast
from squeezebert_fast.answering import running
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
    result = run("embed", *arguments, stdin="\n".join(texts) + "\n")
    assert (result.exit_code, result.stdout) == (0, "")
    warning = "1 text is empty, the first is standard input, line 3: their vectors are of no text"
    assert result.stderr == f"squeezebert-fast: warning: {warning}\n"
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
    texts = [f"{number} " * (1 + number % 7) for number in range(1001)]
    (tmp_path / "t.txt").write_text("\n".join(texts) + "\n")
    succeeds("embed", "-m", model, tmp_path / "t.txt", "-o", tmp_path / "v.npy")
    succeeds("embed", "-m", model, tmp_path / "t.txt", "-o", tmp_path / "w.npy", "--batch-size", 77)
    vectors = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert vectors.shape == (1001, 16)
    np.testing.assert_allclose(vectors, np.load(tmp_path / "w.npy"), rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.txt", "v.npy", "w.npy"]


def test_a_file_without_a_suffix_is_numpys(model: Path, tmp_path: Path) -> None:
    succeeds("embed", "-m", model, "-", "-o", tmp_path / "v", stdin="a\nb\n")
    assert np.load(tmp_path / "v").shape == (2, 16)


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
        (["-o", "none/v.npy"], "there is no directory"),
        (["-o", "folder.npy"], "folder.npy is a directory, expected a file"),
        (["-o", "v.xlsx"], "the output v.xlsx has the suffix '.xlsx', expected one of .npy, .csv, .jsonl"),
        (["-o", "v.npy.gz"], "has the suffix '.gz', expected one of .npy"),
        (["--id", "nr"], "v.npy holds numbers alone; .jsonl and .csv have a place for columns"),
        (["--max-length", 1000], "takes 64 tokens at most"),
    ],
)
def test_bad_arguments_are_one_line(
    model: Path, arguments: list[object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npy").mkdir()
    refuses("embed", "-m", model, "-", "-o", "v.npy", *arguments, said=said, stdin="a\n")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.npy"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_table_of_vectors_has_their_texts_or_what_is_kept(model: Path, suffix: str, tmp_path: Path) -> None:
    """An output called .csv was NumPy's format once."""
    (tmp_path / "t.csv").write_text("nr;text\n007;one\n008;two, three\n")
    common = ["embed", "-m", model, tmp_path / "t.csv", "-o"]
    succeeds(*common, tmp_path / "v.npy")
    expected = np.load(tmp_path / "v.npy")
    for flags, names in (([], {"text": ["one", "two, three"]}), (["--id", "nr"], {"nr": ["007", "008"]})):
        succeeds(*common, tmp_path / f"v.{suffix}", *flags)
        written = (tmp_path / f"v.{suffix}").read_text()
        if suffix == "csv":
            rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(written)))
            vectors = [[float(row.pop(f"v{at}")) for at in range(16)] for row in rows]
        else:
            rows = [json.loads(line) for line in written.splitlines()]
            vectors = [row.pop("vector") for row in rows]
        assert rows == [{name: values[at] for name, values in names.items()} for at in range(2)]
        assert np.array_equal(np.array(vectors, np.float32), expected)


def test_int8_needs_no_quantize_before(model: Path, tmp_path: Path) -> None:
    common = ["embed", "-m", model, DATA / "banking77.csv", "--normalize", "-o"]
    succeeds(*common, tmp_path / "f.npy")
    succeeds(*common, tmp_path / "i.npy", "--precision", "int8")
    floats, ints = np.load(tmp_path / "f.npy"), np.load(tmp_path / "i.npy")
    assert not np.array_equal(floats, ints)
    assert (floats * ints).sum(1).min() > 0.98


def test_a_bad_line_leaves_no_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "WINDOW_BATCHES", 1)
    arguments = ["-m", model, "-", "-o", tmp_path / "v.npy", "--batch-size", 2]
    refuses("embed", *arguments, said="line 6: the byte 0xff", stdin=b"a\nb\nc\nd\ne\n\xff\n")
    assert list(tmp_path.iterdir()) == []
    refuses("embed", "-m", model, "-", said="Missing option '--output'", stdin="a\n")


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


def test_column_and_length_are_by_default_those_of_the_training(tmp_path: Path) -> None:
    model = save_model(SqueezeBertModel, tmp_path / "m")
    config = json.loads((model / "config.json").read_text())
    config["squeezebert_fast"] = {"column": "a", "pair_column": "b", "max_length": 5}
    (model / "config.json").write_text(json.dumps(config))
    (tmp_path / "t.csv").write_text("a,text\none two three four five six,seven\n")
    common = ["embed", "-m", model, tmp_path / "t.csv", "-o", tmp_path / "v.npy"]
    vectors = []
    for flags in ([], ["--column", "a", "--max-length", 5], ["--max-length", 64], ["--column", "text"]):
        succeeds(*common, *flags)
        vectors.append(np.load(tmp_path / "v.npy"))
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2])
    assert not np.allclose(vectors[0], vectors[3])
    assert (
        succeeds("similar", tmp_path / "t.csv", "-m", model, "--query", "a").count("one two three four") == 1
    )
    (tmp_path / "t.csv").write_text("c\none\n")
    refuses(*common, said=f"{model} was trained with --column a; give --column for another")
