"""The encoder that `patch` puts in a model's place: all layers by one engine, or layer by layer, as its plan says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.backends.masks import by_key, real_tokens
from squeezebert_fast.backends.request import COMPILING, Request, autocast_dtype, tracing
from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.patching import layers
from squeezebert_fast.patching.engines import ENGINES, Engine
from squeezebert_fast.patching.families import family_of
from squeezebert_fast.patching.families.family import Call, Family, Mask
from squeezebert_fast.patching.obstacles import call_obstacle, needs_grad
from squeezebert_fast.patching.plan import Plan, is_settled, plan_of, tracing_obstacle
from squeezebert_fast.patching.swapping import SETTINGS, Accelerated, Settings


class AcceleratedEncoder(Accelerated):
    """Mixed into an encoder's class; `forward` has that class's arguments and results."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        settings: Settings = self.__dict__[SETTINGS]
        family = family_of(type(self))
        assert family is not None  # as patch had it
        call = family.call(self, args, kwargs)
        plan: Plan | str | None = None
        if torch.compiler.is_compiling():
            reason = tracing_obstacle(self)
        elif (reason := tracing()) is None:
            plan = plan_of(self)
            reason = plan if isinstance(plan, str) else None
        reason = reason or call_obstacle(call)
        if reason is None and call.by_hooks and isinstance(plan, Plan):
            reason = next(filter(None, plan.obstacles), None)
        if reason is not None:
            if settings.strict or not settings.keep_original:
                raise UnsupportedError(f"encoder: {reason} ({_why_no_fallback(settings)})")
            collected = family.collected()
            before = len(collected or ())
            output = super().forward(*args, **kwargs)
            if not settings.unpad or tracing():
                return output
            keep = _real_tokens(family.mask(self, call).added, call.x)
            if keep is None:
                return output
            if collected is not None:
                start = max(before, 1)  # the first of all is the encoder's input
                collected[start:] = [_zeroed(state, keep) for state in collected[start:]]
            return _zero_padding(output, keep)
        x, states = self._run_layers(call, plan, settings, family)
        return family.result(self, call, x, states)

    def train(self, mode: bool = True) -> Any:
        """As `nn.Module.train`. sentence-transformers asks for eval mode in every call, and mostly has it already."""
        return self if not mode and is_settled(self) else super().train(mode)

    def _run_layers(
        self, call: Call, plan: Plan | str | None, settings: Settings, family: Family
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """The last hidden state, and if asked for those before and after each layer. No plan while compiling."""
        x, mask = call.x, family.mask(self, call)
        grad = needs_grad(self, x, mask.added)
        reason = COMPILING
        if isinstance(plan, Plan):
            engine = self._engine(plan, x, mask, grad, settings)
            if isinstance(engine, Engine):
                blind = {"attends": mask.attends} if engine.native.zeroes_blind else {}
                y, outputs = engine.native.run(x, mask.added, settings.unpad, call.keep_states, **blind)
                return y, (x, *outputs) if call.keep_states else None
            reason = engine
        if not settings.keep_original or (
            settings.strict and (settings.precision != "float32" or settings.unpad)
        ):
            raise UnsupportedError(f"encoder: {reason} ({_why_no_fallback(settings)})")
        if isinstance(plan, Plan) and mask.added is not None and not mask.added.requires_grad:
            # an equal mask for every query is read, and kept for the backward, once
            mask = mask._replace(added=by_key(mask.added))
        states = [x]
        for index, layer in enumerate(family.layers_of(self)):
            obstacle = plan.obstacles[index] if isinstance(plan, Plan) else None
            if obstacle is None:
                run = family.checkpointed(self, layer, index, layers.run) if grad else layers.run
                x = run(layer, x, mask, settings, family)
            elif settings.strict:
                raise UnsupportedError(f"encoder.{family.layers}.{index}: {obstacle} (strict)")
            else:
                x = family.run_original(self, layer, index, x, call, grad)
            if call.keep_states:
                states.append(x)
        keep = _real_tokens(mask.added, x) if settings.unpad and isinstance(plan, Plan) else None
        if keep is not None:
            states = [states[0], *(torch.where(keep, state, 0.0) for state in states[1:])]
            x = torch.where(keep, x, 0.0)
        return x, tuple(states) if call.keep_states else None

    def _engine(self, plan: Plan, x: Tensor, mask: Mask, grad: bool, settings: Settings) -> Engine | str:
        """What runs all layers in one call of an engine, or why nothing does in this call."""
        autocast = autocast_dtype(x.device)
        request = Request("encoder", x.device, x.dtype, needs_grad=grad, autocast=autocast)
        choice = backends.choose(request, settings.backend)
        if choice.backend not in ENGINES:
            return choice.reason
        if grad:
            return "gradients are recorded, which the layers in one call don't do"
        engine = plan.engine(choice.backend, settings, x.shape[0] * x.shape[1])
        if isinstance(engine, str):
            return engine
        if mask.attends is not None and not (
            engine.native.zeroes_blind or (settings.unpad and by_key(mask.attends).shape[1:3] == (1, 1))
        ):
            return "a query attends to nothing, for which scaled_dot_product_attention gives zeros"
        if not plan.dropout_is_off():
            return "dropout is on"
        return engine.misfit(x) or engine


def _real_tokens(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Which tokens of x a padding mask keeps, [batch, tokens, 1], all if it is of another kind; None without a mask."""
    if mask is None or not mask.dtype.is_floating_point:
        return None
    keep, is_padding = real_tokens(mask, *x.shape[:2])
    return (keep | ~is_padding)[..., None]


def _zero_padding(output: Any, keep: Tensor) -> Any:
    """What the encoder's own forward returned, with zeros in its hidden states where there is no real token."""
    if isinstance(output, tuple):
        return tuple(part if _is_scores(part) else _zeroed(part, keep) for part in output)
    output.last_hidden_state = _zeroed(output.last_hidden_state, keep)
    if output.hidden_states is not None:
        output.hidden_states = _zeroed(output.hidden_states, keep)
    return output


def _zeroed(value: Any, keep: Tensor) -> Any:
    if isinstance(value, tuple):  # the first of the hidden states is the encoder's input
        return value[:1] + tuple(_zeroed(state, keep) for state in value[1:])
    return torch.where(keep, value, 0.0) if isinstance(value, Tensor) and value.dim() == 3 else value


def _is_scores(part: Any) -> bool:
    return isinstance(part, tuple) and len(part) > 0 and part[0].dim() == 4


def _why_no_fallback(settings: Settings) -> str:
    return "strict" if settings.keep_original else "keep_original=False leaves nothing to fall back to"
