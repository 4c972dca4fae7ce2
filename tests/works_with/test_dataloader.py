"""DataLoader workers: tokenizers and patched models in processes that the loader forks or spawns."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.slow import slow
from tests.works_with.helpers import LIBRARIES, logits, model_of, patched

START_METHODS = [each for each in ("fork", "spawn") if each in multiprocessing.get_all_start_methods()]


class Answers(Dataset[Tensor]):
    """Row i is what a model says of row i of `ids`: the model runs in the worker."""

    def __init__(self, model: Any, ids: Tensor) -> None:
        self.model, self.ids = model, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Tensor:
        return logits(self.model, {"input_ids": self.ids[index : index + 1]})[0]


@pytest.mark.parametrize("library", slow(LIBRARIES, but=["ours"]))
@pytest.mark.parametrize("start", START_METHODS)
@pytest.mark.parametrize("precision", slow(["float32", "int8"], but=["int8"]))
def test_a_patched_model_gives_its_own_bits_in_workers(precision: str, start: str, library: str) -> None:
    model = patched(model_of(library), precision=precision, backend="cpu")
    ids = torch.randint(0, 61, (6, 9), generator=torch.Generator().manual_seed(0))
    expected = logits(model, {"input_ids": ids})
    loader = DataLoader(
        Answers(model, ids), batch_size=3, num_workers=2, multiprocessing_context=start, timeout=100
    )
    assert torch.equal(torch.cat(list(loader)), expected)
    assert torch.equal(logits(model, {"input_ids": ids}), expected)


@pytest.mark.parametrize("library", LIBRARIES)
def test_training_has_the_same_bits_while_workers_come_and_go(library: str) -> None:
    rows = [{"input_ids": torch.arange(9) % (3 + i % 5), "labels": torch.tensor(i % 2)} for i in range(16)]

    def losses(workers: int) -> list[float]:
        model = patched(model_of(library)).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        found = []
        for _ in range(3):  # new workers every epoch
            for batch in DataLoader(rows, batch_size=8, num_workers=workers):  # type: ignore[arg-type]
                loss = model(**batch).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                found.append(loss.item())
        return found

    assert losses(2) == losses(0)
