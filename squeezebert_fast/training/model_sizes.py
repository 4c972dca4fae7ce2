"""The sizes of a new model, without torch, which the command line's help must not import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.training.settings import setting

HEAD_SIZE = 64  # of every published BERT and SqueezeBERT
WIDENING = 4


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a new model; whatever is None is as in the base model, or follows from the others."""

    layers: int | None = setting(None, "Of a new model: layers.", 0)
    hidden_size: int | None = setting(None, "Of a new model: channels.", 1)
    heads: int | None = setting(None, "Of a new model: attention heads; by default one for 64 channels.", 1)
    intermediate_size: int | None = setting(
        None, "Of a new model: channels inside the feed-forward block; by default 4 times the hidden size.", 1
    )
    groups: int | None = setting(
        None, "Of a new model: groups of all convolutions but the one after attention, which has 1.", 1
    )
    dropout: float | None = setting(None, "Of a new model: dropout everywhere; by default 0.1.", 0)
    vocab: Path | None = setting(None, "Of a new model: its vocab.txt, or a folder with a tokenizer.")

    def check_start(self, model: str | None, *, has_vocab: bool = False) -> None:
        """Raise ArgumentError unless there is either a model to start from, or the sizes of a new one.

        has_vocab: whether a new model's vocabulary is known without `vocab`.
        """
        if (model is None) == (not self.given()):
            raise ArgumentError("give either --model, or the sizes of a new model (--layers, --vocab, ...)")
        if model is None and self.vocab is None and not has_vocab:
            raise ArgumentError(
                "a new model needs a vocabulary: --vocab with a vocab.txt or a tokenizer's folder"
            )

    def given(self) -> bool:
        """Whether any of them is."""
        return self != Sizes()

    def config_fields(self) -> dict[str, Any]:
        """As fields of a SqueezeBertConfig."""
        hidden = self.hidden_size
        heads, wide = self.heads, self.intermediate_size
        if hidden is not None:
            heads = max(hidden // HEAD_SIZE, 1) if heads is None else heads
            wide = hidden * WIDENING if wide is None else wide
        names = ("q_groups", "k_groups", "v_groups", "intermediate_groups", "output_groups")
        fields = {
            "num_hidden_layers": self.layers,
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "intermediate_size": wide,
            **dict.fromkeys(names, self.groups),
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
        }
        return {name: value for name, value in fields.items() if value is not None}
