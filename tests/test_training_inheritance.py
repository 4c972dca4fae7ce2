"""What a new student gets from its teacher: a smaller vocabulary, parts of convolutions, rows of words."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from squeezebert_fast import SqueezeBertConfig, SqueezeBertForSequenceClassification, SqueezeBertTokenizerFast
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.training.inheritance import (
    copy_from_teacher,
    diagonal_blocks,
    shared_words,
    smaller_vocabulary,
)
from tests.cli_helpers import VOCAB
from tests.training_helpers import SIZES

TEXTS = ["An unaffable film, was it not?", "Größe 42 at the café", "zyzzyva"]


@pytest.fixture(scope="module")
def tokenizer() -> SqueezeBertTokenizerFast:
    return SqueezeBertTokenizerFast(VOCAB, model_max_length=99)


def tokens_of(tokenizer: SqueezeBertTokenizerFast, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_a_smaller_vocabulary_cuts_the_texts_it_was_made_for_as_before(
    tokenizer: SqueezeBertTokenizerFast,
) -> None:
    used = {index for row in tokenizer(TEXTS)["input_ids"] for index in row}
    smaller = smaller_vocabulary(tokenizer, used, 3000)
    assert len(smaller) == 3000
    assert [tokens_of(smaller, text) for text in TEXTS] == [tokens_of(tokenizer, text) for text in TEXTS]
    assert (smaller.pad_token_id, smaller.model_max_length) == (0, 99)
    words = shared_words(smaller, tokenizer)
    assert len(words) == 3000
    assert list(words.values()) == sorted(words.values())  # in the same order


def test_a_smaller_vocabulary_spells_whatever_it_lacks(tokenizer: SqueezeBertTokenizerFast) -> None:
    smaller = smaller_vocabulary(tokenizer, (), 2100)
    assert "##zy" not in smaller.get_vocab()
    said = tokens_of(smaller, "photosynthesis ÿ zyzzyva")
    assert "[UNK]" not in said
    assert "".join(token.removeprefix("##") for token in said[1:-1]) == "photosynthesisyzyzzyva"
    assert "the" in smaller.get_vocab()  # the first, which are the most frequent
    assert "[unused1]" not in smaller.get_vocab()


@pytest.mark.parametrize("size", [5, 40_000])
def test_a_vocabulary_that_cannot_be_is_refused(tokenizer: SqueezeBertTokenizerFast, size: int) -> None:
    with pytest.raises(ArgumentError, match=f"vocab_size is {size}, expected from "):
        smaller_vocabulary(tokenizer, (), size)


@pytest.mark.parametrize(("theirs", "ours"), [(1, 2), (1, 4), (2, 4), (2, 6), (4, 4)])
def test_a_group_gets_the_weights_between_its_own_channels(theirs: int, ours: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, 12 // theirs, 1)
    blocks = diagonal_blocks(weight, torch.empty(24, 12 // ours, 1), ours)
    assert blocks is not None
    x = torch.randn(3, 12, 5)
    got = F.conv1d(x, blocks, groups=ours)
    for group in range(ours):  # with the other groups' channels 0 the teacher's convolution says the same
        alone = torch.zeros_like(x)
        channels = slice(group * 12 // ours, (group + 1) * 12 // ours)
        alone[:, channels] = x[:, channels]
        out = slice(group * 24 // ours, (group + 1) * 24 // ours)
        torch.testing.assert_close(got[:, out], F.conv1d(alone, weight, groups=theirs)[:, out])


@pytest.mark.parametrize(
    ("shape", "like", "groups"),
    [
        ((24, 3, 1), (24, 12, 1), 1),
        ((24, 12, 1), (20, 3, 1), 4),
        ((24, 12, 1), (24, 5, 1), 2),
        ((24,), (12,), 1),
    ],
)
def test_what_is_no_part_of_a_weight_is_not_copied(
    shape: tuple[int, ...], like: tuple[int, ...], groups: int
) -> None:
    assert diagonal_blocks(torch.zeros(shape), torch.empty(like), groups) is None


def test_a_student_of_more_groups_and_fewer_words_starts_with_its_teachers() -> None:
    torch.manual_seed(0)
    dense = {"q_groups": 1, "k_groups": 1, "v_groups": 1, "intermediate_groups": 1, "output_groups": 1}
    teacher = SqueezeBertForSequenceClassification(
        SqueezeBertConfig(**{**SIZES, **dense, "num_hidden_layers": 2, "vocab_size": 9})
    )
    grouped = dict.fromkeys(dense, 4)
    student = SqueezeBertForSequenceClassification(SqueezeBertConfig(**{**SIZES, **grouped, "vocab_size": 5}))
    words = student.get_input_embeddings().weight
    before = words.clone()
    copied = copy_from_teacher(student, teacher, {0: 7, 2: 3, 4: 8})
    theirs = teacher.get_input_embeddings().weight
    assert torch.equal(words[[0, 2, 4]], theirs[[7, 3, 8]])
    assert torch.equal(words[[1, 3]], before[[1, 3]])  # the teacher has no such words
    query = student.get_parameter("transformer.encoder.layers.0.attention.query.weight")
    dense_query = teacher.get_parameter("transformer.encoder.layers.1.attention.query.weight")
    assert torch.equal(query[4:8], dense_query[4:8, 4:8])
    untouched = sum(p.numel() for name, p in student.named_parameters() if name.startswith("classifier"))
    assert copied == student.num_parameters() - untouched - 2 * words.shape[1]
