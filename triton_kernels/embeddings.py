"""y = layer_norm(word[id] + position[id] + token_type[id]): gather, sum and LayerNorm in one pass
over the row.

    ids -> rows of three tables -> sum in registers -> LayerNorm -> y

One program makes a few rows. Bound by memory: a token of the base model moves 1.5 KB of its word's row and
1.5 KB of y in bfloat16; the other two tables stay in L2.

An id outside its table can't be reported without making the GPU wait for the CPU. It never reads outside
either: its row of y is NaN, which no later operation turns back into a number. (PyTorch's own gather stops
the process's CUDA context in that case.)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from squeezebert_fast.triton_kernels.add_layer_norm import normalized, row_blocks, rows_per_program
from squeezebert_fast.triton_kernels.blocks import appended
from squeezebert_fast.triton_kernels.launching import check_contiguous, launch


@triton.jit
def table_rows(
    table, size, ids, row_stride, token_stride, row, tokens, channel, inside, CHANNELS: tl.constexpr
):
    """float32 rows of `table`, [size, CHANNELS], named by ids; NaN where an id is outside."""
    at = ids + row // tokens * row_stride + row % tokens * token_stride
    named = tl.load(at, mask=inside, other=0).to(tl.int64)
    known = (named >= 0) & (named < size)
    read = tl.where(known, named, 0)[:, None] * CHANNELS + channel[None, :]
    v = tl.load(table + read, mask=(inside & known)[:, None] & (channel < CHANNELS)[None, :], other=0.0).to(
        tl.float32
    )
    return tl.where(known[:, None], v, float("nan"))


@triton.jit(do_not_specialize=["rows", "tokens"])
def embeddings_kernel(
    word,
    position,
    token_type,
    word_size,
    position_size,
    token_type_size,
    word_ids,
    position_ids,
    token_type_ids,
    word_row_stride,
    word_token_stride,
    position_row_stride,
    position_token_stride,
    token_type_row_stride,
    token_type_token_stride,
    y,
    rows,
    tokens,
    gamma,
    beta,
    eps,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Row r of y is token r % tokens of sequence r // tokens; strides of ids are in elements, 0 where they
    broadcast.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    blocks = ()
    for i in tl.static_range(BLOCKS):
        channel = i * BLOCK + tl.arange(0, BLOCK)
        v = table_rows(
            word,
            word_size,
            word_ids,
            word_row_stride,
            word_token_stride,
            row,
            tokens,
            channel,
            inside,
            CHANNELS,
        )
        v += table_rows(
            position, position_size, position_ids, position_row_stride, position_token_stride,
            row, tokens, channel, inside, CHANNELS,
        )  # fmt: skip
        v += table_rows(
            token_type, token_type_size, token_type_ids, token_type_row_stride, token_type_token_stride,
            row, tokens, channel, inside, CHANNELS,
        )  # fmt: skip
        blocks = appended(blocks, tl.where((channel < CHANNELS)[None, :], v, 0.0))
    blocks, _, _ = normalized(blocks, gamma, beta, eps, CHANNELS, BLOCK, BLOCKS)
    for i in tl.static_range(BLOCKS):
        channel = i * BLOCK + tl.arange(0, BLOCK)
        stored = inside[:, None] & (channel < CHANNELS)[None, :]
        tl.store(
            y + row[:, None] * CHANNELS + channel[None, :], blocks[i].to(y.dtype.element_ty), mask=stored
        )


def embeddings(
    word: Tensor,
    position: Tensor,
    token_type: Tensor,
    input_ids: Tensor,
    position_ids: Tensor,
    token_type_ids: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
) -> Tensor:
    """`layer_norm(word[input_ids] + position[position_ids] + token_type[token_type_ids]) * gamma + beta`.

    word, position, token_type: [rows, channels], contiguous. input_ids: int64 or int32, [batch, tokens] or
    [tokens]; the other two, of either dtype, broadcast to its shape. gamma, beta: [channels], contiguous.

    Returns [*input_ids.shape, channels] in word's dtype, NaN where an id is outside its table.
    """
    channels = word.shape[1]
    y = torch.empty((*input_ids.shape, channels), dtype=word.dtype, device=word.device)
    if y.numel() > 0:
        check_contiguous(word, position, token_type, gamma, beta)
        tokens = input_ids.shape[-1]
        ids = [given.expand(input_ids.shape) for given in (input_ids, position_ids, token_type_ids)]
        strides = [
            stride
            for given in ids
            for stride in ((0, *given.stride()) if given.dim() == 1 else given.stride())
        ]
        (per_program, warps), cut = rows_per_program(channels), row_blocks(channels)
        launch(embeddings_kernel, triton.cdiv(input_ids.numel(), per_program), word, warps)(
            word,
            position,
            token_type,
            word.shape[0],
            position.shape[0],
            token_type.shape[0],
            *ids,
            *strides,
            y,
            input_ids.numel(),
            tokens,
            gamma,
            beta,
            eps,
            CHANNELS=channels,
            BLOCK=cut.block,
            BLOCKS=cut.blocks,
            ROWS=per_program,
        )
    return y
