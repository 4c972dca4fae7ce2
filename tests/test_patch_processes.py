"""Patched models on several processes (DistributedDataParallel) and on several threads at once."""

from __future__ import annotations

import copy
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import squeezebert_fast
from squeezebert_fast import SqueezeBertForSequenceClassification
from tests.helpers import leave_process_group
from tests.model_pairs import inputs_for, pair, tiny_config

NAME = "SqueezeBertForSequenceClassification"
DROPOUT = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}


def model_of() -> Any:
    torch.manual_seed(0)
    return SqueezeBertForSequenceClassification(tiny_config()).train()


def batch_of(rank: int) -> dict[str, Tensor]:
    return inputs_for(NAME, tiny_config(), seed=rank) | {"labels": torch.tensor([0, 1, rank % 2])}


def gradients(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the parameters' names in the model itself, whatever wraps it."""
    model.zero_grad()
    model(**batch).loss.backward()
    names = ((name.removeprefix("module."), p) for name, p in model.named_parameters())
    return {name: p.grad.clone() for name, p in names if p.grad is not None}


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = []
    for before in (True, False):
        model = model_of()
        wrapped = DistributedDataParallel(squeezebert_fast.patch(model) if before else model)
        squeezebert_fast.patch(wrapped)
        found.append(gradients(wrapped, batch_of(rank)))
    model.gradient_checkpointing_enable()
    found.append(gradients(wrapped, batch_of(rank)))
    torch.save(found, f"{folder}/{rank}.pt")
    leave_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo")
def test_two_processes_have_the_average_of_both_gradients(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_process, (str(tmp_path),), nprocs=2)
    plain = [gradients(model_of(), batch_of(rank)) for rank in (0, 1)]
    for rank in (0, 1):
        for found in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            assert found.keys() == plain[0].keys()
            for name, gradient in found.items():
                expected = (plain[0][name] + plain[1][name]) / 2
                torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("library", ["ours", "theirs"])
def test_replicas_on_threads_of_their_own(library: str) -> None:
    ours, theirs = pair(NAME, tiny_config())
    model = squeezebert_fast.patch(ours if library == "ours" else theirs).train()
    expected = [gradients(model, batch_of(rank)) for rank in range(6)]
    replicas = [copy.deepcopy(model) for _ in range(6)]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda rank: gradients(replicas[rank], batch_of(rank)), range(6)))
    for actual, own in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, own)


def test_one_model_on_many_threads() -> None:
    """Each takes gradients of its own, while the others run; dropout draws from one generator, as PyTorch's does."""
    model = squeezebert_fast.patch(pair(NAME, tiny_config(**DROPOUT))[0])
    parameters = list(model.parameters())

    def of(rank: int) -> tuple[Tensor, ...]:
        loss = model(**batch_of(rank)).loss
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    expected = [of(rank) for rank in range(6)]
    with ThreadPoolExecutor(3) as threads:
        for actual, own in zip(threads.map(of, range(6)), expected, strict=True):
            torch.testing.assert_close(actual, own)
        model.train()
        for found in threads.map(of, range(6)):
            assert all(g is None or g.isfinite().all() for g in found)
