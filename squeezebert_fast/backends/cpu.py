"""The native kernels of csrc/, for x86-64 and AArch64.

This module is the one place that hands addresses to native code, and so the one that makes sure of what
stands there: on the CPU, of a dtype that the kernel takes, rows contiguous, alive during the call.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from squeezebert_fast.backends import quantized
from squeezebert_fast.backends.request import Request
from squeezebert_fast.errors import ArgumentError, UnsupportedError

try:
    from squeezebert_fast import _native

    _import_error: str | None = None
except ImportError as error:  # installed without a compiler
    _native = None  # type: ignore[assignment]
    _import_error = str(error)

PRECISIONS = ("float32", "bfloat16", "int8")
OPERATIONS = frozenset(
    {
        "grouped_pointwise_conv",
        "qkv_projection",
        "attention",
        "add_layer_norm",
        "dropout",
        "grouped_mlp",
        "embeddings",
        "encoder",
    }
)
FLOAT32_ONLY = ("embeddings", "encoder")
"""The others take bfloat16 too, and follow autocast."""

ISA_VARIABLE = "SQUEEZEBERT_FAST_ISA"
"""Environment variable that names the kernel build to use in place of the best one."""

FUSED_ACTIVATIONS = (
    {}
    if _native is None
    else {
        None: _native.Activation.none,
        "gelu": _native.Activation.gelu,
        "gelu_python": _native.Activation.gelu,
        "gelu_accurate": _native.Activation.gelu_tanh,
        "gelu_fast": _native.Activation.gelu_tanh,
        "gelu_new": _native.Activation.gelu_tanh,
        "gelu_python_tanh": _native.Activation.gelu_tanh,
        "gelu_pytorch_tanh": _native.Activation.gelu_tanh,
        "relu": _native.Activation.relu,
        "silu": _native.Activation.silu,
        "swish": _native.Activation.silu,
        "tanh": _native.Activation.tanh,
    }
)
"""The activations that a kernel applies itself, by transformers' names, some of which share a formula."""

NATIVE_PRECISIONS = {} if _native is None else _native.Precision.__members__
"""PRECISIONS, and the forms of float32 that `form_of` gives, as the native module takes them."""

_ELEMENTS = (
    {} if _native is None else {getattr(torch, name): e for name, e in _native.Element.__members__.items()}
)
"""What the native module calls the dtypes of training's tensors."""

_usable: tuple[str, ...] = () if _native is None else tuple(_native.instruction_sets())
# asked once, before torch.compile traces a call: it can't look into native code

_chosen: str | None = None


def native_module_missing() -> str | None:
    """Why the native module can't be used, or None."""
    if _native is None:
        return f"the native module is not built ({_import_error}); reinstall with a C++ compiler"
    return None


def instruction_sets() -> list[str]:
    """The kernel builds that are usable on this machine, best first; empty without the native module."""
    return list(_usable)


def amx_refusal() -> str | None:
    """Why the CPU's matrix units (AMX) can't be used; None where they can, or where it has none."""
    return None if _native is None else _native.amx_refusal() or None


def instruction_set() -> str:
    """The kernel build in use: the best one, or the one that SQUEEZEBERT_FAST_ISA names.

    Raises UnsupportedError without the native module, ArgumentError when the variable names a build that is
    not usable.
    """
    global _chosen
    if _chosen is None:
        if missing := native_module_missing():
            raise UnsupportedError(missing)
        usable = instruction_sets()
        wanted = os.environ.get(ISA_VARIABLE) or usable[0]
        if wanted not in usable:
            reason = f" (AMX: {amx_refusal()})" if amx_refusal() else ""
            raise ArgumentError(f"{ISA_VARIABLE} is {wanted!r}; usable here: {', '.join(usable)}{reason}")
        _chosen = wanted
    return _chosen


@contextmanager
def use_instruction_set(name: str) -> Iterator[None]:
    """Within the block, use the kernel build `name`. Not for use from several threads at once."""
    global _chosen
    if name not in instruction_sets():
        raise ArgumentError(
            f"instruction set {name!r} is not usable; usable here: {', '.join(instruction_sets())}"
        )
    before = _chosen
    _chosen = name
    try:
        yield
    finally:
        _chosen = before


def refusal(request: Request) -> str | None:
    """Why this backend can't serve `request`, or None."""
    if request.operation not in OPERATIONS:
        return f"no native kernel for {request.operation} in this version"
    if missing := native_module_missing():
        return missing
    if request.device.type != "cpu":
        return f"the tensors are on {request.device}, not on the CPU"
    if request.operation in FLOAT32_ONLY:
        if request.dtype is not torch.float32:
            return f"the dtype is {request.dtype}, the kernel takes torch.float32"
        if request.autocast is not None and request.operation == "encoder":
            return "autocast is active"
    else:
        if request.dtype not in (torch.float32, torch.bfloat16):
            return f"the dtype is {request.dtype}, the kernels take torch.float32 and torch.bfloat16"
        if request.autocast not in (None, torch.bfloat16):
            return f"autocast to {request.autocast} is active, the kernels take torch.bfloat16"
    return request.obstacle


def slower_than_reference() -> str | None:
    """Why `auto` prefers the reference although this backend would serve, or None."""
    if instruction_set() == "scalar" and ISA_VARIABLE not in os.environ:
        return "only the scalar build fits this CPU, and PyTorch's own kernels are faster than that"
    return None


def has_instruction(precision: str) -> bool:
    """Whether the build in use multiplies in this precision by an instruction made for it."""
    return _native.has_instruction(instruction_set(), NATIVE_PRECISIONS[precision])


def scores_precision(precision: str) -> str:
    """What the build in use multiplies attention's scores and values in, in an encoder of this precision."""
    return _native.scores_precision(instruction_set(), NATIVE_PRECISIONS[precision]).name


def products_by_parts(form: str) -> int:
    """How many products of bfloat16 on matrix units stand for one of float32 in a `form_of`; 0: none do."""
    return _native.products_by_parts(instruction_set(), NATIVE_PRECISIONS[form])


def form_of(precision: str) -> str:
    """What products run in, those of short sequences in an encoder excepted, by its name in NATIVE_PRECISIONS.

    float32, where the build multiplies it by parts, is as accurate as PyTorch is asked to be.
    """
    if precision != "float32" or not products_by_parts("float32_highest"):
        return precision
    try:
        return f"float32_{torch.get_float32_matmul_precision()}"
    except RuntimeError:  # it was set by backend, in the way that PyTorch 2.9 began with
        return "float32_highest"


def gradient_precision(dtype: torch.dtype) -> str:
    """What attention and a backward's products of tensors of this dtype run in: "bfloat16" or "float32".

    bfloat16's on matrix units are rounded to bfloat16 first, as autocast rounds them; without such units float32, in
    which those products are exact, is as fast.
    """
    rounds = dtype is torch.bfloat16 and _native.has_gradients(instruction_set(), _native.Precision.bfloat16)
    return "bfloat16" if rounds else "float32"


def multiply_add_rate(precision: str, threads: int, seconds: float) -> float:
    """Operations per second of multiply-adds in registers: the limit to measure against. Needs the native module."""
    return _native.multiply_add_rate(instruction_set(), NATIVE_PRECISIONS[precision], threads, seconds)


def tile_rate(precision: str, threads: int, seconds: float) -> float:
    """Operations per second of a product's tile within the first-level cache. Needs the native module."""
    return _native.tile_rate(instruction_set(), NATIVE_PRECISIONS[precision], threads, seconds)


@dataclass
class _Entry:
    weight: weakref.ref[Tensor]
    version: int
    address: int
    groups: int
    instruction_set: str
    fingerprint: _native.Fingerprint
    whole: bool
    """Whether the fingerprint has checksums, or samples alone."""
    made: Any
    uses: int = 1


_Made = TypeVar("_Made")

SAMPLES = 64
"""Elements of a weight that every call compares, to tell whether its packed form still stands for it."""

LONG_SEQUENCE: int = 0 if _native is None else _native.Encoder.long_sequence
"""Tokens from which on a sequence in an encoder runs by parts, where `products_by_parts`."""
ROWS_FOR_ALL: int = 0 if _native is None else _native.Fingerprint.rows_for_all
"""Rows of input, tokens, of however many calls, after which all elements of a weight have been compared."""

_PIECE = 4096
"""Elements that share a checksum where rows don't have one each."""

_FEW_USES = 2
"""A weight that changed after so few uses is taken to be in training: checksums would cost more than they find. If it
is used once more without a change, it is packed anew, with checksums."""

_made: dict[tuple[int, str], _Entry] = {}
"""What was made of weights, packed or quantized, by the identity of the weight tensor and the form's name."""


def packed_weight(
    weight: Tensor, groups: int, precision: str = "float32", rows: int = 1
) -> _native.PackedGroupedPointwiseConv:
    """`weight`, [out_channels, in_channels / groups, ...], in the kernel's layout, packed once per version.

    rows: of the input that this call multiplies. A weight is packed again when its version, its address, the groups
    or the instruction set changed. Writes through `.data` or another tensor's view leave the version as it is, so
    values are compared too: some at every call, all of them by the time that calls add up to ROWS_FOR_ALL rows, and
    of a weight in training, which the next step packs anyway, at the third call without a step.
    `forget`, `patch` and `unpatch` drop what is packed.
    """
    return _once(weight, groups, precision, rows, lambda: _pack(weight, groups, precision))


def kept_table(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The int8 form and scales of an embedding table, [rows, channels], whose values were given up (`keep`)."""
    return _made[id(weight), "table"].made


def compare_rows(table: Tensor, rows: Tensor) -> None:
    """Drop what is packed of `table`, a weight that is tied to it, if one of these rows changed.

    table: contiguous float32 [rows, channels], read in place. rows: contiguous int64 indices within it.
    """
    for form in NATIVE_PRECISIONS:
        key = id(table), form
        entry = _made.get(key)
        if entry is not None and not entry.fingerprint.spans_match(rows.data_ptr(), rows.numel()):
            _made.pop(key, None)


def _once(weight: Tensor, groups: int, form: str, rows: int, make: Callable[[], _Made]) -> _Made:
    if weight.is_inference() or not weight.is_contiguous():
        # Without a version, or without elements at fixed places, nothing tells that it is still the same.
        return make()
    key, version, address = (id(weight), form), weight._version, weight.data_ptr()
    entry = _made.get(key)
    if (
        entry is not None
        and entry.weight() is weight
        and entry.version == version
        and entry.address == address
        and entry.groups == groups
        and entry.instruction_set == instruction_set()
        and entry.fingerprint.match(rows, torch.get_num_threads())
    ):
        entry.uses += 1
        if entry.whole or entry.uses <= _FEW_USES:
            return entry.made
        entry = None
    trains = entry is not None and entry.version != version and entry.uses <= _FEW_USES
    made = make()
    keep(weight, groups, form, made, whole=not trains)
    return made


def keep(weight: Tensor, groups: int, form: str, made: Any, whole: bool = True) -> None:
    """Remember what was made of `weight`, which on the meta device stands for what no longer needs keeping.

    whole: have checksums of the weight, or samples alone.
    """
    key = (id(weight), form)
    _made[key] = _Entry(
        weakref.ref(weight, lambda _: _made.pop(key, None)),
        weight._version,
        0 if weight.is_meta else weight.data_ptr(),
        groups,
        instruction_set(),
        fingerprint([] if weight.is_meta else [weight], SAMPLES, by_row=True, checksums=whole),
        whole,
        made,
    )


def packed_mlp(
    weight_in: Tensor, weight_out: Tensor, groups: int, precision: str, rows: int
) -> _native.PackedGroupedMlp:
    """Both weights of a feed-forward block as one kernel takes them, packed once as `packed_weight` is."""

    def pack() -> _native.PackedGroupedMlp:
        floats = [weight.detach().contiguous() for weight in (weight_in, weight_out)]
        sizes = (groups, weight_in.shape[1] * groups, weight_in.shape[0], weight_out.shape[0])
        return _native.PackedGroupedMlp(
            instruction_set(),
            NATIVE_PRECISIONS[precision],
            addresses(*floats),
            sizes,
            torch.get_num_threads(),
        )

    form = f"mlp {precision}"
    made = _once(weight_in, groups, form, rows, pack)
    if _once(weight_out, groups, form, rows, lambda: made) is not made:  # the second changed, or is another
        made = pack()
        for weight in (weight_in, weight_out):
            keep(weight, groups, form, made)
    return made


def pack_transposed(
    weight: Tensor, groups: int, precision: str = "float32"
) -> _native.PackedGroupedPointwiseConv:
    """`weight`, [out_channels, in_channels / groups, ...], for the product that takes a gradient back to the input.

    Not kept: an optimizer changes the weight before the next backward.
    """
    out_channels, in_per_group = weight.shape[:2]
    floats = weight.detach().contiguous()
    conv = (floats.data_ptr(), 0, 0, 0, groups, out_channels, in_per_group * groups, 1)
    return _native.PackedGroupedPointwiseConv(
        instruction_set(), NATIVE_PRECISIONS[precision], conv, torch.get_num_threads(), True
    )


def _pack(weight: Tensor, groups: int, precision: str) -> _native.PackedGroupedPointwiseConv:
    source = quantized.form_of(weight)
    if source is None and weight.is_meta:
        raise UnsupportedError(
            f"a weight of shape {list(weight.shape)} was given up and can't be packed again"
        )
    out_channels, in_per_group = weight.shape[:2]
    ints, scale = (None, None) if source is None else source
    blocks = 1 if scale is None else scale.shape[1]
    # keeps the memory, should another thread give `weight` other data meanwhile
    floats = weight.detach().contiguous() if ints is None else None
    floats_at, ints_at, scale_at = addresses(floats, ints, scale)
    return _native.PackedGroupedPointwiseConv(
        instruction_set(),
        NATIVE_PRECISIONS[precision],
        (floats_at, ints_at, scale_at, 0, groups, in_per_group * groups, out_channels, blocks),
        torch.get_num_threads(),
    )


def addresses(*tensors: Tensor | None) -> list[int]:
    """What the native module takes for tensors: their addresses, and 0 for None."""
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def fingerprint(
    tensors: Iterable[Tensor], samples: int, by_row: bool = False, checksums: bool = True
) -> _native.Fingerprint:
    """Remembers contiguous float32 tensors; `match(rows, threads)` says whether they are the same still.

    A call compares `samples` elements of each, and a share of all of them that grows with the `rows` of its input.
    by_row: `spans_match` can be asked for single rows. checksums: without them there are the samples alone. The
    tensors' memory must be there when either is called.
    """

    def span(tensor: Tensor) -> int:
        if not checksums:
            return 0
        return max(tensor[0].numel(), 1) if by_row and len(tensor) else _PIECE

    spans = [(tensor.data_ptr(), tensor.numel(), span(tensor)) for tensor in tensors]
    return _native.Fingerprint(spans, samples, torch.get_num_threads())


def forget(weight: Tensor) -> None:
    """Free what was made of `weight`."""
    for key in [key for key in _made if key[0] == id(weight)]:
        _made.pop(key, None)


def packed_bytes() -> int:
    """Bytes that packed weights and quantized tables hold now, those of whole encoders left out."""
    made = list({id(entry.made): entry.made for entry in list(_made.values())}.values())
    return sum(sum(t.nbytes for t in m) if isinstance(m, tuple) else m.bytes for m in made)


def grouped_pointwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    activation: str | None,
    precision: str = "float32",
) -> Tensor:
    """The native forward. Arguments as in `squeezebert_fast.ops.grouped_pointwise_conv`, checked.

    x is float32 or bfloat16, and so is the result; weight and bias are float32. `activation` is a key of
    FUSED_ACTIVATIONS. Returns a new contiguous tensor that is not part of any graph.
    """
    rows = x.numel() // max(x.shape[-1], 1)
    return run_packed(packed_weight(weight, groups, precision, rows), x, bias, activation)


def run_packed(
    packed: _native.PackedGroupedPointwiseConv,
    x: Tensor,
    bias: Tensor | None,
    activation: str | None,
    out: Tensor | None = None,
) -> Tensor:
    """`grouped_pointwise_conv` by weights that are packed already, into `out`, contiguous, or a new tensor."""
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(1) != 1 and rows.shape[1] != 1:
        rows = rows.contiguous()
    # the device is said, since `torch.set_default_device` would put it elsewhere
    shape = (*x.shape[:-1], packed.out_channels)
    y = torch.empty(shape, dtype=x.dtype, device="cpu") if out is None else out
    if bias is not None and not bias.is_contiguous():
        bias = bias.contiguous()
    packed.run(
        rows.data_ptr(),
        rows.stride(0),
        rows.shape[0],
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        packed.out_channels,
        FUSED_ACTIVATIONS[activation],
        torch.get_num_threads(),
        element_of(x.dtype),
    )
    return y


def element_of(dtype: torch.dtype) -> _native.Element:
    """What the native module calls the dtype of training's tensors, float32 or bfloat16."""
    return _ELEMENTS[dtype]


def embeddings(
    tables: Sequence[Tensor | tuple[Tensor, Tensor]],
    ids: Sequence[Tensor | None],
    norm: tuple[Tensor, Tensor, float],
    rounded: bool = False,
) -> Tensor | None:
    """LayerNorm over the sum of the rows of three tables, or None when an id is out of range.

    tables: contiguous float32 [rows, channels], or int8 with float32 scales per row. rounded: take each row of the
    first, in float32, to int8 and back, which gives the bits that its int8 form would. ids: contiguous int64
    [batch, tokens] for each; None for positions counts from 0, None for types is 0. norm: contiguous float32 weight
    and bias, and eps. Returns [batch, tokens, channels].
    """
    native_tables: list[tuple[int, bool, int, int, int]] = []
    for table in tables:
        rounds = rounded and not native_tables
        if isinstance(table, Tensor):
            native_tables.append((table.data_ptr(), rounds, 0, 0, table.shape[0]))
        else:
            ints, scale = table
            native_tables.append((0, rounds, ints.data_ptr(), scale.data_ptr(), ints.shape[0]))
    weight, bias, eps = norm
    channels = weight.shape[0]
    word_ids = ids[0]
    assert word_ids is not None
    batch, tokens = word_ids.shape
    y = torch.empty((batch, tokens, channels), dtype=torch.float32, device="cpu")
    done = _native.embeddings(
        instruction_set(),
        native_tables,
        [0 if i is None else i.data_ptr() for i in ids],
        (weight.data_ptr(), bias.data_ptr(), eps),
        batch * tokens,
        tokens,
        channels,
        y.data_ptr(),
        torch.get_num_threads(),
    )
    return y if done else None
