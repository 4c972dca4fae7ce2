"""The native encoder in int8: symmetric scales, of weights per output channel, of activations per token and group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.backends import cpu
from squeezebert_fast.backends.cpu_encoder import CpuEncoder
from squeezebert_fast.patching.engines import layer_of
from squeezebert_fast.patching.plan import encoder_family
from tests.engine_emulation import assert_emulated, quantized, share_of
from tests.engine_helpers import (
    EDGES,
    encoder_of,
    groups,
    heads_of,
    keep_some,
    masks_for,
    native_runs,
    needs_native,
    padding_mask,
    patched,
    random_encoder,
    run,
    states,
)

pytestmark = needs_native

PRECISE = ("gelu_new", "gelu_pytorch_tanh", "relu", "silu")
"""Activations that are as in float32; gelu is coarser here, and crosses more boundaries of rounding."""

SIZES = [  # tokens, in_channels, out_channels, groups
    (1, 1, 1, 1),
    (3, 5, 7, 1),
    (9, 24, 24, 24),
    (17, 35, 70, 5),
    (33, 96, 51, 3),
    (65, 391, 17, 1),
    (130, 768, 256, 4),
    (5, 3072, 48, 1),
]


def native_product(x: Tensor, weight: Tensor, groups: int, bias: Tensor | None = None) -> Tensor:
    """The packed int8 product itself."""
    native: Any = cpu._native
    weight = weight.contiguous()
    packed = native.PackedGroupedPointwiseConv(
        cpu.instruction_set(),
        native.Precision.int8,
        (weight.data_ptr(), 0, 0, 0, groups, x.shape[1], weight.shape[0], 1),
        1,
    )
    y = torch.full((x.shape[0], weight.shape[0]), torch.nan)
    packed.run(
        x.data_ptr(),
        x.stride(0),
        x.shape[0],
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        y.stride(0),
        native.Activation.none,
        torch.get_num_threads(),
        native.Element.float32,
    )
    return y


def expected_product(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """By integers: float(sum) * the weight's scale * the row's, in float32, each operation rounded once."""
    integers, scales = quantized(x, groups)
    weight_integers, weight_scales = quantized(weight, 1)
    sums = torch.einsum(
        "tgi,goi->tgo",
        integers.double().unflatten(1, (groups, -1)),
        weight_integers.double().unflatten(0, (groups, -1)),
    )
    assert sums.abs().max() < 2**31
    scaled = sums.float() * weight_scales.view(groups, -1)
    return (scaled * scales[..., None]).flatten(1)


def arguments(
    seed: int, tokens: int, in_channels: int, out_channels: int, groups: int
) -> tuple[Tensor, Tensor]:
    """Rows and output channels of widely different size, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, in_channels, generator=generator)
    weight = torch.randn(out_channels, in_channels // groups, generator=generator)
    x *= torch.logspace(-6, 6, tokens)[torch.randperm(tokens, generator=generator), None]
    weight *= torch.logspace(-4, 4, out_channels)[:, None]
    x[tokens // 2, : in_channels // groups] = 0
    weight[out_channels // 2] = 0
    return x, weight


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("sizes", SIZES)
def test_a_product_has_the_bits_of_the_scheme_on_every_build(
    sizes: tuple[int, int, int, int], isa: str
) -> None:
    for seed in range(3):
        x, weight = arguments(seed, *sizes)
        with cpu.use_instruction_set(isa):
            assert torch.equal(native_product(x, weight, sizes[3]), expected_product(x, weight, sizes[3]))


@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_the_bias_is_added_in_float32(isa: str) -> None:
    x, weight = arguments(0, 9, 24, 36, 2)
    bias = torch.randn(36, generator=torch.Generator().manual_seed(1))
    with cpu.use_instruction_set(isa):
        assert torch.equal(native_product(x, weight, 2, bias), expected_product(x, weight, 2) + bias)


@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_the_largest_sums_do_not_saturate(isa: str) -> None:
    """All integers are 127 or -127: pairs of products leave 16 bits, and sums reach 127 * 127 * 3072."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.where(torch.rand(64, 3072, generator=generator) < 0.5, -1.0, 1.0)
    signs[0], signs[1] = 1.0, -1.0
    with cpu.use_instruction_set(isa):
        assert torch.equal(native_product(signs[:32], signs, 1), expected_product(signs[:32], signs, 1))


@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_values_halfway_between_two_integers_go_to_the_even_one(isa: str) -> None:
    halves = torch.arange(-127, 127) + 0.5
    x = torch.cat([torch.tensor([127.0]), halves])[None].repeat(5, 1)
    weight = torch.eye(x.shape[1])
    with cpu.use_instruction_set(isa):
        actual = native_product(x, weight, 1)
    assert torch.equal(actual, expected_product(x, weight, 1))
    torch.testing.assert_close(actual[0, 1:], torch.round(halves), rtol=1e-6, atol=0)


@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_tiny_and_huge_rows(isa: str) -> None:
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    x /= x.abs().amax(1, keepdim=True)
    x *= torch.tensor([1e-45, 1e-38, 0.9e-36, 1.1e-36, 1e30, 3e38])[:, None]
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(1)) / 16
    with cpu.use_instruction_set(isa):
        assert torch.equal(native_product(x, weight, 1), expected_product(x, weight, 1))


@pytest.mark.parametrize("seed", range(20))
def test_the_encoder_is_the_scheme_for_random_configurations(seed: int) -> None:
    encoder = random_encoder("ours", seed, hidden_act=PRECISE[seed % len(PRECISE)])
    x, mask = states(encoder, 40, 5, seed), padding_mask(keep_some(40, 5, "right", seed))
    with native_runs() as runs:
        actual = run(patched(encoder, "int8"), x, mask)
    assert runs == ["int8"]
    assert_emulated(actual, encoder, x, mask, "int8")


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("name", sorted(EDGES.keys() - {"every channel a group"}))  # 1 value a scale: exact
def test_the_encoder_is_the_scheme_on_every_build(name: str, isa: str) -> None:
    encoder = encoder_of(hidden_act="gelu_new", **EDGES[name])
    x, mask = states(encoder, 20, 3), padding_mask(keep_some(20, 3, "holes"))
    with cpu.use_instruction_set(isa):
        actual = run(patched(encoder, "int8"), x, mask)
    assert_emulated(actual, encoder, x, mask, "int8", share_of(name))


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("seed", range(4))
def test_gelu_is_coarser_by_far_less_than_the_precision_costs(seed: int, isa: str) -> None:
    encoder = random_encoder("ours", seed, hidden_act="gelu")
    x, mask = states(encoder, 40, 2, seed), padding_mask(keep_some(40, 2, "right", seed))
    with cpu.use_instruction_set(isa):
        actual = run(patched(encoder, "int8"), x, mask)
    assert_emulated(actual, encoder, x, mask, "int8", share=0.5)


@pytest.mark.parametrize("kind", ["none", "a sequence without tokens", "4-D additive", "4-D by query"])
def test_masks(kind: str) -> None:
    encoder = encoder_of(hidden_act="silu")
    x, mask = states(encoder, 30, 6), masks_for(30, 6, heads_of(encoder))[kind]
    assert_emulated(run(patched(encoder, "int8"), x, mask), encoder, x, mask, "int8")


@pytest.mark.parametrize("library", ["ours", "theirs"])
def test_the_direction_of_every_hidden_state_is_kept(library: str) -> None:
    encoder = encoder_of(
        library,
        hidden_size=192,
        intermediate_size=768,
        num_attention_heads=6,
        num_hidden_layers=4,
        initializer_range=0.08,
        **groups(4, 4, 4, 1, 4, 4),
    )
    x, mask = states(encoder, 4, 30), padding_mask(keep_some(4, 30, "right"))
    cosine = F.cosine_similarity(run(patched(encoder, "int8"), x, mask), run(encoder, x, mask), dim=-1)
    assert cosine.min() > 0.99


def test_packed_weights_take_a_quarter_of_the_memory() -> None:
    fields: dict[str, Any] = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        **groups(4),
    }
    encoder: Any = encoder_of(**fields, num_hidden_layers=1)
    sizes = {
        p: CpuEncoder([layer_of(encoder.layers[0], encoder_family(encoder))], p).bytes
        for p in ("float32", "bfloat16", "int8")
    }
    weights = sum(4 * p.numel() for p in encoder.parameters() if p.dim() == 3)
    # on matrix units float32 is there twice: by parts, three of two bytes, and as it is for short sequences
    float32 = weights * (2.5 if cpu.products_by_parts("float32_highest") else 1)
    assert float32 <= sizes["float32"] <= 1.1 * float32
    assert sizes["bfloat16"] <= 0.55 * weights
    assert sizes["int8"] <= 0.3 * weights
