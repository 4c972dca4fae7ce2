"""Every activation that transformers knows, by its name and with its numbers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from squeezebert_fast.activations import (
    ACTIVATIONS,
    PARAMETRIC_ACTIVATIONS,
    activation_names,
    apply_activation,
    get_activation,
)
from squeezebert_fast.errors import ArgumentError, ConfigError
from tests.helpers import assert_within_rule

X = torch.cat([torch.linspace(-12, 12, 501), torch.tensor([0.0, -0.0, 40.0, -40.0])])


def test_every_name_of_transformers_is_known() -> None:
    assert set(ACT2FN) <= set(activation_names())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(ACT2FN))
def test_an_activation_and_its_gradient_are_transformers(name: str, dtype: torch.dtype) -> None:
    def evaluate(module: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        module = copy.deepcopy(module).to(dtype)
        x = X.to(dtype).requires_grad_()
        y = module(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        return y.detach(), gradient

    ours, theirs, exact = evaluate(get_activation(name), dtype), evaluate(ACT2FN[name], dtype), None
    exact = evaluate(ACT2FN[name], torch.float64)
    assert_within_rule(ours[0], theirs[0], exact[0], name)
    assert_within_rule(ours[1], theirs[1], exact[1], f"gradient of {name}")


@pytest.mark.parametrize("name", sorted(PARAMETRIC_ACTIVATIONS))
def test_learned_activations_have_transformers_state(name: str) -> None:
    ours, theirs = get_activation(name), ACT2FN[name]
    assert isinstance(ours, nn.Module)
    assert {k: (v.shape, v.dtype) for k, v in ours.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in theirs.state_dict().items()
    }
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key
    assert get_activation(name) is not ours


def test_functions_and_modules_of_a_name_agree() -> None:
    for name in ACTIVATIONS:
        module = get_activation(name)
        assert torch.equal(apply_activation(name, X), module(X)), name
        assert torch.equal(pickle.loads(pickle.dumps(module))(X), module(X)), name  # noqa: S301
        assert name in repr(module)


def test_none_is_no_activation_and_a_callable_is_itself() -> None:
    assert apply_activation(None, X) is X
    assert get_activation(torch.sin) is torch.sin


def test_unknown_names_are_errors_that_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'gelo'.*gelu_new"):
        get_activation("gelo")
    for name in ("gelo", "prelu", "xielu"):
        with pytest.raises(ArgumentError, match=f"'{name}'.*gelu_new"):
            apply_activation(name, X)
