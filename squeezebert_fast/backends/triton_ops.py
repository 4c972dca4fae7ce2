"""The operations on Triton's kernels, forward and backward: the GPU's side of `cpu_ops`, which see.

Arguments are checked; results are new tensors that are not part of any graph. A forward's are in the inputs' dtype,
and so are the gradients of inputs; gradients of parameters are float32. A float32 parameter beside 16-bit inputs is
rounded to their dtype where it is a product's operand, as autocast does; sums, softmax and norms are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.backends.request import Gradients
from squeezebert_fast.backends.triton import dense, kernels, whole


def grouped_pointwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, activation: str | None
) -> Tensor:
    """See `squeezebert_fast.ops.grouped_pointwise_conv`; `activation` is None or one that the kernels apply."""
    with torch.no_grad():
        product = kernels("grouped_pointwise_conv").grouped_pointwise_conv
        return product(dense(x), _operand(weight, x), whole(bias), groups, activation)


def grouped_pointwise_conv_backward(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    activation: str | None,
    needs: Sequence[bool],
) -> Gradients:
    """Gradients of x, weight and bias; x and weight may be None where no gradient that is needed depends on them."""
    with torch.no_grad():
        products = kernels("grouped_pointwise_conv")
        grad, weight = dense(grad), None if weight is None else _operand(weight, grad)
        if activation is not None:
            assert x is not None
            grad = products.derivative(grad, dense(x), weight, whole(bias), groups, activation)
        grad_x = grad_weight = grad_bias = None
        if needs[0]:
            grad_x = products.grouped_pointwise_conv(grad, weight, None, groups, transposed=True)
        if needs[1]:
            assert x is not None
            weight_gradient = kernels("weight_gradient").weight_gradient
            grad_weight, grad_bias = weight_gradient(grad, dense(x), groups, bias=needs[2])
        elif needs[2]:
            grad_bias = kernels("weight_gradient").column_sums(grad)
        return grad_x, grad_weight, grad_bias


def qkv_projection(
    x: Tensor,
    weight_q: Tensor,
    bias_q: Tensor | None,
    weight_k: Tensor,
    bias_k: Tensor | None,
    weight_v: Tensor,
    bias_v: Tensor | None,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `squeezebert_fast.ops.qkv_projection`."""
    with torch.no_grad():
        weights = [_operand(weight, x) for weight in (weight_q, weight_k, weight_v)]
        biases = [whole(bias) for bias in (bias_q, bias_k, bias_v)]
        return kernels("qkv_projection").qkv_projection(dense(x), weights, biases, groups)


def qkv_projection_backward(
    grad_q: Tensor | None,
    grad_k: Tensor | None,
    grad_v: Tensor | None,
    x: Tensor | None,
    weight_q: Tensor | None,
    weight_k: Tensor | None,
    weight_v: Tensor | None,
    groups: int,
    needs: Sequence[bool],
) -> Gradients:
    """Gradients of x, and of weight and bias of q, k and v; what may be None is as in `cpu_ops`'s."""
    with torch.no_grad():
        grad_x, found = None, []
        for index, grad in enumerate((grad_q, grad_k, grad_v)):
            wanted = False, needs[1 + 2 * index], needs[2 + 2 * index]
            of_weight = of_bias = None
            if grad is not None:
                _, of_weight, of_bias = grouped_pointwise_conv_backward(
                    grad, x, None, None, groups, None, wanted
                )
            found += [of_weight, of_bias]
        if needs[0]:
            pairs = zip((grad_q, grad_k, grad_v), (weight_q, weight_k, weight_v), strict=True)
            given = [
                (dense(grad), weight) for grad, weight in pairs if grad is not None and weight is not None
            ]
            grads, weights = [grad for grad, _ in given], [_operand(weight, grad) for grad, weight in given]
            if given:
                grad_x = kernels("qkv_projection").qkv_input_gradient(grads, weights, groups)
        return grad_x, *found


def grouped_mlp(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str | None,
) -> Tensor:
    """See `squeezebert_fast.ops.grouped_mlp`; `activation` is None or one that the kernels apply."""
    with torch.no_grad():
        weight_in, weight_out = _operand(weight_in, x), _operand(weight_out, x)
        mlp = kernels("feed_forward").grouped_mlp
        return mlp(dense(x), weight_in, whole(bias_in), weight_out, whole(bias_out), groups, activation)


def grouped_mlp_backward(
    grad: Tensor,
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    groups: int,
    activation: str | None,
    needs: Sequence[bool],
) -> Gradients:
    """Gradients of x, weight_in, bias_in, weight_out and bias_out."""
    with torch.no_grad():
        weight_in, weight_out = _operand(weight_in, x), _operand(weight_out, x)
        backward = kernels("feed_forward_backward").grouped_mlp_backward
        return backward(
            dense(grad), dense(x), weight_in, whole(bias_in), weight_out, groups, activation, needs
        )


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    num_heads: int,
    dropout_p: float,
    seed: Tensor | None,
    attends: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `squeezebert_fast.ops.attention`. The result, and what the backward needs, [batch, num_heads, queries, 2]."""
    with torch.no_grad():
        forward = kernels("attention").attention_with_statistics
        operands = (dense(t) for t in (q, k, v))
        return forward(*operands, mask, num_heads, _dropout(dropout_p, seed), attends=attends)


def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    statistics: Tensor,
    num_heads: int,
    dropout_p: float,
    seed: Tensor | None,
    needs: Sequence[bool],
) -> Gradients:
    """Gradients of q, k and v, from `attention`'s arguments and its statistics."""
    with torch.no_grad():
        backward = kernels("attention_backward").attention_backward
        drop = _dropout(dropout_p, seed)
        operands = (dense(t) for t in (grad, q, k, v))
        return backward(*operands, mask, whole(statistics), num_heads, drop, needs)


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `squeezebert_fast.ops.add_layer_norm`. The result, and what the backward needs.

    That is the sum before the norm, and each row's mean and the reciprocal of its deviation, [...].
    """
    with torch.no_grad():
        forward = kernels("add_layer_norm").add_layer_norm_with_statistics
        drop = _dropout(dropout_p, seed)
        return forward(dense(x), dense(residual), whole(weight), whole(bias), eps, drop)


def add_layer_norm_backward(
    grad: Tensor,
    total: Tensor,
    mean: Tensor,
    reciprocal: Tensor,
    weight: Tensor,
    dropout_p: float,
    seed: Tensor | None,
    x_dtype: torch.dtype,
    needs: Sequence[bool],
) -> Gradients:
    """Gradients of x, residual, weight and bias, from `add_layer_norm`'s results."""
    with torch.no_grad():
        backward = kernels("add_layer_norm_backward").add_layer_norm_backward
        statistics = whole(mean), whole(reciprocal)
        drop = _dropout(dropout_p, seed)
        return backward(dense(grad), dense(total), *statistics, whole(weight), drop, needs, x_dtype)


def _operand(weight: Tensor, x: Tensor) -> Tensor:
    """`weight` as it meets x in a product."""
    return weight.detach().to(x.dtype).contiguous()


def _dropout(p: float, seed: Tensor | None) -> Any:
    return kernels("dropout").Dropout(p, seed)
