"""The operations on the CPU's kernels, forward and backward, for float32 and bfloat16 tensors of any strides.

Forwards keep little, and backwards compute the rest again. Arguments are checked; results are new tensors that are not
part of any graph. A forward's are in the inputs' dtype, and so are the gradients of inputs; gradients of parameters and
statistics are float32. `needs` says which gradients are wanted; None stands for the others. `seed`, int64 [] or None,
is dropout's: its mask is a function of the seed and an element's place alone, so that a backward, or a second forward
under gradient checkpointing, draws the same one, on any number of threads.

The kernels read and write tensors of either dtype, and compute in float32. bfloat16 numbers are exact there, and so are
their products, so this is what a bfloat16 multiplication with float32 sums gives. A float32 parameter beside bfloat16
inputs is rounded to bfloat16 where it is a product's operand, as autocast does. On matrix units attention and the
products of a backward of bfloat16 tensors round their other operands too, which autocast has rounded by then
(`cpu.gradient_precision`), and products in float32 run by parts of bfloat16 (`cpu.form_of`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from squeezebert_fast.backends import cpu
from squeezebert_fast.backends.cpu import addresses, element_of
from squeezebert_fast.backends.masks import zero_where_blind
from squeezebert_fast.backends.request import Gradients


def grouped_pointwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, activation: str | None
) -> Tensor:
    """See `squeezebert_fast.ops.grouped_pointwise_conv`; `activation` is None or one that the kernels apply."""
    weight, bias, form = _float32_weight(weight), _float32_or_none(bias), _forward_form(x)
    rows = _to(_taken(x.dtype), x.detach())
    return _to(x.dtype, cpu.grouped_pointwise_conv(rows, weight, bias, groups, activation, form))


def grouped_pointwise_conv_backward(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    activation: str | None,
    needs: Sequence[bool],
) -> Gradients:
    """Gradients of x, weight and bias. The result before the activation is computed again.

    x may be None where neither that nor the weight's gradient needs it, and the weight likewise.
    """
    dtype, form = grad.dtype, _backward_form(grad)
    weight = None if weight is None else _operand(weight, grad)
    if activation is None:
        grad, x = _dense(grad, dtype), None if x is None else _dense(x, dtype)
    else:
        assert x is not None
        assert weight is not None
        x, bias = _float32(x), _float32_or_none(bias)
        z = cpu.grouped_pointwise_conv(x, weight, bias, groups, None, form)
        grad = grad.detach().to(torch.float32, copy=True).contiguous()
        _activation_backward(activation, z, grad)
    grad_x = None
    if needs[0]:
        assert weight is not None
        back = cpu.pack_transposed(weight, groups, form)
        grad_x = _to(dtype, cpu.run_packed(back, grad, None, None))
    return grad_x, *_weight_gradients([grad], x, groups, form, needs[1:2], needs[2:])


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
    dtype, form = x.dtype, _forward_form(x)
    weights = [_float32_weight(weight) for weight in (weight_q, weight_k, weight_v)]
    rows = _rows(x)
    packed = [cpu.packed_weight(weight, groups, form, rows) for weight in weights]
    biases = [_float32_or_none(bias) for bias in (bias_q, bias_k, bias_v)]
    x = _dense(x, dtype)
    q, k, v = (x.new_empty((*x.shape[:-1], weight.shape[0])) for weight in weights)
    packed[0].run_side_by_side(
        packed,
        x.data_ptr(),
        rows,
        addresses(*biases),
        addresses(q, k, v),
        torch.get_num_threads(),
        element_of(x.dtype),
    )
    return _to(dtype, q), _to(dtype, k), _to(dtype, v)


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
    """Gradients of x, and of weight and bias of q, k and v.

    A gradient that is None stands for zeros, and its parameters' are not among the needed ones. x may be None where no
    weight's gradient needs it, and the weights where x's doesn't.
    """
    given = [grad for grad in (grad_q, grad_k, grad_v) if grad is not None]
    dtype, threads = given[0].dtype, torch.get_num_threads()
    form = _backward_form(given[0])
    grads = [None if grad is None else _dense(grad, dtype) for grad in (grad_q, grad_k, grad_v)]
    rows = _rows(given[0])
    for_x, for_weights, for_biases = needs[0], needs[1::2], needs[2::2]
    grad_x = None
    if for_x:
        terms = [
            (grad, cpu.pack_transposed(_operand(weight, given[0]), groups, form))
            for grad, weight in zip(grads, (weight_q, weight_k, weight_v), strict=True)
            if grad is not None and weight is not None
        ]
        packed = [each for _, each in terms]
        grad_x = terms[0][0].new_empty((*given[0].shape[:-1], packed[0].out_channels))
        xs = addresses(*(grad for grad, _ in terms))
        packed[0].run_sum(packed, xs, rows, grad_x.data_ptr(), threads, element_of(grad_x.dtype))
        grad_x = _to(dtype, grad_x)
    x = None if x is None else _dense(x, dtype)
    of_weights = _weight_gradients(grads, x, groups, form, for_weights, for_biases)
    return grad_x, *of_weights


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
    dtype, form = x.dtype, _forward_form(x)
    x, bias_in, bias_out = _dense(x, dtype), _float32_or_none(bias_in), _float32_or_none(bias_out)
    y = x.new_empty((*x.shape[:-1], weight_out.shape[0]))
    rows = _rows(x)
    cpu.packed_mlp(_float32_weight(weight_in), _float32_weight(weight_out), groups, form, rows).run(
        x.data_ptr(),
        rows,
        addresses(bias_in, bias_out),
        y.data_ptr(),
        cpu.FUSED_ACTIVATIONS[activation],
        torch.get_num_threads(),
        element_of(x.dtype),
    )
    return _to(dtype, y)


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
    """Gradients of x, weight_in, bias_in, weight_out and bias_out.

    The hidden tensor is computed again, and never in main memory.
    """
    dtype, weight_in, weight_out = x.dtype, _operand(weight_in, x), _operand(weight_out, x)
    form = cpu.NATIVE_PRECISIONS[_backward_form(x)]
    grad, x = _dense(grad, dtype), _dense(x, dtype)
    bias_in, bias_out = _float32_or_none(bias_in), _float32_or_none(bias_out)
    for_x, for_in, for_bias_in, for_out, for_bias_out = needs
    # the sums that are a bias's gradient are found on the way to its weight's
    likes = (x, weight_in, bias_in, weight_out, bias_out)
    wanted = (for_x, for_in or for_bias_in, for_bias_in, for_out or for_bias_out, for_bias_out)
    gradients = [_empty_like(t, want) for t, want in zip(likes, wanted, strict=True)]
    cpu._native.grouped_mlp_backward(
        cpu.instruction_set(),
        form,
        (x.numel() // x.shape[-1], groups, x.shape[-1], weight_in.shape[0], weight_out.shape[0]),
        cpu.FUSED_ACTIVATIONS[activation],
        addresses(x, grad),
        addresses(weight_in, bias_in, weight_out),
        addresses(*gradients),
        torch.get_num_threads(),
        element_of(x.dtype),
    )
    of_x, *of_parameters = (g if needed else None for g, needed in zip(gradients, needs, strict=True))
    return None if of_x is None else _to(dtype, of_x), *of_parameters


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
    """See `squeezebert_fast.ops.attention`. The result, and what the backward needs, [batch, num_heads, queries, 2].

    That is each row's largest score and the reciprocal of its exponentials' sum; inf and 0, by which the backward has
    zeros, where it doesn't attend.
    """
    dtype, precision = q.dtype, cpu.gradient_precision(q.dtype)
    q, k, v = (_dense(tensor, dtype) for tensor in (q, k, v))
    result = torch.empty_like(q)
    statistics = q.new_empty((q.shape[0], num_heads, q.shape[1], 2), dtype=torch.float32)
    if q.numel() == 0 or k.numel() == 0:
        return _to(dtype, result.zero_()), statistics.zero_()
    mask = _scores_mask(mask, q, k, num_heads)
    cpu._native.attention_forward(
        cpu.instruction_set(),
        cpu.NATIVE_PRECISIONS[precision],
        _attention_sizes(q, k, num_heads),
        addresses(q, k, v),
        *_mask_arguments(mask),
        (dropout_p, _seed_of(seed)),
        statistics.data_ptr(),
        result.data_ptr(),
        torch.get_num_threads(),
        element_of(q.dtype),
    )
    if attends is not None:
        result = zero_where_blind(result, attends, num_heads)
        statistics = torch.where(attends, statistics, statistics.new_tensor([torch.inf, 0.0]))
    return _to(dtype, result), statistics


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
    dtypes, precision = (q.dtype, k.dtype, v.dtype), cpu.gradient_precision(q.dtype)
    grad, q, k, v = (_dense(tensor, dtypes[0]) for tensor in (grad, q, k, v))
    gradients = [torch.empty_like(tensor) for tensor in (q, k, v)]
    if q.numel() == 0 or k.numel() == 0:
        gradients = [gradient.zero_() for gradient in gradients]
    else:
        mask = _scores_mask(mask, q, k, num_heads)
        cpu._native.attention_backward(
            cpu.instruction_set(),
            cpu.NATIVE_PRECISIONS[precision],
            _attention_sizes(q, k, num_heads),
            addresses(q, k, v),
            *_mask_arguments(mask),
            (dropout_p, _seed_of(seed)),
            statistics.data_ptr(),
            grad.data_ptr(),
            addresses(*gradients),
            torch.get_num_threads(),
            element_of(q.dtype),
        )
    return tuple(_to(t, g) if needed else None for g, t, needed in zip(gradients, dtypes, needs, strict=True))


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
    dtype = torch.promote_types(x.dtype, residual.dtype)
    x, residual = _dense(x, dtype), _dense(residual, dtype)
    weight, bias = _float32(weight), _float32(bias)
    y, total = torch.empty_like(x), torch.empty_like(x)
    mean, reciprocal = (x.new_empty(x.shape[:-1], dtype=torch.float32) for _ in range(2))
    channels = x.shape[-1]
    cpu._native.add_layer_norm_forward(
        cpu.instruction_set(),
        x.numel() // channels,
        channels,
        x.data_ptr(),
        residual.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        eps,
        (dropout_p, _seed_of(seed)),
        total.data_ptr(),
        y.data_ptr(),
        addresses(mean, reciprocal),
        torch.get_num_threads(),
        element_of(x.dtype),
    )
    return _to(dtype, y), _to(dtype, total), mean, reciprocal


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
    dtypes = x_dtype, total.dtype, torch.float32, torch.float32
    grad, total, weight = _dense(grad, total.dtype), _dense(total, total.dtype), _float32(weight)
    likes = (grad, grad, weight, weight)
    gradients = tuple(_empty_like(t, needed) for t, needed in zip(likes, needs, strict=True))
    channels = grad.shape[-1]
    cpu._native.add_layer_norm_backward(
        cpu.instruction_set(),
        grad.numel() // channels,
        channels,
        grad.data_ptr(),
        total.data_ptr(),
        addresses(mean, reciprocal),
        weight.data_ptr(),
        (dropout_p, _seed_of(seed)),
        addresses(*gradients),
        torch.get_num_threads(),
        element_of(grad.dtype),
    )
    return tuple(None if g is None else _to(t, g) for g, t in zip(gradients, dtypes, strict=True))


def dropout(x: Tensor, dropout_p: float, seed: Tensor | None) -> Tensor:
    """See `squeezebert_fast.ops.dropout`."""
    dtype, x = x.dtype, _dense(x, x.dtype)
    y = torch.empty_like(x)
    if x.numel() > 0:
        cpu._native.dropout(
            cpu.instruction_set(),
            x.numel() // x.shape[-1],
            x.shape[-1],
            x.data_ptr(),
            (dropout_p, _seed_of(seed)),
            y.data_ptr(),
            torch.get_num_threads(),
            element_of(x.dtype),
        )
    return _to(dtype, y)


def dropout_backward(grad: Tensor, dropout_p: float, seed: Tensor | None, needs: Sequence[bool]) -> Gradients:
    """The gradient of x: `grad`, dropped by the same mask."""
    return (dropout(grad, dropout_p, seed) if needs[0] else None,)


def _forward_form(x: Tensor) -> str:
    return cpu.form_of("bfloat16" if x.dtype is torch.bfloat16 else "float32")


def _backward_form(tensor: Tensor) -> str:
    return cpu.form_of(cpu.gradient_precision(tensor.dtype))


def _rows(tensor: Tensor) -> int:
    return tensor.numel() // max(tensor.shape[-1], 1)


def _taken(dtype: torch.dtype) -> torch.dtype:
    """What kernels take tensors of this dtype in. `ops` refuses others than two, but an exported program has any."""
    return dtype if dtype is torch.bfloat16 else torch.float32


def _dense(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As kernels take tensors of this dtype: contiguous."""
    dtype = _taken(dtype)
    # Between kernels, whose data has pushed PyTorch out of the caches, a call that does nothing takes microseconds.
    if tensor.dtype is dtype and tensor.is_contiguous():
        return tensor
    return tensor.detach().to(dtype).contiguous()


def _float32(tensor: Tensor) -> Tensor:
    return _dense(tensor, torch.float32)


def _to(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype is dtype else tensor.to(dtype)


def _float32_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _float32(tensor)


def _operand(weight: Tensor, x: Tensor) -> Tensor:
    """`weight` as it meets x in a backward's products; not rounded yet where packing it rounds."""
    if cpu.gradient_precision(x.dtype) == "bfloat16":
        return _float32(weight)
    return _float32(weight.detach().to(x.dtype))


def _float32_weight(weight: Tensor) -> Tensor:
    """A float32 weight itself, since what is packed is kept by it, and rounded where that is asked for."""
    return weight if weight.dtype is torch.float32 else _float32(weight)


def _seed_of(seed: Tensor | None) -> int:
    return 0 if seed is None else int(seed)


def _empty_like(tensor: Tensor | None, wanted: bool) -> Tensor | None:
    return torch.empty_like(tensor) if wanted and tensor is not None else None


def _activation_backward(activation: str, z: Tensor, grad: Tensor) -> None:
    """grad to grad * activation'(z), in place."""
    cpu._native.activation_backward(
        cpu.instruction_set(),
        cpu.FUSED_ACTIVATIONS[activation],
        z.data_ptr(),
        grad.data_ptr(),
        z.numel(),
        torch.get_num_threads(),
    )


def _weight_gradients(
    grads: Sequence[Tensor | None],
    x: Tensor | None,
    groups: int,
    form: str,
    for_weights: Sequence[bool],
    for_biases: Sequence[bool],
) -> Gradients:
    """Gradients of the weight and the bias of grouped products of x, one after the other, those of `grads`."""
    found: list[Tensor | None] = []
    # the sums that are a bias's gradient are found on the way to its weight's
    together = []
    for grad, for_weight, for_bias in zip(grads, for_weights, for_biases, strict=True):
        weight = bias = None
        if for_weight:
            assert grad is not None
            assert x is not None
            weight = grad.new_empty((grad.shape[-1], x.shape[-1] // groups, 1), dtype=torch.float32)
            bias = grad.new_empty(grad.shape[-1], dtype=torch.float32) if for_bias else None
            together.append((grad, weight, bias))
        elif for_bias:
            assert grad is not None
            bias = grad.reshape(-1, grad.shape[-1]).sum(0, dtype=torch.float32)
        found += [weight, bias]
    if together:
        assert x is not None
        products, weights, biases = zip(*together, strict=True)
        cpu._native.weight_gradient(
            cpu.instruction_set(),
            cpu.NATIVE_PRECISIONS[form],
            addresses(*products),
            x.data_ptr(),
            (x.numel() // x.shape[-1], groups, x.shape[-1], products[0].shape[-1]),
            addresses(*weights),
            addresses(*biases),
            torch.get_num_threads(),
            element_of(x.dtype),
        )
    return tuple(found)


def _attention_sizes(q: Tensor, k: Tensor, num_heads: int) -> tuple[int, ...]:
    batch, queries, channels = q.shape
    return batch, queries, k.shape[1], num_heads, channels // num_heads


def _scores_mask(mask: Tensor | None, q: Tensor, k: Tensor, num_heads: int) -> Tensor | None:
    """[batch, num_heads, queries, keys], float32, the last axis dense, the others expanded where they were 1."""
    if mask is None:
        return None
    mask = mask.detach().to(torch.float32)
    mask = mask[(None,) * (4 - mask.dim())].expand(-1, -1, -1, k.shape[1])
    if mask.shape[3] > 1 and mask.stride(3) != 1:
        mask = mask.contiguous()
    return mask.expand(q.shape[0], num_heads, q.shape[1], k.shape[1])


def _mask_arguments(mask: Tensor | None) -> tuple[int, list[int]]:
    """Address, and the strides of all axes but the last."""
    return (0, [0, 0, 0]) if mask is None else (mask.data_ptr(), list(mask.stride()[:3]))
