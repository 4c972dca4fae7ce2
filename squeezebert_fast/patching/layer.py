"""One encoder layer, ours or transformers', by the modules that both have under the same names.

The accelerated layer reads those modules' parameters and runs the operations itself, channels last. It may do so only
while each module is what SqueezeBERT's own code made it: a hook, a replaced class (an adapter, a quantised or a
parametrised module) or an overridden forward means that the module's own call must run, and the layer says so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezebert_fast.activations import Activation
from squeezebert_fast.modeling.layers import PointwiseConv1d
from squeezebert_fast.ops.add_layer_norm import add_layer_norm
from squeezebert_fast.ops.attention import attention
from squeezebert_fast.ops.grouped_pointwise_conv import grouped_pointwise_conv

# transformers' activation modules, by class name: several classes and spellings have come and gone over its versions.
_TRANSFORMERS_ACTIVATIONS = {
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_new",
    "GELUTanh": "gelu_pytorch_tanh",
    "PytorchGELUTanh": "gelu_pytorch_tanh",
    "FastGELUActivation": "gelu_fast",
    "AccurateGELUActivation": "gelu_accurate",
    "SiLUActivation": "silu",
}


class LayerParts(NamedTuple):
    """The modules of one layer that the accelerated forward replaces."""

    query: nn.Conv1d
    key: nn.Conv1d
    value: nn.Conv1d
    attention_dropout: nn.Dropout
    post_attention: nn.Conv1d
    post_attention_dropout: nn.Dropout
    post_attention_norm: nn.LayerNorm
    intermediate: nn.Conv1d
    activation: nn.Module
    output: nn.Conv1d
    output_dropout: nn.Dropout
    output_norm: nn.LayerNorm


def parts_of(layer: nn.Module) -> LayerParts:
    """The parts of a SqueezeBertModule. Raises AttributeError for a layer of another build."""
    att, post, mid, out = (
        getattr(layer, n) for n in ("attention", "post_attention", "intermediate", "output")
    )
    return LayerParts(
        query=att.query,
        key=att.key,
        value=att.value,
        attention_dropout=att.dropout,
        post_attention=post.conv1d,
        post_attention_dropout=post.dropout,
        post_attention_norm=post.layernorm,
        intermediate=mid.conv1d,
        activation=mid.act,
        output=out.conv1d,
        output_dropout=out.dropout,
        output_norm=out.layernorm,
    )


def fused_name(activation: nn.Module) -> str | None:
    """The name under which `grouped_pointwise_conv` knows an activation module, or None: then the module is called."""
    if isinstance(activation, Activation):
        return activation.name
    if type(activation) is nn.ReLU:
        return "relu"
    if type(activation) is nn.SiLU:
        return "silu"
    return _TRANSFORMERS_ACTIVATIONS.get(type(activation).__name__)


def is_from_transformers(module: nn.Module) -> bool:
    """Whether the module's class, or one that it extends, is transformers' own SqueezeBERT code."""
    return any(
        c.__module__ == "transformers.models.squeezebert.modeling_squeezebert" for c in type(module).__mro__
    )


def obstacle(layer: nn.Module) -> str | None:
    """Why this layer's own forward must run, or None."""
    try:
        parts = parts_of(layer)
    except AttributeError as error:
        return f"the layer is not SqueezeBERT's: {error}"
    for name, part in parts._asdict().items():
        if isinstance(part, nn.Conv1d):
            plain = (
                type(part) in (nn.Conv1d, PointwiseConv1d)
                and part.kernel_size == (1,)
                and part.stride == (1,)
            )
            plain = plain and part.padding in ((0,), "valid")
        elif name.endswith("norm"):
            plain = type(part) is nn.LayerNorm or type(part).__name__ == "SqueezeBertLayerNorm"
            plain = plain and part.weight is not None and part.bias is not None
        elif name.endswith("dropout"):
            plain = type(part) is nn.Dropout
        else:
            plain = name == "activation"
        if not plain:
            return f"{name} is a {type(part).__name__}"
    # transformers calls a layer's forward past its hooks, so that hooks on a layer itself never fire there.
    modules = layer.modules()
    if is_from_transformers(layer):
        next(modules)
    for module in modules:
        own = module.__dict__
        if (
            own["_forward_hooks"]
            or own["_forward_pre_hooks"]
            or own["_backward_hooks"]
            or own["_backward_pre_hooks"]
        ):
            return f"a hook is registered on a {type(module).__name__}"
        if "forward" in own:
            return f"the forward of a {type(module).__name__} is overridden"
    return None


def hooks_on_every_module() -> str | None:
    """Why no module's call may be skipped anywhere, or None."""
    m = torch.nn.modules.module
    if m._global_forward_hooks or m._global_forward_pre_hooks or m._global_backward_hooks:
        return "a hook is registered on every module (torch.nn.modules.module.register_module_forward_hook)"
    return None


def run_layer(layer: nn.Module, x: Tensor, mask: Tensor | None, backend: str, strict: bool) -> Tensor:
    """The layer on x, [batch, tokens, channels], by the operations of `squeezebert_fast.ops`."""
    parts = parts_of(layer)
    route: dict[str, Any] = {"backend": backend, "strict": strict}

    def conv(module: nn.Conv1d, x: Tensor, activation: str | None = None) -> Tensor:
        return grouped_pointwise_conv(x, module.weight, module.bias, module.groups, activation, **route)

    def norm(module: nn.LayerNorm, dropout: nn.Dropout, x: Tensor, residual: Tensor) -> Tensor:
        if dropout.training and dropout.p > 0.0:
            x = F.dropout(x, dropout.p, training=True)
        return add_layer_norm(x, residual, module.weight, module.bias, module.eps, **route)

    dropout_p = parts.attention_dropout.p if parts.attention_dropout.training else 0.0
    heads: int = layer.attention.num_attention_heads  # type: ignore[assignment, union-attr]
    context = attention(
        conv(parts.query, x), conv(parts.key, x), conv(parts.value, x), mask, heads, dropout_p, **route
    )
    attended = norm(
        parts.post_attention_norm, parts.post_attention_dropout, conv(parts.post_attention, context), x
    )
    activation = fused_name(parts.activation)
    hidden = conv(parts.intermediate, attended, activation)
    if activation is None:
        hidden = (
            call_channels_first(parts.activation, hidden)
            if is_from_transformers(layer)
            else parts.activation(hidden)
        )
    return norm(parts.output_norm, parts.output_dropout, conv(parts.output, hidden), attended)


def call_channels_first(activation: nn.Module, x: Tensor) -> Tensor:
    """transformers' activations see [batch, channels, tokens]; one with a parameter per channel depends on it."""
    return activation(x.transpose(1, 2)).transpose(1, 2)


def run_original_layer(layer: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """The layer's own forward on x, [batch, tokens, channels]."""
    if is_from_transformers(layer):  # channels first, and past the layer's own hooks, as its encoder calls it
        return layer.forward(x.transpose(1, 2), mask, False)["feature_map"].transpose(1, 2)
    return layer(x, mask, False)[0]
