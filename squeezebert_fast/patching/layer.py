"""One encoder layer, ours or transformers', by the modules that both have under the same names.

The accelerated layer reads those modules' parameters and runs the operations itself, channels last. It may do
so only while each module is what SqueezeBERT's own code made it: a hook, a replaced class (an adapter, a
quantised or a parametrised module) or an overridden forward means that the module's own call must run, and
`obstacle` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezebert_fast.activations import Activation
from squeezebert_fast.backends import quantized, triton
from squeezebert_fast.backends.request import tensor_obstacle
from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.ops import reference
from squeezebert_fast.ops.attention import broadcasts
from squeezebert_fast.ops.grouped_pointwise_conv import Route, check_arguments
from squeezebert_fast.patching.library import Library

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


class Routes(NamedTuple):
    """What runs each operation, chosen once for all layers of a forward."""

    conv: Route
    attention: Callable[[Tensor, Tensor, Tensor, Tensor | None, int, float], Tensor]
    add_layer_norm: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def triton_routes(strict: bool) -> Routes:
    """The Triton kernels, and the reference for what they don't take; that raises UnsupportedError if `strict`.

    For tensors that `triton.refusal` has passed. Dropout is the reference's, which draws PyTorch's random numbers.
    """

    def served(operation: str, reason: str | None) -> bool:
        if reason is not None and strict:
            raise UnsupportedError(f"{operation}: triton: {reason} (strict)")
        return reason is None

    def attention(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: int, dropout_p: float
    ) -> Tensor:
        reason = "dropout is on" if dropout_p > 0.0 else None
        reason = reason or triton.limit("attention", channels=q.shape[2], num_heads=heads)
        scores = (q.shape[0], heads, q.shape[1], k.shape[1])
        fits = mask is None or broadcasts(tuple(mask.shape), scores)  # PyTorch says what is wrong with it
        if not (q.shape == k.shape == v.shape and q.shape[2] % heads == 0 and fits) or not served(
            "attention", reason
        ):
            return reference.attention(q, k, v, mask, heads, dropout_p)
        return triton.attention(q, k, v, mask, heads)

    def add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        reason = triton.limit("add_layer_norm", channels=x.shape[-1])
        fits = x.shape == residual.shape and x.dtype == residual.dtype
        for affine in (weight, bias):
            fits = (
                fits
                and affine.shape == x.shape[-1:]
                and affine.dtype == x.dtype
                and affine.device == x.device
            )
        if not fits or not served("add_layer_norm", reason):
            return reference.add_layer_norm(x, residual, weight, bias, eps)
        return triton.add_layer_norm(x, residual, weight, bias, eps)

    return Routes(triton.grouped_pointwise_conv, attention, add_layer_norm)


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
    if "forward" in own:
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


def run(layer: Any, x: Tensor, mask: Tensor | None, routes: Routes, library: Library) -> Tensor:
    """The layer on x, [batch, tokens, channels], by the operations. For a layer without `obstacle`."""
    blocks = layer.__dict__["_modules"]
    attention, post_attention, intermediate, output = (
        blocks[name].__dict__["_modules"]
        for name in ("attention", "post_attention", "intermediate", "output")
    )

    def conv(module: nn.Conv1d, x: Tensor, activation: str | None = None) -> Tensor:
        parameters = module.__dict__["_parameters"]
        weight, bias = parameters["weight"], parameters["bias"]
        check_arguments(x, weight, bias, module.groups)
        return routes.conv(x, weight, bias, module.groups, activation)

    def conv_norm(block: dict[str, Any], x: Tensor, residual: Tensor) -> Tensor:
        x = conv(block["conv1d"], x)
        dropout, norm = block["dropout"], block["layernorm"]
        if dropout.training and dropout.p > 0.0:
            x = F.dropout(x, dropout.p, training=True)
        return routes.add_layer_norm(x, residual, norm.weight, norm.bias, norm.eps)

    q, k, v = (conv(attention[name], x) for name in ("query", "key", "value"))
    dropout_p = attention["dropout"].p if attention["dropout"].training else 0.0
    context = routes.attention(q, k, v, mask, blocks["attention"].num_attention_heads, dropout_p)
    attended = conv_norm(post_attention, context, x)
    activation = intermediate.get("act", blocks["intermediate"].act)
    name = fused_name(activation)
    hidden = conv(intermediate["conv1d"], attended, name)
    if name is None:
        # transformers' activations see [batch, channels, tokens]; one with a parameter per channel depends on
        # it
        hidden = activation(hidden.mT).mT if library.channels_first else activation(hidden)
    return conv_norm(output, hidden, attended)


def run_original(layer: Any, x: Tensor, mask: Tensor | None, library: Library) -> Tensor:
    """The layer's own forward on x, [batch, tokens, channels], called as its library's encoder calls it."""
    if library.channels_first:
        return layer.forward(x.mT, mask, False)["feature_map"].mT
    return layer(x, mask, False)[0]
