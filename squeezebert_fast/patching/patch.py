"""`patch` and `unpatch`: acceleration of a model in place."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from squeezebert_fast import backends
from squeezebert_fast.backends import cpu
from squeezebert_fast.errors import ArgumentError, UnsupportedError
from squeezebert_fast.patching.encoder import (
    SETTINGS,
    AcceleratedEncoder,
    Settings,
    accelerated_class,
    is_encoder,
    original_class,
)

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

    Works on this package's models and on transformers' SqueezeBERT, whole or as a part of a larger module. Parameters,
    buffers, their names and `state_dict` don't change. Results don't either, up to rounding: training, gradients, hooks,
    `output_attentions`, autocast, other dtypes and devices give what the unpatched model gives, by falling back where a
    kernel can't serve; `explain(model)` tells what runs where. Patching again replaces the settings.

    Args:
        model: any module that contains a SqueezeBertEncoder.
        precision: None or "float32".
        unpad: must be False in this version.
        backend: one of auto, reference, cpu, triton, cuda.
        strict: raise UnsupportedError, here or in a forward, instead of falling back when the backend has a kernel for an
            operation but can't serve it, or when a layer's own modules must run.

    Raises:
        ArgumentError: no encoder in `model`, or an unknown backend.
        UnsupportedError: a precision or option that this version lacks; or `strict` and the backend can't serve.

    >>> model = SqueezeBertModel(SqueezeBertConfig())
    >>> model = squeezebert_fast.patch(model.eval())
    """
    backends.check_name(backend)
    if precision not in (None, "float32"):
        raise UnsupportedError(f"precision is {precision!r}; this version has float32")
    if unpad:
        raise UnsupportedError("unpad=True is not in this version; padded batches run with their padding")
    encoders = [module for module in model.modules() if is_encoder(module)]
    if not encoders:
        raise ArgumentError(
            f"model is a {type(model).__name__} without a SqueezeBertEncoder of squeezebert_fast or transformers"
        )
    if strict:
        _check_strict(model, backend)
    for encoder in encoders:
        if not isinstance(encoder, AcceleratedEncoder):
            encoder.__class__ = accelerated_class(type(encoder))
        encoder.__dict__[SETTINGS] = Settings(backend, strict)
    return model


def unpatch(model: Model) -> Model:
    """Undo `patch`, in place, and return `model`. Without effect on a model that is not patched."""
    for module in model.modules():
        if isinstance(module, AcceleratedEncoder):
            del module.__dict__[SETTINGS]
            module.__class__ = original_class(type(module))  # type: ignore[assignment]
            for parameter in module.parameters():
                cpu.forget(parameter)
    return model


def _check_strict(model: nn.Module, backend: str) -> None:
    from squeezebert_fast.patching.explain import explain

    if backend == "auto":
        return
    served = backends.BACKENDS[backend].OPERATIONS
    if not served:
        raise UnsupportedError(f"backend {backend!r} has no kernel in this version (strict)")
    for row in explain(model, backend=backend).rows:
        if row.operation in served and row.backend != backend:
            raise UnsupportedError(f"{row.layer} {row.part}: {row.reason} (strict)")
