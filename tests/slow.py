"""Parameters that only `make test-slow` takes, where `make test` is content with an example."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow(values: Iterable[Any], *, but: Iterable[Any] = ()) -> list[Any]:
    """`values` for pytest's parametrize, all of them slow but those of `but`."""
    quick = list(but)
    return [value if value in quick else _marked(value) for value in values]


def _marked(value: Any) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
