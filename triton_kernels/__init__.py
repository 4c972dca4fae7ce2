"""GPU kernels in Triton. Installed as `squeezebert_fast.triton_kernels`; never import it as a bare top-level
name.

One file per kernel, named as its operation in `squeezebert_fast.ops` and its C++ twin in `csrc/kernels/`.
They import triton at their top; this module imports without triton and without a GPU, and says what the
kernels take.
"""

from __future__ import annotations

FUSED_ACTIVATIONS: dict[str | None, str] = {
    None: "none",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""The activations that kernels apply themselves, by transformers' names, and the formula that serves
(activations.py).
"""

MAX_HEAD_SIZE = 128
"""Channels of an attention head: queries, keys, values and sums of one are in registers and shared memory at
once.
"""

MAX_CHANNELS = 16384
"""Channels that LayerNorm takes: a program holds whole rows in registers."""
