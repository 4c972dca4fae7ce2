"""Plain PyTorch: serves every request. See squeezebert_fast/ops/reference.py for the definitions."""

from __future__ import annotations

from squeezebert_fast.backends.request import Request

NAME = "reference"
OPERATIONS = frozenset(
    {"grouped_pointwise_conv", "qkv_projection", "attention", "add_layer_norm", "dropout", "grouped_mlp"}
)


def refusal(request: Request) -> str | None:
    """None: PyTorch's own operations take every device and floating dtype."""
    return None
