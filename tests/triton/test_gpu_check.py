"""Every step of `benchmarks.gpu_check` works, as far as it can be told without a GPU: in the interpreter, untimed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check import SANITIZED
from benchmarks.gpu_plan import STEPS


@pytest.mark.slow
def test_a_dry_run_does_every_step_and_times_none(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_check",
        "--dry-run",
        "--out",
        str(tmp_path),
        "--seconds",
        "900",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"dry_run", "tests", *SANITIZED, *STEPS}
    assert results["tests"]["counts"].get("passed") == 1
    for name in STEPS:
        rows = results[name].get("rows", [])
        assert rows or name in ("about", "training_curves")
        assert results[name]["errors"] == {}, name
        assert all(row["median_ms"] is None and row["ms"] == [] and row["tflops"] is None for row in rows)
    text = (tmp_path / "results.md").read_text()
    assert "A dry run" in text
    assert "Goals" not in text
    assert not list(tmp_path.glob("*.svg"))
