"""What every shipped Triton kernel needs of a GPU, read off its machine code: no GPU is asked, and none is
needed.

    python -m benchmarks.triton_resources [--arch 80 90] [--only WORD] [--out FOLDER]

What would be launched, with the very arguments, is compiled for sm_80 (A100) and sm_90 (H100, H200) by the
triton that is imported, assembled by its ptxas, and the result disassembled (`triton_compiled`). So the table
shows the kernels that run, not a copy of their arguments. Another triton is another table:

    PYTHONPATH=.venv/triton-3.6.0:. python -m benchmarks.triton_resources

A row fails if the compiler spilled registers; if shared memory exceeds what the GPU gives a program; if a
product in 16 bit doesn't run on tensor cores (on sm_90 on `wgmma`, HGMMA in machine code, for tiles of 64
rows and 4 warps or more); if a product's operands are read two bytes at a time, or not copied asynchronously
in spite of several stages; if an instruction touches registers that a product still reads (`machine_code`).
The process must not have TRITON_INTERPRET set.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import triton
from torch import Tensor

from benchmarks.command import about
from benchmarks.report import write_json
from benchmarks.triton_compiled import MOST_REGISTERS, compiled, ptxas, recorded, resources
from squeezebert_fast.triton_kernels import add_layer_norm as norms
from squeezebert_fast.triton_kernels import attend
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
from squeezebert_fast.triton_kernels.qkv_projection import qkv_input_gradient, qkv_projection
from squeezebert_fast.triton_kernels.quantize_rows import quantize_rows
from squeezebert_fast.triton_kernels.self_attention import self_attention

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
FEW_NARROW_LOADS = 4
"""Loads of two bytes that a kernel may have for a bias or for rows of one number."""


@dataclass(frozen=True)
class Case:
    """A call of a host function: its launches are what is compiled."""

    name: str
    call: Callable[[], object]
    product: bool = True
    """Whether its products must run on tensor cores."""
    rows: int = 128
    """Of the tile: wgmma needs 64."""
    masked: bool = False
    """Whether there is an additive mask, which is read a number at a time."""
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
    name = f"product {i} -> {o}, {groups} groups, {tile.rows}x{tile.columns} {short(dtype)}"
    arguments = conv_arguments(i, o, groups, dtype)
    call = lambda: products.grouped_pointwise_conv(*arguments, activation, tile=tile)  # noqa: E731
    return Case(name, call, dtype is not torch.float32, tile.rows)


def projections(tile: products.Tile, dtype: torch.dtype, groups: int = 4) -> list[Case]:
    """q, k and v, and the gradient of their input."""
    x, weight, bias, _ = conv_arguments(C, C, groups, dtype)
    what = f"{groups} groups, {tile.rows}x{tile.columns} {short(dtype)}"
    forward = lambda: qkv_projection(x, [weight] * 3, [bias] * 3, groups, tile=tile)  # noqa: E731
    backward = lambda: qkv_input_gradient([x] * 3, [weight] * 3, groups, tile=tile)  # noqa: E731
    fast = dtype is not torch.float32
    return [Case(f"q, k, v {what}", forward, fast), Case(f"q, k, v input gradient {what}", backward, fast)]


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
    return Case(name, call, dtype is not torch.float32, tile.rows, least_arch=tile.capability * 10)


def feed_forward(tile: blocks.Tile, dtype: torch.dtype, normalize: bool) -> Case:
    name = f"C {tile.rows}x{tile.hidden} {short(dtype)}{'' if normalize else ', one group'}"
    x, weight_in, bias_in, groups = conv_arguments(C, HIDDEN, 4, dtype)
    _, weight_out, bias_out, _ = conv_arguments(HIDDEN, C, 4, dtype)
    arguments = (x, weight_in, bias_in, weight_out, bias_out, groups, "gelu")

    def call() -> object:
        if not normalize:
            return blocks.grouped_mlp(*arguments, tile=tile)
        return blocks.feed_forward(*arguments, *norm(dtype), tile=tile)

    return Case(name, call, dtype is not torch.float32, tile.rows, least_arch=tile.capability * 10)


def attention(
    tile: attend.Tile,
    dtype: torch.dtype,
    projected: bool,
    mask: str,
    dropout: Dropout | None = None,
    head: int = 64,
    blind: bool = False,
) -> Case:
    what = (
        f"{tile.queries}x{tile.keys} {short(dtype)}, mask {mask}{f', heads of {head}' if head != 64 else ''}"
    )
    what += (", dropout" if dropout else "") + (", blind queries" if blind else "")
    batch, tokens = 256, 128
    shape = {
        "none": None,
        "by key": (batch, 1, 1, tokens),
        "any": (batch, 1, tokens, tokens),
        "packed": None,
    }[mask]
    added = None if shape is None else meta(*shape, dtype=dtype)
    attends = meta(batch, 1, tokens, 1, dtype=torch.bool) if blind else None
    sequences = (meta(batch + 1, dtype=torch.int32), tokens) if mask == "packed" else None
    x = meta(batch, tokens, C, dtype=dtype)
    x = x.flatten(0, 1) if sequences else x
    _, weight, bias, groups = conv_arguments(C, C, 4 if head == 64 else 2, dtype)
    heads = C // head
    if projected:
        call = lambda: self_attention(  # noqa: E731
            x,
            [weight] * 3,
            [bias] * 3,
            groups,
            heads,
            added,
            sequences,
            attends=attends,
            tile=tile,
        )
    elif dropout:
        call = lambda: attentions.attention_with_statistics(  # noqa: E731
            x, x, x, added, heads, dropout, attends=attends, tile=tile
        )
    else:
        call = lambda: attentions.attention(  # noqa: E731
            x, x, x, added, heads, attends=attends, sequences=sequences, tile=tile
        )
    name = f"{'A' if projected else 'attention'} {what}"
    return Case(name, call, dtype is not torch.float32, tile.queries, masked=added is not None)


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
    found += [both(case) for case in projections(products.TILES[0], bf16)]
    found += projections(products.TILES[0], bf16, groups=1)
    found += projections(products.TILES[0], fp16) + projections(products.TILES_FLOAT32[0], fp32)
    found += [both(post_attention(tile, bf16)) for tile in posts.TILES]
    found += [post_attention(posts.TILES[1], fp16), post_attention(posts.TILES_FLOAT32[0], fp32)]
    found += [both(feed_forward(tile, bf16, True)) for tile in blocks.TILES]
    found += [feed_forward(tile, bf16, False) for tile in blocks.TILES[:1]]
    found += [
        feed_forward(blocks.TILES[1], fp16, True),
        feed_forward(blocks.TILES_FLOAT32[0], fp32, True),
    ]
    first, *others = attend.TILES
    for projected in (True, False):
        found += [both(attention(first, bf16, projected, "any"))]
        found += [both(attention(first, bf16, projected, mask, blind=True)) for mask in ("by key", "any")]
        found += [attention(first, bf16, projected, mask) for mask in ("by key", "packed")]
        found += [attention(tile, bf16, projected, "packed") for tile in others]
        found += [attention(first, fp16, projected, "by key", None if projected else DROPOUT)]
        found += [attention(attend.TILES_FLOAT32[0], fp32, projected, "none")]
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
    return Case(name, call, dtype is not torch.float32, rows, masked=added is not None)


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
    return Case(name, call, dtype is not torch.float32, tile.rows, least_arch=tile.capability * 10)


def failures(use: Mapping[str, int], case: Case, options: Mapping[str, int], arch: int) -> list[str]:
    """What is wrong with a kernel's resources. options: those of its launch."""
    found = []
    if use["STACK"] or use["LDL"] or use["STL"]:
        found.append("spills")
    if use["SHARED"] > SHARED_LIMIT[arch]:
        found.append(f"shared memory above {SHARED_LIMIT[arch]}")
    by_group = use["HGMMA"] + use["IGMMA"]
    if case.product and arch >= 90 and case.rows >= 64 and options["num_warps"] >= 4:
        if not by_group:
            found.append("no wgmma")
    elif case.product and not by_group + use["HMMA"] + use["IMMA"]:
        found.append("no tensor cores")
    if case.product and not case.masked and use["TWO_BYTES"] > FEW_NARROW_LOADS:
        found.append("loads of two bytes")
    if case.product and options["num_stages"] > 1 and not use["COPIES"]:
        found.append("no asynchronous copies")
    if by_group and use["REG"] >= MOST_REGISTERS:
        found.append("so many registers that nvdisasm can't say which of them products read")
    if use["DISTURBING"]:
        found.append("registers of a product are touched before it is waited for")
    if use["OUTLIVING"]:
        found.append("a product with A in registers outlives a wait, which ptxas before 13.3 gets wrong")
    return found


def check(case: Case, arch: int) -> list[tuple[str, dict[str, int], list[str]]]:
    """(kernel, resources, failures) of each launch that a case makes."""
    with recorded(arch) as launches:
        case.call()
    results = []
    for launch in launches:
        use = resources(compiled(launch, arch))
        results.append((launch.kernel.__name__, use, failures(use, case, launch.options, arch)))
    return results


def measured(case: Case, arch: int) -> list[tuple[str, dict[str, int], list[str]]]:
    """`check`, where a kernel that doesn't compile is a row that failed and hides no other."""
    try:
        return check(case, arch)
    except Exception as error:
        return [("", {}, [f"{type(error).__name__}: {error}"[:200]])]


def line(case: Case, arch: int, use: Mapping[str, int], wrong: list[str]) -> str:
    """A row of the table to read."""
    cores = " ".join(f"{use[name]} {name}" for name in ("HGMMA", "IGMMA", "HMMA", "IMMA") if use.get(name))
    if use.get("REGISTERS"):
        cores += f", {use['REGISTERS']} with A in registers"
    numbers = "".join(
        f"{use.get(name, 0):>{width}}"
        for name, width in (("REG", 6), ("STACK", 7), ("SHARED", 8), ("COPIES", 8))
    )
    return f"{case.name:60}{arch:>4}{numbers}  {cores}" + "".join(f"  <- {w}" for w in wrong)


def main() -> int:
    """Print the table, and write it as JSON if a folder is given; 1 if a check failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], choices=[80, 90])
    parser.add_argument("--only", default="", help="cases whose name has this word")
    parser.add_argument("--out", type=Path, help="folder for triton_resources_VERSION.json, which must exist")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    tools = {"triton": triton.__version__, "ptxas": {f"sm_{arch}": ptxas(arch) for arch in options.arch}}
    where = {**about("triton_resources", None), **tools}
    print(f"triton {triton.__version__}, ptxas {tools['ptxas']}")
    print(f"{'':60}{'sm':>4}{'regs':>6}{'stack':>7}{'shared':>8}{'copies':>8}  tensor-core instructions")
    begin, bad = time.monotonic(), 0
    for case in cases():
        for arch in options.arch:
            if options.only not in case.name or arch < case.least_arch:
                continue
            for kernel, use, wrong in measured(case, arch):
                print(line(case, arch, use, wrong), flush=True)
                bad += bool(wrong)
                counts = {name.lower(): count for name, count in use.items()}
                rows.append({"case": case.name, "kernel": kernel, "sm": arch, **counts, "wrong": wrong})
    print(f"{time.monotonic() - begin:.0f} s, {bad} failed")
    if options.out is not None:
        write_json(options.out / f"triton_resources_{triton.__version__}.json", {**where, "rows": rows})
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
