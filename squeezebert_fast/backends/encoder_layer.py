"""One encoder layer as its parameters: what the engines of every backend are handed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conv:
    """A grouped pointwise convolution: float32, or int8 with float32 scales."""

    weight: Tensor
    """[out_channels, in_channels / groups], with or without a last axis of size 1; float32 or int8."""
    scale: Tensor | None
    """[out_channels, blocks]."""
    bias: Tensor | None
    groups: int
    blocks: int = 1
    """Equal stretches of a group's input channels that have scales of their own in int8."""

    @property
    def channels(self) -> tuple[int, int]:
        """In and out."""
        return self.weight.shape[1] * self.groups, self.weight.shape[0]

    def address(self) -> tuple[int, ...]:
        """As the native module takes it; the tensors must stay alive until the weights are packed."""
        quantized = self.weight.dtype is torch.int8
        return (
            0 if quantized else self.weight.data_ptr(),
            self.weight.data_ptr() if quantized else 0,
            0 if self.scale is None else self.scale.data_ptr(),
            0 if self.bias is None else self.bias.data_ptr(),
            self.groups,
            *self.channels,
            self.blocks,
        )


@dataclass(frozen=True)
class Norm:
    """LayerNorm over [channels]."""

    weight: Tensor
    bias: Tensor
    eps: float


@dataclass(frozen=True)
class Layer:
    """One encoder layer's parameters."""

    heads: int
    activation: str
    """A key of `cpu.FUSED_ACTIVATIONS`."""
    query: Conv
    key: Conv
    value: Conv
    post_attention: Conv
    post_attention_norm: Norm
    intermediate: Conv
    output: Conv
    output_norm: Norm

    @property
    def channels(self) -> int:
        """Of the hidden states."""
        return self.post_attention_norm.weight.shape[0]

    @property
    def convs(self) -> tuple[Conv, ...]:
        """In the order in which they run."""
        return self.query, self.key, self.value, self.post_attention, self.intermediate, self.output

    @property
    def norms(self) -> tuple[Norm, Norm]:
        """In the order in which they run."""
        return self.post_attention_norm, self.output_norm

    @property
    def tensors(self) -> list[Tensor]:
        """All parameters, and scales."""
        of_convs = (t for c in self.convs for t in (c.weight, c.bias, c.scale) if t is not None)
        return [*of_convs, *(t for n in self.norms for t in (n.weight, n.bias))]

    def wrong_sizes(self) -> str | None:
        """Why these parameters don't make a layer, or None."""
        channels, hidden = self.channels, self.intermediate.weight.shape[0]
        wanted = [(channels, channels)] * 4 + [(channels, hidden), (hidden, channels)]
        for conv, channels_wanted in zip(self.convs, wanted, strict=True):
            in_channels, out_channels = conv.channels
            if (
                conv.channels != channels_wanted
                or out_channels % conv.groups
                or conv.weight.shape[2:] not in ((), (1,))
            ):
                found = f"a convolution of {in_channels} to {out_channels} channels"
                return f"{found} where {channels_wanted} were expected"
            for values, shape in ((conv.bias, (out_channels,)), (conv.scale, (out_channels, conv.blocks))):
                if values is not None and values.shape != shape:
                    return (
                        f"a convolution with a bias or scale of shape {list(values.shape)}, "
                        f"expected {list(shape)}"
                    )
        if any(t.shape != (channels,) for n in self.norms for t in (n.weight, n.bias)):
            return "norms of different sizes"
        if self.heads < 1 or channels % self.heads:
            return f"{self.heads} heads don't divide {channels} channels"
        return None
