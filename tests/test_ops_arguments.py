"""Bad arguments of the operations: one line that names the argument, what came and what was expected."""

from __future__ import annotations

import re
from typing import Any

import numpy
import pytest
import torch

from squeezebert_fast import ArgumentError, ops

ONES = torch.ones


def refused(message: str, operation: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)) as caught:
        operation(*args, **kwargs)
    assert "\n" not in str(caught.value)


CONV = {
    "x has shape [2, 5], expected [..., 6]": (ONES(2, 5), ONES(4, 3, 1), None, 2),
    "x has shape [], expected [..., 6]": (torch.tensor(1.0), ONES(4, 3, 1), None, 2),
    "weight has shape [4], expected [out_channels, in_channels / groups, 1] or "
    "[out_channels, in_channels / groups], none of them 0": (ONES(2, 3), ONES(4)),
    "weight has shape [4, 3, 1, 1], expected": (ONES(2, 3), ONES(4, 3, 1, 1)),
    "weight has shape [4, 0], expected": (ONES(2, 0), ONES(4, 0)),
    "x has shape [2, 5], expected [..., 6] for a weight of shape [4, 3] and 2": (
        ONES(2, 5),
        ONES(4, 3),
        None,
        2,
    ),
    "weight has shape [4, 3, 2], expected": (ONES(2, 3), ONES(4, 3, 2)),
    "weight has shape [0, 3, 1], expected": (ONES(2, 3), ONES(0, 3, 1)),
    "weight has shape [4, 0, 1], expected": (ONES(2, 0), ONES(4, 0, 1)),
    "groups is 3, expected a positive divisor of the 4 output channels": (ONES(2, 3), ONES(4, 1, 1), None, 3),
    "groups is 0, expected": (ONES(2, 3), ONES(4, 3, 1), None, 0),
    "groups is -1, expected": (ONES(2, 3), ONES(4, 3, 1), None, -1),
    "groups is 2.0, expected": (ONES(2, 6), ONES(4, 3, 1), None, 2.0),
    "groups is True, expected": (ONES(2, 3), ONES(4, 3, 1), None, True),
    "bias has shape [3], expected [4]": (ONES(2, 3), ONES(4, 3, 1), ONES(3)),
    "bias has shape [1, 4], expected [4]": (ONES(2, 3), ONES(4, 3, 1), ONES(1, 4)),
    "weight is torch.float64, but x is torch.float32": (ONES(2, 3), ONES(4, 3, 1).double()),
    "bias is torch.bfloat16, but x is torch.float32": (ONES(2, 3), ONES(4, 3, 1), ONES(4).bfloat16()),
    "weight is on meta, but x is on cpu": (ONES(2, 3), ONES(4, 3, 1, device="meta")),
    "bias is on meta, but x is on cpu": (ONES(2, 3), ONES(4, 3, 1), ONES(4, device="meta")),
    "x is torch.int64, expected a floating dtype": (ONES(2, 3).long(), ONES(4, 3, 1).long()),
    "x is torch.complex64, expected a floating dtype": (ONES(2, 3) + 0j, ONES(4, 3, 1) + 0j),
    "activation is 'prelu', expected one of gelu,": (ONES(2, 3), ONES(4, 3, 1), None, 1, "prelu"),
    "activation is ['gelu'], expected": (ONES(2, 3), ONES(4, 3, 1), None, 1, ["gelu"]),
    "x is a ndarray, expected a tensor": (numpy.ones((2, 3), "float32"), ONES(4, 3, 1)),
    "weight is a NoneType, expected a tensor": (ONES(2, 3), None),
    "bias is a float, expected a tensor": (ONES(2, 3), ONES(4, 3, 1), 0.0),
}


@pytest.mark.parametrize("backend", ["auto", "reference", "cpu"])
@pytest.mark.parametrize("message", CONV)
def test_a_bad_convolution_is_refused(message: str, backend: str) -> None:
    refused(message, ops.grouped_pointwise_conv, *CONV[message], backend=backend)


def test_an_unknown_backend_is_refused_by_every_operation() -> None:
    message = "backend is 'gpu', expected one of auto, reference, cpu, triton"
    x = ONES(1, 2, 4)
    refused(message, ops.grouped_pointwise_conv, x, ONES(4, 4, 1), backend="gpu")
    refused(message, ops.attention, x, x, x, backend="gpu")
    refused(message, ops.add_layer_norm, x, x, ONES(4), ONES(4), backend="gpu")
    refused(message, ops.grouped_mlp, x, ONES(4, 4, 1), None, ONES(4, 4, 1), None, backend="gpu")
    refused(message, ops.qkv_projection, x, *[ONES(4, 4, 1), None] * 3, backend="gpu")


Q = ONES(2, 3, 8)
ATTENDS = {
    "attends is torch.float32 of shape [3, 1], expected bool that broadcasts to [2, 2, 3, 1]": ONES(3, 1),
    "attends is torch.bool of shape [3], expected bool": ONES(3).bool(),
    "attends is a list, expected a tensor": [],
    "attends is on meta, but q is on cpu": ONES(3, 1, device="meta").bool(),
}
ATTENTION = {
    "q has shape [3, 8], expected [batch, queries, channels]": (ONES(3, 8), Q, Q),
    "k has shape [2, 8], expected [2, keys, 8]": (Q, ONES(2, 8), Q),
    "k has shape [1, 3, 8], expected [2, keys, 8]": (Q, ONES(1, 3, 8), Q),
    "v has shape [2, 4, 8], expected k's, [2, 3, 8]": (Q, Q, ONES(2, 4, 8)),
    "num_heads is 3, expected a positive divisor of the 8 channels": (Q, Q, Q, None, 3),
    "num_heads is 0, expected": (Q, Q, Q, None, 0),
    "num_heads is 2.0, expected": (Q, Q, Q, None, 2.0),
    "mask has shape [2, 4, 3, 3], expected one that broadcasts to [2, 2, 3, 3]": (
        Q,
        Q,
        Q,
        ONES(2, 4, 3, 3),
        2,
    ),
    "mask has shape [4], expected": (Q, Q, Q, ONES(4), 2),
    "mask has shape [1, 2, 1, 3, 3], expected": (Q, Q, Q, ONES(1, 2, 1, 3, 3), 2),
    "mask is torch.bool, but q is torch.float32": (Q, Q, Q, ONES(3).bool(), 2),
    "mask is torch.float64, but q is torch.float32": (Q, Q, Q, ONES(3).double(), 2),
    "v is torch.float64, but q is torch.float32": (Q, Q, Q.double()),
    "k is on meta, but q is on cpu": (Q, ONES(2, 3, 8, device="meta"), Q),
    "q is torch.int64, expected a floating dtype": (Q.long(), Q.long(), Q.long()),
    "dropout_p is 1.5, expected 0 <= dropout_p <= 1": (Q, Q, Q, None, 1, 1.5),
    "dropout_p is nan, expected": (Q, Q, Q, None, 1, float("nan")),
    "k is a list, expected a tensor": (Q, [], Q),
    "mask is a int, expected a tensor": (Q, Q, Q, 0),
}


@pytest.mark.parametrize("message", ATTENDS)
def test_attention_says_what_is_wrong_with_attends(message: str) -> None:
    refused(message, lambda *qkv: ops.attention(*qkv, None, 2, attends=ATTENDS[message]), Q, Q, Q)


@pytest.mark.parametrize("message", ATTENTION)
def test_bad_attention_is_refused(message: str) -> None:
    refused(message, ops.attention, *ATTENTION[message])


NORM = {
    "x has shape [], expected [..., channels]": (torch.tensor(1.0), torch.tensor(1.0), ONES(1), ONES(1)),
    "x has shape [2, 0], expected [..., channels]": (ONES(2, 0), ONES(2, 0), ONES(0), ONES(0)),
    "residual has shape [1, 4], expected x's, [2, 4]": (ONES(2, 4), ONES(1, 4), ONES(4), ONES(4)),
    "weight has shape [1], expected [4]": (ONES(2, 4), ONES(2, 4), ONES(1), ONES(4)),
    "bias has shape [2, 4], expected [4]": (ONES(2, 4), ONES(2, 4), ONES(4), ONES(2, 4)),
    "eps is -1.0, expected eps >= 0": (ONES(2, 4), ONES(2, 4), ONES(4), ONES(4), -1.0),
    "eps is nan, expected eps >= 0": (ONES(2, 4), ONES(2, 4), ONES(4), ONES(4), float("nan")),
    "x is torch.int64, expected a floating": (*[ONES(2, 4).long()] * 2, *[ONES(4).long()] * 2),
    "residual is torch.float64, but x is torch.float32": (ONES(2, 4), ONES(2, 4).double(), ONES(4), ONES(4)),
    "weight is torch.float64, but x is torch.float32": (ONES(2, 4), ONES(2, 4), ONES(4).double(), ONES(4)),
    "bias is on meta, but x is on cpu": (ONES(2, 4), ONES(2, 4), ONES(4), ONES(4, device="meta")),
    "weight is a NoneType, expected a tensor": (ONES(2, 4), ONES(2, 4), None, ONES(4)),
}


@pytest.mark.parametrize("message", NORM)
def test_a_bad_norm_is_refused(message: str) -> None:
    refused(message, ops.add_layer_norm, *NORM[message])


DROPOUT = {
    "x has shape [], expected [..., channels]": torch.tensor(1.0),
    "x is torch.int64, expected a floating dtype": ONES(2, 4).long(),
    "x is a list, expected a tensor": [1.0],
}


@pytest.mark.parametrize("message", DROPOUT)
def test_a_bad_dropout_is_refused(message: str) -> None:
    refused(message, ops.dropout, DROPOUT[message])


MLP = {
    "weight_in has shape [6], expected": (ONES(3, 4), ONES(6), None, ONES(4, 3, 1), None, 2),
    "bias_in has shape [5], expected [6]": (ONES(3, 4), ONES(6, 2, 1), ONES(5), ONES(4, 3, 1), None, 2),
    "weight_out has shape [4], expected": (ONES(3, 4), ONES(6, 2, 1), None, ONES(4), None, 2),
    "the hidden tensor has shape [3, 6], expected [..., 8] for a weight_out of shape [4, 4, 1]": (
        *(ONES(3, 4), ONES(6, 2, 1), None, ONES(4, 4, 1), None, 2),
    ),
    "bias_out has shape [6], expected [4]": (ONES(3, 4), ONES(6, 2, 1), None, ONES(4, 3, 1), ONES(6), 2),
    "groups is 4, expected a positive divisor of the 6": (
        ONES(3, 4),
        ONES(6, 1, 1),
        None,
        ONES(4, 3, 1),
        None,
        4,
    ),
}


@pytest.mark.parametrize("message", MLP)
def test_a_bad_feed_forward_block_is_refused(message: str) -> None:
    refused(message, ops.grouped_mlp, *MLP[message])


W = ONES(8, 4, 1)
PROJECTION = {
    "weight_q has shape [8], expected": (ONES(3, 8), ONES(8), None, W, None, W, None, 2),
    "weight_k has shape [8, 4, 1], expected weight_q's, [8, 4]": (
        *(ONES(3, 8), ONES(8, 4), None, W, None, W, None, 2),
    ),
    "bias_k has shape [4], expected [8]": (ONES(3, 8), W, None, W, ONES(4), W, None, 2),
    "weight_v has shape [4, 4, 1], expected weight_q's, [8, 4, 1]": (
        *(ONES(3, 8), W, None, W, None, ONES(4, 4, 1), None, 2),
    ),
    "x has shape [3, 6], expected [..., 8] for a weight_q of shape [8, 4, 1]": (
        *(ONES(3, 6), W, None, W, None, W, None, 2),
    ),
    "bias_v is torch.float64, but x is torch.float32": (
        *(ONES(3, 8), W, None, W, None, W, ONES(8).double(), 2),
    ),
    "weight_k is a NoneType, expected a tensor": (ONES(3, 8), W, None, None, None, W, None, 2),
    "groups is 3, expected a positive divisor of the 8": (ONES(3, 8), W, None, W, None, W, None, 3),
}


@pytest.mark.parametrize("message", PROJECTION)
def test_a_bad_projection_is_refused(message: str) -> None:
    refused(message, ops.qkv_projection, *PROJECTION[message])
