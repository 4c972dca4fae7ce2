"""The likeliest tokens for the masks of a text, by a masked language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypedDict

import torch

from squeezebert_fast.answering.options import AS_STORED, EngineOptions
from squeezebert_fast.answering.running import check_finite, load_engine
from squeezebert_fast.errors import InputError, counted
from squeezebert_fast.modeling import SqueezeBertForMaskedLM
from squeezebert_fast.patching.families import word_logits
from squeezebert_fast.pretrained import Pretrained


class Fill(TypedDict):
    """A token for a mask, and its probability."""

    token: str
    score: float


class MaskFiller:
    """A masked language model with its tokenizer. Raises what `load_engine` raises."""

    def __init__(self, source: str | Pretrained, options: EngineOptions = AS_STORED) -> None:
        self.engine = load_engine(SqueezeBertForMaskedLM, source, **dataclasses.asdict(options))
        # a vocabulary may be padded in the model
        self.words = min(len(self.engine.tokenizer), self.engine.model.config.vocab_size)

    def encode(self, text: str) -> list[int]:
        """The text's tokens. Raises InputError for one without a mask, and for one that is too long."""
        tokenizer = self.engine.tokenizer
        ids = tokenizer(text)["input_ids"]
        if tokenizer.mask_token_id not in ids:
            raise InputError(f"the text has no {tokenizer.mask_token}: {text!r}")
        if len(ids) > self.engine.max_length:
            raise InputError(
                f"the text has {counted(len(ids), 'token')}, but the model takes {self.engine.max_length} at most: "
                f"{text[:60]!r}"
            )
        return ids

    def check_top_k(self, top_k: int) -> None:
        """Raise InputError for more tokens than there are."""
        if top_k > self.words:
            raise InputError(f"--top-k is {top_k}, but the vocabulary has {self.words} tokens")

    def fills(self, rows: Sequence[Sequence[int]], top_k: Sequence[int]) -> list[list[list[Fill]]]:
        """For each text's tokens, for each of its masks, its likeliest tokens, the best first: so many as its top_k."""
        tokenizer, model = self.engine.tokenizer, self.engine.model
        batch = tokenizer.pad({"input_ids": [list(row) for row in rows]}, return_tensors="pt")
        with torch.inference_mode():
            encoded = model.base_model(**self.engine.inputs(batch)).last_hidden_state
            results = []
            for ids, hidden, wanted in zip(batch["input_ids"], encoded, top_k, strict=True):
                # a text at a time: what another text's masks are must not show in this one's last bits
                logits = word_logits(model, hidden[ids == tokenizer.mask_token_id])
                check_finite(logits, [tokenizer.decode(ids)] * len(logits))
                best = logits.softmax(-1)[:, : self.words].topk(wanted)
                results.append(
                    [
                        [
                            Fill(token=token, score=score)
                            for token, score in zip(tokenizer.convert_ids_to_tokens(ids), scores, strict=True)
                        ]
                        for ids, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                    ]
                )
        return results
