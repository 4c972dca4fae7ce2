"""What happens to a job whose node or own process is gone, with commands in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli_helpers import run
from tests.ray.helpers import contents, ends_well, joined, write_rows
from tests.slow import slow

COMMAND = (sys.executable, "-m", "squeezebert_fast", "predict")
ROWS, SHARD_ROWS = 3000, 20
PARTS = ROWS // SHARD_ROWS


def started(*arguments: object) -> subprocess.Popen[str]:
    words = [str(each) for each in (*COMMAND, *arguments, "--shard-rows", SHARD_ROWS)]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def parts(output: Path) -> list[Path]:
    """The parts of a job that hasn't ended, whole ones alone."""
    return sorted(output.with_name(f"{output.name}.unfinished").glob("part-*"))


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if is_so():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    pytest.fail("it took more than two minutes")


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("sent", [signal.SIGKILL, *slow([signal.SIGINT]), signal.SIGTERM])
def test_a_job_that_is_stopped_goes_on_where_it_was(
    sent: signal.Signals, model: Path, tmp_path: Path
) -> None:
    source, output = write_rows(tmp_path / "rows.jsonl", ROWS), tmp_path / "output"
    asked = (source, "-m", model, "-o", output, "--ray")
    process = started(*asked, "--workers", 2)
    try:
        wait_until(lambda: len(parts(output)) >= 10, process)
        process.send_signal(sent)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    code = -sent if sent == signal.SIGKILL else 128 + sent
    assert (process.returncode, out, err) == (code, "", "")
    assert not output.exists()
    for _ in range(300):  # SIGKILL leaves it to Ray to end its cluster, whose workers write until then
        left = commands(process.pid)
        if not any("MapWorker" in each for each in left):
            break
        time.sleep(0.1)
    assert not (left if sent != signal.SIGKILL else [each for each in left if "MapWorker" in each])
    before = {path.name: path.stat().st_ino for path in parts(output)}
    assert 10 <= len(before) < PARTS
    said = ends_well("predict", *asked, "--resume", "--workers", 2, "--shard-rows", SHARD_ROWS)
    now = int(said.partition("; ")[2].partition(" of them now")[0].replace(",", ""))
    assert ROWS - len(before) * SHARD_ROWS <= now < ROWS
    after = {path.name: path.stat().st_ino for path in output.iterdir()}
    kept = sum(after[name] == inode for name, inode in before.items())
    assert kept == (ROWS - now) // SHARD_ROWS  # what was reported done was neither computed nor written again
    assert len(after) == PARTS + 1
    assert joined(output) == run("predict", source, "-m", model).stdout


@pytest.mark.slow
def test_a_job_outlives_a_node(model: Path, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    rows = 5 * ROWS  # for longer than the second worker's start takes
    source, output = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "output"
    quickly = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": quickly},
    )
    process = None
    try:
        node = cluster.add_node(num_cpus=1)
        process = started(source, "-m", model, "-o", output, "--ray", cluster.address)
        # each node has one, and what both have written is more than what one had when the other came
        wait_until(lambda: sum("MapWorker" in each for each in commands()) >= 2, process)
        alone = len(parts(output))
        wait_until(lambda: len(parts(output)) >= alone + 20, process)
        cluster.remove_node(node, allow_graceful=False)
        left = len(parts(output))
        out, err = process.communicate(timeout=240)
    finally:
        if process is not None:
            process.kill()
        cluster.shutdown()
    assert left < 5 * PARTS
    assert process.returncode == 0, err
    assert out == ""
    assert err.startswith(f"squeezebert-fast: {rows:,} rows in {5 * PARTS} parts in ")
    assert set(contents(output)) == {"_job.json", *(f"part-00000-{at:06d}.jsonl" for at in range(5 * PARTS))}
    assert joined(output) == run("predict", source, "-m", model).stdout


def commands(session: int | None = None) -> list[str]:
    """The commands of all processes, or of a session's."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if session in (None, int(stat.read_text().rpartition(")")[2].split()[3])):
                found.append((stat.parent / "cmdline").read_text())  # nothing for one that has ended
        except OSError:  # it has just ended
            continue
    return [each for each in found if each]
