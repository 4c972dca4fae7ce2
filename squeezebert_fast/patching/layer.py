"""One encoder layer, ours or transformers', by the modules that both have under the same names.

The accelerated layer reads those modules' parameters and runs the operations itself, channels last. It may do
so only while each module is what SqueezeBERT's own code made it: a hook, a replaced class (an adapter, a
quantised or a parametrised module) or an overridden forward means that the module's own call must run, and
`obstacle` says so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from squeezebert_fast.activations import Activation
from squeezebert_fast.backends import quantized
from squeezebert_fast.backends.request import autocast_dtype, autocast_to, tensor_obstacle
from squeezebert_fast.ops.add_layer_norm import add_layer_norm
from squeezebert_fast.ops.attention import attention as ops_attention
from squeezebert_fast.ops.grouped_mlp import grouped_mlp
from squeezebert_fast.ops.grouped_pointwise_conv import grouped_pointwise_conv
from squeezebert_fast.ops.qkv_projection import qkv_projection
from squeezebert_fast.patching.library import Library
from squeezebert_fast.patching.swapping import Settings, has_own_forward

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


def fused_name(activation: Any) -> str | None:
    """`grouped_pointwise_conv`'s name for an activation module, or None: then the module is called."""
    cls = type(activation)
    if cls is Activation:
        return activation.name
    if cls is nn.ReLU:
        return "relu"
    if cls is nn.SiLU:
        return "silu"
    return (
        _TRANSFORMERS_ACTIVATIONS.get(cls.__name__) if cls.__module__ == "transformers.activations" else None
    )


def obstacle(layer: Any, library: Library) -> str | None:
    """Why this layer's own forward must run, or None."""
    reason = module_obstacle("layer", layer, library.layer, hooks_fire=not library.channels_first)
    if reason is not None:
        return reason
    children = layer.__dict__["_modules"]
    for block_name, (block_class, classes) in library.blocks.items():
        block = children.get(block_name)
        if reason := module_obstacle(block_name, block, block_class):
            return reason
        modules = block.__dict__["_modules"]
        for name, cls in classes.items():
            module = modules.get(name)
            reason = module_obstacle(name, module, cls)
            if reason is None and issubclass(cls, (nn.Conv1d, nn.LayerNorm)):
                reason = _parameter_obstacle(module)
            if reason is not None:
                return f"{block_name}: {reason}"
    activation = layer.intermediate.act
    if isinstance(activation, nn.Module):
        return module_obstacle("activation", activation, type(activation))
    return None


def module_obstacle(
    name: str, module: nn.Module | None, cls: type[nn.Module], hooks_fire: bool = True
) -> str | None:
    """Why `module` may not be replaced by what `cls` does, or None."""
    if type(module) is not cls:
        return f"{name} is a {type(module).__name__}"
    own = module.__dict__
    if "forward" in own and has_own_forward(module):
        return f"the forward of {name}, a {cls.__name__}, is overridden"
    if hooks_fire and (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
    ):
        return f"a hook is registered on {name}, a {cls.__name__}"
    return None


def _parameter_obstacle(module: nn.Module) -> str | None:
    """Why the operations can't take the parameters of a convolution or norm as they are, or None."""
    parameters = module.__dict__["_parameters"]
    if "weight" not in parameters or "bias" not in parameters:
        return f"a {type(module).__name__} whose weight or bias is not a parameter"
    weight, bias = parameters["weight"], parameters["bias"]
    if isinstance(module, nn.Conv1d):
        if module.kernel_size != (1,) or module.stride != (1,) or module.padding != (0,):
            return "a convolution that is not pointwise"
    elif weight is None or bias is None or weight.dim() != 1:
        return "a norm without weight or bias, or over several axes"
    if torch.compiler.is_compiling():  # torch.export makes parameters tensors without memory
        return None
    return tensor_obstacle(None if quantized.form_of(weight) else weight, bias)


def hooks_on_every_module() -> str | None:
    """Why no module's call may be skipped anywhere, or None."""
    m = torch.nn.modules.module
    if (
        m._global_forward_hooks
        or m._global_forward_pre_hooks
        or m._global_backward_hooks
        or m._global_backward_pre_hooks
    ):
        return "a hook is registered on every module (torch.nn.modules.module.register_module_forward_hook)"
    return None


def run(layer: Any, x: Tensor, mask: Tensor | None, settings: Settings, library: Library) -> Tensor:
    """The layer on x, [batch, tokens, channels], by the operations. For a layer without `obstacle`."""
    choice: Any = {"backend": settings.backend, "strict": settings.strict}
    blocks = layer._modules
    attention, post_attention, intermediate, output = (
        blocks[name]._modules for name in ("attention", "post_attention", "intermediate", "output")
    )

    def conv(module: Any, x: Tensor, activation: str | None = None) -> Tensor:
        return grouped_pointwise_conv(x, module.weight, module.bias, module.groups, activation, **choice)

    def project(query: Any, key: Any, value: Any) -> Any:
        modules = query, key, value
        if all(m.groups == query.groups and m.weight.shape == query.weight.shape for m in modules):
            of_q, of_k, of_v = ((m.weight, m.bias) for m in modules)
            return qkv_projection(x, *of_q, *of_k, *of_v, query.groups, **choice)
        rounded = autocast_to(autocast_dtype(x.device), x)  # once for the three of them, and kept once
        return (conv(m, rounded) for m in modules)

    def dropout_norm(block: dict[str, Any], x: Tensor, residual: Tensor) -> Tensor:
        norm = block["layernorm"]
        dropout_p = _dropout_p(block["dropout"])
        return add_layer_norm(x, residual, norm.weight, norm.bias, norm.eps, dropout_p, **choice)

    q, k, v = project(attention["query"], attention["key"], attention["value"])
    heads = blocks["attention"].num_attention_heads
    context = ops_attention(q, k, v, mask, heads, _dropout_p(attention["dropout"]), **choice)
    attended = dropout_norm(post_attention, conv(post_attention["conv1d"], context), x)
    activation = intermediate.get("act", blocks["intermediate"].act)
    name = fused_name(activation)
    into, out = intermediate["conv1d"], output["conv1d"]
    if name is not None and into.groups == out.groups:
        parameters = into.weight, into.bias, out.weight, out.bias
        product = grouped_mlp(attended, *parameters, into.groups, name, **choice)
        return dropout_norm(output, product, attended)
    hidden = conv(into, attended, name)
    if name is None:
        # transformers' activations see [batch, channels, tokens]; one with a parameter per channel depends on
        # it
        hidden = activation(hidden.mT).mT if library.channels_first else activation(hidden)
    return dropout_norm(output, conv(out, hidden), attended)


def _dropout_p(dropout: nn.Dropout) -> float:
    return dropout.p if dropout.training else 0.0


def run_original(layer: Any, x: Tensor, mask: Tensor | None, library: Library) -> Tensor:
    """The layer's own forward on x, [batch, tokens, channels], called as its library's encoder calls it."""
    if library.channels_first:
        return layer.forward(x.mT, mask, False)["feature_map"].mT
    return layer(x, mask, False)[0]
