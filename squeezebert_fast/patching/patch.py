"""`patch` and `unpatch`: acceleration of a model in place."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from squeezebert_fast import backends
from squeezebert_fast.backends import cpu
from squeezebert_fast.backends.request import Request
from squeezebert_fast.errors import ArgumentError, UnsupportedError
from squeezebert_fast.patching import layer as layers
from squeezebert_fast.patching.encoder import (
    SETTINGS,
    AcceleratedEncoder,
    Settings,
    accelerated_class,
    is_encoder,
    lasting_obstacle,
    original_class,
)
from squeezebert_fast.patching.library import library_of

Model = TypeVar("Model", bound=nn.Module)


def patch(
    model: Model,
    *,
    precision: str | None = None,
    unpad: bool = False,
    backend: str = "auto",
    strict: bool = False,
) -> Model:
    """Accelerate every SqueezeBERT encoder in `model`, in place, and return `model`.

    Works on this package's models and on transformers' SqueezeBERT, whole or as a part of a larger module.
    Parameters, buffers, their names and `state_dict` don't change. Results don't either, up to rounding:
    training, gradients, hooks, `output_attentions`, autocast, other dtypes and devices give what the
    unpatched model gives, by falling back where a kernel can't serve; `explain(model)` tells what runs where.
    Patching again replaces the settings and reads every weight anew, which a write to a few elements through
    `weight.data` calls for: PyTorch gives no sign of it.

    Args:
        model: any module that contains a SqueezeBertEncoder.
        precision: None or "float32".
        unpad: must be False in this version.
        backend: one of auto, reference, cpu, triton, cuda.
        strict: raise UnsupportedError, here or in a forward, instead of falling back when the backend has a
            kernel for an operation but can't serve it, or when a layer's own modules must run.

    Raises:
        ArgumentError: no encoder in `model`, or an unknown backend.
        UnsupportedError: a precision or option that this version lacks; or `strict`, and the backend
            can't serve.

    >>> model = SqueezeBertModel(SqueezeBertConfig())
    >>> model = squeezebert_fast.patch(model.eval())
    """
    backends.check_name(backend)
    if precision not in (None, "float32"):
        raise UnsupportedError(f"precision is {precision!r}; this version has float32")
    if unpad:
        raise UnsupportedError("unpad=True is not in this version; padded batches run with their padding")
    encoders = {name: module for name, module in model.named_modules() if is_encoder(module)}
    if not encoders:
        raise ArgumentError(
            f"model is a {type(model).__name__} without a SqueezeBertEncoder of this package or transformers"
        )
    if strict:
        for name, encoder in encoders.items():
            _check_strict(name or "encoder", encoder, backend)
    for encoder in encoders.values():
        if not isinstance(encoder, AcceleratedEncoder):
            encoder.__class__ = accelerated_class(type(encoder))
        encoder.__dict__[SETTINGS] = Settings(backend, strict)
        _forget_packed(encoder)
    return model


def unpatch(model: Model) -> Model:
    """Undo `patch`, in place, and return `model`. Without effect on a model that is not patched.

    Raises UnsupportedError, before any change, if an encoder's class was changed again after `patch`.
    """
    encoders = [module for module in model.modules() if isinstance(module, AcceleratedEncoder)]
    for encoder in encoders:
        if type(encoder) is not accelerated_class(original_class(type(encoder))):
            raise UnsupportedError(
                f"the encoder's class was changed to {type(encoder).__name__} after patch; undo that first"
            )
    for encoder in encoders:
        del encoder.__dict__[SETTINGS]
        encoder.__class__ = original_class(type(encoder))  # type: ignore[assignment]
        _forget_packed(encoder)
    return model


def _forget_packed(encoder: nn.Module) -> None:
    for parameter in encoder.parameters():
        cpu.forget(parameter)


def _check_strict(name: str, encoder: nn.Module, backend: str) -> None:
    """Raise UnsupportedError for what would not run on a kernel that `backend` has."""
    library = library_of(type(encoder))
    assert library is not None  # is_encoder
    if reason := lasting_obstacle(encoder, library):
        raise UnsupportedError(f"{name}: {reason} (strict)")
    if backend != "auto" and not backends.BACKENDS[backend].OPERATIONS:
        raise UnsupportedError(f"backend {backend!r} has no kernel in this version (strict)")
    for index, layer in enumerate(encoder.layers):  # type: ignore[arg-type]
        if reason := layers.obstacle(layer, library):
            raise UnsupportedError(f"{name}.layers.{index}: {reason} (strict)")
        weight = layer.attention.query.weight
        backends.choose(Request("grouped_pointwise_conv", weight.device, weight.dtype), backend, strict=True)
