"""Masked language modelling on plain text: blocks of tokens, masked anew in each epoch.

A line is a sentence or a paragraph. Its tokens are joined with those of its neighbours, a [SEP] between them, and
cut into blocks of the maximum length. Of each block 15 % of the tokens are to be predicted: 80 % of those are
[MASK], 10 % random words, 10 % left as they are (Devlin et al. 2019, arXiv 1810.04805).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.errors import InputError, TrainingError
from squeezebert_fast.modeling import ModelOutput, SqueezeBertForMaskedLM
from squeezebert_fast.modeling.losses import IGNORED_LABEL
from squeezebert_fast.pretrained import Config, Tokenizer
from squeezebert_fast.tables.rows import Rows
from squeezebert_fast.training.seeds import generator_of
from squeezebert_fast.training.tasks.base import Batch, Features, Task, pad_rows

MASKED, RANDOM = 0.8, 0.1
LINES_AT_ONCE = 1000
PLACES = "places"
"""What a batch has, beside its labels: the indices of the tokens to predict, over all rows."""


class MaskedLanguageModel(Task):
    """seed: of the masks. probability: of a token to be predicted."""

    name = "masked-lm"
    model_class = SqueezeBertForMaskedLM
    metrics = ("perplexity", "accuracy")

    def __init__(self, seed: int, probability: float = 0.15) -> None:
        self.seed, self.probability = seed, probability
        self.mask, self.words = -1, torch.empty(0, dtype=torch.long)  # known once there is a tokenizer

    def read(self, source: str) -> list[str]:
        lines = [line.strip() for (line,), _ in Rows(source, ["line"], "text")]
        if not any(lines):
            raise InputError(f"{source} holds no text")
        return [line for line in lines if line]

    def encode(
        self,
        examples: Sequence[str],
        tokenizer: Tokenizer,
        config: Config,
        max_length: int,
    ) -> list[Features]:
        special = set(tokenizer.all_special_ids)
        cls, sep, mask = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id
        if cls is None or sep is None or mask is None:
            raise TrainingError("the tokenizer lacks [CLS], [SEP] or [MASK]: it can't mask words")
        self.mask = mask
        self.words = torch.tensor([index for index in range(len(tokenizer)) if index not in special])
        stream: list[int] = []
        for start in range(0, len(examples), LINES_AT_ONCE):
            lines = list(examples[start : start + LINES_AT_ONCE])
            encoded = tokenizer(lines, add_special_tokens=False, verbose=False)  # cut into blocks below
            for ids in encoded["input_ids"]:
                stream += [*ids, sep]
        room = max_length - 2
        blocks = [stream[at : at + room] for at in range(0, len(stream), room)]
        rows = []
        for at, block in enumerate(blocks):
            ids = [cls, *block] if block[-1] == sep else [cls, *block, sep]
            fixed = [int(index in special) for index in ids]
            rows.append({"input_ids": ids, "token_type_ids": [0] * len(ids), "fixed": fixed, "row": at})
        return rows

    def collate(self, rows: Sequence[Features], pad: int, epoch: int) -> Batch:
        masked = []
        for row in rows:
            ids = torch.tensor(row["input_ids"])
            # A generator for each row: its mask is the same in whatever batch, pass or process it comes.
            generator = generator_of(self.seed, "mask", epoch, row["row"])
            chance = torch.rand(3, len(ids), generator=generator)
            # The likeliest few rather than each by itself: the same share of every block, and never none.
            chance[0][torch.tensor(row["fixed"], dtype=torch.bool)] = 2.0
            candidates = len(ids) - sum(row["fixed"])
            wanted = min(max(round(self.probability * candidates), 1), candidates)
            chosen = torch.zeros(len(ids), dtype=torch.bool)
            chosen[chance[0].argsort()[:wanted]] = True
            others = self.words[(chance[2] * len(self.words)).long()]
            replaced = torch.where(
                chance[1] < MASKED, self.mask, torch.where(chance[1] < MASKED + RANDOM, others, ids)
            )
            masked.append(
                {
                    **row,
                    "input_ids": torch.where(chosen, replaced, ids).tolist(),
                    "labels": torch.where(chosen, ids, IGNORED_LABEL).tolist(),
                }
            )
        batch = pad_rows(masked, pad, {"labels": IGNORED_LABEL})
        # Found here, on the CPU: a GPU would have to be waited for, to know how many they are.
        return {**batch, PLACES: (batch["labels"].flatten() != IGNORED_LABEL).nonzero().flatten()}

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        places = batch[PLACES]  # float32 logits of all tokens would take much memory
        logits, labels = output["logits"].flatten(0, 1)[places], batch["labels"].flatten()[places]
        return F.cross_entropy(logits.float(), labels, reduction="sum")

    def count(self, batch: Batch) -> int:
        return len(batch[PLACES])

    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        kept = batch["labels"] != IGNORED_LABEL
        losses = torch.zeros(kept.shape, device=kept.device)
        losses[kept] = F.cross_entropy(
            output["logits"][kept].float(), batch["labels"][kept], reduction="none"
        )
        right = (output["logits"].argmax(-1) == batch["labels"]) & kept
        return [tuple(row) for row in torch.stack([losses.sum(1), right.sum(1), kept.sum(1)], 1).tolist()]

    def score(
        self, examples: Sequence[str], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        loss, right, count = (sum(column) for column in zip(*answers, strict=True))
        return {"perplexity": math.exp(min(loss / max(count, 1), 700)), "accuracy": right / max(count, 1)}
