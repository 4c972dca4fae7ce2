"""Folders that are no models: each has its status and a line that names the file."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeezebert_fast.shipped import SENTIMENT_MODEL
from tests.runtime import library as runtime
from tests.runtime.library import RuntimeFailure, RuntimeModel
from tests.runtime.test_answers import make_folder
from tests.transformers_folders import save_folder

WORDS_NAME = "transformer.embeddings.word_embeddings.weight"


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SENTIMENT_MODEL, tmp_path / "model"))


def refused(folder: Path, precision: str | None = None) -> tuple[int, str]:
    with pytest.raises(RuntimeFailure) as caught:
        RuntimeModel(folder, precision)
    message = str(caught.value)
    assert "\n" not in message
    return caught.value.status, message


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any], tail: bytes = b"") -> None:
    """Change a safetensors header, and add bytes behind the data."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :] + tail)


def change_tensor(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: header["classifier.bias"].update(fields)


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a huge shape": (change_tensor(shape=[2**62, 2**62]), "expected a shape of fewer elements"),
    "a shape that its bytes are not": (change_tensor(shape=[3]), "as many bytes as F32 [3] has"),
    "a negative shape": (change_tensor(shape=[-2]), "classifier.bias.shape"),
    "a shape of fractions": (change_tensor(shape=[1.5]), "classifier.bias.shape"),
    "an unknown dtype": (change_tensor(dtype="F31"), "expected a dtype of floats or integers"),
    "another dtype": (change_tensor(dtype="I32"), "classifier.bias is I32 [2], expected F32 [2]"),
    "offsets beyond the file": (change_tensor(data_offsets=[0, 2**40]), "classifier.bias.data_offsets"),
    "offsets backwards": (change_tensor(data_offsets=[8, 0]), "expected where the tensor begins and ends"),
    "one offset": (change_tensor(data_offsets=[8]), "expected where the tensor begins and ends"),
    "tensors that overlap": (
        lambda h: h["transformer.pooler.dense.bias"].update(
            h["transformer.encoder.layers.0.attention.key.bias"]
        ),
        "begins at byte",
    ),
    "a tensor that lacks": (lambda h: h.pop("classifier.bias"), "begins at byte 8 of the data, expected 0"),
    "no dtype": (lambda h: h["classifier.bias"].pop("dtype"), "dtype"),
    "a list for a tensor": (lambda h: h.update({"classifier.bias": []}), "classifier.bias"),
    "other metadata": (
        lambda h: h["__metadata__"].update(version="2"),
        "version of its metadata is '2', expected '1'",
    ),
    "no metadata": (lambda h: h.pop("__metadata__"), "format of its metadata is nothing"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_contradicts_itself_is_refused(case: str, shipped: Path) -> None:
    change, expected = HEADERS[case]
    rewrite(shipped / "model_int8.safetensors", change)
    try:
        model = RuntimeModel(shipped)
    except RuntimeFailure as failure:
        status, message = failure.status, str(failure)
    else:  # a head's are read when it is first asked for
        with pytest.raises(RuntimeFailure) as caught:
            model.classify("good")
        status, message = caught.value.status, str(caught.value)
    assert status == runtime.BAD_FILE
    assert "model_int8.safetensors" in message
    assert expected in message


@pytest.mark.parametrize("size", [0, 7, 8, 100, 14_464, 1_000_000, 11_229_447])
def test_a_file_that_was_cut_short_is_refused(size: int, shipped: Path) -> None:
    os.truncate(shipped / "model_int8.safetensors", size)
    status, message = refused(shipped)
    assert status == runtime.BAD_FILE
    assert "model_int8.safetensors" in message


def test_bytes_behind_the_last_tensor_are_refused(shipped: Path) -> None:
    rewrite(shipped / "model_int8.safetensors", lambda header: None, tail=b"\0")
    assert "its tensors end at byte" in refused(shipped)[1]


def test_a_header_longer_than_the_file_is_refused(shipped: Path) -> None:
    (shipped / "model_int8.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    assert refused(shipped)[0] == runtime.BAD_FILE


CONFIGS: dict[str, tuple[dict[str, Any], int, str]] = {
    "another model": ({"model_type": "gpt2"}, runtime.UNSUPPORTED, "model_type is 'gpt2'"),
    "byte pairs": ({"model_type": "roberta"}, runtime.UNSUPPORTED, "byte pairs"),
    "an activation without a kernel": ({"hidden_act": "mish"}, runtime.UNSUPPORTED, "hidden_act is 'mish'"),
    "more layers than tensors": ({"num_hidden_layers": 10_000}, runtime.BAD_FILE, "fewer tensors"),
    "one layer more": ({"num_hidden_layers": 6}, runtime.BAD_FILE, "lacks the model's encoder.layers.5"),
    "another width": (
        {"hidden_size": 768, "embedding_size": 768},
        runtime.BAD_FILE,
        "expected I8 [13600, 768]",
    ),
    "heads that don't divide": ({"num_attention_heads": 7}, runtime.BAD_FILE, "num_attention_heads is 7"),
    "groups that don't divide": (
        {"q_groups": 5},
        runtime.BAD_FILE,
        "q_groups is 5, expected a divisor of 384",
    ),
    "no heads": ({"num_attention_heads": 0}, runtime.BAD_FILE, "num_attention_heads"),
    "a size that is a text": ({"vocab_size": "many"}, runtime.BAD_FILE, "vocab_size"),
    "a huge size": ({"vocab_size": 2**40}, runtime.BAD_FILE, "vocab_size"),
    "a projection": ({"embedding_size": 128}, runtime.BAD_FILE, "the same as hidden_size"),
    "an index that lacks": ({"id2label": {"0": "a", "2": "b"}}, runtime.BAD_FILE, "id2label has the index 2"),
    "a label by name": ({"id2label": {"a": 0}}, runtime.BAD_FILE, "names by integer indices"),
    "a label with a NUL": ({"id2label": {"0": "a", "1": "b\0c"}}, runtime.BAD_FILE, "a label without a NUL"),
    "a decoder": ({"is_decoder": True}, runtime.UNSUPPORTED, "is_decoder is true, expected false"),
    "an unknown problem": ({"problem_type": "guess"}, runtime.BAD_FILE, "problem_type"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_makes_no_model_is_refused(case: str, shipped: Path) -> None:
    fields, status, message = CONFIGS[case]
    config = json.loads((shipped / "config.json").read_text())
    (shipped / "config.json").write_text(json.dumps(config | fields))
    found = refused(shipped)
    assert found[0] == status
    assert message in found[1]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000, b"null"])
def test_a_config_that_is_no_json_object_is_refused(content: bytes, shipped: Path) -> None:
    (shipped / "config.json").write_bytes(content)
    status, message = refused(shipped)
    assert status == runtime.BAD_FILE
    assert "config.json" in message


@pytest.mark.parametrize("name", ["config.json", "model_int8.safetensors"])
def test_a_file_that_lacks_is_named(name: str, shipped: Path) -> None:
    (shipped / name).unlink()
    status, message = refused(shipped)
    assert status == runtime.NOT_FOUND
    assert name in message


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin"])
def test_weights_in_other_files_are_said_to_be_there(name: str, shipped: Path) -> None:
    (shipped / "model_int8.safetensors").rename(shipped / name)
    status, message = refused(shipped)
    assert status == runtime.UNSUPPORTED
    assert message.endswith(f"/{name} isn't read here, expected one file with all weights, model.safetensors")


def test_what_is_no_file_is_refused_at_once(shipped: Path) -> None:
    (shipped / "model_int8.safetensors").unlink()
    os.mkfifo(shipped / "model_int8.safetensors")
    assert refused(shipped) == (
        runtime.NOT_FOUND,
        f"{shipped}/model_int8.safetensors can't be read: it is not a file",
    )


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    assert refused(tmp_path / "model")[0] == runtime.NOT_FOUND


def test_weights_that_are_not_finite_give_an_error_and_no_answer(tmp_path: Path) -> None:
    folder = make_folder("squeezebert", "ForSequenceClassification", tmp_path)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    begin, end = json.loads(content[8 : 8 + size])["classifier.bias"]["data_offsets"]
    at = 8 + size
    path.write_bytes(content[: at + begin] + b"\xff" * (end - begin) + content[at + end :])
    with pytest.raises(RuntimeFailure, match="the model's answer is not finite"):
        RuntimeModel(folder).classify("the")


@pytest.mark.parametrize("place", ["../outside", "/etc", "a/../../b", "."])
def test_a_module_outside_its_folder_is_refused(place: str, tmp_path: Path) -> None:
    folder = save_folder("bert", "Model", tmp_path / "model")
    module = {"idx": 0, "name": "0", "path": place, "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps([module]))
    status, message = refused(folder)
    assert status == runtime.BAD_FILE
    assert "expected a path in the folder" in message


def test_a_module_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = save_folder("bert", "Model", tmp_path / "model")
    (folder / "modules.json").write_text(json.dumps([{"path": "", "type": "custom.Transformer"}]))
    assert "code of the folder's own isn't run" in refused(folder)[1]


def test_wrong_arguments_are_said() -> None:
    call, model = runtime.library(), RuntimeModel(SENTIMENT_MODEL)
    size, masks = ctypes.c_size_t, ctypes.c_size_t()
    text = (b"good", size(4))
    ids = (ctypes.c_int64 * 2)()
    calls = {
        "folder or model is null": call.squeezebert_open(None, None, None),
        "model is null": call.squeezebert_classify(None, *text, None, size(0), None, None),
        "text is null": call.squeezebert_classify(model.handle, None, size(0), None, size(0), None, None),
        "threads is below 1": call.squeezebert_set_threads(model.handle, 0),
        "capacity is less": call.squeezebert_tokenize(
            model.handle, *text, None, size(0), ids, None, size(2), ctypes.byref(masks)
        ),
    }
    assert set(calls.values()) == {runtime.INVALID_ARGUMENT}
    for bad in ([10**6], [-1], [0] * 513):
        with pytest.raises(RuntimeFailure) as caught:
            model.hidden_states(bad)
        assert caught.value.status == runtime.INVALID_ARGUMENT
    for bad_text in (b"\xff", b"a\0", b"x" * (1 + (16 << 20))):
        for function in (model.classify, model.embed, model.tokenize):
            with pytest.raises(RuntimeFailure) as caught:
                function(bad_text)
            assert caught.value.status == runtime.BAD_TEXT
