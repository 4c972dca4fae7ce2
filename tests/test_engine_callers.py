"""Several Python threads may run forwards at once, and a forked child too."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import squeezebert_fast
from tests.engine_helpers import (
    PRECISIONS,
    encoder_of,
    groups,
    keep_some,
    needs_native,
    padding_mask,
    patched,
    run,
    states,
)

pytestmark = needs_native

FIELDS: dict[str, Any] = {
    "hidden_size": 96,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    **groups(4, 4, 4, 1, 4, 4),
}
SHAPES = [(1, 1), (2, 40), (8, 64), (1, 300), (20, 7), (3, 33)]


def batches_for(encoder: Any) -> list[tuple[Tensor, Tensor]]:
    kinds = ("right", "left", "holes")
    return [
        (states(encoder, *shape, seed=i), padding_mask(keep_some(*shape, kinds[i % 3], i)))
        for i, shape in enumerate(SHAPES)
    ]


@pytest.mark.parametrize("unpad", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_forwards_at_once_have_the_bits_of_forwards_alone(precision: str, unpad: bool) -> None:
    encoder = patched(encoder_of(**FIELDS), precision, unpad=unpad)
    batches = batches_for(encoder)
    expected = [run(encoder, *batch) for batch in batches]
    start = threading.Barrier(6)

    def work(caller: int) -> bool:
        torch.set_num_threads(1 + caller % 2)
        start.wait(60)
        return all(
            torch.equal(run(encoder, *batches[i]), expected[i])
            for turn in range(8)
            for i in [(caller + turn) % len(batches)]
        )

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def test_the_first_forwards_may_be_at_once_too() -> None:
    """All find nothing packed, or what another has just packed."""
    plain = encoder_of(**FIELDS)
    batch = batches_for(plain)[1]
    expected = {p: run(patched(plain, p), *batch) for p in PRECISIONS}
    for turn in range(9):
        precision = PRECISIONS[turn % 3]
        encoder = patched(plain, precision)
        start = threading.Barrier(4)

        def work(_: int, encoder: Any = encoder, start: threading.Barrier = start) -> Tensor:
            start.wait(60)
            return run(encoder, *batch)

        with ThreadPoolExecutor(4) as pool:
            assert all(torch.equal(result, expected[precision]) for result in pool.map(work, range(4)))


def test_different_models_at_once() -> None:
    encoders = [patched(encoder_of(seed=i, **FIELDS), precision) for i, precision in enumerate(PRECISIONS)]
    batch = batches_for(encoders[0])[2]
    expected = [run(encoder, *batch) for encoder in encoders]

    def work(i: int) -> bool:
        return all(torch.equal(run(encoders[i], *batch), expected[i]) for _ in range(10))

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(work, range(3)))


def _in_child(encoder: Any, batch: Any, connection: Any) -> None:
    connection.send(run(encoder, *batch).numpy())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_forked_child_of_a_process_that_ran_forwards(precision: str) -> None:
    encoder = squeezebert_fast.patch(encoder_of(**FIELDS), precision=precision, backend="cpu")
    batch = batches_for(encoder)[2]
    expected = run(encoder, *batch)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_in_child, args=(encoder, batch, theirs))
    process.start()
    try:
        assert ours.poll(60)
        assert torch.equal(torch.from_numpy(ours.recv()), expected)
    finally:
        process.kill()
        process.join(60)
