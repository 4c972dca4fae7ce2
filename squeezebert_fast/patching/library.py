"""What an encoder consists of, in this package and in transformers: classes whose code the fast path knows.

Both libraries name a layer's modules alike. transformers is looked up where it is loaded already, never
imported.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, NamedTuple

from torch import nn

from squeezebert_fast.modeling.encoder import SqueezeBertEncoder

TRANSFORMERS = "transformers.models.squeezebert.modeling_squeezebert"


class Library(NamedTuple):
    """The classes of one library's encoder."""

    encoder: type[nn.Module]
    signature: inspect.Signature
    """The encoder's forward's."""
    positional: tuple[str, ...]
    """Its parameters but for the encoder, in their order, if all can be given by position and by name."""
    defaults: dict[str, Any]
    """Of those that have one."""
    output: Any
    """BaseModelOutput."""
    layer: type[nn.Module]
    blocks: dict[str, tuple[type[nn.Module], dict[str, type[nn.Module]]]]
    """A layer's blocks by name: the block's class, and those of its modules but for the activation."""
    channels_first: bool
    """Layers take and give [batch, channels, tokens], in a dict, and are called past their hooks."""

    def arguments(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call of the encoder's forward by name, with defaults; TypeError for a wrong call.

        `Signature.bind` would take a tenth of a millisecond, where code is no longer in the caches.
        """
        names, defaults = self.positional, self.defaults
        given = dict(zip(names, args, strict=False))
        if len(args) <= len(names) and not any(name in given for name in kwargs):
            arguments = {**defaults, **given, **kwargs}
            if len(arguments) == len(names) and all(name in arguments for name in names):
                return arguments
        call = self.signature.bind(encoder, *args, **kwargs)
        call.apply_defaults()
        _, *bound = call.arguments.items()
        return dict(bound)

    def replaced(self) -> str | None:
        """Which of the library's classes, or the forward of which, is code from elsewhere, or None."""
        classes = {self.layer}
        for block, modules in self.blocks.values():
            classes |= {block, *modules.values()}
        for cls in {self.encoder, *classes}:
            if getattr(cls.forward, "__globals__", None) is not sys.modules[cls.__module__].__dict__:
                return f"the forward of class {cls.__name__} was replaced"
        for cls in classes:
            if cls.__module__ != self.layer.__module__ and not cls.__module__.startswith("torch.nn."):
                return f"a class was replaced by {cls.__module__}.{cls.__name__}"
        return None


def _library(encoder: type[nn.Module], channels_first: bool, home: str) -> Library:
    names = sys.modules[home].__dict__
    conv = nn.Conv1d if channels_first else names["PointwiseConv1d"]
    norm = names["SqueezeBertLayerNorm"] if channels_first else nn.LayerNorm
    attention = {"query": conv, "key": conv, "value": conv, "dropout": nn.Dropout}
    if channels_first:
        wrapper = names["MatMulWrapper"]
        attention |= {"softmax": nn.Softmax, "matmul_qk": wrapper, "matmul_qkv": wrapper}
    conv_norm = {"conv1d": conv, "dropout": nn.Dropout, "layernorm": norm}
    signature = inspect.signature(encoder.forward)
    _, *parameters = signature.parameters.values()
    plain = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    return Library(
        encoder=encoder,
        signature=signature,
        positional=tuple(p.name for p in parameters) if plain else (),
        defaults={p.name: p.default for p in parameters if p.default is not p.empty} if plain else {},
        output=sys.modules[encoder.__module__].__dict__["BaseModelOutput"],
        layer=names["SqueezeBertModule"],
        blocks={
            "attention": (names["SqueezeBertSelfAttention"], attention),
            "post_attention": (names["ConvDropoutLayerNorm"], conv_norm),
            "intermediate": (names["ConvActivation"], {"conv1d": conv}),
            "output": (names["ConvDropoutLayerNorm"], conv_norm),
        },
        channels_first=channels_first,
    )


_libraries: dict[type[nn.Module], Library] = {}


def library_of(encoder_class: type[nn.Module]) -> Library | None:
    """The library that a class of encoders is from or extends; None for any other class."""
    for cls in encoder_class.__mro__:
        if cls in _libraries:
            return _libraries[cls]
        if cls is SqueezeBertEncoder:
            _libraries[cls] = _library(cls, False, "squeezebert_fast.modeling.layers")
            return _libraries[cls]
        if cls.__name__ == "SqueezeBertEncoder" and cls.__module__ == TRANSFORMERS:
            _libraries[cls] = _library(cls, True, TRANSFORMERS)
            return _libraries[cls]
    return None


_HOMES = ("squeezebert_fast.modeling.encoder", "squeezebert_fast.modeling.heads", TRANSFORMERS)


def is_embeddings(cls: type[nn.Module]) -> bool:
    """Whether a class is one library's SqueezeBertEmbeddings itself."""
    return cls.__name__ == "SqueezeBertEmbeddings" and _is_whole(cls)


def dense_layers(module: nn.Module) -> list[nn.Linear]:
    """The nn.Linear children of a module whose class is from one of the libraries: of poolers and heads."""
    if not _is_whole(type(module)):
        return []
    return [child for child in module.children() if isinstance(child, nn.Linear)]


def _is_whole(cls: type[nn.Module]) -> bool:
    """Whether a class is from a library's module, and its forward too."""
    home = sys.modules.get(cls.__module__)
    forward = getattr(cls.forward, "__globals__", None)
    return cls.__module__ in _HOMES and home is not None and forward is home.__dict__
