"""Rows that can't be read or answered, options that don't fit, and outputs that are another job's."""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from squeezebert_fast.errors import CheckpointError, ClusterError, InputError, StorageError
from squeezebert_fast.ray import cluster, folder
from squeezebert_fast.ray.cluster import LOCAL
from squeezebert_fast.ray.folder import begin
from squeezebert_fast.ray.shards import Shard
from squeezebert_fast.ray.work import Prediction
from squeezebert_fast.ray.worker import ATTEMPTS
from tests.cli_helpers import refuses, run
from tests.ray.helpers import (
    Fails,
    contents,
    ends_well,
    in_this_process,
    job_of,
    joined,
    on_cluster,
    write_lines,
    write_rows,
)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """80 rows, of which the 31st is no JSON, the 53rd a number in place of a text, and the last of another form."""
    lines = [json.dumps({"text": f"good film {at}", "id": at}) for at in range(80)]
    lines[30], lines[52], lines[79] = '{"text": ', '{"text": 5, "id": 52}', '["text"]'
    return write_lines(tmp_path / "rows.jsonl", lines)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("on_error", "rows"), [("skip", 77), ("record", 80)])
def test_rows_that_cant_be_read_are_as_without_ray(
    on_error: str, rows: int, damaged: Path, model: Path, tmp_path: Path
) -> None:
    asked = ("predict", damaged, "-m", model, "--on-error", on_error, "--keep", "id")
    said = ends_well(*asked, "-o", tmp_path / "output", "--ray", "--workers", 2, "--shard-rows", 20)
    local = run(*asked)
    assert joined(tmp_path / "output") == local.stdout
    assert said.startswith(f"squeezebert-fast: {rows} rows in 4 parts in ")
    assert said.splitlines()[1:] == local.stderr.splitlines()
    assert "3 rows can't be read (the first: " in said
    assert json.loads((tmp_path / "output" / "_job.json").read_text())["output"]["errors"] == 3


@pytest.mark.usefixtures("cluster")
def test_a_bad_row_ends_the_job_with_its_place_and_skip_goes_on(
    damaged: Path, model: Path, tmp_path: Path
) -> None:
    asked = (
        "predict",
        damaged,
        "-m",
        model,
        "-o",
        tmp_path / "output",
        "--ray",
        "--shard-rows",
        10,
        "--workers",
        1,
    )
    refuses(*asked, said=f"{damaged}, line 31: not valid JSON: ")
    assert not (tmp_path / "output").exists()
    if (tmp_path / "output.unfinished").exists():  # else no shard was done in time
        ends_well(*asked, "--resume", "--on-error", "skip")
        assert (
            joined(tmp_path / "output") == run("predict", damaged, "-m", model, "--on-error", "skip").stdout
        )


@pytest.mark.usefixtures("cluster")
def test_rows_on_which_the_model_fails_are_bad_rows_too(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rows(tmp_path / "rows.jsonl", 120)
    texts = [json.loads(line)["text"] for line in source.read_text().splitlines()]
    bad = max(texts, key=len)
    usual = run("predict", source, "-m", model).stdout.splitlines()
    failing = Fails(model=str(model), text=bad)
    skipped = joined(on_cluster(failing, source, tmp_path / "skip", "skip"))
    assert skipped.splitlines() == [line for line, text in zip(usual, texts, strict=True) if text != bad]
    place = f"{source}, line {texts.index(bad) + 1}"
    assert (
        f"1 row can't be read (the first: {place}: the model's answer is not finite"
        in capsys.readouterr().err
    )
    recorded = [
        json.loads(line)
        for line in joined(on_cluster(failing, source, tmp_path / "record", "record")).splitlines()
    ]
    for row, text, line in zip(recorded, texts, usual, strict=True):
        error = row.pop("error")
        if text == bad:
            assert error.startswith(f"{place}: the model's answer is not finite for the text ")
            assert (row["label"], row["score"]) == (None, None)
        else:
            assert (row, error) == (json.loads(line), None)
    with pytest.raises(CheckpointError, match="not finite"):
        on_cluster(failing, source, tmp_path / "stop")
    assert not (tmp_path / "stop").exists()


def test_a_shard_that_kills_its_workers_ends_the_job(model: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", 120)
    job = job_of(Prediction(model=str(model)), source, tmp_path / "parts")
    for _ in range(ATTEMPTS):
        begin(job.folder, Shard(0, 1))
    with pytest.raises(ClusterError, match=f"{source}, line 51 to {source}, line 100: out of memory"):
        in_this_process(job)


def test_a_node_that_doesnt_see_the_output_says_so(model: Path, tmp_path: Path) -> None:
    job = job_of(Prediction(model=str(model)), write_rows(tmp_path / "rows.jsonl", 9), tmp_path / "parts")
    (job.folder / "_job.json").unlink()
    with pytest.raises(InputError, match="a file system that all nodes share"):
        in_this_process(job)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", 2], "--workers means nothing without --ray"),
        (["--shard-rows", 2], "--shard-rows means nothing without --ray"),
        (["--resume"], "--resume means nothing without --ray"),
        (["--ray"], "--ray needs --output, a directory to write to"),
        (["--ray", "-o", "-"], "--ray needs --output, a directory to write to"),
        (
            ["--ray", "-o", "x", "--format", "csv"],
            "with --ray the output format is 'csv', expected one of jsonl, parquet",
        ),
        (["--ray", "-o", "x.csv"], "x.csv looks like a file; with --ray it is a directory"),
        (["--ray", "-o", "nowhere/x"], "there is no directory "),
        (["--ray", "-o", "x", "--resume"], "x.unfinished to go on with; leave --resume out"),
        (["--ray", "-o", "done", "--resume"], "done is whole already; there is nothing to go on with"),
        (["--ray", "-o", "x", "--workers", 0], "Invalid value for '--workers'"),
        (["--ray", "-o", "rows.jsonl"], "rows.jsonl is a file; with --ray it is a directory of files"),
        (["--ray", "-o", "full"], "full holds files already; give another, or remove it"),
        (
            ["--ray", "-o", "begun"],
            "begun.unfinished is a job that didn't end; go on with it by --resume, or remove it",
        ),
        (["--ray", "-o", "odd"], "odd.unfinished holds files that are of no job; remove it"),
        (["--ray", "-o", "odd", "--resume"], "odd.unfinished holds files that are of no job; remove it"),
        (["--ray", "-o", "/"], "the output / is where a file system is mounted; give a directory in it"),
        (["--ray", "-o", "."], "is the current directory, which it would replace; give one in it"),
        (["--ray", "-o", "x", "--column", "texts"], "has no column 'texts'"),
        (["--ray", "-o", "x", "--precision", "int4"], "int4"),
        (["--ray=somewhere", "-o", "x"], "--ray is 'somewhere', expected HOST:PORT or auto; "),
        (["--ray", "ray://here:1", "-o", "x"], "submit the command by `ray job submit`"),
        (["--ray", "127.0.0.1:1", "-o", "x"], "there is no Ray cluster at 127.0.0.1:1: "),
        (["--ray=127.0.0.1:1", "-o", "x"], "there is no Ray cluster at 127.0.0.1:1: "),
    ],
)
def test_what_can_be_wrong_is_said_before_a_cluster_starts(
    options: list[object], said: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a cluster starts"))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    write_rows(tmp_path / "rows.jsonl", 5)
    for name in ("full/file", "done/_job.json", "begun.unfinished/_job.json", "odd.unfinished/file"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    before = set(tmp_path.rglob("*"))
    refuses("predict", *options, "rows.jsonl", "-m", model, said=said)
    assert set(tmp_path.rglob("*")) == before


def test_a_cluster_of_the_environment_that_isnt_there_is_not_waited_for(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray is asked"))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    asked = ("predict", write_rows(tmp_path / "rows.jsonl", 5), "-m", model, "-o", tmp_path / "x")
    refuses(*asked, "--ray", "auto", said="there is no Ray cluster at 127.0.0.1:1: ")


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """What ends a process does so, also where this one was started by nohup or in the background."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("address", [LOCAL, "auto"])
@pytest.mark.parametrize(
    ("sent", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
@pytest.mark.parametrize("phase", ["init", "work", "shutdown"])
def test_a_signal_waits_until_ray_has_started_and_ended(
    phase: str,
    sent: signal.Signals,
    raised: type[BaseException],
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    import ray

    done = []

    def does(name: str) -> None:
        if phase == name:
            signal.raise_signal(sent)
        if name == "init":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Ray has a handler of its own
        done.append(name)

    monkeypatch.setattr(cluster, "SHORT", tmp_path)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: does("init"))
    monkeypatch.setattr(ray, "shutdown", lambda: does("shutdown"))
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def works() -> None:
        with cluster.connected(address, 1, 1):
            does("work")

    with pytest.raises(raised) as caught:
        works()
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 128 + sent
    assert done == {"shutdown": ["init", "work", "shutdown"]}.get(phase, ["init", "shutdown"])
    assert not list(tmp_path.iterdir())
    assert {each: signal.getsignal(each) for each in before} == before


@pytest.mark.parametrize("fails", ["ray.init", "tempfile.mkdtemp"])
def test_a_cluster_that_cant_start_is_an_error_in_one_line(
    fails: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def no_room(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(fails, no_room)
    asked = ("predict", write_rows(tmp_path / "rows.jsonl", 5), "-m", model, "-o", tmp_path / "x")
    result = run(*asked, "--ray")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "squeezebert-fast: a Ray cluster can't be started here: [Errno 28] No space left"
    )
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_job_that_runs_is_not_called_one_to_remove(model: Path, tmp_path: Path) -> None:
    asked = ("predict", write_rows(tmp_path / "rows.jsonl", 5), "-m", model, "-o", tmp_path / "x", "--ray")
    with folder.opened(tmp_path / "x.unfinished", {}, resume=False):
        refuses(*asked, said="x.unfinished is in use by process ")
        refuses(*asked, "--resume", said="x.unfinished is in use by process ")


def test_a_part_whose_report_cant_be_written_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    def computes() -> None:
        with folder.opened(tmp_path / "x.unfinished", {}, resume=False):
            (tmp_path / "x.unfinished" / "part-00000-000000.jsonl").touch()
            raise StorageError("no room")

    with pytest.raises(StorageError, match="no room"):
        computes()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [["--ray", "no.csv"], ["no.csv", "--ray"], ["--ray", "auto", "no.csv"], ["--ray=a:1", "no.csv"]],
)
def test_the_input_may_follow_the_option(arguments: list[str]) -> None:
    refuses("predict", *arguments, "-o", "x", said="no.csv doesn't exist")


def test_the_input_is_a_file(tmp_path: Path, model: Path) -> None:
    refuses(
        "predict", "-", "--ray", "-m", model, "-o", tmp_path / "x", said="not standard input", stdin="good\n"
    )


def test_without_ray_an_error_says_what_to_install(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    source = write_rows(tmp_path / "rows.jsonl", 5)
    refuses(
        "predict",
        source,
        "--ray",
        "-m",
        model,
        "-o",
        tmp_path / "x",
        said="pip install squeezebert-fast[ray]",
    )
    refuses(
        "embed", source, "--ray", "-m", model, "-o", tmp_path / "x", said="pip install squeezebert-fast[ray]"
    )


def test_embed_takes_no_format_without_ray(model: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", 5)
    asked = ("embed", source, "-m", model, "-o", tmp_path / "x.npy")
    refuses(*asked, "--format", "jsonl", said="--format means nothing without --ray")
    refuses(*asked, "--ray", said="x.npy looks like a file; with --ray it is a directory")


@pytest.mark.usefixtures("cluster")
def test_resume_refuses_another_job(model: Path, tmp_path: Path) -> None:
    source, output = write_rows(tmp_path / "rows.jsonl", 60), tmp_path / "output"
    asked = ("predict", source, "-m", model, "-o", output, "--ray", "--workers", 1, "--shard-rows", 20)
    ends_well(*asked)
    wanted = contents(output)
    output.rename(tmp_path / "output.unfinished")
    (tmp_path / "output.unfinished" / "part-00000-000001.jsonl").unlink()
    refuses(*asked, said="is a job that didn't end; go on with it by --resume, or remove it")
    refuses(*asked, "--resume", "--batch-size", 7, said="its options batch_size is 32, and now it is 7")
    refuses(*asked, "--resume", "--keep", "id", said='its reading keep is [], and now it is ["id"]')
    refuses(*asked[:-1], 30, "--resume", said="its shard_rows is 20, and now it is 30")
    ends_well(*asked, "--resume", "--threads", 1)
    assert contents(output) == wanted
    output.rename(tmp_path / "output.unfinished")
    write_rows(source, 61)
    refuses(*asked, "--resume", said=f"its input {source} size is ")
