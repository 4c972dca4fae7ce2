"""What modules are made of but for the values of their parameters, and whether that is as it was."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from squeezebert_fast.patching.obstacles import HOOKS
from squeezebert_fast.patching.swapping import SETTINGS


class Structure:
    """What modules are made of but for the values of their parameters, and whether that is as it was.

    Walking modules as `obstacles.layer_obstacle` does takes longer than a short forward, so the walk is done once, and
    its findings are kept as flat lists that take microseconds to go through.
    """

    def __init__(
        self,
        modules: list[nn.Module],
        firing: list[nn.Module],
        holder: nn.Module | None = None,
        attributes: Sequence[str] = (),
        is_idle: Callable[[Any], bool] = lambda hook: False,
    ) -> None:
        """What there is now, for modules without hooks.

        firing: the modules whose hooks are called. holder: one whose children are the outermost of `modules`.
        attributes: plain values that count too, where a module has them. is_idle: whether a hook does not count.
        """
        self._modules, self._classes = modules, [type(module) for module in modules]
        self._without_forward = [m.__dict__ for m in modules if "forward" not in m.__dict__]
        # what is empty now may fill up without a say in the forward, unless a class or a forward changes too
        self._held: list[dict[str, Any]] = [] if holder is None else [holder._modules]
        self._held += [held for m in modules for held in (m._modules, m._parameters, m._buffers) if held]
        self._values = self._now()
        self._attributes = [
            (module.__dict__, name, module.__dict__[name])
            for module in modules
            for name in ("groups", "eps", "forward", SETTINGS, *attributes)
            if name in module.__dict__
        ]
        self._hooks = [module.__dict__[kind] for module in firing for kind in HOOKS]
        self._is_idle = is_idle
        self._next_hook = RemovableHandle.next_id
        self._dropouts = [m.__dict__ for m in modules if isinstance(m, nn.Dropout)]
        self.parameters = _parameters(modules)

    def unchanged(self) -> bool:
        """Whether modules, their classes, parameters (by identity) and the numbers they keep are the same; no hooks."""
        return (
            all(map(operator.is_, map(type, self._modules), self._classes))
            and _same(self._now(), self._values)
            and all(own.get(name) == value for own, name, value in self._attributes)
            and self._no_hooks()
            and not any(map(dict.__contains__, self._without_forward, repeat("forward")))
        )

    def accept_parameters(self) -> None:
        """Take the parameters that the modules have now for those that they had."""
        self._values, self.parameters = self._now(), _parameters(self._modules)

    def hooked(self) -> bool:
        """Whether a hook that counts is registered on a module."""
        return any(not self._is_idle(hook) for hooks in self._hooks if hooks for hook in hooks.values())

    def _no_hooks(self) -> bool:
        if self._next_hook != RemovableHandle.next_id:  # a hook was registered, somewhere in this process
            if self.hooked():
                return False
            self._next_hook = RemovableHandle.next_id
        return True

    def dropout_is_off(self) -> bool:
        """Whether no dropout would drop anything."""
        return not any(own["training"] and own["p"] > 0.0 for own in self._dropouts)

    def _now(self) -> list[Any]:
        return list(chain.from_iterable(map(dict.values, self._held)))


def _parameters(modules: list[nn.Module]) -> list[nn.Parameter]:
    return [p for m in modules for p in m._parameters.values() if p is not None]


def _same(values: list[Any], others: list[Any]) -> bool:
    """Whether they are the same objects: never by ==, which tensors answer element by element."""
    return len(values) == len(others) and all(map(operator.is_, values, others))
