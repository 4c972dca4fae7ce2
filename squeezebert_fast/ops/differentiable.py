"""Operations with a gradient, on the kernels of the backends.

Each has three entry points to the same pair of kernels, forward and backward. Eager mode calls the forward kernel
itself where no gradients are recorded, and a `torch.autograd.Function` where they are. torch.compile and torch.export
put a `torch.library` operation, `torch.ops.squeezebert_fast.NAME`, into their graphs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from squeezebert_fast.backends import BACKENDS
from squeezebert_fast.backends.request import Gradients, gradients_are_recorded, obstacle

NAMESPACE = "squeezebert_fast"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


class Differentiable:
    """An operation that backends have a forward and a backward kernel for. Its arguments are the forward's, checked."""

    def __init__(
        self,
        name: str,
        *,
        fake: Callable[..., Any],
        backward_fake: Callable[..., list[Tensor]],
        kept: Callable[..., Sequence[Tensor | None]],
        gradients: Callable[..., Gradients],
        definition: Callable[..., Gradients],
        statistics: int = 0,
    ) -> None:
        """Define the library operations NAME and NAME_backward, with the schemas that the kernels' annotations say.

        Args:
            fake: empty tensors like the results, given the arguments.
            backward_fake: the same of the backward kernel. The last argument is `needs`, a bool for each gradient; a
                kernel returns None for what isn't needed, the library operation leaves that out. Inputs' gradients
                are in their dtype, parameters' are float32; those of weights may have a last axis of 1 that the
                weights lack.
            kept: what the backward reads, `ctx.saved_tensors`, given all arguments, the results, and which arguments
                need a gradient.
            gradients: those of the leading tensor arguments, given `ctx`, the backward kernel and the gradients of
                the results: None for zeros, but not all of them. `ctx.options` are the arguments that are no
                tensors, `ctx.likes` dtype and shape of those that are, and None for the others.
            definition: the same in PyTorch's operations, for where they must be differentiable or seen (no kernel).
            statistics: how many of the results, the last ones, have no gradient.
        """

        def eager(backend: str) -> Any:
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = self._kernel(backend, name)(*inputs)
                remember(ctx, inputs, output)
                return output

            def backward(ctx: Any, *grads: Tensor | None) -> Any:
                if torch.is_grad_enabled() or obstacle(*grads):
                    return complete(ctx, grads, definition)
                return complete(ctx, grads, gradients, self._kernel(backend, name + "_backward"))

            methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
            return type(name, (torch.autograd.Function,), methods)

        def library_backward(ctx: Any, *grads: Tensor | None) -> Any:
            def kernel(*arguments: Any) -> Gradients:
                needs = arguments[-1]
                found = iter(backward_op(*arguments[:-1], list(needs)))
                return tuple(next(found) if needed else None for needed in needs)

            return complete(ctx, grads, gradients, kernel)

        def remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.set_materialize_grads(False)
            ctx.likes = [(v.dtype, v.shape) if isinstance(v, Tensor) else None for v in inputs]
            ctx.options = [v for v, is_tensor in zip(inputs, tensors, strict=True) if not is_tensor]
            ctx.save_for_backward(*kept(inputs, output, ctx.needs_input_grad))
            if statistics:
                ctx.mark_non_differentiable(*output[-statistics:])

        def complete(
            ctx: Any, grads: tuple[Tensor | None, ...], find: Callable[..., Gradients], *kernel: Any
        ) -> Gradients:
            """What `find` gives, in the dtypes and shapes of the arguments, and for all of them."""
            found = () if all(g is None for g in grads) else find(ctx, *kernel, *grads)
            cast = [
                None if gradient is None or like is None else _like(gradient, *like)
                for gradient, like in zip(found, ctx.likes, strict=False)
            ]
            return (*cast, *[None] * (len(ctx.likes) - len(found)))

        self.name = name
        self.backends = [b for b in BACKENDS.values() if b.kernels is not None and name in b.operations]
        devices = [b.device_type for b in self.backends]
        assert devices, f"no backend of backends/__init__.py lists {name} among its operations"
        assert len(set(devices)) == len(devices), f"two backends have a kernel of {name} for one device"
        self.functions = {backend.name: eager(backend.name) for backend in self.backends}
        self.op = self._define(name, fake, lambda kernel: kernel)
        backward_op = self._define(name + "_backward", backward_fake, _leaving_out)
        tensors = ["Tensor" in str(argument.type) for argument in self.op._schema.arguments]
        torch.library.register_autograd(
            f"{NAMESPACE}::{name}", library_backward, setup_context=remember, lib=_LIBRARY
        )

    def __call__(self, backend: str, *arguments: Any) -> Any:
        """By the kernels of the backend of this name; in a graph, by those of the device that it will run on."""
        if torch.compiler.is_compiling():
            return self.op(*arguments)
        if gradients_are_recorded(*(value for value in arguments if isinstance(value, Tensor))):
            return self.functions[backend].apply(*arguments)
        return self._kernel(backend, self.name)(*arguments)

    @staticmethod
    def _kernel(backend: str, name: str) -> Callable[..., Any]:
        return getattr(BACKENDS[backend].kernels, name)

    def _define(
        self,
        name: str,
        fake: Callable[..., Any],
        adapted: Callable[[Callable[..., Any]], Callable[..., Any]],
    ) -> Any:
        kernels = {b.device_type: self._kernel(b.name, name) for b in self.backends}
        schema = schema_of(next(iter(kernels.values())))  # of any of them: their signatures are the same
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        for device_type, kernel in kernels.items():
            torch.library.impl(f"{NAMESPACE}::{name}", device_type, adapted(kernel), lib=_LIBRARY)
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
        return getattr(getattr(torch.ops, NAMESPACE), name).default


_SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    int: "int",
    float: "float",
    str | None: "str?",
    torch.dtype: "ScalarType",
    Sequence[bool]: "bool[]",
    Gradients: "Tensor[]",
}


def schema_of(kernel: Callable[..., Any]) -> str:
    """A kernel's signature in torch.library's words. `torch.library.infer_schema` would make sizes of numbers."""
    signature = inspect.signature(kernel, eval_str=True)
    arguments = (
        # what came later has a default: programs that were saved before don't have it
        f"{_SCHEMA_TYPES[p.annotation]} {p.name}{'=None' if p.default is None else ''}"
        for p in signature.parameters.values()
    )
    result = signature.return_annotation
    results = _SCHEMA_TYPES.get(result) or f"({', '.join(_SCHEMA_TYPES[part] for part in get_args(result))})"
    return f"({', '.join(arguments)}) -> {results}"


def _leaving_out(kernel: Callable[..., Gradients]) -> Callable[..., list[Tensor]]:
    def without_none(*arguments: Any) -> list[Tensor]:
        return [g for g in kernel(*arguments) if g is not None]

    return without_none


def _like(gradient: Tensor, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    gradient = gradient if gradient.dtype is dtype else gradient.to(dtype)
    return (
        gradient if gradient.dim() == len(shape) else gradient.squeeze(-1)
    )  # of a weight without the last axis


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
    definition: Callable[..., Any],
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
    *grads: Tensor | None,
) -> Gradients:
    """Gradients of `definition(*tensors)`, a tensor or a tuple of them, for `grads`, where `needs` has True.

    They are differentiable if gradients are recorded now.
    """
    again = torch.is_grad_enabled()
    places = [
        at for at, (t, needed) in enumerate(zip(tensors, needs, strict=True)) if needed and t is not None
    ]
    given = tuple(g for g in grads if g is not None)

    def results(*wanted: Tensor) -> tuple[Tensor, ...]:
        """What the gradients are of, given the tensors at `places`."""
        inputs = list(tensors)
        for at, tensor in zip(places, wanted, strict=True):
            inputs[at] = tensor
        found = definition(*inputs)
        found = (found,) if isinstance(found, Tensor) else found
        return tuple(y for y, g in zip(found, grads, strict=True) if g is not None)

    # Tensors of their own, since one of `tensors` may have been computed from another.
    wanted = [t.view_as(t) for at in places if (t := tensors[at]) is not None]
    with torch.enable_grad(), torch.autocast(given[0].device.type, enabled=False):
        if torch._C._are_functorch_transforms_active():
            # torch.vmap of gradients, where autograd marks no tensor
            gradients_of = torch.func.vjp(results, *wanted)[1]
            gradients = [g if again else g.detach() for g in gradients_of(given)]
        else:
            for tensor in wanted:
                tensor.requires_grad_()
            gradients = list(torch.autograd.grad(results(*wanted), wanted, given, create_graph=again))
    found = iter(gradients)
    return tuple(next(found) if needed else None for needed in needs)


def through_reference(
    ctx: Any, reference: Callable[..., Any], needs: Sequence[bool], *grads: Tensor | None
) -> Gradients:
    """`through_definition` for products of x with parameters, which are rounded to its dtype.

    Zeros stand for what wasn't kept: it has no say in the gradients that are needed.
    """
    given = next(g for g in grads if g is not None)
    tensors = [
        # not `given.new_zeros`, which would be batched where the gradients are
        torch.zeros(like[1], dtype=given.dtype, device=given.device)
        if tensor is None and like is not None
        else tensor
        for tensor, like in zip(ctx.saved_tensors, ctx.likes, strict=False)
    ]

    def products(x: Tensor, *parameters: Tensor | None) -> Any:
        return reference(x, *(None if p is None else p.to(x.dtype) for p in parameters), *ctx.options)

    return through_definition(products, tensors, needs, *grads)
