"""Exact cases of attention. Softmax is no integer arithmetic, but two kinds of scores leave nothing of it:

- *equal scores*: all probabilities are one over the number of keys that the mask keeps. Half of a head's channels are
  the same for all keys, and in the other half queries are 0.
- *one-hot*: each query is the code, of 16 and -16, of one key, and no other key's score is nearer than 40: it has a
  share of e^-40 at most. So a wrong product of q and k takes another key's values.

The backward gets its statistics as arguments, and the number of keys kept is a power of two there, so that all numbers
are integers over that power.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.exact import Case, Expected, Integers, Run, Sizes, named
from benchmarks.exact_products import HALVES, conv, product, tiles_of
from squeezebert_fast.triton_kernels import attend
from squeezebert_fast.triton_kernels import attention as attentions
from squeezebert_fast.triton_kernels import attention_backward as attentions_back
from squeezebert_fast.triton_kernels.add_layer_norm import add_layer_norm_with_statistics
from squeezebert_fast.triton_kernels.dropout import NO_DROPOUT, Dropout
from squeezebert_fast.triton_kernels.self_attention import self_attention

KINDS = ("none", "by key", "any")
CODE = 16


def by_head(x: Tensor, heads: int) -> Tensor:
    """[batch, tokens, channels] as float64 [batch, heads, tokens, head]."""
    return x.double().unflatten(-1, (heads, -1)).transpose(1, 2)


def flat(x: Tensor) -> Tensor:
    """The other way."""
    return x.transpose(1, 2).flatten(2)


def scores_of(q: Tensor, k: Tensor, keep: Tensor, heads: int) -> Tensor:
    """float64 [batch, heads, queries, keys]."""
    q, k = by_head(q, heads), by_head(k, heads)
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~keep, -1e30)


def keep_of(kind: str, integers: Integers, batch: int, queries: int, keys: int, kept: int) -> Tensor:
    """Which keys are attended to, bool [batch, 1, 1 or queries, keys]: `kept` of each row, or all without a mask."""
    if kind == "none":
        return torch.ones(1, 1, 1, keys, dtype=torch.bool, device=integers.device)
    rows = queries if kind == "any" else 1
    ranks = torch.stack([integers.order(keys) for _ in range(batch * rows)]).view(batch, 1, rows, keys)
    return (ranks < kept).to(integers.device)


def mask_of(kind: str, keep: Tensor, integers: Integers) -> Tensor | None:
    if kind == "none":
        return None
    return integers.given(torch.where(keep, 0.0, torch.finfo(integers.dtype).min))


def equal_scores(integers: Integers, q: Tensor, k: Tensor, heads: int) -> None:
    """Make scores equal, in place."""
    of_q, of_k = (t.unflatten(-1, (heads, -1)) for t in (q, k))
    half = of_q.shape[-1] // 2
    of_q[..., half:] = 0
    of_k[..., :half] = of_k[:, :1, :, :half].clone()


def codes(integers: Integers, batch: int, tokens: int, channels: int) -> Tensor:
    """1 and -1, on the CPU."""
    return (2 * integers.between(0, 1, batch, tokens, channels) - 1).cpu()


def attends_of(blind: bool, integers: Integers, batch: int, queries: int) -> Tensor | None:
    """Which queries attend to anything, bool [batch, 1, queries, 1]: all, or all but some."""
    return integers.between(0, 1, batch, 1, queries, 1).bool() if blind else None


def queries_and_keys(
    one_hot: bool, integers: Integers, batch: int, tokens: int, keys: int, channels: int, heads: int
) -> tuple[Tensor, Tensor]:
    if one_hot:
        code = CODE * codes(integers, batch, keys, channels)
        chosen = torch.cat([integers.order(keys) for _ in range(-(-tokens // keys))])[:tokens]
        return integers.given(code[:, chosen]), integers.given(code)
    q, k = integers(batch, tokens, channels), integers(batch, keys, channels)
    equal_scores(integers, q, k, heads)
    return q, k


def dropout_factors(dropout: Dropout, shape: Sequence[int], device: str) -> Tensor | float:
    """What probabilities [batch, heads, queries, keys] are multiplied by, as another kernel makes it of the seed."""
    if dropout.p == 0.0:
        return 1.0
    ones = torch.ones(shape[0] * shape[1] * shape[2], shape[3], device=device)
    return (
        add_layer_norm_with_statistics(ones, 0 * ones, ones[0], ones[0], 1.0, dropout)[1].double().view(shape)
    )


def half_dropped(device: str) -> Dropout:
    return Dropout(0.5, torch.tensor(7, device=device))


def forward_case(
    dtype: torch.dtype,
    tile: attend.Tile,
    kind: str,
    one_hot: bool,
    drop: bool = False,
    wide: bool = False,
    blind: bool = False,
) -> Case:
    """wide: heads of twice as many channels. blind: some queries attend to nothing."""

    def make(sizes: Sizes, integers: Integers) -> Run:
        batch, tokens, heads = sizes.batch, sizes.tokens, sizes.heads // (2 if wide else 1)
        keys = tokens + 5
        dropout = half_dropped(integers.device) if drop else NO_DROPOUT
        q, k = queries_and_keys(one_hot, integers, batch, tokens, keys, sizes.channels, heads)
        keep = keep_of(kind, integers, batch, tokens, keys, tokens - 8)
        mask, attends = mask_of(kind, keep, integers), attends_of(blind, integers, batch, tokens)

        def call(v: Tensor, q: Tensor = q, k: Tensor = k) -> Sequence[Tensor]:
            return attentions.attention_with_statistics(
                q, k, v, mask, heads, dropout, attends=attends, tile=tile
            )

        def exact(v: Tensor, q: Tensor = q, k: Tensor = k) -> list[Expected]:
            scores = scores_of(q, k, keep, heads)
            p = scores.softmax(-1) * dropout_factors(dropout, scores.shape, integers.device)
            largest = scores.amax(-1)
            total = (scores - largest[..., None]).exp().sum(-1)
            if attends is not None:
                p = p.masked_fill(~attends, 0.0)
                largest, total = (t.masked_fill(~attends[..., 0], torch.inf) for t in (largest, total))
            return [
                Expected("context", flat(p @ by_head(v, heads)), rounded=True),
                Expected("statistics", torch.stack([largest, 1 / total], -1), rounded=True),
            ]

        v = integers(batch, keys, sizes.channels, most=8)
        return Run((v, q, k) if one_hot else (v,), call, exact)

    return named("attention", what(tile, kind, one_hot, drop, wide, blind), dtype, make)


def what(
    tile: attend.Tile, kind: str, one_hot: bool, drop: bool = False, wide: bool = False, blind: bool = False
) -> str:
    scores = f"{tile.queries}x{tile.keys}, mask {kind}, {'one-hot' if one_hot else 'equal scores'}"
    return scores + ", dropout" * drop + ", wide heads" * wide + ", blind queries" * blind


def projections(one_hot: bool, sizes: Sizes, integers: Integers) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """x and the weights and biases of q, k and v, for which scores are of that kind."""
    channels, heads, groups = sizes.channels, sizes.heads, sizes.groups
    of_group, head = channels // groups, channels // heads
    weights, biases = zip(*(conv(integers, channels, channels, groups, 0.25) for _ in range(3)), strict=True)
    if one_hot:
        x = codes(integers, sizes.batch, sizes.tokens, channels)
        chosen = torch.cat([integers.order(of_group)[:head] for _ in range(heads)])
        selection = CODE * torch.nn.functional.one_hot(chosen, of_group)[..., None]
        weights = (integers.given(selection), integers.given(selection), weights[2])
        biases = (integers.given(biases[0] * 0), integers.given(biases[1] * 0), biases[2])
        return integers.given(x), list(weights), list(biases)
    half = head // 2
    for t in (weights[0], biases[0]):
        t.unflatten(0, (heads, head))[:, half:] = 0
    weights[1].unflatten(0, (heads, head))[:, :half] = 0
    return integers(sizes.batch, sizes.tokens, channels), list(weights), list(biases)


def self_attention_case(
    dtype: torch.dtype, tile: attend.Tile, kind: str, one_hot: bool, blind: bool = False
) -> Case:
    """kind: "packed" too, of sequences of different lengths."""

    def make(sizes: Sizes, integers: Integers) -> Run:
        batch, tokens, channels, heads = sizes.batch, sizes.tokens, sizes.channels, sizes.heads
        x, weights, biases = projections(one_hot, sizes, integers)
        keep, mask, sequences, real = masks(kind, sizes, integers)
        attends = attends_of(blind, integers, batch, tokens)

        def call(x: Tensor) -> list[Tensor]:
            rows = x if real is None else x.flatten(0, 1)[real]
            groups = sizes.groups
            options = {"attends": attends, "tile": tile}
            return [self_attention(rows, weights, biases, groups, heads, mask, sequences, **options)]

        def exact(x: Tensor) -> list[Expected]:
            rows = x.flatten(0, 1)
            q, k, v = (
                product(rows, w, b, sizes.groups).to(dtype).view(batch, tokens, channels)
                for w, b in zip(weights, biases, strict=True)
            )
            p = scores_of(q, k, keep, heads).softmax(-1)
            context = flat((p if attends is None else p * attends) @ by_head(v, heads))
            return [
                Expected("context", context if real is None else context.flatten(0, 1)[real], rounded=True)
            ]

        return Run((x,), call, exact)

    return named("attention", f"projections inside, {what(tile, kind, one_hot, blind=blind)}", dtype, make)


def masks(
    kind: str, sizes: Sizes, integers: Integers
) -> tuple[Tensor, Tensor | None, attend.Sequences | None, Tensor | None]:
    """(Keys that are kept, the mask, packed sequences, and which rows of a padded batch are theirs)."""
    batch, tokens = sizes.batch, sizes.tokens
    if kind != "packed":
        keep = keep_of(kind, integers, batch, tokens, tokens, tokens - 8)
        return keep, mask_of(kind, keep, integers), None, None
    lengths = torch.tensor([max(tokens - 16 * i, 0) for i in range(batch)])
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(integers.device, torch.int32)
    inside = (torch.arange(tokens) < lengths[:, None]).to(integers.device)
    return inside[:, None, None], None, (offsets, tokens), inside.flatten()


def backward_case(
    dtype: torch.dtype, kind: str, one_hot: bool, drop: bool, wide: bool = False, blind: bool = False
) -> Case:
    def make(sizes: Sizes, integers: Integers) -> Run:
        batch, tokens, heads = sizes.batch, sizes.tokens, sizes.heads // (2 if wide else 1)
        device, kept = integers.device, 1 << (tokens.bit_length() - 1)
        keys = kept if kind == "none" else tokens + 5
        dropout = half_dropped(device) if drop else NO_DROPOUT
        q, k = queries_and_keys(one_hot, integers, batch, tokens, keys, sizes.channels, heads)
        v, grad = (integers(batch, n, sizes.channels, most=1, share=0.5) for n in (keys, tokens))
        keep = keep_of(kind, integers, batch, tokens, keys, kept)
        mask = mask_of(kind, keep, integers)
        scores = scores_of(q, k, keep, heads)
        # as the forward has them in float32: an integer times the scale
        scale = q.new_tensor((sizes.channels // heads) ** -0.5, dtype=torch.float32)
        largest = (scores.amax(-1) * (sizes.channels // heads) ** 0.5).round().float() * scale
        total = (scores - scores.amax(-1, keepdim=True)).exp().sum(-1).float()
        statistics = torch.stack([largest, 1 / total], -1)
        attends = attends_of(blind, integers, batch, tokens)
        if attends is not None:
            statistics = torch.where(attends, statistics, statistics.new_tensor([torch.inf, 0.0]))

        def call(grad: Tensor, q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Sequence[Tensor | None]:
            needs = (True, True, True)
            return attentions_back.attention_backward(grad, q, k, v, mask, statistics, heads, dropout, needs)

        def exact(grad: Tensor, q: Tensor = q, k: Tensor = k, v: Tensor = v) -> list[Expected]:
            p = scores_of(q, k, keep, heads).softmax(-1).float().double()
            p = p if attends is None else p * attends
            factors = dropout_factors(dropout, p.shape, device)
            slopes = factors * (by_head(grad, heads) @ by_head(v, heads).mT)
            s = p * (slopes - (p * slopes).sum(-1, keepdim=True))
            # as they meet the products
            s, dropped = s.to(dtype).double(), (p * factors).to(dtype).double()
            root = (sizes.channels // heads) ** 0.5
            gradients = {
                "of q": s @ by_head(k, heads) / root,
                "of k": s.mT @ by_head(q, heads) / root,
                "of v": dropped.mT @ by_head(grad, heads),
            }
            return [Expected(name, flat(values), rounded=True) for name, values in gradients.items()]

        if one_hot:  # where gradients of q and k are 0, whatever v is
            return Run((grad, q, k), call, exact)
        return Run((grad, v), lambda grad, v: call(grad, v=v), lambda grad, v: exact(grad, v=v))

    tile, _ = attentions_back.tiles_for(
        torch.empty(0, dtype=dtype), 128 if wide else 64, kind, Dropout(0.5 if drop else 0.0, None)
    )
    return named("attention_backward", what(tile, kind, one_hot, drop, wide, blind), dtype, make)


def cases() -> list[Case]:
    """Attention's kernels with all of their tiles and kinds of masks."""
    found: list[Case] = []
    both: tuple[Callable[..., Case], ...] = (forward_case, self_attention_case)
    for dtype, tile in tiles_of(attend):
        for case in both:
            found += [case(dtype, tile, "by key", one_hot) for one_hot in (False, True)]
    tile = attend.TILES[0]
    for case in both:
        found += [case(torch.bfloat16, tile, kind, True) for kind in ("none", "any")]
        found += [case(torch.bfloat16, tile, kind, False, blind=True) for kind in KINDS]
    found.append(self_attention_case(torch.bfloat16, tile, "packed", True))
    found += [forward_case(torch.bfloat16, tile, "any", one_hot, drop=True) for one_hot in (False, True)]
    found.append(forward_case(torch.bfloat16, tile, "any", True, wide=True))
    for kind in KINDS:
        for drop in (False, True):
            found += [backward_case(torch.bfloat16, kind, one_hot, drop) for one_hot in (False, True)]
    found += [backward_case(torch.bfloat16, kind, False, False, wide=True) for kind in KINDS]
    found.append(backward_case(torch.bfloat16, "by key", False, False, blind=True))
    for dtype in (*HALVES[1:], torch.float32):
        found += [backward_case(dtype, "by key", one_hot, False) for one_hot in (False, True)]
    return found
