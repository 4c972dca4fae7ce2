"""What a run shows while it goes on, and the picture it leaves."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from squeezebert_fast.training.distillation import Distilled
from squeezebert_fast.training.reporting import Reporter, draw_curves, in_words
from squeezebert_fast.training.settings import Softness
from squeezebert_fast.training.tasks import sequences


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


def test_a_line_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the lines of torchrun's processes, which share stdout and buffer nothing, stay lines."""
    writes: list[str] = []

    class Unbuffered(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Unbuffered())
    Reporter().say("a line")
    assert writes == ["a line\n"]


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


def drawn(monkeypatch: pytest.MonkeyPatch, path: Path, **how: bool) -> list[tuple[str, list[str]]]:
    """The title of each panel that is drawn, and the lines in it."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    panels = []

    def savefig(self: Any, *arguments: Any, **options: Any) -> None:
        panels.extend(
            (axes.get_title(), [str(line.get_label()) for line in axes.lines]) for axes in self.axes
        )

    monkeypatch.setattr(figure, "savefig", savefig)
    records = [
        {"step": 1, "loss": 30.0},
        {"step": 2, "loss": 20.0},
        {"step": 2, "dev": {"loss": 0.5, "f1": 0.75}},
    ]
    assert draw_curves(records, "f1", path, **how)
    return panels


def test_a_loss_that_is_anothers_in_training_has_axes_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A distilled model's has the teacher's part, which may be many times the task's own."""
    path = tmp_path / "curves.png"
    assert drawn(monkeypatch, path) == [("loss", ["training", "dev"]), ("dev f1", ["dev"])]
    apart = drawn(monkeypatch, path, own_loss=False)
    assert apart == [
        ("training loss, with the teacher's part", ["training"]),
        ("dev loss", ["dev"]),
        ("dev f1", ["dev"]),
    ]


@pytest.mark.parametrize(
    ("softness", "own"), [({}, False), ({"alpha": 0.0}, True), ({"alpha": 0.0, "hidden": 1.0}, False)]
)
def test_only_a_teacher_that_counts_changes_the_loss(softness: dict[str, float], own: bool) -> None:
    task = sequences.SequenceClassification(sequences.TableColumns())
    assert task.own_loss
    teacher: Any = None
    assert Distilled(task, teacher, Softness(**softness)).own_loss is own


def test_an_evaluation_has_a_bar_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    reporter = Reporter()
    with reporter.bar(10, 10), reporter.evaluation(40) as advance:
        for _ in range(7):
            advance()
        reporter._progress.refresh()  # which it does by itself ten times a second
        assert "7/40" in terminal.getvalue()
        assert "evaluation" in terminal.getvalue()
    assert "10/10" in terminal.getvalue()


def test_an_evaluation_without_a_terminal_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter().bar(10, 0), Reporter().evaluation(40) as advance:
        advance()
    assert capsys.readouterr() == ("", "")


def test_without_matplotlib_there_are_no_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not draw_curves([{"step": 1, "loss": 1.0}], "accuracy", tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
