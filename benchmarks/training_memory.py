"""The memory that one training step takes, in a process of its own: what `benchmarks.training` starts.

python -m benchmarks.training_memory "transformers eager" bfloat16 8x128 --threads 2 --layers 12
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from benchmarks.command import exit_with, positive, shape
from benchmarks.memory import peak_during, resident_now
from benchmarks.report import Shape, shape_name
from benchmarks.training_step import ENGINES, PRECISIONS, base_classifier, candidate, random_batch, warm_up
from squeezebert_fast.benchmark import CandidateFailed

# glibc would keep some of what is freed, how much depends on the order of sizes: with this it maps every large block
# apart, and gives it back at once, so that resident is what is in use.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}


def memory_of_a_step(engine: str, precision: str, shape: Shape, layers: int) -> dict[str, int]:
    """What the second step took here.

    loaded_bytes: resident with the model, before its first step. gradients_bytes: of one gradient for each parameter.
    before_bytes: resident before the second step, so with gradients and whatever the engine keeps of the first.
    peak_bytes: resident at most during the second step.
    """
    batch = random_batch(shape)
    subject = candidate(engine, precision, base_classifier(layers))
    loaded = resident_now()
    warm_up(subject, batch, keep_gradients=True)
    before, peak = peak_during(lambda: subject.step(batch))
    gradients = sum(p.grad.nbytes for p in subject.model.parameters() if p.grad is not None)
    return {
        "loaded_bytes": loaded,
        "gradients_bytes": gradients,
        "before_bytes": before,
        "peak_bytes": peak,
    }


def in_a_process(engine: str, precision: str, shape: Shape, layers: int) -> dict[str, int]:
    """`memory_of_a_step` in a new process, with as many threads as here. Raises CandidateFailed."""
    arguments = [engine, precision, shape_name(shape), "--threads", str(torch.get_num_threads())]
    command = [sys.executable, "-m", "benchmarks.training_memory", *arguments, "--layers", str(layers)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **ALLOCATOR},
    )
    if done.returncode != 0:
        raise CandidateFailed((done.stderr.strip().splitlines() or [f"it exited with {done.returncode}"])[-1])
    taken: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_memory", description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("precision", choices=PRECISIONS)
    parser.add_argument("shape", type=shape)
    parser.add_argument("--threads", type=positive, required=True)
    parser.add_argument("--layers", type=positive, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    print(json.dumps(memory_of_a_step(chosen.engine, chosen.precision, chosen.shape, chosen.layers)))


if __name__ == "__main__":
    exit_with(main)
