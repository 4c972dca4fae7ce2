"""Acceleration of a model in place: `patch`, `unpatch`, `explain`; and around one: `cuda_graphs`."""

from squeezebert_fast.patching.cuda_graphs import cuda_graphs
from squeezebert_fast.patching.explain import Explanation, explain
from squeezebert_fast.patching.patch import patch, unpatch

__all__ = ["Explanation", "cuda_graphs", "explain", "patch", "unpatch"]
