"""Why not: every reason for which a module's own forward runs in place of a kernel, in words for `explain`.

Each function returns None, or one reason. `backends.request` has those that are of a call and know no module.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from squeezebert_fast.backends import quantized
from squeezebert_fast.backends.request import context_obstacle, tensor_obstacle
from squeezebert_fast.ops.attention import broadcasts
from squeezebert_fast.patching.families.family import Call, Classes, Family, find
from squeezebert_fast.patching.swapping import Accelerated, has_own_forward, original_class


def encoder_obstacle(encoder: nn.Module, family: Family) -> str | None:
    """Why an encoder's own forward must run in every call as things are, or None."""
    original = original_class(type(encoder)) if isinstance(encoder, Accelerated) else type(encoder)
    if original.forward is not family.encoder.forward:
        return f"{original.__name__} has a forward of its own"
    return family.replaced() or hooks_on_every_module()


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


def call_obstacle(call: Call) -> str | None:
    """Why the encoder's own forward must run in this call, or None."""
    x, mask = call.x, call.mask
    if call.obstacle is not None:
        return call.obstacle
    if not torch.compiler.is_compiling() and (reason := context_obstacle() or tensor_obstacle(x, mask)):
        return reason
    if x.dim() != 3:
        return f"hidden_states has shape {list(x.shape)}, not [batch, tokens, channels]"
    if mask is None:
        return None
    if mask.device != x.device:
        return f"the mask is on {mask.device}, the hidden states are on {x.device}"
    batch, tokens = x.shape[:2]
    shape = tuple(mask.shape)
    heads = shape[-3] if len(shape) > 2 else 1
    if not broadcasts(shape, (batch, heads, tokens, tokens)):
        return f"a mask of shape {list(shape)} would change the shape of the scores"
    if torch.promote_types(mask.dtype, x.dtype) != x.dtype:
        return f"a {mask.dtype} mask would change the dtype of the scores"
    return None


def layer_obstacle(layer: nn.Module, family: Family) -> str | None:
    """Why this layer's own forward must run, or None."""
    reason = module_obstacle("layer", layer, (family.layer,), family, family.hooks_fire)
    if reason is not None:
        return reason
    for path, classes in family.modules.items():
        owner, _, name = path.rpartition(".")
        holder = find(layer, tuple(owner.split("."))) if owner else layer
        module = holder.__dict__["_modules"].get(name)
        reason = module_obstacle(name, module, classes, family)
        if reason is None and isinstance(module, (nn.Conv1d, nn.Linear, nn.LayerNorm)):
            reason = _parameter_obstacle(module)
        if reason is not None:
            return f"{owner}: {reason}" if owner else reason
    activation = family.parts(layer).activation
    if isinstance(activation, nn.Module):
        reason = module_obstacle("activation", activation, (type(activation),), family)
    return reason or family.layer_obstacle(layer)


def module_obstacle(
    name: str,
    module: nn.Module | None,
    classes: Classes,
    family: Family | None = None,
    hooks_fire: bool = True,
) -> str | None:
    """Why `module` may not be replaced by what one of `classes` does, or None."""
    cls = type(module)
    if cls not in classes:
        # PEFT's and others' classes have the names of those that they stand for
        kind = (
            cls.__name__
            if all(cls.__name__ != c.__name__ for c in classes)
            else f"{cls.__module__}.{cls.__name__}"
        )
        return f"{name} is a {kind}"
    assert module is not None
    own = module.__dict__
    if "forward" in own and has_own_forward(module):
        return f"the forward of {name}, a {cls.__name__}, is overridden"
    if hooks_fire and any(own[kind] for kind in HOOKS):
        idle = family is not None and all(family.is_idle(hook) for hook in hooks_of(module))
        if not idle:
            return f"a hook is registered on {name}, a {cls.__name__}"
    return None


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where a module keeps its hooks."""


def hooks_of(module: nn.Module) -> list[Any]:
    """All hooks on a module."""
    return [hook for kind in HOOKS for hook in module.__dict__[kind].values()]


def _parameter_obstacle(module: nn.Module) -> str | None:
    """Why the operations can't take the parameters of a product or norm as they are, or None."""
    parameters = module.__dict__["_parameters"]
    if "weight" not in parameters or "bias" not in parameters:
        return f"a {type(module).__name__} whose weight or bias is not a parameter"
    weight, bias = parameters["weight"], parameters["bias"]
    if isinstance(module, nn.Conv1d):
        if module.kernel_size != (1,) or module.stride != (1,) or module.padding != (0,):
            return "a convolution that is not pointwise"
    elif isinstance(module, nn.LayerNorm) and (weight is None or bias is None or weight.dim() != 1):
        return "a norm without weight or bias, or over several axes"
    if torch.compiler.is_compiling():  # torch.export makes parameters tensors without memory
        return None
    return tensor_obstacle(None if quantized.form_of(weight) else weight, bias)


def without_fallback(keep_original: bool) -> str:
    """Why what can't be served raises an error rather than falling back."""
    return "strict" if keep_original else "keep_original=False leaves nothing to fall back to"


def needs_grad(encoder: nn.Module, x: Tensor, mask: Tensor | None) -> bool:
    """Whether a call's results must be differentiable."""
    return torch.is_grad_enabled() and (
        x.requires_grad
        or (mask is not None and mask.requires_grad)
        or any(p.requires_grad for p in encoder.parameters())
    )
