"""`tokenizer.pad`, tensors and transformers' data collators: every column keeps its values and its dtype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization import BatchEncoding, SqueezeBertTokenizer, SqueezeBertTokenizerFast
from squeezebert_fast.tokenization.sequences import truncated_windows

transformers = pytest.importorskip("transformers")

VOCAB = Path(__file__).parent / "data" / "vocab.txt"
KINDS = [SqueezeBertTokenizer, SqueezeBertTokenizerFast]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.param(VOCAB)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return transformers.SqueezeBertTokenizer(vocab=str(VOCAB))


def assert_equal(found: Any, expected: Any) -> None:
    assert set(found) == set(expected)
    for name in expected:
        assert type(found[name]) is type(expected[name])
        if isinstance(expected[name], (torch.Tensor, np.ndarray)):
            assert found[name].dtype == expected[name].dtype, name
            assert found[name].tolist() == expected[name].tolist(), name
        else:
            assert found[name] == expected[name], name


# A regression's targets, several labels a text, soft labels, a flag, whole numbers, numpy's scalars.
LABELS: list[tuple[Any, Any]] = [
    (0.25, -1.5),
    ([0.0, 1.0, 0.5], [1.0, 0.0, 0.25]),
    ([[0.5], [0.25]], [[0.125], [1.0]]),
    (True, False),
    ([True, False], [False, False]),
    (3, 0),
    (1, 0.5),
    (np.float64(0.1), np.float64(0.2)),
    (np.float32(0.1), np.float32(0.2)),
    (np.array([0.1, 0.2]), np.array([0.3, 0.4])),
    (np.array([0.1], dtype=np.float32), np.array([0.3], dtype=np.float32)),
]


@pytest.mark.parametrize("kind", ["pt", "np"])
@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_labels_come_out_of_pad_as_out_of_transformers(
    tokenizer: Any, theirs: Any, labels: tuple[Any, Any], kind: str
) -> None:
    rows = [
        {"input_ids": [101, 7592, 102], "labels": labels[0]},
        {"input_ids": [101, 102], "labels": labels[1]},
    ]
    expected = theirs.pad([dict(row) for row in rows], return_tensors=kind)
    assert_equal(tokenizer.pad(rows, return_tensors=kind), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.bool])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_tensors_of_any_dtype_keep_it(tokenizer: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    labels = [torch.rand(shape, dtype=torch.float64).to(dtype) for _ in range(2)]
    ids = [torch.tensor([101, 102]), torch.tensor([101, 7592, 102])]
    rows = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    padded = tokenizer.pad(rows)
    assert padded["labels"].dtype == dtype
    assert torch.equal(padded["labels"], torch.stack(labels))
    assert padded["input_ids"].tolist() == [[101, 102, 0], [101, 7592, 102]]
    whole = tokenizer.pad({"input_ids": torch.tensor([[101, 102]] * 2), "labels": torch.stack(labels)})
    assert whole["labels"].dtype == dtype
    assert torch.equal(whole["labels"], torch.stack(labels))


def test_arrays_keep_their_float_dtype(tokenizer: Any) -> None:
    rows = [
        {"input_ids": np.array([101, 102]), "score": np.float16(0.25)},
        {"input_ids": np.array([101, 5, 102]), "score": np.float16(0.5)},
    ]
    padded = tokenizer.pad(rows)
    assert padded["score"].dtype == np.float16
    assert padded["score"].tolist() == [0.25, 0.5]
    assert padded["input_ids"].tolist() == [[101, 102, 0], [101, 5, 102]]
    assert tokenizer.pad(rows, return_tensors="pt")["score"].dtype == torch.float16


def test_a_padded_mask_keeps_its_dtype(tokenizer: Any) -> None:
    for ones, dtype in [
        ([True, True], torch.bool),
        ([1.0, 1.0], torch.float32),
        (torch.ones(2, dtype=torch.bool), torch.bool),
        (torch.ones(2, dtype=torch.bfloat16), torch.bfloat16),
        (np.ones(2, dtype=bool), torch.bool),
    ]:
        rows = [{"input_ids": [101, 102], "attention_mask": ones}, {"input_ids": [1, 2, 3]}]
        rows[1]["attention_mask"] = [*ones, ones[0]] if isinstance(ones, list) else ones[[0, 0, 0]]
        mask = tokenizer.pad(rows, return_tensors="pt")["attention_mask"]
        assert mask.dtype == dtype
        assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_whole_numbers_become_int64(tokenizer: Any) -> None:
    rows = [{"input_ids": torch.tensor([5], dtype=torch.int32), "labels": torch.tensor(1, dtype=torch.int32)}]
    assert {value.dtype for value in tokenizer.pad(rows).values()} == {torch.int64}
    whole = {"input_ids": np.array([[5]], dtype=np.int32), "labels": np.array([2], dtype=np.uint8)}
    assert {value.dtype for value in tokenizer.pad(whole, return_tensors="pt").values()} == {torch.int64}


def test_without_tensors_other_columns_stay_as_they_are(tokenizer: Any) -> None:
    label = torch.tensor(0.5)
    padded = tokenizer.pad([{"input_ids": [5], "labels": label, "text": "a"}])
    assert padded["labels"][0] is label
    assert padded["text"] == ["a"]


def test_a_square_attention_mask_is_stacked(tokenizer: Any, theirs: Any) -> None:
    rows = [{"input_ids": [5, 6, 7], "attention_mask": torch.ones(1, 3, 3)} for _ in range(2)]
    expected = theirs.pad([dict(row) for row in rows], return_tensors="pt")
    assert_equal(tokenizer.pad(rows, return_tensors="pt"), expected)


@pytest.mark.parametrize(
    "column", [["a", "b"], [None, None], [[1.0], [1.0, 2.0]], [2**63, 0], [torch.ones(1), torch.ones(2)]]
)
def test_a_column_that_cannot_become_a_tensor_is_named(tokenizer: Any, column: list[Any]) -> None:
    rows = [{"input_ids": [5], "extra": value} for value in column]
    for kind in ("pt", "np"):
        with pytest.raises(TokenizerError, match="extra can't become one tensor"):
            tokenizer.pad(rows, return_tensors=kind)


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_convert_to_tensors_keeps_floats_and_flags(kind: str) -> None:
    data = {"score": [0.25, 0.5], "seen": [True, False], "ids": [[1, 2]], "none": []}
    expected = transformers.BatchEncoding(dict(data), tensor_type=kind)
    assert_equal(BatchEncoding(dict(data)).convert_to_tensors(kind), expected)


def test_bfloat16_becomes_a_float32_array() -> None:
    batch = BatchEncoding({"x": torch.tensor([0.5, 1.5], dtype=torch.bfloat16)}).convert_to_tensors("np")
    assert batch["x"].dtype == np.float32
    assert batch["x"].tolist() == [0.5, 1.5]


def collators(tokenizer: Any) -> dict[str, Callable[[Any], Any]]:
    kinds = transformers
    return {
        "padding": kinds.DataCollatorWithPadding(tokenizer),
        "padding to 8": kinds.DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        "padding to arrays": kinds.DataCollatorWithPadding(tokenizer, return_tensors="np"),
        "default": kinds.DefaultDataCollator(),
        "tokens": kinds.DataCollatorForTokenClassification(tokenizer),
        "masked": kinds.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5),
        "causal": kinds.DataCollatorForLanguageModeling(tokenizer, mlm=False),
        "choices": kinds.DataCollatorForMultipleChoice(tokenizer),
        "pairs": kinds.DataCollatorForSeq2Seq(tokenizer),
    }


@pytest.mark.parametrize("name", ["padding", "padding to 8", "padding to arrays", "default"])
@pytest.mark.parametrize("labels", [(0.25, 0.5), ([0.0, 1.0], [1.0, 0.5]), (1, 0)], ids=str)
@pytest.mark.parametrize("column", ["label", "labels"])
def test_collators_keep_the_targets_of_sequences(
    tokenizer: Any, theirs: Any, name: str, labels: Any, column: str
) -> None:
    texts = ["hello world", "hello there"] if name == "default" else ["hello", "hello big world"]

    def rows(of: Any) -> list[dict[str, Any]]:
        return [dict(of(text), **{column: label}) for text, label in zip(texts, labels, strict=True)]

    assert_equal(collators(tokenizer)[name](rows(tokenizer)), collators(theirs)[name](rows(theirs)))


@pytest.mark.parametrize("name", ["tokens", "causal", "pairs"])
def test_collators_keep_the_targets_of_tokens(tokenizer: Any, theirs: Any, name: str) -> None:
    def rows(of: Any) -> list[dict[str, Any]]:
        encoded = [dict(of(text)) for text in ("hello", "hello big world")]
        if name == "causal":  # makes its own
            return encoded
        return [{**row, "labels": [7] * len(row["input_ids"])} for row in encoded]

    assert_equal(collators(tokenizer)[name](rows(tokenizer)), collators(theirs)[name](rows(theirs)))


def test_the_masking_collator_masks_the_same_tokens(tokenizer: Any, theirs: Any) -> None:
    texts = ["hello big world " * 5, "hello"]
    batches = []
    for of in (tokenizer, theirs):
        torch.manual_seed(3)
        rows = [dict(of(text, return_special_tokens_mask=True)) for text in texts]
        batches.append(collators(of)["masked"](rows))
    assert_equal(*batches)
    assert (batches[0]["input_ids"] == tokenizer.mask_token_id).any()


def test_the_multiple_choice_collator_pads_every_choice(tokenizer: Any, theirs: Any) -> None:
    def rows(of: Any) -> list[dict[str, Any]]:
        choices = [["a", "hello"], ["hello big world", "b"]]
        return [{**dict(of(["hello"] * 2, pair)), "label": at} for at, pair in enumerate(choices)]

    assert_equal(collators(tokenizer)["choices"](rows(tokenizer)), collators(theirs)["choices"](rows(theirs)))


def test_two_long_texts_are_cut_without_listing_every_pair_of_their_windows() -> None:
    rows = truncated_windows(
        [3_000_000, 2_000_000], 4, "longest_first", 0, "right"
    )  # 1.5 million million pairs
    assert [next(rows) for _ in range(2)] == [((0, 2), (0, 2)), ((2, 4), (0, 2))]
