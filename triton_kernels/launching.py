"""What every host function shares: devices, precision, tiles chosen by shape.

Tiles are fixed tables, not searches: a search takes seconds for every new shape, and its choice would change
results from run to run. A table lists tiles from the largest, which reads the fewest bytes for each
operation, to the smallest; `choose` takes the first that fits the device and keeps most multiprocessors busy.
`python -m benchmarks.triton_resources` compiles every entry for sm_80 and sm_90 without a GPU and
checks registers, spills, shared memory and tensor-core use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import torch
import triton
from torch import Tensor

DEFAULT_MULTIPROCESSORS = 132
DEFAULT_SHARED_MEMORY = 227 * 1024
DEFAULT_CAPABILITY = 9
"""Of an H100 and H200: what tiles are chosen for where there is no GPU."""


class Device(NamedTuple):
    """What the choice of a tile depends on."""

    multiprocessors: int
    shared_memory: int
    """Bytes that one program may have."""
    capability: int = DEFAULT_CAPABILITY
    """The major compute capability: 8 is an A100, 9 an H100 or H200, with wgmma."""


@lru_cache
def _cuda_device(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    shared = getattr(properties, "shared_memory_per_block_optin", 48 * 1024)
    return Device(properties.multi_processor_count, shared, properties.major)


def device_of(x: Tensor) -> Device:
    """The GPU that x is on; an H100 for a tensor in the interpreter."""
    if x.device.type != "cuda":
        return Device(DEFAULT_MULTIPROCESSORS, DEFAULT_SHARED_MEMORY, DEFAULT_CAPABILITY)
    return _cuda_device(x.device.index)


def on_device_of(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, which need not be x's."""
    if x.device.type == "cuda" and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return contextlib.nullcontext()


def launch(
    kernel: Any, programs: int, x: Tensor, warps: int, stages: int | None = None
) -> Callable[..., None]:
    """`kernel`, to be called with its arguments: that many programs of it, on the GPU that x is on.

    stages: of its loops' loads, Triton's own number if None. A multiplication and the addition after it are one
    instruction: from triton 3.10 on they are for those who ask alone.
    """
    options = {"num_warps": warps, "enable_fp_fusion": True}
    if stages is not None:
        options["num_stages"] = stages

    def run(*arguments: Any, **constants: Any) -> None:
        with on_device_of(x):
            kernel[(programs,)](*arguments, **constants, **options)

    return run


def precision(dtype: torch.dtype) -> str:
    """`tl.dot`'s input_precision: float32 products are float32's own unless PyTorch's flag allows tf32."""
    if dtype is not torch.float32:
        return "ieee"  # says nothing about 16-bit operands
    matmul = torch.backends.cuda.matmul
    # Since PyTorch 2.9 the flag has a new form, and reading the old one raises once the new one was set.
    if hasattr(matmul, "fp32_precision"):
        return "tf32" if matmul.fp32_precision == "tf32" else "ieee"
    return "tf32" if matmul.allow_tf32 else "ieee"


def power_of_two(n: int, least: int = 16, most: int = 1 << 30) -> int:
    """The smallest power of two that holds n, within bounds: 16 is the least extent of a tensor-core operand."""
    return min(most, max(least, triton.next_power_of_2(max(n, 1))))


def block_for(size: int, most: int, least: int = 16) -> int:
    """The largest power of two up to `most` whose multiples cover `size` with the least excess.

    192 = 3 x 64 and 768 = 3 x 256: a block of the next power of two would waste a quarter of the arithmetic.
    An excess of a quarter is let pass, since small blocks cost more than that in instructions that aren't
    multiply-adds.
    """
    blocks = [least]
    while blocks[-1] * 2 <= most:
        blocks.append(blocks[-1] * 2)
    covered = {block: -(-size // block) * block for block in blocks}
    allowed = 1.25 * min(covered.values())
    return max(block for block in blocks if covered[block] <= allowed)


def blocks_at_once(size: int, block: int, most: int) -> int:
    """How many of the blocks that cover `size` a program makes: up to `most`, with an excess of at most a quarter."""
    count = -(-size // block)
    return max(n for n in range(1, min(most, count) + 1) if -(-count // n) * n <= 1.25 * count)


T = TypeVar("T")


def choose(
    tiles: Sequence[T], device: Device, programs: Callable[[T], int], fits: Callable[[T], bool]
) -> T | None:
    """The first tile that fits and makes programs for more than half of the multiprocessors, else the last that fits,
    else None.

    A tile of half the size would make twice as many programs: where not all of them have a multiprocessor to
    themselves, they take as long, and read more.
    """
    fitting = [tile for tile in tiles if fits(tile)]
    for tile in fitting:
        if 2 * programs(tile) > device.multiprocessors:
            return tile
    return fitting[-1] if fitting else None


SEPARATE_PIECES = 1.15
"""What a pass over memory and a launch more cost, beside the work of the pieces. Not measured."""


def one_program_pays(programs: int, pieces: int, device: Device) -> bool:
    """Whether `programs` that make `pieces` pieces in a row each are as fast as one program a piece.

    Multiprocessors go by whole waves: 128 programs on 132 take as long as 132; of 140 the second wave has 8, and as
    six pieces each they would be 840, in 7 waves of a sixth: 1.17 for 2.
    """
    whole, cut = (-(-n // device.multiprocessors) for n in (programs, programs * pieces))
    return whole * pieces <= SEPARATE_PIECES * cut


def rows_of(x: Tensor) -> Tensor:
    """x, [..., channels], as [rows, channels] with contiguous channels; a view where x's strides allow one."""
    return channels_contiguous(x.reshape(-1, x.shape[-1]))


def channels_contiguous(x: Tensor) -> Tensor:
    """x, or a copy whose last axis has stride 1, as kernels read it."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def check_contiguous(*parameters: Tensor | None) -> None:
    """Kernels read weights, biases, norms and tables without strides."""
    for parameter in parameters:
        assert parameter is None or parameter.is_contiguous(), "a parameter that isn't contiguous"
