"""What would be launched, compiled for a GPU that needn't be there, and what its machine code needs and does.

The host functions of triton_kernels/ run on tensors of the meta device with the launch itself replaced (`recorded`);
`compiled` takes a launch through Triton and its ptxas, `resources` reads the result. The process must not have
TRITON_INTERPRET set.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas_version
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from benchmarks.machine_code import Code, disassembled, disturbed, outliving
from squeezebert_fast.triton_kernels import launching
from squeezebert_fast.triton_kernels.add_layer_norm import add_layer_norm_kernel

TOOLS = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")
TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
COUNTED = {
    "HGMMA": r"HGMMA\b",
    "IGMMA": r"IGMMA\b",
    "HMMA": r"HMMA\b",
    "IMMA": r"IMMA\b",
    "LDL": r"LDL\b",
    "STL": r"STL\b",
    "COPIES": r"LDGSTS\b",
    "TWO_BYTES": r"LDG\b.*\.[US]16\b",
    "WAITS": r"WARPGROUP\.DEPBAR",
}
"""Instructions, by the pattern of their names: tensor cores by warp group and by warp (I: integers), loads and stores
of spilled registers, asynchronous copies into shared memory, loads of two bytes, waits for tensor cores.
"""
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
"""What a launch tells Triton and not the kernel."""
MOST_REGISTERS = 255
"""A thread's limit. nvdisasm can't say what is live in a kernel that is at it."""


def ptxas(arch: int) -> str:
    """The version of the assembler that triton takes for sm_ARCH, such as "12.8.93"."""
    found = re.search(r"V(\d+\.\d+\.\d+)", get_ptxas_version(arch))
    assert found is not None
    return found[1]


@dataclass(frozen=True)
class Launch:
    """One kernel launch as it was asked for."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]


@contextmanager
def recorded(arch: int = 90) -> Iterator[list[Launch]]:
    """Within the block, launches are recorded in place of made, with the tiles for sm_ARCH."""
    launches: list[Launch] = []

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        bound = inspect.signature(self.fn).bind(*args, **kwargs)
        launches.append(Launch(self, dict(bound.arguments), options))

    assert isinstance(add_layer_norm_kernel, JITFunction), "TRITON_INTERPRET is set: nothing is compiled"
    own, capability = JITFunction.run, launching.DEFAULT_CAPABILITY
    JITFunction.run, launching.DEFAULT_CAPABILITY = record, arch // 10
    try:
        yield launches
    finally:
        JITFunction.run, launching.DEFAULT_CAPABILITY = own, capability


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
    """Registers a thread, bytes of stack and of shared memory, how often the instructions of COUNTED occur, and of the
    products by warp group: how many take A from REGISTERS, how many of those are OUTLIVING a wait, and how many
    instructions are DISTURBING one (see benchmarks/machine_code.py).
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [os.path.join(TOOLS, "cuobjdump"), "--dump-resource-usage", file.name]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        used = {name: int(count) for name, count in re.findall(r"(REG|STACK):(\d+)", usage)}
        # wgmma is capability 9's; 3.9's nvdisasm can't say what is live in what its ptxas for 8 made
        live = kernel.metadata.target.arch >= 90 and used["REG"] < MOST_REGISTERS
        code = disassembled(Path(file.name), os.path.join(TOOLS, "nvdisasm"), live)
    counts = {name: code.count(pattern) for name, pattern in COUNTED.items()}
    return {**used, "SHARED": kernel.metadata.shared, **counts, **hazards(code)}


def hazards(code: Code) -> dict[str, int]:
    """Of the products by warp group, counts as `resources` names them."""
    if not code.live:
        return dict.fromkeys(("REGISTERS", "OUTLIVING", "DISTURBING"), 0)
    taken = sum(one.is_product and bool(one.operand) for one in code.instructions)
    return {"REGISTERS": taken, "OUTLIVING": len(outliving(code)), "DISTURBING": len(disturbed(code))}
