"""The nearest of many vectors by their cosine, all compared with all, in blocks.

    for each block of queries                [queries, channels]
        for each block of vectors            [vectors, channels], from the disk
            scores = queries @ vectors^T     the best k so far, and this block's best k: the best k of both

Memory is a block of each and of scores, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from squeezebert_fast.errors import InputError

QUERIES, VECTORS = 1024, 16384  # in a block: 64 MiB of scores

Neighbour = tuple[float, int]
"""A cosine, and the row of the vector."""


def nearest(
    queries: Any, vectors: Any, count: int, usable: Tensor, *, among_themselves: bool = False
) -> Iterator[list[Neighbour]]:
    """For each query its nearest vectors, the best first; fewer than `count` where there are no more.

    queries, vectors: arrays [rows, channels], which may lie on the disk. usable: bool [vectors], which may be found.
    among_themselves: whether queries are the vectors, none of which is its own neighbour.
    Raises InputError for a vector that isn't finite.
    """
    for start in range(0, len(queries), QUERIES):
        asked = _block(queries, start, QUERIES)
        scores = torch.full((len(asked), 0), 0.0)
        rows = torch.empty((len(asked), 0), dtype=torch.long)
        for first in range(0, len(vectors), VECTORS):
            found = asked @ _block(vectors, first, VECTORS).T
            found[:, ~usable[first : first + VECTORS]] = -torch.inf
            if among_themselves:
                own = torch.arange(start, start + len(asked))
                inside = (own >= first) & (own < first + found.shape[1])
                found[inside, own[inside] - first] = -torch.inf
            best = found.topk(min(count, found.shape[1]))
            scores = torch.cat([scores, best.values], 1)
            rows = torch.cat([rows, best.indices + first], 1)
            kept = scores.topk(min(count, scores.shape[1]))
            scores, rows = kept.values, rows.gather(1, kept.indices)
        scores.clamp_(max=1)  # rounding may make it more
        for values, places in zip(scores.tolist(), rows.tolist(), strict=True):
            pairs = zip(values, places, strict=True)
            yield sorted((each for each in pairs if each[0] > -2), key=lambda each: (-each[0], each[1]))


def _block(vectors: Any, start: int, length: int) -> Tensor:
    """Some of the vectors, scaled to length 1."""
    block = torch.tensor(vectors[start : start + length], dtype=torch.float32)
    finite = block.isfinite().all(1)
    if not finite.all():
        raise InputError(f"the vector in row {start + finite.tolist().index(False)} is not finite")
    return normalize(block, dim=-1)
