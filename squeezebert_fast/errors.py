"""The errors this package raises on purpose. Each is one line that names the culprit and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class SqueezeBertFastError(Exception):
    """Base class of every error this package raises on purpose."""


class ArgumentError(SqueezeBertFastError, ValueError):
    """An argument has a value, shape, dtype or device that its documentation excludes."""


class UnsupportedError(SqueezeBertFastError):
    """The chosen backend can't serve a call, and falling back to another was forbidden."""


class ConfigError(SqueezeBertFastError, ValueError):
    """A model configuration is inconsistent or of another model type."""


class CheckpointError(SqueezeBertFastError, OSError):
    """A checkpoint file is missing, damaged, or doesn't fit the model."""


class StorageError(CheckpointError):
    """A file can't be written: a full disk, a quota, no permission. What was there before is as it was."""


class TokenizerError(SqueezeBertFastError, ValueError):
    """A vocabulary is missing or malformed, or text can't be tokenized as asked."""


class InputError(SqueezeBertFastError, ValueError):
    """A file or directory to read from, or to write results to, is missing, malformed or unusable."""


class ColumnError(InputError):
    """A table has no column, or several, of the name `column`."""

    def __init__(self, message: str, column: str) -> None:
        super().__init__(message)
        self.column = column

    def __reduce__(
        self,
    ) -> tuple[type[ColumnError], tuple[str, str]]:  # BaseException's has the message alone
        return type(self), (str(self), self.column)


class TrainingError(SqueezeBertFastError):
    """A training run can't start, go on or be resumed. What it had saved before is as it was."""


class TrainingInterrupted(SqueezeBertFastError):
    """A training run was asked to stop, saved its state, and can be resumed."""


class ClusterError(SqueezeBertFastError):
    """Ray isn't installed, no cluster can be reached, or one can't do the work. What was written before stays."""


def one_of(possible: Iterable[str]) -> str:
    """What a message says is possible: "one of a, b, c". The one form for all of them."""
    return f"one of {', '.join(possible)}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """How many there are, in words: "1 text", "2 texts", "12,345 texts". plural: where an s isn't all that is added."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def check_among(
    what: str, value: object, possible: Sequence[str], error: type[SqueezeBertFastError] = ArgumentError
) -> None:
    """Raise `error` unless the value is among the possible: "precision is 'int4', expected one of float32, int8"."""
    if value not in possible:
        raise error(f"{what} is {value!r}, expected {one_of(possible)}")
