"""A sequence's result is the same bits whatever else is in the batch, wherever padding stands, on any threads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast.backends import cpu
from tests.engine_helpers import (
    PRECISIONS,
    channels_of,
    encoder_of,
    groups,
    heads_of,
    native_runs,
    needs_native,
    padding_mask,
    patched,
    run,
    states,
)
from tests.model_pairs import pair, tiny_config

pytestmark = needs_native

# Wide enough for a second thread to be used, for few rows too.
GROUPED: dict[str, Any] = {
    "hidden_size": 96,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    **groups(4, 4, 4, 1, 4, 4),
}
DENSE: dict[str, Any] = {"hidden_size": 96, "num_attention_heads": 2, "intermediate_size": 384, **groups(1)}
UNEQUAL: dict[str, Any] = {
    "hidden_size": 96,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    **groups(4, 2, 1, 8, 6, 1),
}
CONFIGS = {"grouped": GROUPED, "dense": DENSE, "unequal": UNEQUAL}


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sequences_of(encoder: nn.Module, lengths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, channels_of(encoder), generator=generator) for length in lengths]


def alone(encoder: nn.Module, sequences: list[Tensor]) -> list[Tensor]:
    with threads(1):
        return [run(encoder, s[None])[0] for s in sequences]


def batch_of(rng: random.Random, sequences: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The sequences in one batch, and which tokens are theirs; padding is anything, on any side or in between."""
    width = max(map(len, sequences)) + rng.choice([0, 0, 1, 5, 30])
    x = 10 * torch.randn(len(sequences), width, sequences[0].shape[1])
    keep = torch.zeros(len(sequences), width, dtype=torch.bool)
    side = rng.choice(["right", "left", "holes"])
    for row, sequence in enumerate(sequences):
        length = len(sequence)
        places = {
            "right": range(length),
            "left": range(width - length, width),
            "holes": sorted(rng.sample(range(width), length)),
        }[side]
        keep[row, list(places)] = True
        x[row, keep[row]] = sequence
    return x, keep


@pytest.mark.parametrize("unpad", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sequence_has_the_same_bits_in_any_batch(precision: str, config: str, unpad: bool) -> None:
    encoder = patched(encoder_of(**CONFIGS[config]), precision, unpad=unpad)
    rng = random.Random(f"{precision} {config} {unpad}")
    torch.manual_seed(rng.randrange(1000))
    sequences = sequences_of(encoder, [1, 1, 2, 3, 5, 8, 15, 16, 17, 24, 25, 31, 33, 48, 49, 64, 70])
    expected = alone(encoder, sequences)
    with native_runs() as runs:
        for _ in range(60):
            chosen = [rng.randrange(len(sequences)) for _ in range(rng.choice([1, 1, 2, 3, 6, 12]))]
            x, keep = batch_of(rng, [sequences[i] for i in chosen])
            with threads(rng.choice([1, 2])):
                y = run(encoder, x, padding_mask(keep))
            for row, i in enumerate(chosen):
                assert torch.equal(y[row, keep[row]], expected[i]), (len(sequences[i]), keep.sum(1).tolist())
    assert runs == [precision] * 60


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_batch_of_several_parts(precision: str) -> None:
    """More rows than are run at once: each part of the batch is run through all layers before the next."""
    encoder = patched(encoder_of(**GROUPED), precision)
    rng = random.Random(0)
    torch.manual_seed(0)
    sequences = sequences_of(encoder, [rng.randint(1, 130) for _ in range(60)])
    expected = alone(encoder, sequences)
    x, keep = batch_of(rng, sequences)
    for unpad in (False, True):
        encoder = patched(encoder_of(**GROUPED), precision, unpad=unpad)
        for number in (1, 2, 3):
            with threads(number):
                y = run(encoder, x, padding_mask(keep))
            for row, sequence in enumerate(expected):
                assert torch.equal(y[row, keep[row]], sequence)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_long_sequences_whose_scores_take_several_blocks(precision: str) -> None:
    fields: dict[str, Any] = {**GROUPED, "num_hidden_layers": 1}
    sequences = sequences_of(encoder_of(**fields), [700, 528, 529, 30, 1100])
    rng = random.Random(0)
    for unpad in (False, True):
        encoder = patched(encoder_of(**fields), precision, unpad=unpad)
        expected = alone(encoder, sequences)
        for _ in range(3):
            x, keep = batch_of(rng, sequences)
            with threads(2):
                y = run(encoder, x, padding_mask(keep))
            for row, sequence in enumerate(expected):
                assert torch.equal(y[row, keep[row]], sequence)


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_instruction_set(precision: str, isa: str) -> None:
    rng = random.Random(0)
    with cpu.use_instruction_set(isa):
        encoder = patched(encoder_of(**UNEQUAL), precision)
        sequences = sequences_of(encoder, [1, 2, 7, 13, 26, 50])
        expected = alone(encoder, sequences)
        for _ in range(6):
            x, keep = batch_of(rng, sequences)
            with threads(rng.choice([1, 2])):
                y = run(encoder, x, padding_mask(keep))
            for row, sequence in enumerate(expected):
                assert torch.equal(y[row, keep[row]], sequence)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_mask_with_four_axes_and_the_threads_change_no_bits_either(precision: str) -> None:
    encoder = patched(encoder_of(**GROUPED), precision)
    x, mask = states(encoder, 6, 30), torch.randn(6, heads_of(encoder), 30, 30)
    with threads(1):
        expected = torch.cat([run(encoder, x[i : i + 1], mask[i : i + 1]) for i in range(6)])
    for number in (1, 2, 3, 5):
        with threads(number):
            assert torch.equal(run(encoder, x, mask), expected)


@pytest.mark.parametrize("library", ["ours", "theirs"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_whole_models_pad_without_a_trace(precision: str, library: str) -> None:
    """Through the mask that each library makes of a [batch, tokens] one."""
    ours, theirs = pair("SqueezeBertModel", tiny_config())
    model: Any = squeezebert_fast.patch(
        ours if library == "ours" else theirs, precision=precision, backend="cpu"
    )
    ids = torch.randint(0, 61, (8,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for length in (1, 3, 8):
            expected = model(ids[None, :length], attention_mask=torch.ones(1, length, dtype=torch.long))[0]
            for width in (8, 11, 19):
                padded = torch.full((2, width), 5)
                padded[0, :length] = ids[:length]
                mask = (torch.arange(width) < torch.tensor([[length], [width]])).long()
                assert torch.equal(model(padded, attention_mask=mask)[0][0, :length], expected[0])
