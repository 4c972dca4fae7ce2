"""The operations of a SqueezeBERT layer, channels last.

Each has its definition in `reference` and a file with the public function, which checks its arguments and picks a
backend, one of auto, reference, cpu, triton. On kernels they are differentiable (`differentiable`), and
`torch.ops.squeezebert_fast.NAME` under torch.compile and torch.export.
"""

from squeezebert_fast.ops import reference
from squeezebert_fast.ops.add_layer_norm import add_layer_norm
from squeezebert_fast.ops.attention import attention
from squeezebert_fast.ops.dropout import dropout
from squeezebert_fast.ops.embeddings import embeddings
from squeezebert_fast.ops.grouped_mlp import grouped_mlp
from squeezebert_fast.ops.grouped_pointwise_conv import grouped_pointwise_conv
from squeezebert_fast.ops.qkv_projection import qkv_projection

__all__ = [
    "add_layer_norm",
    "attention",
    "dropout",
    "embeddings",
    "grouped_mlp",
    "grouped_pointwise_conv",
    "qkv_projection",
    "reference",
]
