"""Real sentences: SST-2, which is beside the repository and not in it; its dev set where nothing else is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from benchmarks.command import DataMissing
from squeezebert_fast import SqueezeBertTokenizerFast

PATH, TRAIN = (
    Path(__file__).parents[2] / "shared" / "data" / "sst2" / f"{split}.tsv" for split in ("dev", "train")
)
BATCH = 32


def read_sentences(limit: int | None = None, path: Path = PATH) -> list[str]:
    """The first `limit` sentences of a split, or all. Raises DataMissing."""
    if not path.exists():
        raise DataMissing(f"the SST-2 sentences are not at ../shared/data/sst2/{path.name}")
    _, *lines = path.read_text(encoding="utf-8").splitlines()
    return [line.rpartition("\t")[0] for line in lines][:limit]


def batches(
    tokenizer: SqueezeBertTokenizerFast, sentences: Sequence[str], size: int = BATCH
) -> list[tuple[Tensor, Tensor]]:
    """input_ids and attention_mask of `size` sentences each as they come, padded to the longest of the batch."""
    encoded = [
        tokenizer(list(sentences[start : start + size]), padding=True, truncation=True, return_tensors="pt")
        for start in range(0, len(sentences), size)
    ]
    return [(batch["input_ids"], batch["attention_mask"]) for batch in encoded]
