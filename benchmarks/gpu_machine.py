"""What `benchmarks.gpu_check` runs on: versions, the compilers that Triton uses, the tools that a part needs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gpu_measure import Context

CUDA_FOLDER = "/usr/local/cuda/bin"


def tool(name: str) -> str | None:
    """The path of a program of the CUDA toolkit, which need not be on the PATH."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), CUDA_FOLDER]))


def version_of(command: list[str]) -> str:
    """The last line with a number in it that a program prints, or why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not found: {error}"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if re.search(r"\d+\.\d+", line)]
    return lines[-1].strip() if lines else f"status {done.returncode}, no version"


def ptxas() -> dict[str, str]:
    """The assembler that Triton runs for capability 9, and whether it is the one that was asked for.

    Triton falls back to its own without a word where TRITON_PTXAS_PATH names nothing that runs.
    """
    import triton.backends.nvidia.compiler as compiler

    found = compiler.get_ptxas(90)
    result = {"path": found.path, "version": version_of([found.path, "--version"])}
    asked = os.environ.get("TRITON_PTXAS_PATH")
    if asked is not None:
        result["asked_for"] = asked
    return result


def about(context: Context) -> dict[str, Any]:
    """Where and with what. `errors` has what would keep kernels from running as they are meant to."""
    import torch

    from benchmarks.report import surroundings

    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    assembler = ptxas()
    if compiler is None:
        context.errors["C compiler"] = "neither CC, gcc nor clang: Triton can't build what launches a kernel"
    if assembler.get("asked_for", assembler["path"]) != assembler["path"]:
        context.errors["ptxas"] = f"TRITON_PTXAS_PATH is {assembler['asked_for']}, which Triton doesn't use"
    result = {
        **surroundings("gpu_check", None),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "ptxas": assembler,
        "c_compiler": version_of([compiler, "--version"]) if compiler else "not found",
        "tools": {
            name: path and version_of([path, "--version"])
            for name, path in ((name, tool(name)) for name in ("nvcc", "ncu", "compute-sanitizer"))
        },
    }
    if not context.dry:
        properties = torch.cuda.get_device_properties(0)
        result["gpu"] = {
            "name": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "l2_mib": properties.L2_cache_size / 2**20,
            "cuda": torch.version.cuda,
            "capability": list(torch.cuda.get_device_capability(0)),
            "state": state(),
        }
    return result


def state() -> str:
    """What nvidia-smi says of driver, clocks and load."""
    query = "driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu,utilization.gpu,memory.used"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not found: {error}"
    return done.stdout.strip()
