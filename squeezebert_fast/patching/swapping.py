"""Classes that `patch` puts in a module's place: subclasses of the module's own, with another forward.

Swapping the class of a module leaves parameters, buffers, submodules, names and identity alone, and comes undone
by swapping it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

from torch import nn

from squeezebert_fast.errors import UnsupportedError

SETTINGS = "_squeezebert_fast_settings"
"""Name of the attribute that holds a patched module's Settings, in its __dict__."""


@dataclass(frozen=True)
class Settings:
    """What `patch` was asked for."""

    backend: str
    strict: bool
    precision: str = "float32"
    unpad: bool = False
    keep_original: bool = True


class Accelerated(nn.Module):
    """Mixed into a module's class, before it."""

    @classmethod
    def members(cls, original: type[nn.Module]) -> dict[str, Any]:
        """What the class that is made of this mixin and `original` has of its own."""
        return {}

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not self.__dict__[SETTINGS].keep_original:
            raise UnsupportedError(
                "the model was patched with keep_original=False: its packed weights can't be copied or pickled; "
                "squeezebert_fast.save_quantized before patch writes what from_pretrained loads"
            )
        # The class is made at run time, so a copy or a pickle names the original class and makes it again.
        _, (cls, *_), *state = cast("tuple[Any, ...]", super().__reduce_ex__(max(int(protocol), 2)))
        return _rebuild, (mixin_of(cls), original_class(cls)), *state


class _StandsFor(type):
    """The class of accelerated classes, each of which equals its original, as a key too.

    Libraries keep tables of classes: torch.ao.quantization looks up nn.Linear to quantize it, profilers to count its
    operations. They find what they know. A class that extends an accelerated one equals nothing else.
    """

    def __eq__(cls, other: object) -> bool:
        made = _accelerated.get(cls.__bases__) is cls  # and not extended from one that was
        return cls is other or (made and other is cls.__bases__[1])

    def __hash__(cls) -> int:
        return hash(cls.__bases__[-1])


_accelerated: dict[tuple[type, ...], type[Accelerated]] = {}
"""By mixin and original."""


def accelerated_class(mixin: type[Accelerated], original: type[nn.Module]) -> type[Accelerated]:
    """The subclass of `original` with `mixin`'s forward."""
    key = (mixin, original)
    if key not in _accelerated:
        name = "Accelerated" + original.__name__
        members = {"__module__": mixin.__module__, **mixin.members(original)}
        _accelerated[key] = cast("type[Accelerated]", _StandsFor(name, (mixin, original), members))
    return _accelerated[key]


def mixin_of(cls: type[nn.Module]) -> type[Accelerated]:
    """The mixin of an accelerated class, or of a class extending one."""
    mro = cls.__mro__
    return mro[mro.index(Accelerated) - 1]


def original_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The class that an accelerated one, or a class extending that, was made from."""
    mro = cls.__mro__
    return mro[mro.index(Accelerated) + 1]


def has_own_forward(module: nn.Module) -> bool:
    """Whether another forward than its class's is set on `module` itself.

    Its class's is what accelerate leaves there when it takes its hooks away.
    """
    own = module.__dict__.get("forward")
    return own is not None and not _is_forward_of(own, module)


def _is_forward_of(value: object, module: nn.Module) -> bool:
    return (
        isinstance(value, MethodType) and value.__self__ is module and value.__func__ is type(module).forward
    )


def swap(module: nn.Module, mixin: type[Accelerated], settings: Settings) -> None:
    """Give `module` the accelerated class, unless it has it, and these settings."""
    if not isinstance(module, Accelerated):
        if not has_own_forward(module):
            module.__dict__.pop("forward", None)
        module.__class__ = accelerated_class(mixin, type(module))
    module.__dict__[SETTINGS] = settings


def swap_back(module: Accelerated) -> None:
    """Undo `swap`, also where somebody wrapped the accelerated forward, as accelerate does to offload weights."""
    del module.__dict__[SETTINGS]
    wrapped = [name for name, value in module.__dict__.items() if _is_forward_of(value, module)]
    module.__class__ = original_class(type(module))  # type: ignore[assignment]
    for name in wrapped:
        module.__dict__[name] = MethodType(type(module).forward, module)


def changed_since(module: Accelerated) -> bool:
    """Whether the class was changed again after `swap`."""
    cls = type(module)
    return cls is not accelerated_class(mixin_of(cls), original_class(cls))


def _rebuild(mixin: type[Accelerated], original: type[nn.Module]) -> nn.Module:
    accelerated = accelerated_class(mixin, original)
    return accelerated.__new__(accelerated)
