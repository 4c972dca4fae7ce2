"""A whole encoder on the Triton kernels: three launches a layer where its groups line up, more where they don't.

    x -> A self_attention -> context -> B conv_add_layer_norm (residual x) -> y -> C feed_forward -> next x

Parameters are read where they are, at every call: nothing is packed, so nothing can be stale. But for int8, whose
integers and scales are made once: then whoever keeps the encoder watches for changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.backends import quantized, triton
from squeezebert_fast.backends.encoder_layer import Conv, Layer, Norm
from squeezebert_fast.backends.masks import by_key, real_tokens
from squeezebert_fast.backends.triton import limit
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.triton_kernels import FUSED_ACTIVATIONS


def refusal(layer: Layer, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels can't take this layer for hidden states on `device` in `dtype`, or None."""
    if layer.activation not in FUSED_ACTIVATIONS:
        return f"activation {layer.activation!r} is not one that the kernels apply"
    if any(c.scale is not None for c in layer.convs):
        return "int8 weights are the CPU's"
    for tensor in layer.tensors:
        if tensor.device != device or tensor.dtype != dtype:
            return f"parameters are {tensor.dtype} on {tensor.device}, others {dtype} on {device}"
        if not tensor.is_contiguous():
            return "a parameter is not contiguous"
    if reason := layer.wrong_sizes():
        return reason
    return limit("attention", channels=layer.channels, num_heads=layer.heads) or limit(
        "add_layer_norm", channels=layer.channels
    )


class Passes:
    """One layer: its parameters, and which of its passes are one kernel for many tokens.

    For few, the kernels' own host functions split passes further where that is faster.
    """

    attention_apart: str | None
    """Why projections and attention are kernels of their own, or None: pass A is one kernel."""
    feed_forward_apart: str | None
    """Why the two products of the feed-forward block are kernels of their own, or None: pass C is one kernel."""

    def __init__(self, layer: Layer) -> None:
        """layer: one that `refusal` has passed."""
        self.layer = layer
        query, key, value = layer.query, layer.key, layer.value
        intermediate, output = layer.intermediate, layer.output
        self.attention_apart = self.feed_forward_apart = None
        if len({query.groups, key.groups, value.groups}) > 1:
            groups = f"{query.groups}, {key.groups} and {value.groups}"
            self.attention_apart = f"query, key and value have {groups} groups"
        elif layer.heads % query.groups:
            self.attention_apart = f"{layer.heads} heads lie across {query.groups} groups"
        if intermediate.groups != output.groups:
            groups = f"{intermediate.groups} and {output.groups}"
            self.feed_forward_apart = f"intermediate and output have {groups} groups"

    def run(self, x: Tensor, mask: Tensor | None, packing: Packing | None, attends: Tensor | None) -> Tensor:
        """[batch, tokens, channels] to the same, or [tokens, channels] if `packing` says where sequences start."""
        query, key, value = self.layer.query, self.layer.key, self.layer.value
        intermediate, output, last_norm = self.layer.intermediate, self.layer.output, self.layer.output_norm
        context = triton.kernels("self_attention").self_attention(
            x,
            (query.weight, key.weight, value.weight),
            (query.bias, key.bias, value.bias),
            (query.groups, key.groups, value.groups),
            self.layer.heads,
            mask,
            None if packing is None else (packing.offsets, packing.longest),
            attends=attends,
        )
        y = _conv_norm(context, self.layer.post_attention, x, self.layer.post_attention_norm)
        if self.feed_forward_apart is not None:
            hidden = triton.kernels("grouped_pointwise_conv").grouped_pointwise_conv(
                y, intermediate.weight, intermediate.bias, intermediate.groups, self.layer.activation
            )
            return _conv_norm(hidden, output, y, last_norm)
        return triton.kernels("feed_forward").feed_forward(
            y,
            intermediate.weight,
            intermediate.bias,
            output.weight,
            output.bias,
            output.groups,
            self.layer.activation,
            last_norm.weight,
            last_norm.bias,
            last_norm.eps,
        )


class Int8Passes(Passes):
    """One layer with int8 products: each pass is several kernels, whatever the groups."""

    def __init__(self, layer: Layer) -> None:
        """layer: one that `refusal` has passed, with the blocks that its convolutions' inputs are cut into."""
        super().__init__(layer)
        self.attention_apart = self.feed_forward_apart = "int8 products"
        int8_conv = triton.kernels("int8_passes").Int8Conv
        self._convs = [
            int8_conv(*quantized.quantize(c.weight, c.blocks), c.bias, c.groups) for c in layer.convs
        ]

    def run(self, x: Tensor, mask: Tensor | None, packing: Packing | None, attends: Tensor | None) -> Tensor:
        *projections, post_attention, intermediate, output = self._convs
        norm, last_norm = self.layer.norms
        passes = triton.kernels("int8_passes")
        sequences = None if packing is None else (packing.offsets, packing.longest)
        context = passes.self_attention(x, projections, self.layer.heads, mask, sequences, attends=attends)
        y = passes.conv_add_layer_norm(context, post_attention, x, norm.weight, norm.bias, norm.eps)
        affine = (last_norm.weight, last_norm.bias, last_norm.eps)
        return passes.feed_forward(y, intermediate, output, self.layer.activation, *affine)


def _conv_norm(x: Tensor, conv: Conv, residual: Tensor, norm: Norm) -> Tensor:
    return triton.kernels("post_attention").conv_add_layer_norm(
        x, conv.weight, conv.bias, conv.groups, residual, norm.weight, norm.bias, norm.eps
    )


@dataclass(frozen=True)
class Packing:
    """The real tokens of a padded batch, sequence by sequence."""

    index: Tensor
    """int64 [real tokens]: their places in [batch * tokens]."""
    offsets: Tensor
    """int32 [batch + 1]: where each sequence starts among them."""
    longest: int
    """Most tokens of a sequence."""


class TritonEncoder:
    """Layers on the Triton kernels."""

    zeroes_blind = True
    """Whether `run` takes `attends`."""

    def __init__(self, layers: Sequence[Layer], precision: str = "float32") -> None:
        """layers: at least one, each passed by `refusal` with one device and dtype, all with the same channels.

        precision: int8, or anything else for the layers' own dtype.
        """
        self.precision = precision
        with torch.no_grad():
            self.passes = [Int8Passes(layer) if precision == "int8" else Passes(layer) for layer in layers]
        weight = layers[0].post_attention_norm.weight
        self.channels, self.dtype, self.device = weight.shape[0], weight.dtype, weight.device

    def run(
        self,
        x: Tensor,
        mask: Tensor | None,
        unpad: bool = False,
        keep_states: bool = False,
        attends: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """The last hidden state, and the output of every layer if `keep_states`, none of them part of a graph.

        x: [batch, tokens, channels] in the layers' dtype, on their device. mask: None, or of that dtype and device,
        added to the scores, broadcastable to [batch, heads, tokens, tokens]. unpad: leave out the tokens whose keys
        the mask sets to the lowest number in every row and head, wherever they stand; their outputs are zero. attends:
        None, or bool, broadcastable to [batch, heads, tokens, 1]: the context of the other queries is zero.

        Leaving them out takes their number, for which the host waits, once. While a CUDA graph is captured it can't:
        then they are computed, and zeroed after.
        """
        if x.dim() != 3 or x.shape[2] != self.channels or x.dtype != self.dtype or x.device != self.device:
            raise ArgumentError(
                f"x is {x.dtype} of shape {list(x.shape)} on {x.device}, "
                f"expected {self.dtype} [batch, tokens, {self.channels}] on {self.device}"
            )
        if mask is not None:
            heads = mask.shape[-3] if mask.dim() > 2 else 1
            if heads > 1 and any(passes.layer.heads != heads for passes in self.passes):
                raise ArgumentError(
                    f"mask has shape {list(mask.shape)}, whose {heads} heads the layers don't have"
                )
            if mask.dtype != self.dtype or mask.device != self.device:
                raise ArgumentError(f"mask is {mask.dtype} on {mask.device}, x {x.dtype} on {x.device}")
            mask = by_key(mask)  # a row for all queries is read with fewer registers and once
        with torch.no_grad():
            if x.numel() == 0:
                y = torch.empty_like(x)
                return y, [y] * len(self.passes) if keep_states else []
            if not unpad or mask is None:
                return self._run(triton.dense(x), mask, None, attends, keep_states)
            keep, is_padding = real_tokens(mask, *x.shape[:2])
            if _capturing(x):
                return self._run_and_zero(triton.dense(x), mask, keep | ~is_padding, attends, keep_states)
            packing = pack(keep, is_padding)
            if packing is None:
                return self._run(triton.dense(x), mask, None, attends, keep_states)
            return self._run_packed(x, packing, keep_states)

    def _run(
        self,
        x: Tensor,
        mask: Tensor | None,
        packing: Packing | None,
        attends: Tensor | None,
        keep_states: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        states = []
        for passes in self.passes:
            x = passes.run(x, mask, packing, attends)
            if keep_states:
                states.append(x)
        return x, states

    def _run_packed(self, x: Tensor, packing: Packing, keep_states: bool) -> tuple[Tensor, list[Tensor]]:
        def scattered(packed: Tensor) -> Tensor:
            y = packed.new_zeros(x.shape[0] * x.shape[1], self.channels)
            return y.index_copy_(0, packing.index, packed).view(x.shape)

        packed = x.reshape(-1, self.channels).index_select(0, packing.index)
        if packing.longest == 0:
            y = scattered(packed)
            return y, [y] * len(self.passes) if keep_states else []
        y, states = self._run(packed, None, packing, None, keep_states)
        states = [scattered(state) for state in states]
        return (states[-1] if keep_states else scattered(y)), states

    def _run_and_zero(
        self, x: Tensor, mask: Tensor, keep: Tensor, attends: Tensor | None, keep_states: bool
    ) -> tuple[Tensor, list[Tensor]]:
        y, states = self._run(x, mask, None, attends, keep_states)
        states = [torch.where(keep[..., None], state, 0.0) for state in states]
        return (states[-1] if keep_states else torch.where(keep[..., None], y, 0.0)), states


def _capturing(x: Tensor) -> bool:
    return x.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def pack(keep: Tensor, is_padding: Tensor) -> Packing | None:
    """What `real_tokens` found, as places; None if it is no padding mask. The one wait for the GPU."""
    lengths = keep.sum(1)
    count, longest, packable = torch.stack([lengths.sum(), lengths.max(), is_padding.long()]).tolist()
    if not packable:
        return None
    # stable, so the real tokens come first, and in their order
    index = torch.argsort(keep.flatten().logical_not(), stable=True)[:count]
    offsets = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    return Packing(index, offsets, longest)
