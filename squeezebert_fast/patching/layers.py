"""One encoder layer by the operations, on the parameters of its modules, channels last.

That may be done only while each module is what its library's own code made it: a hook, a replaced class (an adapter, a
quantised or a parametrised module) or an overridden forward means that the module's own call must run
(`obstacles.layer_obstacle`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from squeezebert_fast.activations import Activation
from squeezebert_fast.backends.request import autocast_dtype, autocast_to
from squeezebert_fast.ops.add_layer_norm import add_layer_norm
from squeezebert_fast.ops.attention import attention
from squeezebert_fast.ops.grouped_mlp import grouped_mlp
from squeezebert_fast.ops.grouped_pointwise_conv import grouped_pointwise_conv
from squeezebert_fast.ops.qkv_projection import qkv_projection
from squeezebert_fast.patching.families.family import Family, Mask
from squeezebert_fast.patching.swapping import Accelerated, Settings, original_class

# transformers' activation modules, by class name: several classes and spellings have come and gone over its
# versions.
_TRANSFORMERS_ACTIVATIONS = {
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_new",
    "GELUTanh": "gelu_pytorch_tanh",
    "PytorchGELUTanh": "gelu_pytorch_tanh",
    "FastGELUActivation": "gelu_fast",
    "AccurateGELUActivation": "gelu_accurate",
    "SiLUActivation": "silu",
}

_PYTORCH_ACTIVATIONS: dict[type, str] = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh"}


def fused_name(activation: Any) -> str | None:
    """`grouped_pointwise_conv`'s name for an activation module, or None: then the module is called."""
    cls = original_class(type(activation)) if isinstance(activation, Accelerated) else type(activation)
    if cls is Activation:
        return activation.name
    if cls in _PYTORCH_ACTIVATIONS:
        return _PYTORCH_ACTIVATIONS[cls]
    return (
        _TRANSFORMERS_ACTIVATIONS.get(cls.__name__) if cls.__module__ == "transformers.activations" else None
    )


def run(layer: Any, x: Tensor, mask: Mask, settings: Settings, family: Family) -> Tensor:
    """The layer on x, [batch, tokens, channels], by the operations. For a layer without `layer_obstacle`."""
    choice: Any = {"backend": settings.backend, "strict": settings.strict}
    parts = family.parts(layer)

    def conv(module: Any, x: Tensor, activation: str | None = None) -> Tensor:
        return grouped_pointwise_conv(x, module.weight, module.bias, _groups(module), activation, **choice)

    def project() -> Any:
        modules = parts.query, parts.key, parts.value
        groups = [_groups(module) for module in modules]
        if len(set(groups)) == 1 and all(m.weight.shape == parts.query.weight.shape for m in modules):
            of_q, of_k, of_v = ((m.weight, m.bias) for m in modules)
            return qkv_projection(x, *of_q, *of_k, *of_v, groups[0], **choice)
        rounded = autocast_to(autocast_dtype(x.device), x)  # once for the three of them, and kept once
        return (conv(m, rounded) for m in modules)

    def dropout_norm(dropout: Any, norm: Any, x: Tensor, residual: Tensor) -> Tensor:
        return add_layer_norm(x, residual, norm.weight, norm.bias, norm.eps, _dropout_p(dropout), **choice)

    q, k, v = project()
    dropout_p = family.attention_dropout(layer).p()
    context = attention(q, k, v, mask.added, parts.heads, dropout_p, attends=mask.attends, **choice)
    attended = dropout_norm(
        parts.post_attention_dropout, parts.post_attention_norm, conv(parts.post_attention, context), x
    )
    name = fused_name(parts.activation)
    into, out = parts.intermediate, parts.output
    if name is not None and _groups(into) == _groups(out):
        parameters = into.weight, into.bias, out.weight, out.bias
        product = grouped_mlp(attended, *parameters, _groups(into), name, **choice)
    else:
        hidden = conv(into, attended, name)
        if name is None and family.activation_is_channels_first:
            hidden = parts.activation(hidden.mT).mT
        elif name is None:
            hidden = parts.activation(hidden)
        product = conv(out, hidden)
    return dropout_norm(parts.output_dropout, parts.output_norm, product, attended)


def _groups(module: nn.Conv1d | nn.Linear) -> int:
    return module.groups if isinstance(module, nn.Conv1d) else 1


def _dropout_p(dropout: nn.Dropout | None) -> float:
    return dropout.p if dropout is not None and dropout.training else 0.0
