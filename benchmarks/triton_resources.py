"""What every shipped Triton kernel needs of a GPU, read off its machine code: no GPU is asked, and none is
needed.

    python -m benchmarks.triton_resources [--arch 80 90] [--only WORD] [--out FOLDER]

The host functions of triton_kernels/ run on tensors of the meta device with the launch itself replaced: what
would be launched, with the very arguments, is compiled for sm_80 (A100) and sm_90 (H100, H200) by Triton and
assembled by its ptxas, and the result disassembled. So the table shows the kernels that run, not a copy of
their arguments. A row fails if the compiler spilled registers, if shared memory exceeds what the GPU gives a
program, or if a product in 16 bit (or tf32) doesn't run on tensor cores: on sm_90 on `wgmma`, HGMMA in
machine code, for tiles of 64 rows and 4 warps or more. The process must not have TRITON_INTERPRET set.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from benchmarks.command import about
from benchmarks.report import write_json
from squeezebert_fast.triton_kernels import add_layer_norm as norms
from squeezebert_fast.triton_kernels import attention as attentions
from squeezebert_fast.triton_kernels import attention_backward as attentions_back
from squeezebert_fast.triton_kernels import embeddings as tables
from squeezebert_fast.triton_kernels import feed_forward as blocks
from squeezebert_fast.triton_kernels import feed_forward_backward as blocks_back
from squeezebert_fast.triton_kernels import grouped_pointwise_conv as products
from squeezebert_fast.triton_kernels import grouped_pointwise_conv_int8 as products_int8
from squeezebert_fast.triton_kernels import post_attention as posts
from squeezebert_fast.triton_kernels import weight_gradient as weights
from squeezebert_fast.triton_kernels.add_layer_norm_backward import add_layer_norm_backward
from squeezebert_fast.triton_kernels.dropout import NO_DROPOUT, Dropout
from squeezebert_fast.triton_kernels.quantize_rows import quantize_rows

TOOLS = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
COUNTED = ("HGMMA", "IGMMA", "HMMA", "IMMA", "LDL", "STL")
"""Instructions: tensor cores by warp group and by warp (I: integers), loads and stores of spilled registers."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch as it was asked for."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Within the block, launches are recorded in place of made."""
    launches: list[Launch] = []

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
        bound = inspect.signature(self.fn).bind(*args, **kwargs)
        launches.append(Launch(self, dict(bound.arguments), options))

    assert isinstance(norms.add_layer_norm_kernel, JITFunction), (
        "TRITON_INTERPRET is set: nothing is compiled"
    )
    own = JITFunction.run
    JITFunction.run = record
    try:
        yield launches
    finally:
        JITFunction.run = own


def compiled(launch: Launch, arch: int) -> Any:
    """The kernel that Triton would launch with these arguments, its pointers aligned, compiled for another
    machine.
    """
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    hints: dict[tuple[int, ...], Any] = {}
    for parameter in launch.kernel.params:
        name, value, at = parameter.name, launch.arguments[parameter.name], (parameter.num,)
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (special and type(value) is int and value == 1):
            signature[name], constants[at] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name], hints[at] = TYPES[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = parameter.annotation_type or ("i32" if -(2**31) <= value < 2**31 else "i64")
            if special and value % 16 == 0:
                hints[at] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, hints)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(launch.options))


def resources(kernel: Any) -> dict[str, int]:
    """Registers a thread, bytes of stack and of shared memory, and how often the instructions of COUNTED occur."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()

        def output(tool: str, *options: str) -> str:
            command = [os.path.join(TOOLS, tool), *options, file.name]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        used = dict(re.findall(r"(REG|STACK):(\d+)", output("cuobjdump", "--dump-resource-usage")))
        code = output("nvdisasm")
    counts = {name: len(re.findall(rf"\b{name}[.\s]", code)) for name in COUNTED}
    return {"REG": int(used["REG"]), "STACK": int(used["STACK"]), "SHARED": kernel.metadata.shared, **counts}


@dataclass(frozen=True)
class Case:
    """A call of a host function: its launches are what is compiled."""

    name: str
    call: Callable[[], object]
    product: bool = True
    """Whether its products must run on tensor cores."""
    rows: int = 128
    """Of the tile: wgmma needs 64."""
    least_arch: int = 80
    tested: tuple[int, ...] = (90,)
    """The architectures that tests compile it for, out of all that the table shows: 80 for what fills an A100."""


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


C, HIDDEN, HEADS, TOKENS = 768, 3072, 12, 32768
DROPOUT = Dropout(0.1, meta(dtype=torch.int64))


def conv_arguments(i: int, o: int, groups: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, int]:
    return (
        meta(TOKENS, i, dtype=dtype),
        meta(o, i // groups, 1, dtype=dtype),
        meta(o, dtype=dtype),
        groups,
    )


def product(
    i: int, o: int, groups: int, tile: products.Tile, dtype: torch.dtype, activation: str | None
) -> Case:
    name = f"product {i} -> {o}, {groups} groups, {tile.rows}x{tile.out} {short(dtype)}"
    arguments = conv_arguments(i, o, groups, dtype)
    call = lambda: products.grouped_pointwise_conv(*arguments, activation, tile=tile)  # noqa: E731
    return Case(name, call, dtype is not torch.float32, tile.rows)


def product_int8(i: int, o: int, groups: int, blocks: int, tile: products.Tile) -> Case:
    name = f"product {i} -> {o}, {groups} groups, {tile.rows}x{tile.out} int8"
    x, x_scale = meta(TOKENS, i, dtype=torch.int8), meta(TOKENS, groups * blocks, dtype=torch.float32)
    weight, scale = meta(o, i // groups, 1, dtype=torch.int8), meta(o, blocks, dtype=torch.float32)
    activation = "gelu" if groups > 1 else None
    call = lambda: products_int8.grouped_pointwise_conv_int8(  # noqa: E731
        x, x_scale, weight, scale, meta(o), groups, activation, torch.bfloat16, tile=tile
    )
    return Case(name, call, rows=tile.rows)


def short(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]


def norm(dtype: torch.dtype, channels: int = C) -> tuple[Tensor, Tensor, float]:
    return meta(channels, dtype=dtype), meta(channels, dtype=dtype), 1e-12


def post_attention(tile: products.Tile, dtype: torch.dtype) -> Case:
    name = f"B {tile.rows}x{tile.out} {short(dtype)}"
    x, weight, bias, groups = conv_arguments(C, C, 1, dtype)
    call = lambda: posts.conv_add_layer_norm(  # noqa: E731
        x, weight, bias, groups, x, *norm(dtype), tile=tile
    )
    return Case(name, call, dtype is not torch.float32, tile.rows, tile.capability * 10)


def feed_forward(tile: blocks.Tile, dtype: torch.dtype, normalize: bool) -> Case:
    name = f"C {tile.rows}x{tile.hidden} {short(dtype)}{'' if normalize else ', one group'}"
    x, weight_in, bias_in, groups = conv_arguments(C, HIDDEN, 4, dtype)
    _, weight_out, bias_out, _ = conv_arguments(HIDDEN, C, 4, dtype)
    arguments = (x, weight_in, bias_in, weight_out, bias_out, groups, "gelu")

    def call() -> object:
        if not normalize:
            return blocks.grouped_mlp(*arguments, tile=tile)
        return blocks.feed_forward(*arguments, *norm(dtype), tile=tile)

    return Case(name, call, dtype is not torch.float32, tile.rows, tile.capability * 10)


def attention(
    tile: attentions.Tile,
    dtype: torch.dtype,
    projected: bool,
    mask: str,
    dropout: Dropout | None = None,
    head: int = 64,
) -> Case:
    what = (
        f"{tile.queries}x{tile.keys} {short(dtype)}, mask {mask}{f', heads of {head}' if head != 64 else ''}"
    )
    what += ", dropout" if dropout else ""
    batch, tokens = 256, 128
    shape = {
        "none": None,
        "by key": (batch, 1, 1, tokens),
        "any": (batch, 1, tokens, tokens),
        "packed": None,
    }[mask]
    added = None if shape is None else meta(*shape, dtype=dtype)
    sequences = (meta(batch + 1, dtype=torch.int32), tokens) if mask == "packed" else None
    x = meta(batch, tokens, C, dtype=dtype)
    x = x.flatten(0, 1) if sequences else x
    _, weight, bias, groups = conv_arguments(C, C, 4 if head == 64 else 2, dtype)
    heads = C // head
    if projected:
        call = lambda: attentions.self_attention(  # noqa: E731
            x,
            [weight] * 3,
            [bias] * 3,
            groups,
            heads,
            added,
            sequences,
            tile=tile,
        )
    elif dropout:
        call = lambda: attentions.attention_with_statistics(x, x, x, added, heads, dropout, tile=tile)  # noqa: E731
    else:
        call = lambda: attentions.attention(x, x, x, added, heads, sequences=sequences, tile=tile)  # noqa: E731
    return Case(f"{'A' if projected else 'attention'} {what}", call, dtype is not torch.float32, tile.queries)


def both(case: Case) -> Case:
    """The case, compiled for both architectures by the tests."""
    return replace(case, tested=(80, 90))


def cases() -> list[Case]:
    """Every tile of every table at the base model's shapes in bfloat16, a subset in the other dtypes.

    The table takes two to three minutes of one core; the tests leave out what differs least on sm_80 (`Case.tested`).
    """
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    shapes = ((C, C, 1, None), (C, HIDDEN, 4, "gelu"), (HIDDEN, C, 4, None))
    found = [both(product(i, o, g, products.TILES[0], bf16, a)) for i, o, g, a in shapes[:2]]
    found += [product(i, o, g, products.TILES[0], bf16, a) for i, o, g, a in shapes[2:]]
    found += [product(C, C, 4, tile, bf16, None) for tile in products.TILES[1:]]
    found += [
        product(C, C, 4, products.TILES[0], fp16, None),
        product(C, C, 4, products.TILES_FLOAT32[0], fp32, None),
    ]
    found += [both(post_attention(tile, bf16)) for tile in posts.TILES]
    found += [post_attention(posts.TILES[1], fp16), post_attention(posts.TILES_FLOAT32[0], fp32)]
    found += [both(feed_forward(tile, bf16, True)) for tile in blocks.TILES]
    found += [feed_forward(tile, bf16, False) for tile in blocks.TILES[:1]]
    found += [
        feed_forward(blocks.TILES[1], fp16, True),
        feed_forward(blocks.TILES_FLOAT32[0], fp32, True),
    ]
    first, *others = attentions.TILES
    for projected in (True, False):
        found += [both(attention(first, bf16, projected, "any"))]
        found += [attention(first, bf16, projected, mask) for mask in ("by key", "packed")]
        found += [attention(tile, bf16, projected, "packed") for tile in others]
        found += [attention(first, fp16, projected, "by key", None if projected else DROPOUT)]
        found += [attention(attentions.TILES_FLOAT32[0], fp32, projected, "none")]
    found.append(attention(first, bf16, False, "none", head=128))
    found += [product_int8(C, C, 1, 4, products_int8.TILES[0])]
    found += [both(product_int8(C, HIDDEN, 4, 1, tile)) for tile in products_int8.TILES[:1]]
    found += [product_int8(C, HIDDEN, 4, 1, tile) for tile in products_int8.TILES[1:]]
    row = meta(TOKENS, C)
    found.append(Case("quantize_rows bf16", lambda: quantize_rows(row, 4), product=False))
    found.append(
        Case("add_layer_norm bf16", lambda: norms.add_layer_norm(row, row, *norm(bf16)), product=False)
    )
    ids = meta(256, 128, dtype=torch.int64)
    found.append(
        Case(
            "embeddings bf16",
            lambda: tables.embeddings(meta(30528, C), meta(512, C), meta(2, C), ids, ids, ids, *norm(bf16)),
            product=False,
        )
    )
    return found + training_cases()


def training_cases() -> list[Case]:
    """Backward kernels, and forward ones with what a backward needs."""
    bf16, fp32 = torch.bfloat16, torch.float32
    found = []
    for dtype, dropout in ((bf16, NO_DROPOUT), (bf16, DROPOUT), (fp32, DROPOUT)):
        for mask in ("none", "by key", "any") if dtype is bf16 else ("by key",):
            found.append(attention_backward(dtype, mask, dropout))
    found = [both(case) for case in found[:-1]] + found[-1:]
    found.append(attention_backward(bf16, "by key", DROPOUT, head=128))
    for i, o, groups in ((C, C, 1), (C, C, 4), (C, HIDDEN, 4), (HIDDEN, C, 4)):
        found.append(weight_gradient(i, o, groups, bf16))
        found.append(input_gradient(i, o, groups, bf16))
    found += [weight_gradient(C, C, 4, fp32), input_gradient(C, C, 4, fp32)]
    found += [both(hidden_gradient(tile, bf16)) for tile in blocks_back.TILES]
    found += [hidden_gradient(tile, fp32) for tile in blocks_back.TILES_FLOAT32]
    x, weight, bias, groups = conv_arguments(C, C, 4, bf16)
    activation = lambda: products.derivative(x, x, weight, bias, groups, "gelu")  # noqa: E731
    found.append(Case("derivative bf16", activation))
    total, parameters = meta(TOKENS, C, dtype=fp32), norm(fp32)
    norm_forward = lambda: norms.add_layer_norm_with_statistics(x, total, *parameters, DROPOUT)  # noqa: E731
    rows = meta(TOKENS, dtype=fp32)
    norm_backward = lambda: add_layer_norm_backward(  # noqa: E731
        total, total, rows, rows, parameters[0], DROPOUT, (True,) * 4, bf16
    )
    found.append(Case("add_layer_norm, training bf16 fp32", norm_forward, product=False))
    found.append(both(Case("add_layer_norm backward bf16 fp32", norm_backward, product=False)))
    return found


def attention_backward(dtype: torch.dtype, mask: str, dropout: Dropout, head: int = 64) -> Case:
    batch, tokens, heads = 64, 512, C // head
    shape = {"none": None, "by key": (batch, 1, 1, tokens), "any": (batch, 1, tokens, tokens)}[mask]
    added = None if shape is None else meta(*shape, dtype=dtype)
    x, statistics = meta(batch, tokens, C, dtype=dtype), meta(batch, heads, tokens, 2, dtype=torch.float32)
    call = lambda: attentions_back.attention_backward(  # noqa: E731
        x, x, x, x, added, statistics, heads, dropout, (True,) * 3
    )
    name = f"attention backward {short(dtype)}, mask {mask}"
    name += (", dropout" if dropout.p else "") + (f", heads of {head}" if head != 64 else "")
    tiles = attentions_back.tiles_for(x, head, mask, dropout)
    rows = min(tiles[0].queries, tiles[1].keys)
    return Case(name, call, dtype is not torch.float32, rows)


def weight_gradient(i: int, o: int, groups: int, dtype: torch.dtype) -> Case:
    x, grad = meta(TOKENS, i, dtype=dtype), meta(TOKENS, o, dtype=dtype)
    call = lambda: weights.weight_gradient(grad, x, groups, bias=True)  # noqa: E731
    name = f"weight gradient {i} -> {o}, {groups} groups, {short(dtype)}"
    return Case(name, call, dtype is not torch.float32, 64)


def input_gradient(i: int, o: int, groups: int, dtype: torch.dtype) -> Case:
    grad, weight = meta(TOKENS, o, dtype=dtype), meta(o, i // groups, 1, dtype=dtype)
    call = lambda: products.grouped_pointwise_conv(grad, weight, None, groups, transposed=True)  # noqa: E731
    name = f"input gradient {i} -> {o}, {groups} groups, {short(dtype)}"
    return Case(name, call, dtype is not torch.float32)


def hidden_gradient(tile: products.Tile, dtype: torch.dtype) -> Case:
    x, weight_in, bias_in, groups = conv_arguments(C, HIDDEN, 4, dtype)
    weight_out = meta(C, HIDDEN // 4, 1, dtype=dtype)
    call = lambda: blocks_back.hidden_gradient(  # noqa: E731
        x, x, weight_in, bias_in, weight_out, groups, "gelu", keep_hidden=True, tile=tile
    )
    name = f"hidden gradient {tile.rows}x{tile.out} {short(dtype)}"
    return Case(name, call, dtype is not torch.float32, tile.rows, tile.capability * 10)


def failures(use: dict[str, int], case: Case, warps: int, arch: int) -> list[str]:
    """What is wrong with a kernel's resources."""
    found = []
    if use["STACK"] or use["LDL"] or use["STL"]:
        found.append("spills")
    if use["SHARED"] > SHARED_LIMIT[arch]:
        found.append(f"shared memory above {SHARED_LIMIT[arch]}")
    by_group = use["HGMMA"] + use["IGMMA"]
    if case.product and arch >= 90 and case.rows >= 64 and warps >= 4:
        if not by_group:
            found.append("no wgmma")
    elif case.product and not by_group + use["HMMA"] + use["IMMA"]:
        found.append("no tensor cores")
    return found


def check(case: Case, arch: int) -> list[tuple[str, dict[str, int], list[str]]]:
    """(kernel, resources, failures) of each launch that a case makes."""
    with recorded() as launches:
        case.call()
    results = []
    for launch in launches:
        use = resources(compiled(launch, arch))
        results.append((launch.kernel.__name__, use, failures(use, case, launch.options["num_warps"], arch)))
    return results


def main() -> int:
    """Print the table, and write triton_resources.json if a folder is given; 1 if a check failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], choices=[80, 90])
    parser.add_argument("--only", default="", help="cases whose name has this word")
    parser.add_argument("--out", type=Path, help="folder for triton_resources.json, which must exist")
    options = parser.parse_args()
    where, rows = about("triton_resources", None), []
    print(f"triton {triton.__version__}")
    print(f"{'':50}{'sm':>4}{'regs':>6}{'stack':>7}{'shared':>8}  tensor-core instructions")
    begin, bad = time.monotonic(), 0
    for case in cases():
        if options.only not in case.name:
            continue
        for arch in options.arch:
            if arch < case.least_arch:
                continue
            try:
                results = check(case, arch)
            except Exception as error:  # a kernel that doesn't compile must not hide the others
                results = [("", dict.fromkeys(("REG", "STACK", "SHARED", *COUNTED), 0), [f"{error!r:.200}"])]
            for _, use, wrong in results:
                cores = " ".join(f"{use[name]} {name}" for name in COUNTED[:4] if use[name])
                line = f"{case.name:50}{arch:>4}{use['REG']:>6}{use['STACK']:>7}{use['SHARED']:>8}  {cores}"
                print(line + "".join(f"  <- {w}" for w in wrong), flush=True)
                bad += bool(wrong)
                rows.append(
                    {"case": case.name, "sm": arch, **{k.lower(): n for k, n in use.items()}, "wrong": wrong}
                )
    print(f"{time.monotonic() - begin:.0f} s, {bad} failed")
    if options.out is not None:
        write_json(
            options.out / "triton_resources.json", {**where, "triton": triton.__version__, "rows": rows}
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
