"""`grouped_pointwise_conv` on every kernel build that this machine can run, by the tolerance rule."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from squeezebert_fast.activations import ACTIVATIONS
from squeezebert_fast.backends import cpu
from squeezebert_fast.ops import grouped_pointwise_conv, reference
from tests.helpers import assert_within_rule, check

pytestmark = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")


@pytest.fixture(params=cpu.instruction_sets())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with cpu.use_instruction_set(request.param):
        yield request.param


def native(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, activation: str | None = None
) -> Tensor:
    return grouped_pointwise_conv(x, weight, bias, groups, activation, backend="cpu", strict=True)


def arguments(
    seed: int, tokens: int, in_channels: int, out_channels: int, groups: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(tokens, in_channels, generator=generator),
        torch.randn(out_channels, in_channels // groups, 1, generator=generator) / in_channels**0.5,
        torch.randn(out_channels, generator=generator),
        groups,
    )


SIZES = [  # tokens, in_channels, out_channels, groups
    (1, 1, 1, 1),
    (2, 3, 5, 1),
    (7, 8, 12, 4),
    (9, 33, 47, 1),
    (13, 96, 51, 3),
    (17, 130, 26, 13),
    (31, 24, 24, 24),
    (65, 64, 200, 2),
    (129, 391, 17, 1),
    (150, 400, 100, 4),
    (3, 1601, 19, 1),
]


@pytest.mark.parametrize("sizes", SIZES)
def test_odd_sizes_are_within_the_rule(isa: str, sizes: tuple[int, int, int, int]) -> None:
    x, weight, bias, groups = arguments(sum(sizes), *sizes)
    check(native, reference.grouped_pointwise_conv, x, weight, bias, groups)
    check(native, reference.grouped_pointwise_conv, x, weight, None, groups)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_every_activation_is_within_the_rule(isa: str, activation: str | None) -> None:
    x, weight, bias, groups = arguments(3, 37, 24, 44, 4)
    check(native, reference.grouped_pointwise_conv, 3 * x, weight, bias, groups, activation)


@pytest.mark.parametrize("activation", sorted(a for a in cpu.FUSED_ACTIVATIONS if a))
def test_a_fused_activation_is_accurate_from_tiny_to_huge_numbers(isa: str, activation: str) -> None:
    magnitudes = torch.logspace(-30, 25, 1000)
    x = torch.cat([magnitudes, -magnitudes, torch.linspace(-12, 12, 4001)])[:, None]
    one = torch.ones(1, 1, 1)
    ours = native(x, one, None, 1, activation)
    theirs = reference.grouped_pointwise_conv(x, one, None, 1, activation)
    exact = reference.grouped_pointwise_conv(x.double(), one.double(), None, 1, activation)
    for low, high in itertools.pairwise([0.0, 1e-3, 0.1, 1.0, 3.0, 6.0, 20.0, 1e9, 1e30]):
        part = (x.abs() >= low) & (x.abs() < high)
        assert_within_rule(ours[part], theirs[part], exact[part], f"{activation} in [{low}, {high})")


@pytest.mark.parametrize(
    "activation", [None, "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh"]
)
def test_special_values_are_where_pytorch_has_them(isa: str, activation: str | None) -> None:
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e38, -1e38, 1e-45])
    weight = torch.ones(40, 1, 1)  # full vectors and a rest
    actual = native(special[:, None], weight, None, 1, activation)
    # One number at a time: PyTorch's vectorised gelu makes NaN of infinity, its scalar one does not.
    expected = torch.stack(
        [reference.grouped_pointwise_conv(x[None], weight[:1], None, 1, activation) for x in special]
    )
    torch.testing.assert_close(actual, expected.expand(-1, 40), equal_nan=True)


def test_a_nan_or_inf_reaches_only_its_own_token_and_group(isa: str) -> None:
    x, weight, bias, groups = arguments(5, 19, 24, 36, 4)
    x[7, 3], x[11, 20] = float("nan"), float("inf")
    actual, expected = (
        native(x, weight, bias, groups),
        reference.grouped_pointwise_conv(x, weight, bias, groups),
    )
    assert torch.equal(actual.isnan(), expected.isnan())
    assert torch.equal(actual.isinf(), expected.isinf())
    finite = expected.isfinite()
    torch.testing.assert_close(actual[finite], expected[finite])


def strided(kind: str, tensor: Tensor) -> Tensor:
    """`tensor`'s values in other memory layouts."""
    if kind == "transposed":
        return tensor.mT.contiguous().mT if tensor.dim() > 1 else torch.stack([tensor] * 2, 1)[:, 0]
    if kind == "sliced":
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 3), float("nan"))
        wide[..., 1 : 1 + 2 * tensor.shape[-1] : 2] = tensor
        return wide[..., 1 : 1 + 2 * tensor.shape[-1] : 2]
    if kind == "offset rows":
        wide = torch.full((tensor.shape[0] * 2, *tensor.shape[1:]), float("nan"))
        wide[::2] = tensor
        return wide[::2]
    buffer = torch.empty(tensor.numel() + 1)  # an address that is no multiple of a vector's size
    buffer[1:] = tensor.reshape(-1)
    return buffer[1:].view(tensor.shape)


@pytest.mark.parametrize("kind", ["transposed", "sliced", "offset rows", "unaligned"])
@pytest.mark.parametrize("which", ["x", "weight", "bias"])
def test_any_strides_give_the_same_bits(isa: str, kind: str, which: str) -> None:
    x, weight, bias, groups = arguments(7, 10, 24, 36, 4)
    expected = native(x, weight, bias, groups)
    given = {"x": x, "weight": weight, "bias": bias}
    given[which] = strided(kind, given[which])
    assert torch.equal(native(*given.values(), groups), expected)


def test_expanded_and_scalar_like_inputs(isa: str) -> None:
    x, weight, bias, groups = arguments(8, 1, 24, 36, 4)
    expected = native(x, weight, bias, groups)
    assert torch.equal(native(x.expand(5, 24), weight, bias, groups), expected.expand(5, 36))
    assert torch.equal(native(x.expand(2, 5, 24), weight, bias, groups), expected.expand(2, 5, 36))
    assert torch.equal(native(x[0], weight, bias, groups), expected[0])
    assert torch.equal(
        native(x, weight, bias[:1].expand(36), groups), native(x, weight, bias[:1].repeat(36), groups)
    )
    same_row = weight[:1].expand(36, -1, -1)
    assert torch.equal(native(x, same_row, bias, groups), native(x, same_row.contiguous(), bias, groups))


@pytest.mark.parametrize("shape", [(0, 24), (2, 0, 24), (0, 3, 24), (1, 1, 1, 24), (3, 2, 5, 24)])
def test_any_leading_shape_even_without_elements(isa: str, shape: tuple[int, ...]) -> None:
    _, weight, bias, groups = arguments(9, 1, 24, 36, 4)
    x = torch.randn(shape)
    y = native(x, weight, bias, groups, "gelu")
    assert y.shape == (*shape[:-1], 36)
    assert_within_rule(
        y,
        reference.grouped_pointwise_conv(x, weight, bias, groups, "gelu"),
        reference.grouped_pointwise_conv(x.double(), weight.double(), bias.double(), groups, "gelu"),
    )


def test_inputs_are_not_written(isa: str) -> None:
    given = arguments(10, 9, 24, 36, 4)
    before = [t.clone() for t in given[:3]]
    y = native(*given, "silu")
    assert all(torch.equal(a, b) for a, b in zip(before, given[:3], strict=True))
    assert all(y.untyped_storage().data_ptr() != t.untyped_storage().data_ptr() for t in given[:3])


def test_inference_mode_and_inference_tensors(isa: str) -> None:
    x, weight, bias, groups = arguments(11, 9, 24, 36, 4)
    expected = native(x, weight, bias, groups)
    with torch.inference_mode():
        assert torch.equal(native(x, weight, bias, groups), expected)
        made_here = [t.clone() for t in (x, weight, bias)]
        assert torch.equal(native(*made_here, groups), expected)
        made_here[1][5, 3] = 2.0  # one element: neither a version nor a sample of elements tells
        torch.testing.assert_close(
            native(*made_here, groups), reference.grouped_pointwise_conv(*made_here, groups)
        )


# Determinism


@pytest.mark.parametrize(("in_channels", "out_channels", "groups"), [(48, 96, 4), (391, 50, 1), (96, 24, 2)])
def test_a_token_has_the_same_bits_in_any_batch_and_with_any_threads(
    isa: str, in_channels: int, out_channels: int, groups: int
) -> None:
    x, weight, bias, _ = arguments(12, 300, in_channels, out_channels, groups)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = native(x, weight, bias, groups, "gelu")
        for count in (1, 2):
            torch.set_num_threads(count)
            for start, end in [(0, 300), (0, 1), (17, 18), (3, 16), (100, 231), (37, 299)]:
                actual = native(x[start:end], weight, bias, groups, "gelu")
                assert torch.equal(actual, expected[start:end]), (count, start, end)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_many_threads_split_many_tokens_and_few_alike(isa: str, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for sizes in [(1, 512, 1200, 4), (700, 64, 96, 2)]:
            x, weight, bias, groups = arguments(13, *sizes)
            check(native, reference.grouped_pointwise_conv, x, weight, bias, groups)
    finally:
        torch.set_num_threads(before)
