"""NaN and infinity in hidden states, weights and masks show where PyTorch shows them, in each precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from squeezebert_fast.backends import cpu
from tests.engine_helpers import (
    EDGES,
    LIBRARIES,
    PRECISIONS,
    encoder_of,
    keep_some,
    native_runs,
    needs_native,
    padding_mask,
    patched,
    random_encoder,
    run,
    states,
)

pytestmark = needs_native

VALUES = [float("nan"), float("inf"), -float("inf")]


def assert_poisoned_alike(encoder: nn.Module, precision: str, x: Tensor, mask: Tensor | None) -> Tensor:
    """NaN in the same places; what is finite is what it is without the spoilt sequences."""
    expected = run(encoder, x, mask)
    with native_runs() as runs:
        actual = run(patched(encoder, precision), x, mask)
    assert runs == [precision]
    assert torch.equal(actual.isfinite(), expected.isfinite())
    assert not actual.isinf().any()
    clean = run(patched(encoder, precision), torch.where(x.isfinite(), x, 0.0), mask)
    whole = actual.isfinite().all(-1).all(-1)
    assert torch.equal(actual[whole], clean[whole])
    return actual


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_value_poisons_its_sequence_and_no_other(
    precision: str, value: float, library: str, isa: str
) -> None:
    encoder = encoder_of(library)
    mask = torch.zeros(3, 1, 1, 7)
    with cpu.use_instruction_set(isa):
        for token, channel in ((0, 0), (3, 5), (6, 23)):
            x = states(encoder, 3, 7)
            x[1, token, channel] = value
            actual = assert_poisoned_alike(encoder, precision, x, mask)
            assert actual[1].isnan().all()
            assert actual[[0, 2]].isfinite().all()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_random_configurations(seed: int, precision: str, value: float) -> None:
    encoder = random_encoder("ours", seed)
    x = states(encoder, 3, 20)
    x[1, 11, seed] = value
    assert_poisoned_alike(encoder, precision, x, None)


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_configurations_that_do_not_line_up(precision: str, name: str) -> None:
    encoder = encoder_of(**EDGES[name])
    x = states(encoder, 2, 5)
    x[1, 2, -1] = torch.nan
    assert assert_poisoned_alike(encoder, precision, x, torch.zeros(2, 1, 1, 5))[1].isnan().all()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_value_in_padding_stays_there(precision: str, library: str, value: float) -> None:
    """Real tokens don't meet it. In PyTorch's own attention a probability of zero times NaN is NaN for all."""
    encoder = encoder_of(library)
    x, keep = states(encoder, 4, 7), keep_some(4, 7, "right")
    keep[1, 5:] = False
    mask = padding_mask(keep)
    expected = run(patched(encoder, precision), x, mask)
    x[1, 6, 3] = value
    actual = run(patched(encoder, precision), x, mask)
    assert actual[1, 6].isnan().all()
    assert torch.equal(actual[keep], expected[keep])
    assert run(patched(encoder, precision, unpad=True), x, mask)[~keep].eq(0).all()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "conv", ["attention.query", "attention.value", "post_attention.conv1d", "output.conv1d"]
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_weight_poisons_everything(precision: str, conv: str, value: float) -> None:
    encoder: Any = encoder_of()
    x = states(encoder, 2, 5)
    fast = patched(encoder, precision)
    run(fast, x)
    models: list[Any] = [encoder, fast]
    for model in models:
        with torch.no_grad():
            model.layers[0].get_submodule(conv).weight[3, 1, 0] = value
    with native_runs() as runs:
        actual = run(fast, x)
    assert runs == [precision]
    assert run(encoder, x).isnan().all()
    assert actual.isnan().all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_masks_that_leave_no_softmax(precision: str) -> None:
    encoder = encoder_of()
    x = states(encoder, 3, 6)
    one_query = torch.zeros(3, 1, 6, 6)
    one_query[1, :, 2] = -torch.inf
    infinite = torch.zeros(3, 1, 1, 6)
    infinite[2, ..., 1] = torch.inf
    undefined = torch.zeros(3, 1, 1, 6)
    undefined[0, ..., 5] = torch.nan
    for mask in (one_query, infinite, undefined):
        assert not run(encoder, x, mask).isfinite().all()
        assert_poisoned_alike(encoder, precision, x, mask)
    everything = torch.zeros(3, 1, 1, 6)
    everything[1] = -torch.inf
    actual = assert_poisoned_alike(encoder, precision, x, everything)
    assert actual[1].isnan().all()


@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_what_an_earlier_call_left_in_working_memory_is_not_read(isa: str) -> None:
    native: Any = cpu._native
    products = []
    for channels in (4, 3):  # the second has an odd number of inputs, and bfloat16 takes two at a time
        weight = torch.ones(2, channels)
        conv = (weight.data_ptr(), 0, 0, 0, 1, channels, 2, 1)
        products.append(native.PackedGroupedPointwiseConv(isa, native.Precision.bfloat16, conv, 1))

    def run_product(product: Any, x: Tensor) -> Tensor:
        y = torch.zeros(len(x), 2)
        none = native.Activation.none
        product.run(x.data_ptr(), x.shape[1], len(x), 0, y.data_ptr(), 2, none, 1, native.Element.float32)
        return y

    for rows in range(1, 40):
        for filled in range(1, 80):  # all that is kept
            run_product(products[0], torch.full((filled, 4), torch.nan))
        assert run_product(products[1], torch.ones(rows, 3)).eq(3).all()
