"""What patching decides of an encoder: which engine runs its layers, or which layers run by themselves, and why.

Decided once, and again when something changed. Forwards follow it, `explain` prints it, `strict` judges it:

    encoder_obstacle -> a reason: the encoder's own forward runs
    Plan.obstacles   -> a reason for each layer whose own forward must run; the others run operation by operation
    Plan.engine      -> all layers in one call, or the reason why not
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from squeezebert_fast import backends
from squeezebert_fast.backends.encoder_layer import Layer
from squeezebert_fast.backends.request import Request, graph_obstacle
from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.patching import engines
from squeezebert_fast.patching.engines import ENGINES, Engine
from squeezebert_fast.patching.families import family_of
from squeezebert_fast.patching.families.family import Family
from squeezebert_fast.patching.obstacles import encoder_obstacle, hooks_on_every_module, layer_obstacle
from squeezebert_fast.patching.structure import Structure
from squeezebert_fast.patching.swapping import SETTINGS, Settings

CHANGED = "something changed in the layers, whose original weights were given up"


def encoder_family(encoder: nn.Module) -> Family:
    """The family of a module that is an encoder of one."""
    family = family_of(type(encoder))
    assert family is not None
    return family


class Plan:
    """How an encoder without `encoder_obstacle` runs, as it is now."""

    obstacles: list[str | None]
    """For each layer, why its own forward must run, or None."""
    lasting: bool
    """Whether `current` would notice a change; if not, the plan serves one call."""

    def __init__(self, encoder: nn.Module) -> None:
        self.family = encoder_family(encoder)
        self._layers = list(self.family.layers_of(encoder))
        self.obstacles = [layer_obstacle(layer, self.family) for layer in self._layers]
        self.lasting = not any(self.obstacles)
        self._engine: Engine | None = None
        if self.lasting:
            self._structure = self._structure_of(encoder)

    def _structure_of(self, encoder: nn.Module) -> Structure:
        family = self.family
        modules = [module for layer in self._layers for module in layer.modules()]
        own = getattr(encoder, family.layers)
        firing = [m for m in modules if family.hooks_fire or type(m) is not family.layer]
        attributes = (*family.attributes, family.places.heads.rpartition(".")[2])
        classes = [family.encoder, *{type(module) for module in encoder.modules()}]
        dropouts = [dropout for layer in self._layers for dropout in family.dropouts(layer)]
        return Structure(
            [own, *modules], [own, *firing], encoder, attributes, classes, dropouts, family.is_idle
        )

    def current(self) -> bool:
        """Whether all that was decided by is the same: modules, classes, their code, parameters as objects, hooks."""
        return self._structure.unchanged() and hooks_on_every_module() is None

    def in_eval_mode(self) -> bool:
        """Whether no module of the layers is in training mode."""
        return self._structure.in_eval_mode()

    def dropout_is_off(self) -> bool:
        """Whether no dropout of a layer would drop anything."""
        return self._structure.dropout_is_off()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All of the layers'."""
        return self._structure.parameters

    @property
    def made(self) -> Engine | None:
        """The engine that there is, current or not."""
        return self._engine

    def layers(self) -> list[Layer]:
        """The parameters of the layers, none of which has an obstacle."""
        return [engines.layer_of(layer, self.family) for layer in self._layers]

    def engine_obstacle(self, backend: str, precision: str) -> str | None:
        """Why no engine of `backend`, one of ENGINES, can be made of the layers, or None."""
        for index, reason in enumerate(self.obstacles):
            if reason is not None:
                return f"layers.{index}: {reason}"
        return engines.obstacle(self.layers(), backend, precision)

    def engine(self, backend: str, settings: Settings, rows: int) -> Engine | str:
        """The engine of `backend` that runs all layers, current for a call with `rows` tokens, or why there is none."""
        engine = self._engine
        if (
            engine is not None
            and engine.backend == backend
            and engine.serves(settings.precision)
            and engine.current(rows)
        ):
            return engine
        if engine is not None and not settings.keep_original:
            return CHANGED
        self._engine = engine = None  # before the next is packed, so that the two are never there at once
        if reason := self.engine_obstacle(backend, settings.precision):
            return reason
        engine = ENGINES[backend](self.layers(), self.parameters, settings.precision)
        if engine.lasting:
            self._engine = engine
        return engine

    def stand_alone(self) -> None:
        """Go on with what the engine has packed, and with the parameters that stand in the modules now."""
        assert isinstance(self._engine, engines.CpuEngine)
        self._engine.stand_alone()
        self._structure.accept_parameters()


_plans: weakref.WeakKeyDictionary[nn.Module, Plan] = weakref.WeakKeyDictionary()
"""By patched encoder; not in it, so that copies and pickles don't carry along what was packed."""


def plan_of(encoder: nn.Module) -> Plan | str:
    """The plan of an encoder, patched or not, or why its own forward must run in every call as things are."""
    plan = _plans.get(encoder)
    if plan is not None and plan.current():
        return plan
    if reason := encoder_obstacle(encoder, encoder_family(encoder)):
        return reason
    settings: Settings | None = encoder.__dict__.get(SETTINGS)
    if plan is not None and settings is not None and not settings.keep_original:
        return CHANGED
    _plans.pop(encoder, None)
    plan = Plan(encoder)
    if plan.lasting and settings is not None:
        _plans[encoder] = plan
    return plan


def is_settled(encoder: nn.Module) -> bool:
    """Whether an encoder and all its modules are in eval mode for sure; False says nothing."""
    plan = _plans.get(encoder)
    return plan is not None and not encoder.training and plan.current() and plan.in_eval_mode()


def is_served(encoder: nn.Module) -> bool:
    """Whether nobody sees what layers are called with: none is hooked, replaced or overridden, nor is attention."""
    if encoder_family(encoder).attention_obstacle(encoder) is not None:
        return False
    if torch.compiler.is_compiling():
        return tracing_obstacle(encoder) is None
    plan = plan_of(encoder)
    return isinstance(plan, Plan) and plan.lasting


def engine_of(module: nn.Module) -> Engine | None:
    """What runs an encoder's layers in one call, if it is one and there is such a thing by now."""
    plan = _plans.get(module)
    return None if plan is None else plan.made


def forget_plan(encoder: nn.Module) -> None:
    """Free what was made of `encoder`'s layers."""
    _plans.pop(encoder, None)


def tracing_obstacle(encoder: nn.Module) -> str | None:
    """Why the layers can't run operation by operation in a graph, or None."""
    family = encoder_family(encoder)
    reason = graph_obstacle() or encoder_obstacle(encoder, family)
    for index, layer in enumerate(family.layers_of(encoder)):
        reason = reason or layer_obstacle(layer, family)
        if reason is not None:
            return f"layers.{index}: {reason}"
    return reason


# What torch.compiler.assume_constant_result does, without importing torch._dynamo, which takes a second.
tracing_obstacle._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check_strict(name: str, encoder: nn.Module, settings: Settings) -> None:
    """Raise UnsupportedError for what would not run on a kernel that the backend has."""
    plan = plan_of(encoder)
    if isinstance(plan, str):
        raise UnsupportedError(f"{name}: {plan} (strict)")
    for index, (layer, reason) in enumerate(zip(plan._layers, plan.obstacles, strict=True)):
        if reason is not None:
            raise UnsupportedError(f"{name}.{plan.family.layers}.{index}: {reason} (strict)")
        weight = plan.family.parts(layer).query.weight
        request = Request("grouped_pointwise_conv", weight.device, weight.dtype)
        backends.choose(request, settings.backend, strict=True)
    if settings.precision != "float32" or settings.unpad:
        asked = f"precision {settings.precision}" + (", unpad" if settings.unpad else "")
        weight = next(encoder.parameters())
        choice = backends.choose(
            Request("encoder", weight.device, weight.dtype), settings.backend, strict=True
        )
        reason = choice.reason
        if choice.backend in ENGINES:
            reason = plan.engine_obstacle(choice.backend, settings.precision) or ""
        if reason:
            raise UnsupportedError(f"{name}: {reason} ({asked}, strict)")


def pack_now(encoder: nn.Module, settings: Settings) -> Plan:
    """The plan of an encoder with its engine on the CPU, made now rather than in the first forward.

    Raises UnsupportedError where that can't be.
    """
    plan = plan_of(encoder)
    reason: Any = plan
    if isinstance(plan, Plan):
        # a norm's, since int8 weights from a file stand on the meta device until they are packed
        norms = [plan.family.parts(layer).post_attention_norm for layer in plan._layers if plan.lasting]
        device = norms[0].weight.device if norms else torch.device("cpu")
        choice = backends.choose(Request("encoder", device, torch.float32), settings.backend)
        if choice.backend == "cpu":
            reason = plan.engine("cpu", settings, 0)
        elif choice.backend in ENGINES:
            reason = f"the {choice.backend} backend reads the original parameters, and packs nothing"
        else:
            reason = choice.reason
        if isinstance(reason, Engine):
            plan._engine = reason
            return plan
    raise UnsupportedError(f"encoder: {reason} (keep_original=False leaves nothing to fall back to)")
