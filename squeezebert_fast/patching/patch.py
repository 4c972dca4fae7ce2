"""`patch` and `unpatch`: acceleration of a model in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn

from squeezebert_fast import backends
from squeezebert_fast.backends import cpu, quantized
from squeezebert_fast.errors import ArgumentError, UnsupportedError, check_among
from squeezebert_fast.patching import holders
from squeezebert_fast.patching.embeddings import WORDS, AcceleratedEmbeddings
from squeezebert_fast.patching.encoder import AcceleratedEncoder
from squeezebert_fast.patching.families import FAMILIES, embeddings_of, family_of, parts_around
from squeezebert_fast.patching.families.family import is_whole
from squeezebert_fast.patching.given_up import GivenUp
from squeezebert_fast.patching.linear import AcceleratedLinear, product_precision
from squeezebert_fast.patching.plan import check_strict, forget_plan, pack_now
from squeezebert_fast.patching.rows import accelerated_as
from squeezebert_fast.patching.swapping import (
    SETTINGS,
    Accelerated,
    Settings,
    changed_since,
    original_class,
    swap,
    swap_back,
)

Model = TypeVar("Model", bound=nn.Module)


def patch(
    model: Model,
    *,
    precision: str | None = None,
    unpad: bool = False,
    keep_original: bool = True,
    backend: str = "auto",
    strict: bool = False,
) -> Model:
    """Accelerate every encoder of a known family in `model`, in place, and return `model`.

    Works on this package's models and on transformers' SqueezeBERT, BERT, ELECTRA, RoBERTa, XLM-RoBERTa, CamemBERT and
    DistilBERT, whole or as a part of a larger module: a `SentenceTransformer`, a `CrossEncoder`, `pipeline(...).model`.
    Parameters, buffers, their names and `state_dict` don't change. Results don't either, up to rounding and the
    masks that dropout draws: training, gradients, hooks, `output_attentions`, autocast, other dtypes and devices
    give what the unpatched model gives, by falling back where a kernel can't serve; `explain(model)` tells what
    runs where. On the CPU, in float32, bfloat16 and under autocast to bfloat16, training has kernels forward and
    backward, and torch.compile and torch.export find them as operations of `torch.ops.squeezebert_fast`.
    Patching again replaces the settings and reads every weight anew. Weights that change are noticed in the next
    call; a few elements written through `weight.data`, of which PyTorch gives no sign, by the time that calls add up
    to 16,384 tokens (see docs/promises.md).

    Args:
        model: any module that contains such an encoder.
        precision: what products run in, on the CPU: "float32" (None says the same), "bfloat16" or "int8". Sums,
            softmax, LayerNorm and residuals stay float32. bfloat16 and int8 are for inference: with gradients,
            and where the native encoder can't serve, the forward runs in the model's own dtype, or autocast's. On a
            GPU products run in the model's own dtype, or in int8. On a CPU with matrix units float32 is as accurate
            as `torch.set_float32_matmul_precision` asks for.
        unpad: run over the real tokens only, those whose keys the attention mask doesn't leave out, wherever
            they stand; the encoder's output for all others is zero. On a GPU the host waits once for their number.
        keep_original: False gives up the parameters that the native encoder has packed, for deployment: they
            stay in the model by name, without values (`GivenUp`). The model can then only infer on the CPU with
            its packed weights; what would need the originals raises UnsupportedError: `unpatch`, another `patch`,
            `deepcopy`, `state_dict`, another dtype, gradients, and whatever falls back otherwise.
        backend: one of auto, reference, cpu, triton. auto is triton for CUDA tensors, cpu for those on the CPU.
        strict: raise UnsupportedError, here or in a forward, instead of falling back when the backend has a
            kernel for an operation but can't serve it, or when a layer's own modules must run.

    Raises:
        ArgumentError: no encoder in `model`, or an unknown backend or precision.
        UnsupportedError: `strict` or `keep_original=False`, and the backend can't serve; or the model was
            patched with `keep_original=False` before.

    >>> model = SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL, dequantize=True)
    >>> model = squeezebert_fast.patch(model, precision="int8", unpad=True)
    >>> with torch.inference_mode():
    ...     model(torch.tensor([[101, 102]])).logits.shape
    torch.Size([1, 2])
    """
    backends.check_name(backend)
    if precision is not None:
        check_among("precision", precision, cpu.PRECISIONS)
    if not isinstance(unpad, bool):
        raise ArgumentError(f"unpad is {unpad!r}, expected True or False")
    if not isinstance(keep_original, bool):
        raise ArgumentError(f"keep_original is {keep_original!r}, expected True or False")
    settings = Settings(backend, strict, precision or "float32", unpad, keep_original)
    encoders = {name: module for name, module in model.named_modules() if is_encoder(module)}
    if not encoders:
        raise ArgumentError(no_encoder(model))
    _refuse_without_originals(model, "patch it again")
    if strict:
        for name, encoder in encoders.items():
            check_strict(name or "encoder", encoder, settings)
    fresh = [module for module, _ in _targets(model) if not isinstance(module, Accelerated)]
    for module, mixin in list(_targets(model)):
        swap(module, mixin, settings)
        _forget(module)
    if not keep_original:
        try:
            _give_up_originals(model, settings)
        except BaseException:
            for module in fresh:
                if isinstance(module, Accelerated):
                    swap_back(module)
            raise
    for holder in model.modules():
        holders.hook(holder)
    return model


def no_encoder(model: nn.Module) -> str:
    """What to say of a model without an encoder of one of the families."""
    known = ", ".join(sorted({name for family in FAMILIES for _, name in family.ENCODERS}))
    return f"model is a {type(model).__name__} without an encoder that can be accelerated: {known}"


def unpatch(model: Model) -> Model:
    """Undo `patch`, in place, and return `model`. Without effect on a model that is not patched.

    Raises UnsupportedError, before any change, if a module's class was changed again after `patch`, or if the
    original weights were given up by `keep_original=False`.

    >>> model = squeezebert_fast.patch(SqueezeBertModel(SqueezeBertConfig(num_hidden_layers=1)))
    >>> type(squeezebert_fast.unpatch(model).encoder).__name__
    'SqueezeBertEncoder'
    """
    _refuse_without_originals(model, "undo that")
    patched = [module for module in model.modules() if isinstance(module, Accelerated)]
    for module in patched:
        if changed_since(module):
            raise UnsupportedError(
                f"the class of a patched {original_class(type(module)).__name__} was changed to "
                f"{type(module).__name__} after patch; undo that first"
            )
    for module in patched:
        _forget(module)
        swap_back(module)
    for holder in model.modules():
        holders.unhook(holder)
    return model


def is_encoder(module: nn.Module) -> bool:
    """Whether `module` is or extends an encoder of one of the families, patched or not."""
    return family_of(type(module)) is not None


def _targets(model: nn.Module) -> Iterator[tuple[nn.Module, type[Accelerated]]]:
    """The modules that `patch` swaps, and what for."""
    # an encoder's plan has all that is within it
    inside = {id(m) for encoder in model.modules() if is_encoder(encoder) for m in encoder.modules()}
    for module in model.modules():
        if id(module) in inside and not is_encoder(module):
            continue
        cls = original_class(type(module)) if isinstance(module, Accelerated) else type(module)
        if is_encoder(module):
            yield module, AcceleratedEncoder
        elif embeddings_of(cls) is not None and is_whole(cls):
            yield module, AcceleratedEmbeddings
        else:
            for part in parts_around(module):
                if type(part) is nn.Linear or isinstance(part, AcceleratedLinear):
                    yield part, AcceleratedLinear
                elif id(part) not in inside and (mixin := accelerated_as(part)) is not None:
                    yield part, mixin


def _refuse_without_originals(model: nn.Module, what: str) -> None:
    for module in model.modules():
        if isinstance(module, Accelerated) and not module.__dict__[SETTINGS].keep_original:
            raise UnsupportedError(
                "the model was patched with keep_original=False, which gave up its original weights: load it "
                f"again to {what}"
            )


def _forget(module: nn.Module) -> None:
    forget_plan(module)
    for parameter in module.parameters():
        cpu.forget(parameter)


def _give_up_originals(model: nn.Module, settings: Settings) -> None:
    """Pack everything, then put parameters without values in the place of what was packed."""
    patched = [module for module in model.modules() if isinstance(module, Accelerated)]
    plans = [pack_now(module, settings) for module in patched if isinstance(module, AcceleratedEncoder)]
    made: list[tuple[nn.Parameter, str, object]] = []
    in_use: set[int] = set()
    for module in patched:
        if isinstance(module, AcceleratedLinear):
            precision = product_precision(module.weight, settings)
            made.append((module.weight, precision, cpu.packed_weight(module.weight, 1, precision)))
        elif isinstance(module, AcceleratedEmbeddings):
            words = getattr(module, WORDS).weight
            if settings.precision == "int8":
                made.append((words, "table", quantized.form_of(words) or quantized.quantize(words)))
            else:
                in_use.add(id(words))  # read in place, whatever else was packed from it
    given_up = {id(p): p for plan in plans for p in plan.parameters} | {id(p): p for p, *_ in made}
    with torch.inference_mode(False):  # its tensors have no version to tell a change by
        empty = {
            key: GivenUp(torch.empty(p.shape, dtype=p.dtype, device="meta"), requires_grad=False)
            for key, p in given_up.items()
            if key not in in_use
        }
    for owner in model.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None and id(parameter) in empty:
                owner._parameters[name] = empty[id(parameter)]
    for plan in plans:
        plan.stand_alone()
    for parameter, form, thing in made:
        if id(parameter) in empty:
            cpu.keep(empty[id(parameter)], 1, form, thing)
    for parameter in given_up.values():
        quantized.drop(parameter)
