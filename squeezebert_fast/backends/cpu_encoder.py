"""A whole encoder on the native kernels: packed once, then one native call per forward.

With cpu.py the place that hands addresses to native code, and so makes sure of what stands there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.backends import cpu, quantized
from squeezebert_fast.backends.encoder_layer import Conv, Layer
from squeezebert_fast.backends.masks import by_key
from squeezebert_fast.errors import ArgumentError


def with_blocks(layer: Layer) -> Layer:
    """The layer, with the blocks that int8 cuts the inputs of its convolutions into.

    query, key and value read the same operands, so groups times blocks are equal for the three.
    """

    def cut(conv: Conv, most: int) -> Conv:
        return dataclasses.replace(conv, blocks=quantized.blocks_of(conv.channels[0], conv.groups, most))

    shared = math.lcm(layer.query.groups, layer.key.groups, layer.value.groups)
    shared *= quantized.blocks_of(layer.query.channels[0], shared, _most(shared))
    return dataclasses.replace(
        layer,
        query=dataclasses.replace(layer.query, blocks=shared // layer.query.groups),
        key=dataclasses.replace(layer.key, blocks=shared // layer.key.groups),
        value=dataclasses.replace(layer.value, blocks=shared // layer.value.groups),
        post_attention=cut(layer.post_attention, quantized.BLOCK),
        intermediate=cut(layer.intermediate, _most(layer.intermediate.groups)),
        output=cut(layer.output, quantized.BLOCK),
    )


def _most(groups: int) -> int:
    return quantized.FINE_BLOCK if groups == 1 else quantized.BLOCK


def refusal(layer: Layer) -> str | None:
    """Why the native encoder can't take this layer, or None."""
    if layer.activation not in cpu.FUSED_ACTIVATIONS:
        return f"activation {layer.activation!r} is not one that the kernels apply"
    for tensor in layer.tensors:
        if tensor.device.type != "cpu":
            return f"parameters are on {tensor.device}, not on the CPU"
        if tensor.dtype not in (torch.float32, torch.int8):
            return f"parameters are {tensor.dtype}, the kernels take torch.float32"
    return layer.wrong_sizes()


class CpuEncoder:
    """Packed layers. Reading the parameters ends with the constructor."""

    zeroes_blind = False
    """Whether `run` takes `attends`: which queries have a context other than zero."""

    def __init__(self, layers: Sequence[Layer], precision: str) -> None:
        """layers: at least one, each passed by `refusal`, all with the same channels."""
        native: Any = cpu._native
        self.precision = precision
        self.form = cpu.form_of(precision)
        self.instruction_set = cpu.instruction_set()
        self.channels = layers[0].channels
        self._layers = len(layers)
        self._native = native.Encoder(self.instruction_set, getattr(native.Precision, self.form))
        kept: list[Tensor] = []  # alive until they are packed

        def keep(tensor: Tensor) -> Tensor:
            kept.append(tensor.detach().contiguous())
            return kept[-1]

        def conv(c: Conv) -> tuple[int, ...]:
            scale = None if c.scale is None else keep(c.scale)
            bias = None if c.bias is None else keep(c.bias)
            return Conv(keep(c.weight), scale, bias, c.groups, c.blocks).address()

        for layer in layers:
            self._native.add_layer(
                layer.heads,
                cpu.FUSED_ACTIVATIONS[layer.activation],
                [conv(c) for c in layer.convs],
                [(keep(n.weight).data_ptr(), keep(n.bias).data_ptr(), n.eps) for n in layer.norms],
            )
        self._native.pack(torch.get_num_threads())

    @property
    def bytes(self) -> int:
        """Of packed weights."""
        return self._native.bytes

    def run(
        self, x: Tensor, mask: Tensor | None, unpad: bool = False, keep_states: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """The last hidden state, and the output of every layer if `keep_states`, none of them part of a graph.

        x: float32 [batch, tokens, channels] on the CPU. mask: None, or float32, added to the scores, broadcastable
        to [batch, heads, tokens, tokens]. unpad: leave out the tokens whose keys the mask sets to the lowest
        number in every row and head, wherever they stand; their outputs are zero.
        """
        if x.dim() != 3 or x.shape[2] != self.channels or x.dtype is not torch.float32:
            raise ArgumentError(
                f"x is {x.dtype} of shape {list(x.shape)}, expected float32 [batch, tokens, {self.channels}]"
            )
        batch, tokens = x.shape[:2]
        if x.stride(2) != 1:
            x = x.contiguous()
        strides = [0, 0, 0]
        if mask is not None:
            mask = by_key(mask)
            if mask.shape[3] != tokens or (tokens > 1 and mask.stride(3) != 1):
                mask = mask.expand(*mask.shape[:3], tokens).contiguous()
            strides = [0 if mask.shape[axis] == 1 else mask.stride(axis) for axis in range(3)]
        # the device is said, since `torch.set_default_device` would put it elsewhere
        y = torch.empty((batch, tokens, self.channels), dtype=torch.float32, device="cpu")
        states = [torch.empty_like(y) for _ in range(self._layers - 1)] + [y] if keep_states else []
        if y.numel() > 0:
            self._native.run(
                x.data_ptr(),
                batch,
                tokens,
                x.stride(0),
                x.stride(1),
                0 if mask is None else mask.data_ptr(),
                strides,
                unpad,
                y.data_ptr(),
                [state.data_ptr() for state in states],
                torch.get_num_threads(),
            )
        return y, states

    def profile(self, x: Tensor) -> dict[str, float]:
        """Seconds that each kind of pass takes in one forward over x, contiguous float32 [batch, tokens, channels]."""
        x = x.contiguous()
        y = torch.empty_like(x)
        seconds = self._native.profile(
            x.data_ptr(),
            x.shape[0],
            x.shape[1],
            x.stride(0),
            x.stride(1),
            y.data_ptr(),
            torch.get_num_threads(),
        )
        return dict(zip(("attention", "post_attention", "feed_forward"), seconds, strict=True))
