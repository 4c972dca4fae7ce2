"""`doctor`: what this installation can do on this machine, and why not more."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass

import torch

from squeezebert_fast import backends
from squeezebert_fast.backends import assembler, cpu, triton
from squeezebert_fast.backends.request import Request
from squeezebert_fast.errors import SqueezeBertFastError
from squeezebert_fast.version import __version__

PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "huggingface_hub", "transformers", "triton")


@dataclass(frozen=True)
class Report:
    """Sections of (name, value) pairs. `str()` lays them out as text."""

    sections: dict[str, list[tuple[str, str]]]

    def __str__(self) -> str:
        width = max(len(name) for rows in self.sections.values() for name, _ in rows)
        lines = []
        for title, rows in self.sections.items():
            lines += [title, *(f"  {name:<{width}}  {value}" for name, value in rows), ""]
        return "\n".join(lines).rstrip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def doctor() -> Report:
    """Versions, CPU features, the native module and its builds, GPUs, and the backend of each operation.

    Never raises for what is missing: the report says so. `print` lays it out as text.

    >>> report = squeezebert_fast.doctor()
    >>> list(report.sections)[:3]
    ['versions', 'CPU', 'GPU']
    """
    versions = [("squeezebert_fast", __version__), ("python", platform.python_version())]
    versions += [(package, _version(package)) for package in PACKAGES]
    sections = {"versions": versions, "CPU": _cpu_rows(), "GPU": _gpu_rows()}
    for device, dtype in _combinations():
        title = f"operations on {device.type}, {str(dtype).removeprefix('torch.')}"
        sections[title] = []
        for operation in sorted(backends.BACKENDS["reference"].operations):
            try:
                choice = backends.choose(Request(operation, device, dtype))
                sections[title].append((operation, f"{choice.backend} ({choice.reason})"))
            except SqueezeBertFastError as error:
                sections[title].append((operation, f"error: {error}"))
    return Report(sections)


def _cpu_rows() -> list[tuple[str, str]]:
    rows = [
        ("machine", f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads")
    ]
    missing = cpu.native_module_missing()
    if missing or cpu._native is None:
        return [*rows, ("native module", missing or "missing")]
    rows += [
        ("features", ", ".join(cpu._native.cpu_features()) or "none that a kernel uses"),
        *([("AMX", f"can't be used: {refusal}")] if (refusal := cpu.amx_refusal()) else []),
        ("native module", "loaded"),
        ("kernel builds usable here", ", ".join(cpu.instruction_sets())),
    ]
    try:
        rows.append(("kernel build in use", cpu.instruction_set()))
    except SqueezeBertFastError as error:
        rows.append(("kernel build in use", f"error: {error}"))
    return [*rows, ("threads come from", cpu._native.thread_runtime())]


def _gpu_rows() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("devices", "none that this torch can use")]
    rows = []
    for index in range(torch.cuda.device_count()):
        reason = triton.unavailable(torch.device("cuda", index))
        rows.append((f"cuda:{index}", torch.cuda.get_device_name(index)))
        rows.append((f"Triton kernels on cuda:{index}", "yes" if reason is None else f"no: {reason}"))
        if reason is None:
            capability = torch.cuda.get_device_capability(index)
            rows.append((f"their assembler for cuda:{index}", assembler.described(capability)))
            rows += triton.shared_memory_rows(index)
    return rows


def _combinations() -> list[tuple[torch.device, torch.dtype]]:
    pairs = [(torch.device("cpu"), torch.float32), (torch.device("cpu"), torch.bfloat16)]
    if torch.cuda.is_available():
        pairs += [(torch.device("cuda"), torch.float32), (torch.device("cuda"), torch.bfloat16)]
    return pairs
