"""What `patch` leaves at the model around an encoder: a hook that hands it padding masks with one row for all queries.

A library may write a mask [batch, tokens] out for every query. On the CPU `masks.by_key` looks at the rows and finds
them equal. On a GPU the host would have to wait for that. Without it the kernels read the mask, and training keeps it,
once a query. The hook makes such a mask before the library does (`families/ready_masks.py`), and reads none:

    call of the holder -> hook: attention_mask [batch, tokens] becomes [batch, 1, 1, tokens] -> its forward -> encoder

It keeps nothing from call to call, so threads, copies, replicas and recomputation have it as the call has it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from squeezebert_fast.backends.masks import is_readable
from squeezebert_fast.backends.request import COMPILING, tracing
from squeezebert_fast.patching.families import embeddings_of, family_of
from squeezebert_fast.patching.families.family import Holder, is_whole
from squeezebert_fast.patching.families.ready_masks import ready_mask, writes_masks_out
from squeezebert_fast.patching.obstacles import hooks_of, hooks_on_every_module, module_obstacle
from squeezebert_fast.patching.plan import is_served
from squeezebert_fast.patching.swapping import Accelerated, has_own_forward

MASK_AT = 1
"""The place of `attention_mask` among the arguments of every holder's forward, behind `input_ids`."""

KEY = "squeezebert_fast"
"""The hook's among a module's. Numbers are PyTorch's, and begin anew in each process, also for what was pickled."""


def hook(holder: nn.Module) -> None:
    """Put the hook at a module that is a holder itself. Without effect on others."""
    if holder_of(holder) is not None:
        holder._forward_pre_hooks[KEY] = _before  # type: ignore[index]
        holder._forward_pre_hooks_with_kwargs[KEY] = True  # type: ignore[index]


def unhook(module: nn.Module) -> None:
    """Take it away, where it is."""
    for hooks in (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs):
        hooks.pop(KEY, None)  # type: ignore[call-overload]


def is_ours(hook: object) -> bool:
    """Whether a hook is this one, which what is recorded of a call may include."""
    return hook is _before


def holder_of(module: nn.Module) -> Holder | None:
    """What is known of a module that holds an encoder of a family, and is of the holder's class itself."""
    for child in module.children():
        family = family_of(type(child))
        if family is not None and family.holder is not None and family.holder.cls is type(module):
            return family.holder if getattr(module, family.holder.encoder, None) is child else None
    return None


def _before(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What to call the holder with in place of these, or None where it is to make its mask itself."""
    mask = kwargs.get("attention_mask", *args[MASK_AT : MASK_AT + 1])
    if not isinstance(mask, Tensor) or is_readable(mask) or tracing() not in (None, COMPILING):
        return None
    tokens = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    shape = next((value.shape[:2] for value in tokens if isinstance(value, Tensor)), None)
    # of other shapes the library has its own opinion
    if mask.dim() != 2 or mask.shape != shape or not _is_proven(module):
        return None
    ready = ready_mask(module, mask)
    if ready is None:
        return None
    if "attention_mask" in kwargs:
        return args, {**kwargs, "attention_mask": ready}
    return (*args[:MASK_AT], ready, *args[MASK_AT + 1 :]), kwargs


def _is_proven(module: Any) -> bool:
    """Whether nothing but the library's own code stands between a holder's call and its encoder's layers."""
    holder = holder_of(module)
    if holder is None:
        return False
    encoder = getattr(module, holder.encoder)
    return (
        isinstance(encoder, Accelerated)
        and _embeds_as_its_library(module)
        and not has_own_forward(module)
        and is_whole(holder.cls)
        and all(map(is_ours, hooks_of(module)))
        and not hooks_of(encoder)
        and not has_own_forward(encoder)
        and hooks_on_every_module() is None
        and writes_masks_out(module)
        and is_served(encoder)
    )


def _embeds_as_its_library(module: nn.Module) -> bool:
    """Whether what the encoder gets has the dtype and device of the embeddings' norm, as `ready_mask` takes it to."""
    embeddings = module._modules.get("embeddings")
    known = embeddings_of(type(embeddings)) if embeddings is not None else None
    if embeddings is None or known is None or not is_whole(known.cls):
        return False
    norm, project = embeddings._modules.get("LayerNorm"), module._modules.get("embeddings_project")
    asked: list[tuple[nn.Module | None, type[nn.Module]]] = [(embeddings, known.cls), (norm, nn.LayerNorm)]
    if project is not None:  # ELECTRA's
        asked.append((project, nn.Linear))
    if any(module_obstacle("", part, (cls,)) for part, cls in asked):
        return False
    return isinstance(getattr(norm, "weight", None), Tensor)


# See `patching.encoder.tracing_obstacle`.
_is_proven._dynamo_marked_constant = True  # type: ignore[attr-defined]
