"""Arguments and methods of transformers' tokenizers: they give what they give there, do nothing, or are refused."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization import BatchEncoding, SqueezeBertTokenizer, SqueezeBertTokenizerFast
from tests.fake_hub import FakeHub

transformers = pytest.importorskip("transformers")

VOCAB = Path(__file__).parent / "data" / "vocab.txt"
KINDS = [SqueezeBertTokenizer, SqueezeBertTokenizerFast]
SMALL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "##s", "a"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.param(VOCAB)


@pytest.fixture(params=KINDS)
def fresh(request: pytest.FixtureRequest) -> Any:
    return request.param(VOCAB)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return transformers.SqueezeBertTokenizer(vocab=str(VOCAB))


def small_vocab(folder: Path) -> Path:
    (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in SMALL).encode())
    return folder / "vocab.txt"


# Construction


@pytest.mark.parametrize("kind", KINDS)
def test_vocab_file_and_tokenizer_file_are_vocabularies(kind: Any, tmp_path: Path) -> None:
    vocab = small_vocab(tmp_path)
    written = kind(vocab_file=vocab, do_lower_case=False, tokenize_chinese_chars=False)
    written.add_tokens(["new_tok"])
    written.save_pretrained(tmp_path / "all")
    path = tmp_path / "all" / "tokenizer.json"
    for again in (kind(tokenizer_file=str(path)), kind(vocab_file=vocab, tokenizer_file=path)):
        assert again.get_vocab() == written.get_vocab()
        assert (again.do_lower_case, again.strip_accents, again.tokenize_chinese_chars) == (
            False,
            None,
            False,
        )
        assert again.tokenize("Hello hellos new_tok") == ["[UNK]", "hello", "##s", "new_tok"]
    assert kind(tokenizer_file=path, do_lower_case=True).tokenize("Hello") == ["hello"]
    with pytest.raises(TokenizerError, match=r"missing\.json"):
        kind(tokenizer_file=tmp_path / "missing.json")
    with pytest.raises(TokenizerError, match="vocab is NoneType"):
        kind()


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_file_alone_can_be_loaded(kind: Any, name: str, tmp_path: Path) -> None:
    kind(small_vocab(tmp_path)).save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path / name)
    assert loaded("hellos")["input_ids"] == [2, 5, 6, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_that_cannot_matter_do_nothing(kind: Any, tmp_path: Path) -> None:
    kind(small_vocab(tmp_path)).save_pretrained(tmp_path)
    loaded = kind.from_pretrained(
        pretrained_model_name_or_path=tmp_path,
        use_fast=False,
        trust_remote_code=True,
        force_download=True,
        resume_download=True,
        use_auth_token=None,
        config=transformers.SqueezeBertConfig(),
    )
    assert loaded.init_kwargs == {}
    assert loaded("hellos")["input_ids"] == [2, 5, 6, 3]
    for name in ("proxies", "gguf_file"):
        with pytest.raises(TokenizerError, match=f"{name} isn't supported"):
            kind.from_pretrained(tmp_path, **{name: "x"})


@pytest.mark.parametrize("kind", KINDS)
def test_new_special_tokens_are_added_as_in_transformers(kind: Any, tmp_path: Path) -> None:
    small_vocab(tmp_path)
    options = {
        "additional_special_tokens": ["<e1>", "<e2>"],
        "bos_token": "[NEW]",
        "eos_token": "hello",
        "pad_token": "<pad>",
    }
    ours = kind.from_pretrained(tmp_path, **options)
    theirs = transformers.SqueezeBertTokenizer.from_pretrained(tmp_path, **options)
    for found in (ours, kind(tmp_path / "vocab.txt", **options)):
        assert set(found.get_vocab()) == set(theirs.get_vocab())
        assert found.special_tokens_map == theirs.special_tokens_map
        assert found.all_special_tokens == theirs.all_special_tokens
        assert found.tokenize("a[NEW]<e1> hello<pad>") == theirs.tokenize("a[NEW]<e1> hello<pad>")
        assert len(found) == len(SMALL) + 4
    ours.save_pretrained(tmp_path / "all")
    again = kind.from_pretrained(tmp_path / "all")
    assert again.get_vocab() == ours.get_vocab()
    assert again.extra_special_tokens == ["<e1>", "<e2>"]
    replaced = kind.from_pretrained(tmp_path / "all", extra_special_tokens=["<e2>"], mask_token=None)
    assert (replaced.extra_special_tokens, replaced.mask_token) == (["<e2>"], None)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_arguments_are_kept_and_saved(kind: Any, tmp_path: Path) -> None:
    small_vocab(tmp_path)
    tokenizer = kind.from_pretrained(tmp_path, my_option={"a": [1, 2]}, do_basic_tokenize=True)
    assert tokenizer.init_kwargs == {"my_option": {"a": [1, 2]}, "do_basic_tokenize": True}
    tokenizer.init_kwargs["later"] = "x"
    tokenizer.save_pretrained(tmp_path / "all")
    for again in KINDS:
        loaded = again.from_pretrained(tmp_path / "all", later="y")
        assert loaded.init_kwargs == {**tokenizer.init_kwargs, "later": "y"}
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "all").init_kwargs["my_option"] == {
        "a": [1, 2]
    }
    tokenizer.init_kwargs["later"] = object()
    before = (tmp_path / "all" / "tokenizer_config.json").read_bytes()
    with pytest.raises(
        TokenizerError, match=r"tokenizer_config\.json can't be written: .*object is not JSON"
    ):
        tokenizer.save_pretrained(tmp_path / "all")
    assert (tmp_path / "all" / "tokenizer_config.json").read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_force_download_asks_the_hub_again(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub() as hub:
        hub.use(monkeypatch)
        hub.push("team/tok", {"vocab.txt": "\n".join(SMALL).encode()})
        downloads = []
        for force in (False, False, True):
            hub.requests.clear()
            kind.from_pretrained("team/tok", cache_dir=tmp_path, force_download=force)
            downloads.append(sum(request.startswith("GET") for request in hub.requests))
    assert downloads == [1, 0, 1]


def test_a_file_prefix_opens_every_name(tokenizer: Any, tmp_path: Path) -> None:
    written = tokenizer.save_pretrained(tmp_path, filename_prefix="x", legacy_format=False)
    assert sorted(map(str, tmp_path.iterdir())) == sorted(written)
    assert all(Path(path).name.startswith("x-") for path in written)
    assert type(tokenizer)(tokenizer_file=tmp_path / "x-tokenizer.json").get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("save_first", [False, True])
def test_a_tokenizer_is_pushed_to_the_hub(
    tokenizer: Any, save_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    calls: list[tuple[str, Any]] = []

    def create_repo(api: Any, repo_id: str, **options: Any) -> Any:
        calls.append((repo_id, options))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/me/{repo_id}")

    def upload_folder(api: Any, *, repo_id: str, folder_path: str, **options: Any) -> str:
        names = sorted(path.name for path in Path(folder_path).iterdir())
        calls.append((repo_id, {**options, "names": names, "token": api.token}))
        return "commit"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    if save_first:
        tokenizer.save_pretrained(tmp_path / "tok", push_to_hub=True, private=True, token="t")
    else:
        assert tokenizer.push_to_hub("tok", private=True, token="t") == "commit"
    (made, options), (filled, uploaded) = calls
    assert (made, options["private"], options["exist_ok"]) == ("tok", True, True)
    assert (filled, uploaded["token"]) == ("me/tok", "t")
    assert uploaded["names"] == [
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]


# Calling


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        ({"text": "hello", "text_target": "world"}, {}),
        ({"text_target": "world", "text_pair_target": "again"}, {}),
        (
            {"text": ["a", "hello"], "text_target": ["b", "a b c d"]},
            {"padding": True, "return_tensors": "pt"},
        ),
        ({"text": ["a b c d e f"], "text_target": ["a b c d e f"]}, {"truncation": True, "max_length": 5}),
        (
            {"text": ["a b c d"], "text_target": ["a b c d"]},
            {"truncation": True, "max_length": 5, "max_target_length": 3, "verbose": False},
        ),
    ],
    ids=str,
)
def test_target_texts_become_labels(tokenizer: Any, theirs: Any, texts: Any, options: Any) -> None:
    found, expected = tokenizer(**texts, **options), theirs(**texts, **options)
    assert {name: np.asarray(value).tolist() for name, value in found.items()} == {
        name: np.asarray(value).tolist() for name, value in expected.items()
    }


def test_no_text_at_all_is_refused(tokenizer: Any) -> None:
    with pytest.raises(TokenizerError, match="text is None"):
        tokenizer()


def test_positional_arguments_stand_as_in_transformers(tokenizer: Any, theirs: Any) -> None:
    assert dict(tokenizer("a", "b", None, None, False)) == dict(theirs("a", "b", None, None, False))
    assert tokenizer.encode("a", None, False) == theirs.encode("a", None, False)


def test_splitting_special_tokens_is_as_the_tokenizer_was_made(tokenizer: Any) -> None:
    assert tokenizer("a [MASK]", split_special_tokens=False).input_ids[2] == 103
    with pytest.raises(TokenizerError, match="split_special_tokens is True; expected False"):
        tokenizer("a [MASK]", split_special_tokens=True)


def test_the_older_names_of_calling_give_the_same(tokenizer: Any) -> None:
    options = {"padding": "max_length", "max_length": 6, "return_tensors": "np"}
    assert tokenizer.encode_plus("a", "b")["input_ids"] == tokenizer("a", "b")["input_ids"]
    assert tokenizer.encode_plus(["a", "b"], is_split_into_words=True).tokens() == [
        "[CLS]",
        "a",
        "b",
        "[SEP]",
    ]
    for batch in (["a", "a b"], [("a", "b"), ("c", "d")]):
        found, expected = tokenizer.batch_encode_plus(batch, **options), tokenizer(batch, **options)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    with pytest.raises(TokenizerError, match="encode_plus got a list"):
        tokenizer.encode_plus(["a"])
    with pytest.raises(TokenizerError, match="batch_encode_plus got a str"):
        tokenizer.batch_encode_plus("a")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_special_tokens": False},
        {"truncation": True, "max_length": 5},
        {"truncation": "only_first", "max_length": 6},
        {"padding": "max_length", "max_length": 15, "padding_side": "left"},
        {"padding": True, "pad_to_multiple_of": 8, "return_special_tokens_mask": True},
        {"return_attention_mask": False, "return_token_type_ids": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("texts", [("hello big world again",), ("hello big world again", "a b")], ids=str)
def test_prepared_ids_are_what_calling_with_the_texts_gives(tokenizer: Any, texts: Any, options: Any) -> None:
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert dict(tokenizer.prepare_for_model(*ids, **options)) == dict(tokenizer(*texts, **options))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "options",
    [
        {"truncation": "longest_first", "max_length": 5, "stride": 2},
        {"truncation": "only_first", "max_length": 6, "pair_ids": [7, 8]},
        {"truncation": "only_second", "max_length": 9, "pair_ids": [7, 8, 9, 10], "stride": 1},
        {"truncation": True, "max_length": 50},
        {"return_tensors": "pt", "prepend_batch_axis": True},
    ],
    ids=str,
)
def test_what_was_cut_off_is_what_transformers_gives(fresh: Any, side: str, options: dict[str, Any]) -> None:
    legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")
    theirs = legacy.BertTokenizerLegacy(str(VOCAB))
    theirs.truncation_side = fresh.truncation_side = side
    options = {
        "return_overflowing_tokens": True,
        "return_token_type_ids": True,
        "return_length": True,
        **options,
    }
    found = fresh.prepare_for_model([11, 12, 13, 14, 15], **options)
    expected = theirs.prepare_for_model([11, 12, 13, 14, 15], **options)
    assert {name: np.asarray(value).tolist() for name, value in found.items()} == {
        name: np.asarray(value).tolist() for name, value in expected.items()
    }


def test_ids_that_cannot_be_prepared_are_refused(tokenizer: Any) -> None:
    with pytest.raises(TokenizerError, match="an id is 'a'"):
        tokenizer.prepare_for_model(["a"])
    with pytest.raises(TokenizerError, match="needs truncation='only_first' or 'only_second'"):
        tokenizer.prepare_for_model(
            [1, 2], [3], truncation=True, max_length=4, return_overflowing_tokens=True
        )


def test_a_row_that_is_too_long_is_warned_of_once(fresh: Any, caplog: pytest.LogCaptureFixture) -> None:
    fresh.model_max_length = 4
    with caplog.at_level(logging.WARNING):
        fresh("a b")
        fresh("a b c", truncation=True)
        fresh("a b c", max_length=9, truncation=False)
        fresh("a b c", verbose=False)
        assert caplog.records == []
        fresh(["a", "a b c"])
        fresh("a b c d")
        fresh.prepare_for_model([1, 2, 3, 4])
    (record,) = caplog.records
    assert record.name == "squeezebert_fast.tokenization"
    assert "a row of 5 tokens is longer than the model's 4 (model_max_length)" in record.getMessage()


def test_prepared_ids_that_are_too_many_are_warned_of(fresh: Any, caplog: pytest.LogCaptureFixture) -> None:
    fresh.model_max_length = 4
    fresh.prepare_for_model([1, 2, 3])
    assert "a row of 5 tokens" in caplog.text


def test_a_batch_encoding_says_whether_it_is_fast(theirs: Any) -> None:
    slow, fast = (kind(VOCAB)("hello worlds") for kind in KINDS)
    assert (slow.is_fast, fast.is_fast, BatchEncoding({"input_ids": [1]}).is_fast) == (False, True, False)
    assert fast.words() == fast.word_ids() == theirs("hello worlds").word_ids()
    assert pickle.loads(pickle.dumps(fast)).is_fast  # noqa: S301  # our own bytes
    made = BatchEncoding({"input_ids": [1, 2]}, tensor_type="pt", prepend_batch_axis=True)
    assert made["input_ids"].tolist() == [[1, 2]]


# Training


def corpus() -> list[str]:
    words = ["grouped", "convolution", "convolutions", "group", "volume", "Über", "hello", "helm"]
    return [" ".join(words[at % 8 :] + words[: at * at % 5]) + " [MASK]" for at in range(60)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"new_special_tokens": ["<e>"], "min_frequency": 3, "show_progress": False},
        {"special_tokens_map": {"[CLS]": "<cls>", "[MASK]": "<mask>"}, "length": 60},
    ],
    ids=str,
)
def test_a_tokenizer_trains_another_as_in_transformers(
    kind: Any, options: dict[str, Any], theirs: Any, tmp_path: Path
) -> None:
    texts = corpus()
    batches = [texts[start : start + 7] for start in range(0, 60, 7)]
    trained = kind(VOCAB, model_max_length=9).train_new_from_iterator(iter(batches), 90, **options)
    expected = theirs.train_new_from_iterator(iter(batches), 90, **options)
    # The library breaks ties between pieces as it likes, but all words are tokens in the end.
    for found in (trained, expected):
        assert len(found) <= 90
        assert {"group", "convolution", "hello"} <= found.get_vocab().keys()

    def alphabet(of: Any) -> set[str]:
        return {token for token in of.get_vocab() if len(token.removeprefix("##")) == 1}

    assert alphabet(trained) == alphabet(expected)
    assert trained.added_tokens_decoder.keys() == expected.added_tokens_decoder.keys()
    assert trained.get_added_vocab() == expected.get_added_vocab()
    assert trained.special_tokens_map == expected.special_tokens_map
    assert trained.extra_special_tokens == expected.extra_special_tokens
    text = "helm groups <mask> [MASK] <e> Überconvolution"
    assert type(trained).decode(trained, trained(text)["input_ids"]) == expected.decode(
        expected(text)["input_ids"]
    )
    assert trained("hello")["input_ids"][0] == trained.cls_token_id
    assert (type(trained), trained.model_max_length) == (kind, 9)
    trained.save_pretrained(tmp_path)
    assert kind.from_pretrained(tmp_path).get_vocab() == trained.get_vocab()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"vocab_size": 50, "continuing_subword_prefix": "@@"}, "continuing_subword_prefix is '@@'"),
        ({"vocab_size": 50, "min_frequency": "x"}, "can't be trained so"),
        ({"vocab_size": 50, "text_iterator": [3]}, "can't be trained so"),
    ],
)
def test_what_cannot_be_trained_is_refused(tokenizer: Any, arguments: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer.train_new_from_iterator(**{"text_iterator": ["a b"], **arguments})


# In other processes


class Collate:
    """Tokenizes and pads in the worker, as a data loader of a training does."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.pad = transformers.DataCollatorWithPadding(tokenizer)

    def __call__(self, texts: list[str]) -> dict[str, torch.Tensor]:
        return dict(self.pad([{**self.tokenizer(text), "label": len(text) / 2} for text in texts]))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers_tokenize(tokenizer: Any, start: str) -> None:
    texts = ["hello world", "a", "new", "unaffable world"]
    collate = Collate(tokenizer)
    expected = [
        collate(texts[:2]),
        collate(texts[2:]),
    ]  # in this process first: workers inherit what that began

    def batches() -> Iterator[Any]:
        yield from DataLoader(texts, 2, num_workers=1, collate_fn=collate, multiprocessing_context=start)

    for found, wanted in zip(batches(), expected, strict=True):
        assert {name: value.tolist() for name, value in found.items()} == {
            name: value.tolist() for name, value in wanted.items()
        }
        assert found["labels"].dtype == torch.float32


def test_a_tokenizer_pickles_to_the_same_bytes_again(tokenizer: Any) -> None:
    # What `datasets` makes its cache's name of: a map over the same texts must find it.
    before = pickle.dumps(tokenizer)
    tokenizer("hello world", padding=True)
    assert pickle.dumps(tokenizer) == before
    assert json.loads(json.dumps(tokenizer("hello").data))["input_ids"] == [101, 7592, 102]
