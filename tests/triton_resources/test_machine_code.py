"""Whether an instruction that disturbs a tensor core at work is found, in listings made up and in machine code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.machine_code import disassembled, disturbed, outliving, read, successors
from benchmarks.triton_compiled import TOOLS, ptxas

# What nvdisasm prints, cut down to 12 registers: R0 to R3 hold A, R4 to R7 the sums.
HEADER = "        // |     000000000011  |\n        // |   # 012345678901  |\n"
PRODUCT = ("HGMMA.64x8x16.F32.BF16 R4, R0, gdesc[UR4], R4, gsb0", "vvvvxxxx")
SHARED = ("HGMMA.64x8x16.F32.BF16 R8, gdesc[UR4], R8, gsb0", "        xxxx")
PACK = ("F2FP.BF16.F32.PACK_AB R2, R9, R8", "  ^     vv")
WAIT_FOR_ALL = ("WARPGROUP.DEPBAR.LE gsb0, 0x0", "")
LEAVE_ONE = ("WARPGROUP.DEPBAR.LE gsb0, 0x1", "")
ADD = ("FADD R8, R5, R8", "     v  x")
END = ("EXIT", "")


def listing(*lines: tuple[str, str] | str) -> str:
    """Labels as they are, instructions with their marks by register."""
    text, address = HEADER, 0
    for line in lines:
        if isinstance(line, str):
            text += f"{line}:          // |   8 {'':12}  |\n"
        else:
            text += f"        /*{address:04x}*/      {line[0]} ;    // |   8 {line[1]:12}  | 2 ::  |\n"
            address += 16
    return text


def test_a_listing_says_what_instructions_read_and_write() -> None:
    code = read(listing(".L_x_0", PRODUCT, ("@P0 BRA `(.L_x_0)", ""), PACK, END))
    product, branch, pack, _ = code.instructions
    assert (product.address, product.name, product.is_product) == (0, "HGMMA.64x8x16.F32.BF16", True)
    assert product.reads == set(range(8))
    assert product.writes == {4, 5, 6, 7}
    assert product.operand == {0, 1, 2, 3}
    assert (pack.reads, pack.writes, pack.is_product) == ({8, 9}, {2}, False)
    assert branch.name == "BRA"
    assert successors(code, 1) == [0, 2]
    assert code.count(r"HGMMA\b") == 1


def test_an_operand_rewritten_before_the_wait_is_found() -> None:
    clashes = disturbed(read(listing(PRODUCT, PACK, WAIT_FOR_ALL, END)))
    assert [(clash.product.text, clash.by.text, clash.registers) for clash in clashes] == [
        (PRODUCT[0], PACK[0], {2})
    ]
    assert disturbed(read(listing(PRODUCT, WAIT_FOR_ALL, PACK, END))) == []


def test_sums_read_before_the_wait_are_found() -> None:
    assert len(disturbed(read(listing(PRODUCT, ADD, WAIT_FOR_ALL, END)))) == 1
    assert disturbed(read(listing(PRODUCT, WAIT_FOR_ALL, ADD, END))) == []


def test_a_wait_leaves_the_newest_groups_in_flight() -> None:
    assert len(disturbed(read(listing(SHARED, PRODUCT, LEAVE_ONE, PACK, END)))) == 1
    assert disturbed(read(listing(PRODUCT, SHARED, LEAVE_ONE, ("MOV R2, RZ", "  ^"), END))) == []
    outlived = read(listing(SHARED, PRODUCT, LEAVE_ONE, WAIT_FOR_ALL, END))
    assert outliving(outlived) == {1}
    assert outliving(read(listing(PRODUCT, SHARED, WAIT_FOR_ALL, END))) == set()


def test_products_go_on_with_the_same_sums_without_a_wait() -> None:
    assert disturbed(read(listing(PRODUCT, PRODUCT, WAIT_FOR_ALL, END))) == []


def test_a_product_of_the_turn_before_is_in_flight_in_a_loop() -> None:
    turn = [".L_x_0", PACK, PRODUCT, ("@P0 BRA `(.L_x_0)", ""), WAIT_FOR_ALL, END]
    assert [clash.by.text for clash in disturbed(read(listing(*turn)))] == [PACK[0]]
    assert disturbed(read(listing(*turn[:3], WAIT_FOR_ALL, *turn[3:]))) == []


def test_every_path_to_an_instruction_counts() -> None:
    around = [PRODUCT, ("@P0 BRA `(.L_x_0)", ""), WAIT_FOR_ALL, ".L_x_0", PACK, END]
    assert len(disturbed(read(listing(*around)))) == 1
    never = [PRODUCT, ("BRA `(.L_x_0)", ""), PACK, ".L_x_0", WAIT_FOR_ALL, END]
    assert disturbed(read(listing(*never))) == []


def test_what_the_reader_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="a jump to where no label says"):
        disturbed(read(listing(PRODUCT, ("BRX R2 -0x10", "  v"), END)))
    with pytest.raises(ValueError, match="a wait of a form that isn't known"):
        disturbed(read(listing(PRODUCT, ("WARPGROUP.DEPBAR.LE gsb0, R0", "v"), END)))
    with pytest.raises(ValueError, match="doesn't say what instructions read"):
        disturbed(read("        /*0000*/      EXIT ;\n"))


@triton.jit
def two_products_in_flight(x, w, y, k, ROWS: tl.constexpr, OUT: tl.constexpr, K: tl.constexpr):
    """Two products a turn with A made in registers, sums carried by the loop, nothing that waits for them all."""
    row = tl.arange(0, ROWS)[:, None]
    out = tl.arange(0, OUT)[None, :]
    first = tl.zeros((ROWS, OUT), tl.float32)
    second = tl.zeros((ROWS, OUT), tl.float32)
    for start in tl.range(0, k, K, num_stages=3):
        at = start + tl.arange(0, K)
        block = tl.load(x + row * 4096 + at[None, :]).to(tl.float32)
        weight = tl.load(w + at[:, None] * 4096 + out)
        other = tl.load(w + at[:, None] * 4096 + out + 2048)
        first = tl.dot((block * 2).to(tl.bfloat16), weight, first)
        second = tl.dot((block + 1).to(tl.bfloat16), other, second)
    tl.store(y + row * 4096 + out, first)
    tl.store(y + row * 4096 + out + 2048, second)


def test_what_ptxas_before_13_3_does_to_products_in_flight_is_found(tmp_path: Path) -> None:
    types = {"x": "*bf16", "w": "*bf16", "y": "*fp32", "k": "i32"}
    sizes = {"ROWS": 128, "OUT": 64, "K": 64}
    signature = {**types, **dict.fromkeys(sizes, "constexpr")}
    constants = {(4 + i,): size for i, size in enumerate(sizes.values())}
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(4)}
    source = ASTSource(two_products_in_flight, signature, constants, aligned)
    made = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8, "enable_fp_fusion": True}
    )
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(made.asm["cubin"])
    code = disassembled(cubin, os.path.join(TOOLS, "nvdisasm"))
    assert outliving(code)
    faulty = tuple(map(int, ptxas(90).split(".")[:2])) < (13, 3)
    assert bool(disturbed(code)) == faulty, f"ptxas {ptxas(90)}"
