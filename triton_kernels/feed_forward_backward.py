"""The backward of `grouped_mlp`: the hidden tensor once more, and its gradient, in one pass; then four products.

    x, one group   W1^T  +--------+  activation                    hidden -> gradient of W2 (with grad)
    -------------------> |   z    | ---------------> hidden
                         +--------+  derivative at z                         +-> gradient of x (times W1)
    grad           W2    +--------+  |                             of z -----|
    -------------------> |   d    | -x-------------> of z                    +-> gradient of W1 (with x)
                         +--------+

Between forward and backward nothing of the hidden tensor is kept. Within the backward it and its gradient are
in memory, of one layer at a time: 12 KB a token in bfloat16 in the base model. Kernels that keep both in
registers would have to make them twice, once by rows for x's gradient and once by hidden channels for the
weights': seven products in place of five, 2.4 MFLOP more a token, 5 ns at 60 % of an H200's 790 TFLOP/s. Writing
the two and reading three is 31 KB a token, 7 ns at 4.3 TB/s if nothing hid behind the products. That is
arithmetic, not measured, and too close to pay for with kernels whose sums don't fit registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels import FUSED_ACTIVATIONS
from squeezebert_fast.triton_kernels.activations import activate, derivative
from squeezebert_fast.triton_kernels.grouped_pointwise_conv import (
    Tile,
    columns_read,
    grouped_pointwise_conv,
    grouped_product,
    tile_for,
)
from squeezebert_fast.triton_kernels.launching import (
    block_for,
    check_contiguous,
    launch,
    precision,
    rows_of,
)
from squeezebert_fast.triton_kernels.weight_gradient import column_sums, weight_gradient

TILES = (
    Tile(128, 128, 64, 16, 3, 9),
    Tile(128, 64, 64, 8, 3),
    Tile(64, 64, 64, 4, 3),
    Tile(32, 64, 64, 8, 3),
)
"""out: hidden channels. Two tiles of sums are in registers at once."""
TILES_FLOAT32 = (Tile(32, 64, 32, 8, 2),)


@triton.jit(do_not_specialize=["rows"])
def hidden_gradient_kernel(
    grad,
    x,
    weight_in,
    bias_in,
    weight_out,
    hidden,
    of_z,
    rows,
    grad_stride,
    x_stride,
    IN: tl.constexpr,
    HIDDEN: tl.constexpr,
    OUT: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    KEEP_HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """A tile of hidden and of_z, contiguous [rows, GROUPS * HIDDEN]. IN, HIDDEN, OUT: channels of one group."""
    TILES: tl.constexpr = (HIDDEN + BLOCK_HIDDEN - 1) // BLOCK_HIDDEN
    program = tl.program_id(0)
    group = program % (GROUPS * TILES) // TILES
    row = (program // (GROUPS * TILES)).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel = program % TILES * BLOCK_HIDDEN + tl.arange(0, BLOCK_HIDDEN)
    read_row = tl.minimum(row, rows - 1)[:, None]
    read_channel = columns_read(channel, HIDDEN, BLOCK_HIDDEN)[None, :]
    EXACT: tl.constexpr = x.dtype.element_ty == tl.float32
    (z,) = grouped_product(
        x + read_row * x_stride + group * IN, (weight_in + (group * HIDDEN + read_channel) * IN,),
        IN, PRECISION, BLOCK_ROWS, BLOCK_HIDDEN, 1, BLOCK_IN,
    )  # fmt: skip
    if HAS_BIAS:
        z += tl.load(bias_in + group * HIDDEN + channel, mask=channel < HIDDEN, other=0.0).to(tl.float32)[
            None, :
        ]
    # the stores come last: their addresses would take the registers of the second product's sums
    (d,) = grouped_product(
        grad + read_row * grad_stride + group * OUT, (weight_out + group * OUT * HIDDEN + read_channel,),
        OUT, PRECISION, BLOCK_ROWS, BLOCK_HIDDEN, 1, BLOCK_OUT, HIDDEN,
    )  # fmt: skip
    stored = (row < rows)[:, None] & (channel < HIDDEN)[None, :]
    at = row[:, None] * (GROUPS * HIDDEN) + (group * HIDDEN + channel)[None, :]
    d *= derivative(z, ACTIVATION, EXACT)
    tl.store(of_z + at, d.to(of_z.dtype.element_ty), mask=stored)
    if KEEP_HIDDEN:
        h = activate(z, ACTIVATION, EXACT)
        tl.store(hidden + at, h.to(hidden.dtype.element_ty), mask=stored)


def hidden_gradient(
    grad: Tensor,
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    groups: int,
    activation: str | None,
    *,
    keep_hidden: bool,
    tile: Tile | None = None,
) -> tuple[Tensor | None, Tensor]:
    """(The hidden tensor, or None, and the gradient of what its activation was applied to), [rows, hidden]."""
    check_contiguous(weight_in, bias_in, weight_out)
    grad_rows, x_rows = rows_of(grad), rows_of(x)
    rows, hidden_channels = x_rows.shape[0], weight_in.shape[0]
    in_per_group, out_per_group = weight_in.shape[1], weight_out.shape[0] // groups
    hidden_per_group = hidden_channels // groups
    tiles = TILES_FLOAT32 if x.dtype is torch.float32 else TILES
    tile = tile or tile_for(tiles, x, rows, hidden_per_group, groups)
    block_hidden = block_for(hidden_per_group, tile.out)
    depth = tile.depth * 2 // x.element_size()
    of_z = torch.empty((rows, hidden_channels), dtype=x.dtype, device=x.device)
    hidden = torch.empty_like(of_z) if keep_hidden else None
    if of_z.numel() > 0:
        programs = triton.cdiv(rows, tile.rows) * groups * triton.cdiv(hidden_per_group, block_hidden)
        launch(hidden_gradient_kernel, programs, x, tile.warps, tile.stages)(
            grad_rows,
            x_rows,
            weight_in,
            bias_in,
            weight_out,
            hidden,
            of_z,
            rows,
            grad_rows.stride(0),
            x_rows.stride(0),
            IN=in_per_group,
            HIDDEN=hidden_per_group,
            OUT=out_per_group,
            GROUPS=groups,
            HAS_BIAS=bias_in is not None,
            ACTIVATION=FUSED_ACTIVATIONS[activation],
            KEEP_HIDDEN=keep_hidden,
            PRECISION=precision(x.dtype),
            BLOCK_ROWS=tile.rows,
            BLOCK_HIDDEN=block_hidden,
            BLOCK_IN=block_for(in_per_group, depth),
            BLOCK_OUT=block_for(out_per_group, depth),
        )
    return hidden, of_z


def grouped_mlp_backward(
    grad: Tensor,
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    groups: int,
    activation: str | None,
    needs: tuple[bool, bool, bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight_in, bias_in, weight_out and bias_out, each where `needs` has True.

    grad: [..., out_channels] in x's dtype; the others are `grouped_mlp`'s. x's gradient is in x's dtype, the
    parameters' are float32 and of their shapes.
    """
    for_x, for_in, for_bias_in, for_out, for_bias_out = needs
    of_x = of_in = of_bias_in = of_out = of_bias_out = None
    if for_x or for_in or for_bias_in or for_out:
        hidden, of_z = hidden_gradient(
            grad, x, weight_in, bias_in, weight_out, groups, activation, keep_hidden=for_out
        )
        if hidden is not None:
            of_out, of_bias_out = weight_gradient(grad, hidden, groups, bias=for_bias_out)
            del hidden
        if for_in:
            of_in, of_bias_in = weight_gradient(of_z, x, groups, bias=for_bias_in)
        elif for_bias_in:
            of_bias_in = column_sums(of_z)
        if for_x:
            of_x = grouped_pointwise_conv(of_z, weight_in, None, groups, transposed=True).view(x.shape)
    if for_bias_out and of_bias_out is None:
        of_bias_out = column_sums(grad)
    of_in, of_out = (
        None if g is None else g.view(w.shape) for g, w in ((of_in, weight_in), (of_out, weight_out))
    )
    return of_x, of_in, of_bias_in, of_out, of_bias_out
