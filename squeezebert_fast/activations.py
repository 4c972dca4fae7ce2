"""Every `hidden_act` that transformers' SqueezeBERT accepts, by transformers' names and formulas.

`ACTIVATIONS` holds those without parameters as plain functions; `PARAMETRIC_ACTIVATIONS` those that learn, as
modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezebert_fast.errors import ArgumentError, ConfigError, one_of


def _gelu_tanh_by_hand(x: Tensor, scale: float = math.sqrt(2.0 / math.pi)) -> Tensor:
    """The tanh GELU as the original BERT wrote it: its rounding differs from `F.gelu(approximate="tanh")`."""
    return 0.5 * x * (1.0 + torch.tanh(scale * (x + 0.044715 * torch.pow(x, 3.0))))


def _gelu_fast(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def _gelu_erf_by_hand(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def _gelu_clipped(x: Tensor) -> Tensor:
    return F.gelu(x).clamp(-10, 10)


def _laplace(x: Tensor) -> Tensor:
    """The Laplace attention function of MEGA (arXiv 2209.10655), with its fixed mean and deviation."""
    return 0.5 * (1.0 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_10": _gelu_clipped,
    "gelu_accurate": _gelu_tanh_by_hand,
    "gelu_fast": _gelu_fast,
    "gelu_new": _gelu_tanh_by_hand,
    "gelu_python": _gelu_erf_by_hand,
    "gelu_python_tanh": _gelu_tanh_by_hand,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "hardswish": F.hardswish,
    "laplace": _laplace,
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: x,
    "mish": F.mish,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: torch.square(F.relu(x)),
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sqrtsoftplus": lambda x: F.softplus(x).sqrt(),
    "swish": F.silu,
    "tanh": torch.tanh,
}


class XIELU(nn.Module):
    """xIELU (arXiv 2411.13010): quadratic for positive inputs, an integrated ELU for the others.

    `alpha_p` and `alpha_n` are learned, [1]; `beta` and `eps` are constants kept in the state_dict, as
    transformers does. All are bfloat16 until the module is converted, as in transformers; float32 inputs give
    float32 results.
    """

    beta: Tensor
    eps: Tensor

    def __init__(self) -> None:
        super().__init__()
        beta = 0.5
        self.alpha_p = nn.Parameter(self._inverse_softplus(0.8))
        self.alpha_n = nn.Parameter(self._inverse_softplus(0.8 - beta))
        self.register_buffer("beta", torch.tensor(beta, dtype=torch.bfloat16))
        self.register_buffer("eps", torch.tensor(-1e-6, dtype=torch.bfloat16))

    @staticmethod
    def _inverse_softplus(value: float) -> Tensor:
        return torch.log(torch.expm1(torch.tensor([value], dtype=torch.bfloat16)))

    def forward(self, x: Tensor) -> Tensor:
        positive = F.softplus(self.alpha_p) * x * x + self.beta * x
        alpha_n = self.beta + F.softplus(self.alpha_n)
        # Clamped, since expm1 of a large x overflows and even a branch that isn't selected has a gradient.
        negative = (torch.expm1(torch.minimum(x, self.eps)) - x) * alpha_n + self.beta * x
        return torch.where(x > 0, positive, negative)


PARAMETRIC_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"prelu": nn.PReLU, "xielu": XIELU}


class Activation(nn.Module):
    """A parameterless activation as a module, so that it can be hooked, and printed by its name.

    name: a key of `ACTIVATIONS`. Only the name is stored, which keeps models picklable.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.name](x)

    def extra_repr(self) -> str:
        return self.name


def get_activation(activation: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The module for an activation's name (a new one each time), or the callable itself.

    Raises ConfigError for an unknown name.

    >>> get_activation("relu")(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    if not isinstance(activation, str):
        return activation
    if activation in ACTIVATIONS:
        return Activation(activation)
    if activation in PARAMETRIC_ACTIVATIONS:
        return PARAMETRIC_ACTIVATIONS[activation]()
    raise ConfigError(f"unknown activation {activation!r}, expected {one_of(activation_names())}")


def activation_names() -> list[str]:
    """Every name that `get_activation` and a configuration's `hidden_act` accept."""
    return sorted([*ACTIVATIONS, *PARAMETRIC_ACTIVATIONS])


def apply_activation(name: str | None, x: Tensor) -> Tensor:
    """`x` through the parameterless activation `name`; None leaves it as it is.

    Raises ArgumentError for a name that isn't in `ACTIVATIONS`: `prelu` and `xielu` have parameters of their
    own.
    """
    if name is None:
        return x
    if name not in ACTIVATIONS:
        raise ArgumentError(f"activation {name!r} is not one without parameters: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name](x)
