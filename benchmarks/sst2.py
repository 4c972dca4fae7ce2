"""Real sentences: the dev set of SST-2, which is beside the repository and not in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from benchmarks.command import DataMissing
from squeezebert_fast import SqueezeBertTokenizerFast

PATH = Path(__file__).parents[2] / "shared" / "data" / "sst2" / "dev.tsv"
BATCH = 32


def read_sentences(limit: int | None = None) -> list[str]:
    """The first `limit` sentences, or all. Raises DataMissing."""
    if not PATH.exists():
        raise DataMissing(f"the SST-2 sentences are not at ../shared/data/sst2/{PATH.name}")
    _, *lines = PATH.read_text(encoding="utf-8").splitlines()
    return [line.rpartition("\t")[0] for line in lines][:limit]


def batches(tokenizer: SqueezeBertTokenizerFast, sentences: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """input_ids and attention_mask of BATCH sentences each as they come, padded to the longest of the batch."""
    encoded = [
        tokenizer(list(sentences[start : start + BATCH]), padding=True, truncation=True, return_tensors="pt")
        for start in range(0, len(sentences), BATCH)
    ]
    return [(batch["input_ids"], batch["attention_mask"]) for batch in encoded]
