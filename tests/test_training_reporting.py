"""What a run shows while it goes on, and the picture it leaves."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from squeezebert_fast.training.reporting import Reporter, draw_curves, in_words


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal as stderr; to be made in the test itself, since pytest's capture comes after fixtures."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def shown(reporter: Reporter) -> None:
    with reporter.bar(10, 2):
        reporter.step(3, 0.25, 1234.5, "best accuracy 0.9000")
        reporter.say("a line")
    reporter.step(4, 0.1, 1.0, "")  # without effect after the bar


def test_a_terminal_sees_loss_metric_and_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = terminal_of(monkeypatch)
    shown(Reporter())
    for part in ("3/10", "loss 0.2500", "best accuracy 0.9000", "1,234 tokens/s"):
        assert part in terminal.getvalue()
    assert capsys.readouterr().out == "a line\n"


def test_a_file_sees_lines_alone(capsys: pytest.CaptureFixture[str]) -> None:
    shown(Reporter())
    assert capsys.readouterr() == ("a line\n", "")


def test_the_other_processes_are_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = terminal_of(monkeypatch)
    shown(Reporter(quiet=True))
    assert (terminal.getvalue(), capsys.readouterr().out) == ("", "")


def test_metrics_in_words() -> None:
    assert in_words({"loss": 0.123456, "f1": 1.0}) == "loss 0.1235, f1 1.0000"


def test_curves_are_drawn_with_and_without_evaluations(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    training = [{"step": step, "loss": 1.0 / step} for step in (1, 2, 3)]
    dev = [{"step": 3, "dev": {"loss": 0.5, "accuracy": 0.75}}]
    for name, records in (("a.png", training), ("b.png", [*training, *dev]), ("c.png", [])):
        assert draw_curves(records, "accuracy", tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_without_matplotlib_there_are_no_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not draw_curves([{"step": 1, "loss": 1.0}], "accuracy", tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
