"""Values and rows as JSON that every reader takes: without NaN, and never bytes that aren't UTF-8."""

from __future__ import annotations

import json
import math

NESTED = (bool, dict, list)
"""Values that CSV has no form for, and that are written there as JSON."""

# Made once: json.dumps makes one of these for each call.
_finite_only = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, default=str
)  # str: a parquet file's dates
_lenient = json.JSONEncoder(ensure_ascii=False, default=str)


def as_json(value: object) -> str:
    """The value in one line: null for NaN and infinities, as text what JSON has no form for."""
    try:
        spelled = _finite_only.encode(value)
    except ValueError:
        spelled = _lenient.encode(_finite(value))
    if spelled.isascii():
        return spelled
    try:
        spelled.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and UTF-8 can't
        return json.dumps(json.loads(spelled))
    return spelled


def _finite(value: object) -> object:
    """The same with None for NaN and infinities, which JSON doesn't have."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
