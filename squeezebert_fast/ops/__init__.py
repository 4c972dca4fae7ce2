"""The operations of a SqueezeBERT layer, channels last.

Each has its definition in `reference`, one public function that checks its arguments and picks a backend, and
a `torch.autograd.Function` where a kernel exists. `backend` is one of auto, reference, cpu, triton, cuda.
"""

from squeezebert_fast.ops import reference
from squeezebert_fast.ops.add_layer_norm import add_layer_norm
from squeezebert_fast.ops.attention import attention
from squeezebert_fast.ops.grouped_mlp import grouped_mlp
from squeezebert_fast.ops.grouped_pointwise_conv import GroupedPointwiseConv, grouped_pointwise_conv

__all__ = [
    "GroupedPointwiseConv",
    "add_layer_norm",
    "attention",
    "grouped_mlp",
    "grouped_pointwise_conv",
    "reference",
]
