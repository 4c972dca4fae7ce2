"""Freed memory stays with the process for the next step."""

from __future__ import annotations

import subprocess
import sys

import pytest

from squeezebert_fast.training import allocator

FAULTS = """
import resource, torch
from squeezebert_fast.training.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.zeros(96 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fetched_anew = faults()
assert keep_freed_memory()
faults()
print(fetched_anew, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is asked")
def test_memory_of_one_step_is_there_for_the_next() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after < before / 100


def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert not allocator.keep_freed_memory()
