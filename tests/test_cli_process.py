"""What only a process of its own can show: start-up, signals, pipes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from squeezebert_fast import SqueezeBertForSequenceClassification, SqueezeBertModel
from squeezebert_fast.version import __version__
from tests.cli_helpers import save_model
from tests.training_helpers import assert_same_end, opinions, save_base, summary_of, trains, write_tsv

PROGRAM = [sys.executable, "-c", "from squeezebert_fast.cli import main; main()"]
PATIENCE = 120.0  # seconds until a hanging process fails the test


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(SqueezeBertForSequenceClassification, tmp_path_factory.mktemp("model"))


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [*PROGRAM, *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options)


def heed_ctrl_c() -> None:
    """A shell has its background jobs, and so this test in one, ignore SIGINT; a process inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["predict", "--help"], ["predict", "none.txt", "-m", "x"]]
)
def test_help_and_early_errors_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom squeezebert_fast.cli import main\n"
        "try: main()\nexcept SystemExit: print({'torch', 'transformers', 'numpy'} & sys.modules.keys())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert result.stdout.endswith("set()\n")


def test_the_package_is_the_program_too() -> None:
    command = [sys.executable, "-m", "squeezebert_fast", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    assert said == f"squeezebert-fast {__version__}\n"


def test_bad_input_ends_the_process_with_one_line() -> None:
    process = start("predict", "--model", "m", "no-such-file.txt")
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout) == (2, "")
    assert stderr == "squeezebert-fast: no-such-file.txt doesn't exist\n"


@pytest.mark.skipif(not hasattr(socket, "SOCK_SEQPACKET"), reason="message sockets are Linux's")
def test_an_error_is_written_at_once() -> None:
    """So that the lines of processes that share stderr stay lines. torchrun's write without a buffer: -u."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [PROGRAM[0], "-u", *PROGRAM[1:], "predict", "--model", "m", "no-such-file.txt"]
    with reader, writer:
        assert subprocess.run(command, stderr=writer, timeout=PATIENCE).returncode == 2
        writes = (reader.recv(1000) for _ in range(100))  # an empty one is nothing that anybody sees
        assert next(filter(None, writes)) == b"squeezebert-fast: no-such-file.txt doesn't exist\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(sent: signal.Signals, model: Path, tmp_path: Path) -> None:
    pipe, output = tmp_path / "texts", tmp_path / "out"
    os.mkfifo(pipe)
    output.mkdir()
    process = start("predict", "-m", model, pipe, "-o", output / "rows.csv", preexec_fn=heed_ctrl_c)
    with pipe.open("w") as stream:
        stream.write("one text\n" * 3)
        stream.flush()
        deadline = time.monotonic() + PATIENCE
        while not list(output.iterdir()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [path.suffix for path in output.iterdir()] == [".tmp"]  # it waits for more texts
        process.send_signal(sent)
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stdout, stderr) == (128 + sent, "", "")
    assert list(output.iterdir()) == []


def test_a_closed_pipe_is_quiet(model: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("a text\n" * 3000)
    process = start("predict", "-m", model, tmp_path / "texts")
    assert process.stdout is not None
    assert process.stdout.readline().startswith('{"text": "a text"')
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.wait(timeout=PATIENCE)
    assert process.returncode not in (0, 2)


def without(closed: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """The program, started by a shell that closes some of its streams first, as a daemon's may be."""
    words = [*PROGRAM, *(str(argument) for argument in arguments)]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *words]
    return subprocess.run(shell, capture_output=True, timeout=PATIENCE, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_work_goes_on_without_standard_streams(closed: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("a text\nanother\n")
    output = tmp_path / "rows.jsonl"
    done = without(closed, "predict", "-m", model, tmp_path / "texts", "-o", output)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(output.read_text().splitlines()) == 2
    doctor = without(closed, "doctor")
    assert doctor.returncode == 0
    assert bool(doctor.stdout) == (">&-" not in closed.replace("2>&-", ""))
    wrong = without(closed, "predict", "-m", model, tmp_path / "none")
    assert (wrong.returncode, wrong.stdout) == (
        2,
        b"",
    )  # an error is no output, even where there is no stderr
    assert (b"doesn't exist" in wrong.stderr) == ("2>&-" not in closed)


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize(
    ("closed", "source", "said"),
    [("<&-", "-", b"standard input holds no texts"), (">&-", "texts", b"give --output")],
)
def test_what_needs_a_stream_that_is_not_there_is_refused(
    closed: str, source: str, said: bytes, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts").write_text("a text\n")
    done = without(closed, "predict", "-m", model, source if source == "-" else tmp_path / source)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the streams")
def test_a_daemon_trains_and_its_files_hold_nothing_else(tmp_path: Path) -> None:
    """With descriptor 2 free, the next file to be opened would get what libraries write to it."""
    base = save_base(SqueezeBertModel, tmp_path / "base")
    train = write_tsv(tmp_path / "train.tsv", opinions(32, 1))
    how = ["--dev", train, "-m", base, "--epochs", 2, "--max-length", 16, "--threads", 1]
    done = without("<&- >&- 2>&-", "finetune", train, "-o", tmp_path / "daemon", *how)
    assert done.returncode == 0
    trains("finetune", train, "-o", tmp_path / "usual", *how)
    assert_same_end(tmp_path / "usual", tmp_path / "daemon")
    again = without("<&- >&- 2>&-", "finetune", train, "-o", tmp_path / "daemon", *how)
    assert again.returncode == 2  # the folder holds a run already


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_outlives_whoever_watches_it(stream: str, tmp_path: Path) -> None:
    base = save_base(SqueezeBertModel, tmp_path / "base")
    train = write_tsv(tmp_path / "train.tsv", opinions(32, 1))
    how = ["--dev", train, "-m", base, "--epochs", 2, "--max-length", 16, "--threads", 1]
    process = start("finetune", train, "-o", tmp_path / "out", *how)
    getattr(process, stream).close()
    kept = process.stderr if stream == "stdout" else process.stdout
    assert kept is not None
    said = kept.read()
    assert process.wait(timeout=PATIENCE) == 0
    assert "Traceback" not in said
    assert summary_of(tmp_path / "out")["steps"] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_work_outlives_the_terminal_that_shows_its_progress(model: Path, tmp_path: Path) -> None:
    import pty

    (tmp_path / "texts").write_text("a text\n" * 3000)
    ours, theirs = pty.openpty()
    arguments = ["predict", "-m", model, tmp_path / "texts", "-o", tmp_path / "rows.csv"]
    command = [*PROGRAM, *(str(argument) for argument in arguments)]
    process = subprocess.Popen(command, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    assert os.read(ours, 1)  # the bar is there
    os.close(ours)
    assert process.wait(timeout=PATIENCE) == 0
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 3001


def test_an_error_that_nobody_reads_is_in_the_exit_code(tmp_path: Path) -> None:
    process = start("predict", "--model", "m", tmp_path / "none")
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(timeout=PATIENCE) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_a_terminal_sees_progress(model: Path, tmp_path: Path) -> None:
    import pty

    (tmp_path / "texts").write_text("a text\n" * 5)
    ours, theirs = pty.openpty()
    command = [
        *PROGRAM,
        "predict",
        "-m",
        str(model),
        str(tmp_path / "texts"),
        "-o",
        str(tmp_path / "out.csv"),
    ]
    process = subprocess.Popen(command, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"})
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 1024):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=PATIENCE) == 0
    assert b" texts" in shown
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("pre", ["predict", "pretrain"]),
        ("predict --prec", ["--precision"]),
        ("predict --precision ", ["float32", "bfloat16", "int8"]),
        ("finetune train.csv --precision b", ["bfloat16"]),
        ("finetune train.csv --task q", ["question-answering"]),
        ("serve --pooling ", ["mean", "cls"]),
        ("predict --aggregate f", ["first"]),
        ("bench --backends t", ["triton", "transformers"]),
        ("bench --precision int8,", ["int8,float32", "int8,bfloat16"]),
        ("evaluate good.csv --precision float32,b", ["float32,bfloat16"]),
        ("predict ", []),  # the shell's own: files
    ],
)
def test_a_shell_completes_commands_options_and_values(typed: str, offered: list[str]) -> None:
    words = f"squeezebert-fast {typed}"
    at = len(words.split()) - (not words.endswith(" "))
    asked = {"_SQUEEZEBERT_FAST_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    said = subprocess.run(
        PROGRAM, env={**os.environ, **asked}, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert (said.stdout.split(), said.stderr) == (offered, "")
