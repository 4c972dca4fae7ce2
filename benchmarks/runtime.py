"""squeezebert-run: how large it is, and how long its first answer takes, from the start of the process.

python -m benchmarks.runtime           after `make runtime`, and after `make runtime-arm` that one's sizes too
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from squeezebert_fast.shipped import SENTIMENT_MODEL

BUILDS = {"build/runtime": "strip", "build/runtime-aarch64": "aarch64-linux-gnu-strip"}
FILES = ("squeezebert-run", "libsqueezebert.so", "libsqueezebert.a")
TEXT = "The film is a little long, and every minute of it is worth seeing."


def stripped_bytes(file: Path, strip: str) -> int:
    """The size without symbols that only debuggers and linkers of executables read."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        shutil.copy(file, copy)
        subprocess.run([strip, "--strip-unneeded", str(copy)], check=True)
        return copy.stat().st_size


def first_answer(program: Path, threads: int) -> tuple[float, float]:
    """Milliseconds from the start of a process to its end, after one answer: on the clock, and of processors."""
    before, begin = os.times(), time.perf_counter()
    command = [str(program), "classify", str(SENTIMENT_MODEL), TEXT, "--threads", str(threads)]
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    cpu = sum(getattr(after, name) - getattr(before, name) for name in ("children_user", "children_system"))
    return (time.perf_counter() - begin) * 1e3, cpu * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=51)
    runs = parser.parse_args().runs
    for folder, strip in BUILDS.items():
        for name in FILES:
            if (file := Path(folder) / name).exists():
                print(f"{file}: {stripped_bytes(file, strip) / 1e6:.2f} MB stripped")
    for threads in (1, 2):
        times = [first_answer(Path("build/runtime/squeezebert-run"), threads) for _ in range(runs)]
        clock = statistics.median(wall for wall, _ in times)
        cpu = statistics.mean(cpu for _, cpu in times)
        print(
            f"first answer of the shipped model, {threads} threads: {clock:.1f} ms (median of {runs}), CPU {cpu:.1f} ms"
        )


if __name__ == "__main__":
    main()
