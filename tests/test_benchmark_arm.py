"""What benchmarks/arm reads of listings, counts and llvm-mca's answers. No tool is run, and none needs to be there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.arm import assembly, counts, loops, mca, projection, tools
from benchmarks.arm.cores import CORES, PHONES
from benchmarks.arm.program import ARM_BUILDS, FEW_TOKENS, TOKENS

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "arm"
FILES = ("loops", "instructions", "projection", "known")

# A function with a loop in a loop, as objdump prints it.
LISTING = """
forward:     file format elf64-littleaarch64

Disassembly of section .text:

0000000000400100 <void (anonymous namespace)::tile<8, 3>(char const*, long)>:
  400100:	mov	x2, #0x0                   	// #0
  400104:	ldr	s4, [x0, x11]
  400108:	fmla	v1.4s, v2.4s, v4.s[0]
  40010c:	str	q1, [x1], #16
  400110:	b.ne	400108 <void (anonymous namespace)::tile<8, 3>(char const*, long)+0x8>  // b.any
  400114:	cbnz	x2, 400104 <void (anonymous namespace)::tile<8, 3>(char const*, long)+0x4>
  400118:	ret

000000000040011c <main>:
  40011c:	bl	400100 <void (anonymous namespace)::tile<8, 3>(char const*, long)>
  400120:	ret
"""
# Called twice; the outer loop runs 3 times in all, the inner 12.
STRETCHES = [
    (0x400100, 0x400110, 2),
    (0x400104, 0x400110, 1),
    (0x400108, 0x400110, 9),
    (0x400114, 0x400114, 3),
    (0x400118, 0x400118, 2),
    (0x40011C, 0x40011C, 2),
    (0x7F0000, 0x7F0010, 5),  # of the emulator's own page
]


@pytest.fixture(scope="module")
def listing() -> assembly.Listing:
    return assembly.read(LISTING)


def test_a_listing_is_instructions_of_functions_without_comments(listing: assembly.Listing) -> None:
    assert len(listing.instructions) == 9
    assert listing.instructions[0] == assembly.Instruction(
        0x400100, "mov\tx2, #0x0", "void (anonymous namespace)::tile<8, 3>(char const*, long)"
    )
    assert listing.instructions[4].text == "b.ne\t400108"
    assert listing.instructions[-1].function == "main"


def test_how_often_each_instruction_ran_is_the_sum_of_the_stretches_it_is_in(
    listing: assembly.Listing,
) -> None:
    assert listing.executed(STRETCHES) == [2, 3, 12, 12, 12, 3, 2, 2, 0]


def test_blocks_end_at_branches_and_where_the_count_changes(listing: assembly.Listing) -> None:
    blocks = listing.blocks(listing.executed(STRETCHES))
    assert [(len(block.texts), block.runs) for block in blocks] == [
        (1, 2),
        (1, 3),
        (3, 12),
        (1, 3),
        (1, 2),
        (1, 2),
    ]
    assert sum(block.executed for block in blocks) == sum(listing.executed(STRETCHES))


def test_a_function_s_loops_are_the_innermost_ones(listing: assembly.Listing) -> None:
    (loop,) = listing.loops_of("tile<8, 3>")
    assert [text.split()[0] for text in loop] == ["fmla", "str", "b.ne"]


def test_a_name_that_is_not_one_function_s_is_an_error_with_the_count(listing: assembly.Listing) -> None:
    with pytest.raises(ValueError, match="0 functions are named gemm, expected one"):
        listing.loops_of("gemm")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("void (anonymous namespace)::tile<8, 3>(char const*, long)", "tile<8, 3>"),
        ("(anonymous namespace)::Int8::prepare(float const*, long)", "Int8::prepare"),
        ("squeezebert::Encoder::run(squeezebert::EncoderInput const&, int) const", "Encoder::run"),
        ("memcpy", "memcpy"),
    ],
)
def test_a_plain_name_has_neither_namespaces_nor_parameters(name: str, expected: str) -> None:
    assert assembly.plain(name) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["b.ne\t400108"], "b.ne\t.Lcode"),
        (["cbnz\tx2, 400104"], "cbnz\tx2, .Lcode"),
        (["tbz\tw3, #5, 400104"], "tbz\tw3, #5, .Lcode"),
        (["adrp\tx0, 400000"], "adrp\tx0, .Lcode"),
        (["jne    6b6e30"], "jne    .Lcode"),
        (["bl\t400100", "bfmmla\tv0.4s, v1.8h, v2.8h", "ret"], "bfmmla\tv0.4s, v1.8h, v2.8h"),
        (["rep movsb %ds:(%rsi),%es:(%rdi)", "bic\tv0.16b, v1.16b, v2.16b"], "bic\tv0.16b, v1.16b, v2.16b"),
        # the model would let the address wait for what is stored
        (["str\tq0, [x2], #16"], "str\tq0, [x2]\nadd x2, x2, #16"),
        (["stp\tq0, q1, [x2, #-32]!"], "add x2, x2, #-32\nstp\tq0, q1, [x2]"),
        (["str\tq0, [x2, #16]", "ldr\tq0, [x2], #16"], "str\tq0, [x2, #16]\nldr\tq0, [x2], #16"),
    ],
)
def test_instructions_become_what_an_assembler_takes(texts: list[str], expected: str) -> None:
    assert mca.source_of(texts) == expected


def answer(*regions: tuple[int, int, float]) -> dict[str, Any]:
    """llvm-mca's for regions of a name, cycles of 10 iterations, and the use of the second unit in each."""
    return {
        "CodeRegions": [
            {
                "Name": str(name),
                "Instructions": ["fmla", "b.ne"],
                "SummaryView": {"TotalCycles": cycles, "Iterations": 10},
                "ResourcePressureView": {
                    "ResourcePressureInfo": [
                        {"InstructionIndex": 0, "ResourceIndex": 1, "ResourceUsage": 99},
                        {"InstructionIndex": 2, "ResourceIndex": 0, "ResourceUsage": 1},
                        {"InstructionIndex": 2, "ResourceIndex": 1, "ResourceUsage": used},
                    ]
                },
            }
            for name, cycles, used in regions
        ],
        "TargetInfo": {"Resources": ["N2UnitB.\x00", "N2UnitV0"]},
    }


def test_an_answer_is_cycles_of_one_iteration_and_the_units_that_are_busy() -> None:
    found, units = mca.read(answer((0, 40, 3.9), (2, 80, 3.9)), 3)
    assert found == [mca.Modelled(4.0, 2, ("N2UnitV0",)), mca.Modelled(0.0, 0, ()), mca.Modelled(8.0, 2, ())]
    assert units == "N2"


def test_a_model_that_is_another_core_s_is_told_by_its_units() -> None:
    assert mca.units_of(["A57UnitB", "A57UnitI.\x00"]) == "A57"
    assert mca.units_of(["CortexA510UnitALU0"]) == "A510"
    assert mca.units_of(["Zn4AGU0"]) == "Zn4"


def committed(*figures: float) -> dict[str, Any]:
    rows = [
        {"build": "neon", "precision": "int8", "tokens": tokens, "instructions_a_token": figure}
        for tokens, figure in zip((32, 128), figures, strict=False)
    ]
    return {"rows": rows}


def test_a_count_may_be_a_little_more_than_the_committed_one() -> None:
    assert counts.grown(committed(1029.0)["rows"], committed(1000.0)) == []
    assert counts.grown(committed(900.0)["rows"], committed(1000.0)) == []


def test_a_count_that_grew_is_a_line_that_says_by_how_much() -> None:
    (line,) = counts.grown(committed(1000.0, 2080.0)["rows"], committed(1000.0, 2000.0))
    assert line == "neon int8, 128 tokens: 2080 instructions a token, 4.0% over 2000"


def test_a_count_of_which_none_is_committed_is_not_passed_over() -> None:
    (line,) = counts.grown(committed(1000.0, 2000.0)["rows"], committed(1000.0))
    assert line == "neon int8, 128 tokens: 2000 instructions a token, and none committed"


def test_what_is_committed_has_every_build_and_length_of_the_counts() -> None:
    rows = json.loads(counts.COMMITTED.read_text())["rows"]
    expected = {(b, p, t) for b in ARM_BUILDS for p in counts.PRECISIONS for t in (FEW_TOKENS, TOKENS)}
    assert {(row["build"], row["precision"], row["tokens"]) for row in rows} == expected
    assert all(abs(sum(row["by_kind"].values()) - row["instructions_a_token"]) < 1 for row in rows)


def test_every_loop_is_modelled_on_every_core_that_has_its_build() -> None:
    rows = json.loads((RESULTS / "loops.json").read_text())["rows"]
    expected = {
        (loop.name, name) for loop in loops.LOOPS for name, core in CORES.items() if loop.build in core.builds
    }
    assert {(row["loop"], row["core"]) for row in rows} == expected


def test_projections_say_that_they_are_and_whose_chip_they_stand_for() -> None:
    stored = json.loads((RESULTS / "projection.json").read_text())
    assert stored["projection"] is True
    assert stored["paper_ms"] == projection.PAPER
    assert {row["stands_for"] for row in stored["rows"]} == {phone.stands_for for phone in PHONES}
    assert all(row["projected_ms"] == max(row["compute_ms"], row["weights_ms"]) for row in stored["rows"])


def test_a_tool_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.run_tests.shutil, "which", lambda name: None)
    monkeypatch.setattr(tools.run_tests.os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="this benchmark needs llvm-mca-19: apt-get install llvm-19"):
        tools.require([tools.MCA], tools.MCA_PACKAGES)


def test_a_tool_that_fails_is_told_in_its_own_words(tmp_path: Path) -> None:
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'no such core' >&2\nexit 3\n")
    failing.chmod(0o755)
    with pytest.raises(tools.ToolFailed, match="failing failed with 3: no such core"):
        tools.output_of([failing])
