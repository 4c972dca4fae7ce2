"""What the fast path has to know of a kind of model, and nothing else does: the words of a family.

A family is one file beside this one and one row of `families.FAMILIES`. It says where a layer keeps its modules, what
the encoder is called with and returns, what its masks mean, and what stands around its encoder. All else in `patching`
speaks of `Parts`, `Call` and `Mask`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from squeezebert_fast.backends.masks import by_key, is_readable

Classes = tuple[type[nn.Module], ...]
"""Those that a module may be of, itself and not by extension."""


class Parts(NamedTuple):
    """What a layer consists of: its modules, or, in `Family.places`, the dotted names under which it keeps them."""

    query: Any
    key: Any
    value: Any
    heads: Any
    """Their number."""
    attention_dropout: Any
    post_attention: Any
    """The product behind the attention."""
    post_attention_dropout: Any
    """None where nothing is dropped there, by any layer of the family."""
    post_attention_norm: Any
    intermediate: Any
    activation: Any
    output: Any
    output_dropout: Any
    output_norm: Any


class Dropout(NamedTuple):
    """Where it stands whether a part of a layer drops anything, and how much."""

    switch: Any
    """The module whose training mode counts."""
    holder: Any
    name: str = "p"
    """The holder's attribute with the probability."""

    def p(self) -> float:
        """The probability as things are."""
        probability: float = getattr(self.holder, self.name) if self.switch.training else 0.0
        return probability


class Call(NamedTuple):
    """One call of an encoder."""

    x: Tensor
    """Hidden states, [batch, tokens, channels]."""
    mask: Tensor | None
    """As the library hands it out."""
    keep_states: bool = False
    """Whether the hidden states before and after each layer are asked for."""
    as_tuple: bool = False
    """Whether the result is a tuple, not a model output."""
    by_hooks: bool = False
    """Whether hooks on the layers collect the hidden states: then all layers are called, or none is."""
    extra: Mapping[str, Any] = {}
    """Further arguments that each layer is handed, which change nothing in the layers that we know."""
    obstacle: str | None = None
    """Why the encoder's own forward must run in this call."""


class Holder(NamedTuple):
    """A library's model around an encoder, whose forward makes what the encoder gets of a mask [batch, tokens].

    Its forward takes `input_ids`, then `attention_mask`, then others, `inputs_embeds` among them.
    """

    cls: type[nn.Module]
    encoder: str
    """Its attribute with the encoder."""


class Mask(NamedTuple):
    """A mask in the kernels' terms."""

    added: Tensor | None
    """What is added to the scores, in the hidden states' dtype, broadcastable to [batch, heads, tokens, tokens]."""
    attends: Tensor | None = None
    """Which queries attend to anything, bool, [batch, heads, tokens, 1] or broadcastable to it, where some may not and
    their context is then zero; None where each does, or where it is what the scores make of it."""


def mask_to_add(mask: Tensor | None, x: Tensor) -> Mask:
    """A mask that the library adds to scores: a boolean one too, as 0 and 1."""
    return Mask(mask if mask is None or mask.dtype == x.dtype else mask.to(x.dtype))


def mask_of_sdpa(mask: Tensor | None, x: Tensor) -> Mask:
    """A mask as `scaled_dot_product_attention` takes it: booleans say "attend", numbers are added.

    That operation gives zeros for a query that attends to nothing, where a softmax over the lowest numbers would attend
    to all keys alike, and one over -inf to NaN. A mask on a GPU may always have such queries: finding out would wait.
    """
    if mask is not None and not torch.compiler.is_compiling():
        mask = by_key(mask)  # fewer numbers to look at
    if mask is None or (mask.dtype is not torch.bool and not may_be_blind(mask)):
        return mask_to_add(mask, x)
    attend = mask if mask.dtype is torch.bool else mask != -torch.inf
    attends = attend.any(-1, keepdim=True)
    lowest = torch.finfo(x.dtype).min
    if mask.dtype is torch.bool:
        added = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask, lowest)
    else:  # -inf in every place of a row would be NaN, and 0 would make padding's row one that attends to all
        added = mask.to(x.dtype).masked_fill(~attends, lowest)
    if not torch.compiler.is_compiling() and is_readable(attends) and bool(attends.all()):
        return Mask(added)
    return Mask(added, attends)


def may_be_blind(mask: Tensor) -> bool:
    """Whether a mask that is added to scores may have rows of -inf alone; in a graph or on a GPU it always may."""
    if not mask.dtype.is_floating_point:
        return False
    if torch.compiler.is_compiling() or not is_readable(mask):
        return True
    return bool((mask.amax(-1) == -torch.inf).any())


@dataclass(frozen=True)
class Embeddings:
    """The module of a family that turns ids into the encoder's input."""

    cls: type[nn.Module]
    arguments: tuple[str, ...]
    """Of its forward, those that are ids, in their order, and `inputs_embeds`."""
    idle: tuple[str, ...] = ()
    """Further arguments, which change nothing while they are 0 or None."""
    token_types: bool = True
    """Whether there is a table of token types."""
    positions: Callable[[Any, Tensor], Tensor | None] = lambda module, input_ids: None
    """Positions that a call doesn't give, by module and ids; None says that they count from 0."""
    obstacle: Callable[[Any], str | None] = lambda module: None
    """Why the module's own forward must run, for reasons of its family, or None."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the module's tables: words first, then positions."""
        names = "word_embeddings", "position_embeddings", "token_type_embeddings"
        return names if self.token_types else names[:2]


@dataclass(frozen=True)
class Family:
    """One kind of encoder. What a subclass overrides are calls, results and whatever else has a say in them."""

    encoder: type[nn.Module]
    layer: type[nn.Module]
    layers: str
    """The encoder's attribute with its layers."""
    places: Parts
    modules: Mapping[str, Classes]
    """All modules of a layer that a call of the layer would call, but for the activation, by their dotted names, each
    behind the one that holds it."""
    embeddings: Embeddings | None = None
    attributes: tuple[str, ...] = ()
    """Plain values that a layer's modules keep and `layer_obstacle` reads."""
    holder: Holder | None = None
    """The model that writes a padding mask out for every query, unless it is given one that `ready_masks` made."""
    hooks_fire: bool = True
    """Whether layers are called, not their forwards, past their hooks."""
    activation_is_channels_first: bool = False
    """Whether the activation sees [batch, channels, tokens], on which one with a parameter per channel depends."""
    _paths: dict[str, tuple[str, ...]] = field(init=False, repr=False)
    """`places`, taken apart."""

    def __post_init__(self) -> None:
        paths = {name: tuple(place.split(".")) for name, place in self.places._asdict().items() if place}
        object.__setattr__(self, "_paths", paths)

    def call(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """A call of the encoder's forward. TypeError, or an obstacle, for a wrong one."""
        raise NotImplementedError

    def result(self, encoder: nn.Module, call: Call, x: Tensor, states: tuple[Tensor, ...] | None) -> Any:
        """What the encoder's forward returns, given the last hidden state and, if kept, all of them."""
        raise NotImplementedError

    def collected(self) -> list[Tensor | None] | None:
        """Where the library collects hidden states in this call, beside the encoder's result."""
        return None

    def mask(self, encoder: nn.Module, call: Call) -> Mask:
        """The mask of a call."""
        return mask_to_add(call.mask, call.x)

    def run_layer(self, layer: Any, x: Tensor, call: Call) -> Tensor:
        """A layer's own forward on x, called as its encoder calls it."""
        raise NotImplementedError

    def checkpointed(
        self, encoder: Any, layer: Any, index: int, run: Callable[..., Tensor]
    ) -> Callable[..., Tensor]:
        """`run`, which computes a layer, made anew in the backward pass where the model is asked to."""
        return run

    def run_original(
        self, encoder: Any, layer: Any, index: int, x: Tensor, call: Call, needs_grad: bool
    ) -> Tensor:
        """`run_layer`, checkpointed as the encoder would."""
        run = self.run_layer
        return (self.checkpointed(encoder, layer, index, run) if needs_grad else run)(layer, x, call)

    def layer_obstacle(self, layer: Any) -> str | None:
        """Why the forward of a layer whose modules are all as they should be must run, or None."""
        return None

    def attention_obstacle(self, encoder: nn.Module) -> str | None:
        """Why the function that computes attention, where a library looks one up by name, must run, or None."""
        return None

    def is_idle(self, hook: Callable[..., Any]) -> bool:
        """Whether a hook on a layer or its modules is the library's own, idle in a `call` that is served."""
        return False

    def layers_of(self, encoder: nn.Module) -> Iterable[Any]:
        """The encoder's layers."""
        return encoder.__dict__["_modules"][self.layers]

    def parts(self, layer: nn.Module) -> Parts:
        """The modules of a layer that has them all."""
        paths = self._paths
        return Parts(*[find(layer, paths[name]) if name in paths else None for name in Parts._fields])

    def attention_dropout(self, layer: Any) -> Dropout:
        """That of the scores' weights, of a layer that has all its modules."""
        dropout = self.parts(layer).attention_dropout
        return Dropout(dropout, dropout)

    def dropouts(self, layer: Any) -> list[Dropout]:
        """All of such a layer's."""
        parts = self.parts(layer)
        others = [parts.post_attention_dropout, parts.output_dropout]
        return [self.attention_dropout(layer), *(Dropout(m, m) for m in others if m is not None)]

    def replaced(self) -> str | None:
        """Which of the library's classes, or the forward of which, is code from elsewhere, or None."""
        classes = {self.layer, *(cls for classes in self.modules.values() for cls in classes)}
        for cls in (self.encoder, *classes):
            if not is_whole(cls):
                return f"the forward of class {cls.__name__} was replaced"
        for cls in classes:
            if cls.__module__ != self.layer.__module__ and not cls.__module__.startswith("torch.nn."):
                return f"a class was replaced by {cls.__module__}.{cls.__name__}"
        return None


def find(owner: Any, names: tuple[str, ...]) -> Any:
    """The module, or what else it is, at a path."""
    for name in names:
        modules = owner.__dict__["_modules"]
        owner = modules[name] if name in modules else getattr(owner, name)
    return owner


def is_whole(cls: type[nn.Module]) -> bool:
    """Whether a class is what its own module says, its forward too, but for decorators of its own library."""
    return is_own(cls.forward, cls.__module__)


def is_own(function: Any, module: str) -> bool:
    """Whether a function's code is that module's, but for decorators of its own library."""
    home = sys.modules.get(module)
    library = module.partition(".")[0]
    while hasattr(function, "__wrapped__") and function.__module__.partition(".")[0] == library:
        if _globals_of(function)["__name__"].partition(".")[0] != library:
            return False
        function = function.__wrapped__
    return home is not None and _globals_of(function) is home.__dict__


def _globals_of(function: Any) -> dict[str, Any]:
    return getattr(function, "__globals__", {"__name__": ""})


def nested(layout: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> dict[str, Classes]:
    """`Family.modules` of a layer in blocks: by name, a block's class or classes, and its modules' by name."""

    def classes(of: Any) -> Classes:
        return of if isinstance(of, tuple) else (of,)

    found: dict[str, Classes] = {}
    for name, (block, modules) in layout.items():
        found[name] = classes(block)
        found |= {f"{name}.{module}": classes(of) for module, of in modules.items()}
    return found
