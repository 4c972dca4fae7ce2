"""Masked language modelling on plain text: blocks of tokens, masked anew in each epoch.

A line is a sentence or a paragraph. Its tokens are joined with those of its neighbours, a [SEP] between them, and
cut into blocks of the maximum length. Of each block 15 % of the tokens are to be predicted: 80 % of those are
[MASK], 10 % random words, 10 % left as they are (Devlin et al. 2019, arXiv 1810.04805).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.errors import InputError, TrainingError
from squeezebert_fast.modeling import MaskedLMOutput, ModelOutput, SqueezeBertForMaskedLM
from squeezebert_fast.modeling.losses import IGNORED_LABEL
from squeezebert_fast.patching.families import word_logits
from squeezebert_fast.pretrained import Config, Model, Tokenizer
from squeezebert_fast.tables.rows import Rows
from squeezebert_fast.training.seeds import generator_of
from squeezebert_fast.training.tasks.base import Batch, Features, Task, model_inputs, pad_rows
from squeezebert_fast.training.word_loss import word_losses

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
        # known once there is a tokenizer
        self.mask, self.words, self.special = -1, torch.empty(0, dtype=torch.long), torch.empty(0)

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
        cls, sep, mask = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id
        if cls is None or sep is None or mask is None:
            raise TrainingError("the tokenizer lacks [CLS], [SEP] or [MASK]: it can't mask words")
        self.mask = mask
        self.special = torch.zeros(config.vocab_size, dtype=torch.bool)
        self.special[tokenizer.all_special_ids] = True
        self.words = (~self.special[: len(tokenizer)]).nonzero().flatten()
        stream = array("i")  # 4 bytes a token, where a list would take 36: a corpus is long
        for start in range(0, len(examples), LINES_AT_ONCE):
            lines = list(examples[start : start + LINES_AT_ONCE])
            encoded = tokenizer(lines, add_special_tokens=False, verbose=False)  # cut into blocks below
            for ids in encoded["input_ids"]:
                stream.extend([*ids, sep])
        tokens = torch.frombuffer(stream, dtype=torch.int32)
        if bool(self.special[tokens].all()):
            raise InputError("no word of the text is in the vocabulary: there is nothing to predict")
        begin, end = tokens.new_tensor([cls]), tokens.new_tensor([sep])
        rows = []
        for at, block in enumerate(tokens.split(max_length - 2)):
            parts = [begin, block] if block[-1] == sep else [begin, block, end]
            rows.append({"input_ids": torch.cat(parts), "row": at})
        return rows

    def collate(self, rows: Sequence[Features], pad: int, epoch: int) -> Batch:
        batch = pad_rows([self._masked(row, epoch) for row in rows], pad, {"labels": IGNORED_LABEL})
        # Found here, on the CPU: a GPU would have to be waited for, to know how many they are.
        return {**batch, PLACES: (batch["labels"].flatten() != IGNORED_LABEL).nonzero().flatten()}

    def _masked(self, row: Features, epoch: int) -> Features:
        ids = row["input_ids"].long()
        fixed = self.special[ids]
        # A generator for each row: its mask is the same in whatever batch, pass or process it comes.
        chance = torch.rand(3, len(ids), generator=generator_of(self.seed, "mask", epoch, row["row"]))
        # The likeliest few rather than each by itself: the same share of every block, and none only if none can be.
        chance[0][fixed] = 2.0
        candidates = len(ids) - int(fixed.sum())
        wanted = min(max(round(self.probability * candidates), 1), candidates)
        chosen = torch.zeros(len(ids), dtype=torch.bool)
        chosen[chance[0].argsort()[:wanted]] = True
        others = self.words[(chance[2] * len(self.words)).long()]
        replaced = torch.where(
            chance[1] < MASKED, self.mask, torch.where(chance[1] < MASKED + RANDOM, others, ids)
        )
        return {
            "input_ids": torch.where(chosen, replaced, ids),
            "token_type_ids": torch.zeros_like(ids),
            "labels": torch.where(chosen, ids, IGNORED_LABEL),
        }

    def forward(self, model: Model, batch: Batch, *, hidden_states: bool = False) -> ModelOutput:
        """The logits of the tokens to predict alone, [places, words]: the head's product with every word is most of
        what a small model costs."""
        body = model.base_model
        inputs = model_inputs(body, batch)
        encoded = body(**inputs, output_hidden_states=hidden_states, return_dict=True)
        chosen = encoded["last_hidden_state"].flatten(0, 1).index_select(0, batch[PLACES])
        return MaskedLMOutput(logits=word_logits(model, chosen), hidden_states=encoded.get("hidden_states"))

    def loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        return word_losses(output["logits"], _words(batch)).sum()

    def count(self, batch: Batch) -> int:
        return len(batch[PLACES])

    def answers(self, output: ModelOutput, batch: Batch) -> list[Any]:
        rows, tokens = batch["labels"].shape
        logits, words = output["logits"], _words(batch)
        losses = word_losses(logits, words)
        found = torch.stack([losses, logits.argmax(-1) == words, torch.ones_like(losses)], 1)
        by_row = found.new_zeros(rows, 3).index_add_(0, batch[PLACES] // tokens, found)
        return [tuple(row) for row in by_row.tolist()]

    def score(
        self, examples: Sequence[str], rows: Sequence[Features], answers: Sequence[Any]
    ) -> dict[str, float]:
        loss, right, count = (sum(column) for column in zip(*answers, strict=True))
        return {"perplexity": math.exp(min(loss / max(count, 1), 700)), "accuracy": right / max(count, 1)}


def _words(batch: Batch) -> Tensor:
    """The right ones, at `PLACES`."""
    return batch["labels"].flatten()[batch[PLACES]]
