"""What the native encoder can't serve runs in PyTorch, right in each precision; `strict=True` says why instead."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast import UnsupportedError
from tests.engine_helpers import (
    LIBRARIES,
    PRECISIONS,
    encoder_of,
    keep_some,
    native_runs,
    needs_native,
    padding_mask,
    patched,
    run,
    states,
)
from tests.helpers import assert_within_rule

pytestmark = needs_native


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_are_those_of_float32(precision: str, library: str) -> None:
    encoder = encoder_of(library)
    x, mask = states(encoder, 3, 7), padding_mask(keep_some(3, 7, "right"))

    def gradients(encoder: nn.Module, x: Tensor, mask: Tensor) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        result = encoder(leaf, mask)[0]
        return [result.detach(), *torch.autograd.grad(result.square().mean(), [leaf, *encoder.parameters()])]

    exact = gradients(copy.deepcopy(encoder).double(), x.double(), mask.double())
    same = gradients(encoder, x, mask)
    with native_runs() as runs:
        actual = gradients(patched(encoder, precision), x, mask)
    assert runs == []
    assert_within_rule(actual[0], same[0], exact[0], whole_model=True)
    scale = max(float(e.abs().max()) for e in exact[1:])
    for a, s, e in zip(actual[1:], same[1:], exact[1:], strict=True):
        assert (a - e).abs().max() <= 2 * (s - e).abs().max() + 1e-6 * scale


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_engine_runs_where_no_gradient_is_recorded(precision: str, library: str) -> None:
    encoder: Any = patched(encoder_of(library), precision)
    x, mask = states(encoder, 3, 7), padding_mask(keep_some(3, 7, "right"))
    with native_runs() as runs:
        with torch.no_grad():
            expected = encoder(x, mask)[0]
            assert torch.equal(encoder(x.clone().requires_grad_(), mask)[0], expected)
        with torch.inference_mode():
            assert torch.equal(encoder(x, mask)[0], expected)
        encoder.requires_grad_(False)
        assert torch.equal(encoder(x, mask)[0], expected)
        assert torch.equal(encoder.train()(x, mask)[0], expected)  # without dropout
        assert len(runs) == 5
        assert encoder(x.clone().requires_grad_(), mask)[0].requires_grad
        encoder.layers[1].output.layernorm.bias.requires_grad_(True)
        assert encoder(x, mask)[0].requires_grad
        assert len(runs) == 5


def autocast(encoder: Any, x: Tensor, mask: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return run(encoder, x, mask)


def double(encoder: Any, x: Tensor, mask: Tensor) -> Tensor:
    return run(encoder.double(), x.double(), mask.double())


def half(encoder: Any, x: Tensor, mask: Tensor) -> Tensor:
    return run(encoder.bfloat16(), x.bfloat16(), mask.bfloat16())


def training(encoder: Any, x: Tensor, mask: Tensor) -> Tensor:
    encoder.train()
    for layer in encoder.layers:
        layer.output.dropout.p = 1.0
    return run(encoder, x, mask)


def scores(encoder: Any, x: Tensor, mask: Tensor) -> Tensor:
    return run(encoder, x, mask, output_attentions=True)


def activation(encoder: Any, x: Tensor, mask: Tensor) -> Tensor:
    for layer in encoder.layers:
        layer.intermediate.act = nn.Mish()
    return run(encoder, x, mask)


def wide_mask(encoder: Any, x: Tensor, mask: Tensor) -> Tensor:
    return run(encoder, x[:1], mask)  # the scores get the mask's batch


CASES: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    f.__name__: f for f in (autocast, double, half, training, scores, activation, wide_mask)
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_a_fallback_gives_what_the_unpatched_encoder_gives(case: str, precision: str, library: str) -> None:
    encoder = encoder_of(library)
    x, mask = states(encoder, 3, 7), padding_mask(keep_some(3, 7, "right"))
    fast = patched(encoder, precision)
    usual = run(fast, x, mask)
    with native_runs() as runs:
        actual = CASES[case](copy.deepcopy(fast), x, mask)
    assert runs == []
    expected = CASES[case](encoder, x, mask)
    assert actual.dtype == expected.dtype
    if case in ("half", "autocast"):
        given = x.bfloat16() if case == "half" else x
        exact = run(copy.deepcopy(encoder).double(), given.double(), mask.double())
        assert_within_rule(actual, expected, exact, whole_model=True)
    else:
        close(actual, expected)
    assert torch.equal(run(fast, x, mask), usual)


STRICT: dict[str, tuple[Callable[[Any, Tensor, Tensor], Any], str]] = {
    "gradients": (lambda encoder, x, mask: encoder(x, mask), "encoder: gradients are recorded"),
    "autocast": (autocast, "encoder: cpu: autocast is active"),
    "dtype": (double, r"encoder: cpu: the dtype is torch\.float64"),
    "activation": (activation, r"encoder: layers\.0: activation .* is not one that the kernels apply"),
    "dropout": (training, "encoder: dropout is on"),
    "scores": (scores, "encoder: output_attentions asks for the scores"),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("options", [{"precision": "int8"}, {"precision": "bfloat16"}, {"unpad": True}])
@pytest.mark.parametrize("case", STRICT)
def test_strict_says_in_a_forward_why_the_engine_does_not_run(
    case: str, options: dict[str, Any], library: str
) -> None:
    encoder = patched(encoder_of(library), **options, strict=True)
    x, mask = states(encoder, 3, 7), padding_mask(keep_some(3, 7, "right"))
    run(encoder, x, mask)
    act, message = STRICT[case]
    with pytest.raises(UnsupportedError, match=message):
        act(encoder, x, mask)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("options", [{"precision": "int8"}, {"precision": "bfloat16"}, {"unpad": True}])
def test_strict_says_at_patch_why_the_engine_will_not_run(options: dict[str, Any], library: str) -> None:
    encoder: Any = encoder_of(library)
    encoder.layers[1].intermediate.act = nn.Mish()
    before = type(encoder)
    with pytest.raises(UnsupportedError, match=r"layers\.1: activation .* is not one that the kernels apply"):
        squeezebert_fast.patch(encoder, backend="cpu", strict=True, **options)
    assert type(encoder) is before
    squeezebert_fast.patch(encoder, backend="cpu", strict=True)  # float32 has kernels for each operation
    with pytest.raises(UnsupportedError):
        squeezebert_fast.patch(encoder_of(library), backend="reference", strict=True, **options)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_of_unequal_widths_and_no_layers(precision: str, library: str) -> None:
    encoder: Any = encoder_of(library)
    encoder.layers = nn.ModuleList()
    x, mask = states(encoder_of(), 2, 5), torch.zeros(2, 1, 1, 5)
    with native_runs() as runs:
        assert torch.equal(run(patched(encoder, precision), x, mask), x)
    assert runs == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_wrong_channels_are_an_error_not_a_read_past_the_end(library: str) -> None:
    encoder = patched(encoder_of(library))
    run(encoder, states(encoder, 2, 5), torch.zeros(2, 1, 1, 5))
    for channels in (23, 25, 12, 48):
        with pytest.raises((RuntimeError, ValueError)):
            run(encoder, torch.randn(2, 5, channels), torch.zeros(2, 1, 1, 5))
