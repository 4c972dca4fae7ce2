"""In place of `squeezebert_fast.benchmark.Turns`, without processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from squeezebert_fast.benchmark import CandidateFailed


class FakeTurns:
    """Answers by name to the one question that is expected; an exception for a candidate that fails."""

    def __init__(self, answers: dict[str, Any], question: Callable[..., Any]) -> None:
        self.answers, self.question, self.failed = answers, question, dict[str, str]()

    def starting(self, candidates: Sequence[Any], what: str) -> Sequence[Any]:
        return candidates

    def start(self, name: str, build: Callable[[], object]) -> bool:
        if name not in self.answers:
            self.leave_out(name, "not built")
        return name in self.answers

    def ask(self, name: str, question: Callable[..., Any], *arguments: Any) -> Any:
        assert question is self.question
        if isinstance(self.answers[name], CandidateFailed):
            self.leave_out(name, str(self.answers[name]))
            raise self.answers[name]
        return self.answers[name]

    def leave_out(self, name: str, reason: str) -> None:
        self.failed[name] = reason
