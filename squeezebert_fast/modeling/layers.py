"""The parts of one encoder layer, channels last: [batch, tokens, channels] goes in and out of each.

Module and parameter names are transformers', so that a state_dict fits both. Source: arXiv 2006.11316,
section 3.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from squeezebert_fast.activations import get_activation
from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError, UnsupportedError
from squeezebert_fast.ops import reference

# transformers builds these without an epsilon, so that `layer_norm_eps` has no say here.
LAYER_NORM_EPS = 1e-12


class PointwiseConv1d(nn.Conv1d):
    """A grouped convolution of width 1 with `nn.Conv1d`'s parameters, but over the last axis.

    weight: [out_channels, in_channels / groups, 1]; bias: [out_channels] or None. Takes `nn.Conv1d`'s arguments, by
    which PEFT's LoRA builds adapters of a layer's own class. Raises ArgumentError for the arguments of a convolution
    that isn't pointwise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int] = 1,
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] = 0,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, **options)
        for name, expected in (("kernel_size", 1), ("stride", 1), ("padding", 0)):
            if getattr(self, name) != (expected,):
                raise ArgumentError(f"{name} is {getattr(self, name)}, expected {expected}")

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_channels] to [..., out_channels]."""
        return reference.grouped_pointwise_conv(x, self.weight, self.bias, self.groups)


class _Convolving(nn.Module):
    """Holds pointwise convolutions, and of PEFT's adapters around them those that call them, which are LoRA's.

    DoRA, LoHa and LoKr convolve by themselves, over the middle axis, or scale it: with as many tokens as channels they
    would give other numbers rather than an error. They raise UnsupportedError.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(value, "base_layer", None), PointwiseConv1d) and (
            not hasattr(value, "lora_A") or getattr(value, "lora_magnitude_vector", None)
        ):
            kind = f"{type(value).__module__}.{type(value).__name__}"
            raise UnsupportedError(
                f"{name}: {kind} doesn't fit a convolution over the last axis; of PEFT's adapters, LoRA does"
            )
        super().__setattr__(name, value)


class ConvDropoutLayerNorm(_Convolving):
    """`layernorm(dropout(conv1d(x)) + residual)`."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, dropout_prob: float) -> None:
        super().__init__()
        self.conv1d = PointwiseConv1d(in_channels, out_channels, groups=groups)
        self.layernorm = nn.LayerNorm(out_channels, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.layernorm(self.dropout(self.conv1d(x)) + residual)


class ConvActivation(_Convolving):
    """`act(conv1d(x))`."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, activation: str) -> None:
        super().__init__()
        self.conv1d = PointwiseConv1d(in_channels, out_channels, groups=groups)
        self.act = get_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv1d(x))


class SqueezeBertSelfAttention(_Convolving):
    """Multi-head self-attention whose three projections are grouped."""

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__()
        channels = config.hidden_size
        self.num_attention_heads = config.num_attention_heads
        self.query = PointwiseConv1d(channels, channels, groups=config.q_groups)
        self.key = PointwiseConv1d(channels, channels, groups=config.k_groups)
        self.value = PointwiseConv1d(channels, channels, groups=config.v_groups)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The context, [batch, tokens, channels], and, if asked for, the masked scores before softmax."""
        query, key, value = self.query(hidden_states), self.key(hidden_states), self.value(hidden_states)
        scores = reference.attention_scores(query, key, attention_mask, self.num_attention_heads)
        context = reference.attention_context(scores, value, self.dropout.p if self.dropout.training else 0.0)
        return context, scores if output_attentions else None


class SqueezeBertModule(nn.Module):
    """One encoder layer: self-attention and a grouped feed-forward block, with residuals and LayerNorm."""

    def __init__(self, config: SqueezeBertConfig) -> None:
        super().__init__()
        hidden, intermediate, dropout = (
            config.hidden_size,
            config.intermediate_size,
            config.hidden_dropout_prob,
        )
        self.attention = SqueezeBertSelfAttention(config)
        self.post_attention = ConvDropoutLayerNorm(hidden, hidden, config.post_attention_groups, dropout)
        self.intermediate = ConvActivation(
            hidden, intermediate, config.intermediate_groups, config.hidden_act
        )
        self.output = ConvDropoutLayerNorm(intermediate, hidden, config.output_groups, dropout)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The layer's output, shaped like its input, and, if asked for, the masked scores before softmax."""
        context, scores = self.attention(hidden_states, attention_mask, output_attentions)
        attended = self.post_attention(context, hidden_states)
        return self.output(self.intermediate(attended), attended), scores
