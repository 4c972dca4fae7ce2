"""The ways into a backend's pair of kernels, forward and backward.

In eager mode, a `torch.autograd.Function` where gradients are recorded, and the kernel itself where not. Under
torch.compile and torch.export, a `torch.library` operation, `torch.ops.squeezebert_fast.NAME`, which they can put into
a graph. No way goes through another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.backends import BACKENDS
from squeezebert_fast.backends.request import gradients_are_recorded, obstacle
from squeezebert_fast.errors import UnsupportedError

NAMESPACE = "squeezebert_fast"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")

Gradients = tuple[Tensor | None, ...]


class Differentiable:
    """An operation with a forward and a backward kernel. Its arguments are theirs, checked."""

    def __init__(
        self,
        name: str,
        *,
        forward: tuple[str, Callable[..., Any]],
        backward: tuple[str, Callable[..., Any]],
        save: Callable[..., None],
        gradients: Callable[..., Gradients],
        definition: Callable[..., Gradients],
    ) -> None:
        """Define the library operations NAME and NAME_backward.

        Args:
            forward: its schema, and what gives empty tensors like a kernel's results.
            backward: the same. The last argument is `needs`, a bool for each gradient; a kernel returns None for
                what isn't needed, the library operation leaves that out. Inputs' gradients are in their dtype,
                parameters' are float32; those of weights may have a last axis of 1 that the weights lack.
            save: puts into `ctx`, given the arguments and the results, what `gradients` reads there.
            gradients: those of the leading tensor arguments, given `ctx`, the backward kernel and the gradients of
                the results, None for zeros.
            definition: the same in PyTorch's operations, for where they must be differentiable or seen (no kernel).
        """

        def eager(backend: str) -> Any:
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = self.kernel(backend, name)(*inputs)
                remember(ctx, inputs, output)
                return output

            def backward(ctx: Any, *grads: Tensor | None) -> Any:
                if torch.is_grad_enabled() or obstacle(*grads):
                    _refuse_batches(name, *grads)
                    return complete(ctx, definition(ctx, *grads))
                return complete(ctx, gradients(ctx, self.kernel(backend, name + "_backward"), *grads))

            methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
            return type(name, (torch.autograd.Function,), methods)

        def library_backward(ctx: Any, *grads: Tensor | None) -> Any:
            def kernel(*arguments: Any) -> Gradients:
                needs = arguments[-1]
                found = iter(backward_op(*arguments[:-1], list(needs)))
                return tuple(next(found) if needed else None for needed in needs)

            return complete(ctx, gradients(ctx, kernel, *grads))

        def remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.set_materialize_grads(False)
            ctx.likes = [(v.dtype, v.dim()) if isinstance(v, Tensor) else None for v in inputs]
            save(ctx, inputs, output)

        def complete(ctx: Any, found: Gradients) -> Gradients:
            """In the dtypes and shapes of the arguments, and for all of them."""
            cast = (
                None if g is None or like is None else _like(g, *like)
                for g, like in zip(found, ctx.likes, strict=False)
            )
            return (*cast, *[None] * (len(ctx.likes) - len(found)))

        self.name = name
        self.backends = [b for b in BACKENDS.values() if b.kernels is not None and name in b.operations]
        self.functions = {backend.name: eager(backend.name) for backend in self.backends}
        self.op = self._define(name, *forward, lambda kernel: kernel)
        backward_op = self._define(name + "_backward", *backward, _leaving_out)
        torch.library.register_autograd(
            f"{NAMESPACE}::{name}", library_backward, setup_context=remember, lib=_LIBRARY
        )

    def __call__(self, backend: str, *arguments: Any) -> Any:
        """By the kernels of the backend of this name; in a graph, by those of the device that it will run on."""
        if torch.compiler.is_compiling():
            return self.op(*arguments)
        if gradients_are_recorded(*(value for value in arguments if isinstance(value, Tensor))):
            return self.functions[backend].apply(*arguments)
        return self.kernel(backend, self.name)(*arguments)

    @staticmethod
    def kernel(backend: str, name: str) -> Callable[..., Any]:
        """The kernel NAME or NAME_backward of a backend."""
        return getattr(BACKENDS[backend].kernels, name)

    def _define(
        self,
        name: str,
        schema: str,
        fake: Callable[..., Any],
        adapted: Callable[[Callable[..., Any]], Callable[..., Any]],
    ) -> Any:
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        for backend in self.backends:
            kernel = adapted(self.kernel(backend.name, name))
            torch.library.impl(f"{NAMESPACE}::{name}", str(backend.device_type), kernel, lib=_LIBRARY)
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
        return getattr(getattr(torch.ops, NAMESPACE), name).default


def _leaving_out(kernel: Callable[..., Gradients]) -> Callable[..., list[Tensor]]:
    def without_none(*arguments: Any) -> list[Tensor]:
        return [g for g in kernel(*arguments[:-1], tuple(arguments[-1])) if g is not None]

    return without_none


def _like(gradient: Tensor, dtype: torch.dtype, axes: int) -> Tensor:
    gradient = gradient if gradient.dtype is dtype else gradient.to(dtype)
    return gradient if gradient.dim() == axes else gradient.squeeze(-1)  # of a weight without the last axis


def needed(
    needs: Sequence[bool], grad: Tensor, likes: Sequence[tuple[Sequence[Any], torch.dtype]]
) -> list[Tensor]:
    """Empty gradients of these shapes and dtypes on grad's device, where `needs` has True."""
    return [
        grad.new_empty(shape, dtype=dtype)
        for (shape, dtype), wanted in zip(likes, needs, strict=True)
        if wanted
    ]


def through_definition(
    definition: Callable[..., Tensor], tensors: Sequence[Tensor | None], needs: Sequence[bool], grad: Tensor
) -> Gradients:
    """Gradients of `definition(*tensors)` where `needs` has True; differentiable if gradients are recorded now."""
    again = torch.is_grad_enabled()
    # Tensors of their own, since one of `tensors` may have been computed from another.
    inputs = [None if t is None else t.view_as(t) for t in tensors]
    with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
        wanted = [t for t, needed in zip(inputs, needs, strict=True) if needed and t is not None]
        for tensor in wanted:
            tensor.requires_grad_()
        y = definition(*inputs)
        found = iter(torch.autograd.grad(y, wanted, grad, create_graph=again))
    return tuple(next(found) if needed else None for needed in needs)


def _refuse_batches(name: str, *grads: Tensor | None) -> None:
    """Raise UnsupportedError for what `is_grads_batched` and vmap make of gradients: autograd takes none of these."""
    functorch = torch._C._functorch
    for grad in grads:
        if grad is not None and (functorch.is_legacy_batchedtensor(grad) or functorch.is_batchedtensor(grad)):
            raise UnsupportedError(
                f"{name}: its gradient takes no batches (is_grads_batched, or a vectorized jacobian); "
                'backend="reference" does'
            )
