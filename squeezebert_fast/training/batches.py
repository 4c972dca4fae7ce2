"""Which examples make which optimizer step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from squeezebert_fast.training.seeds import generator_of

WINDOW_BATCHES = 50
"""Batches that are sorted together: more pad less, fewer mix lengths better."""


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The indices of each batch of an epoch: random, with examples of like length together.

    lengths: of each example, in tokens. Every example occurs once; the last of the batches made is smaller
    where `batch_size` doesn't divide their number. The result depends on the arguments alone.
    """
    generator = generator_of(seed, "order", epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = WINDOW_BATCHES * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        by_length = sorted(order[start : start + window], key=lambda index: lengths[index])
        batches += [by_length[at : at + batch_size] for at in range(0, len(by_length), batch_size)]
    return [batches[at] for at in torch.randperm(len(batches), generator=generator).tolist()]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """The indices of each batch for inference, where order doesn't matter: the longest first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]


def share(batch: Sequence[int], rank: int, world: int, parts: int) -> list[list[int]]:
    """What one process of `world` runs of a batch, cut into `parts` of about the same size, none of them empty."""
    own = list(batch[rank::world])
    size = -(-len(own) // parts) or 1
    return [own[at : at + size] for at in range(0, len(own), size)]
