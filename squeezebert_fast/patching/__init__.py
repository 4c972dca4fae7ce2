"""Acceleration of a model in place: `patch`, `unpatch`, `explain`."""

from squeezebert_fast.patching.explain import Explanation, explain
from squeezebert_fast.patching.patch import patch, unpatch

__all__ = ["Explanation", "explain", "patch", "unpatch"]
