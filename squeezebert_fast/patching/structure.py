"""What modules are made of but for the values of their parameters, and whether that is as it was.

The comparing is native (csrc/python/watch.cpp), or without the native module, as a GPU may be, the same in Python.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from squeezebert_fast.backends import cpu
from squeezebert_fast.patching.families.family import Dropout
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
        classes: Sequence[type[nn.Module]] = (),
        dropouts: Sequence[Dropout] | None = None,
        is_idle: Callable[[Any], bool] = lambda hook: False,
    ) -> None:
        """What there is now, for modules without hooks.

        firing: the modules whose hooks are called. holder: one whose children are the outermost of `modules`.
        attributes: plain values that count too, where a module has them. classes: those whose forward counts.
        dropouts: all that there are, by default the modules that are one. is_idle: whether a hook does not count.
        """
        self._modules = modules
        self._without_forward = [m.__dict__ for m in modules if "forward" not in m.__dict__]
        # what is empty now may fill up without a say in the forward, unless a class or a forward changes too
        self._held: list[dict[str, Any]] = [] if holder is None else [holder._modules]
        self._held += [held for m in modules for held in (m._modules, m._parameters, m._buffers) if held]
        self._attributes = [
            (module.__dict__, name, module.__dict__[name])
            for module in modules
            for name in ("groups", "eps", "forward", SETTINGS, *attributes)
            if name in module.__dict__
        ]
        self._hooks = [module.__dict__[kind] for module in firing for kind in HOOKS]
        self._is_idle = is_idle
        self._code = list(classes)
        self._next_hook = RemovableHandle.next_id
        if dropouts is None:
            dropouts = [Dropout(m, m) for m in modules if isinstance(m, nn.Dropout)]
        self._dropouts = dropouts
        self._eval_mode = _Training(modules)
        self.accept_parameters()

    def unchanged(self) -> bool:
        """Whether modules, their classes, parameters (by identity) and the numbers they keep are the same; no hooks."""
        return self._watch.unchanged() and self._no_hooks()

    def accept_parameters(self) -> None:
        """Take the parameters that the modules have now for those that they had."""
        self.held_values = list(chain.from_iterable(map(dict.values, self._held)))
        self._watched = (
            self._modules,
            self._held,
            self.held_values,
            self._without_forward,
            "forward",
            self._attributes,
            self._code,
        )  # which a native watch borrows
        self._watch = _watch(*self._watched)
        self.parameters: list[nn.Parameter] = [
            p for m in self._modules for p in m._parameters.values() if p is not None
        ]

    def hooked(self) -> bool:
        """Whether a hook that counts is registered on a module."""
        return any(not self._is_idle(hook) for hooks in self._hooks if hooks for hook in hooks.values())

    def _no_hooks(self) -> bool:
        if self._next_hook != RemovableHandle.next_id:  # a hook was registered, somewhere in this process
            if self.hooked():
                return False
            self._next_hook = RemovableHandle.next_id
        return True

    def in_eval_mode(self) -> bool:
        """Whether no module is in training mode."""
        return self._eval_mode.is_off()

    def dropout_is_off(self) -> bool:
        """Whether no dropout would drop anything."""
        return self._eval_mode.is_off() or not any(dropout.p() > 0.0 for dropout in self._dropouts)


class _Training:
    """Whether modules are in training mode."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self._off = [
            (module.__dict__, "training", False) for module in modules
        ]  # which a native watch borrows
        self._watch = _watch([], [], [], [], "", self._off, [])

    def is_off(self) -> bool:
        return self._watch.unchanged()


class PythonWatch:
    """`_native.Watch`, slower."""

    def __init__(
        self,
        modules: list[nn.Module],
        dicts: list[dict[str, Any]],
        values: list[Any],
        without: list[dict[str, Any]],
        name: str,
        attributes: list[tuple[dict[str, Any], str, Any]],
        classes: list[type],
    ) -> None:
        self._modules, self._classes = modules, [type(module) for module in modules]
        self._dicts, self._values = dicts, values
        self._without, self._name = without, name
        self._attributes = attributes
        self._code = [(cls, getattr(cls, name)) for cls in classes]

    def unchanged(self) -> bool:
        """Whether modules are of the same classes, dicts hold the same values, and so on."""
        values = list(chain.from_iterable(map(dict.values, self._dicts)))
        return (
            all(map(operator.is_, map(type, self._modules), self._classes))
            and len(values) == len(self._values)
            and all(
                map(operator.is_, values, self._values)
            )  # never ==, which tensors answer element by element
            and all(name in own and own[name] == value for own, name, value in self._attributes)
            and not any(map(dict.__contains__, self._without, repeat(self._name)))
            and all(getattr(cls, self._name) is was for cls, was in self._code)
        )


_watch: Any = PythonWatch if cpu._native is None else cpu._native.Watch


class Places:
    """Where parameters keep their values, and how often they were written to. None of them is of inference mode."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        """Needs the native module."""
        native: Any = cpu._native
        self._parameters = parameters  # which the native watch borrows
        impls = [parameter._cdata for parameter in parameters]
        storages = [parameter.untyped_storage()._cdata for parameter in parameters]
        self._watch = native.TensorWatch(parameters, impls, storages, Tensor.data_ptr, _VERSION)

    def unchanged(self) -> bool:
        """Whether no parameter has other values by a write that PyTorch counts, or by another place."""
        return self._watch.unchanged()


_VERSION = torch._C.TensorBase.__dict__["_version"].__get__
