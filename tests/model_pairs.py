"""Small models in pairs, ours and transformers' with the same weights, and inputs for them."""

from __future__ import annotations

import random
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import squeezebert_fast.modeling as modeling
from squeezebert_fast.configuration import SqueezeBertConfig

CLASSES = [
    "SqueezeBertModel",
    "SqueezeBertForMaskedLM",
    "SqueezeBertForSequenceClassification",
    "SqueezeBertForMultipleChoice",
    "SqueezeBertForTokenClassification",
    "SqueezeBertForQuestionAnswering",
]


def tiny_config(**fields: Any) -> SqueezeBertConfig:
    """A configuration that a test can afford: dropout off, weights wide enough for every part to matter."""
    return SqueezeBertConfig(
        **{
            "vocab_size": 61,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 19,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.3,
            **fields,
        }
    )


def random_config(seed: int, **fields: Any) -> SqueezeBertConfig:
    """A legal configuration with unequal group counts, odd head sizes, any activation without a singular slope."""
    rng = random.Random(seed)
    hidden = rng.choice([16, 24, 48, 60, 96])
    intermediate = rng.choice([hidden, hidden * 2, hidden * 3])
    divisors = [g for g in range(1, hidden + 1) if hidden % g == 0 and g <= 12]
    return tiny_config(
        **{
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_attention_heads": rng.choice([n for n in divisors if n <= 6]),
            "num_hidden_layers": rng.choice([1, 2]),
            "hidden_act": rng.choice(["gelu", "gelu_new", "silu", "tanh", "gelu_pytorch_tanh"]),
            "layer_norm_eps": rng.choice([1e-12, 1e-5]),
            "type_vocab_size": rng.choice([1, 2, 3]),
            "pad_token_id": rng.choice([None, 0, 7]),
            **{
                f"{name}_groups": rng.choice(divisors)
                for name in ("q", "k", "v", "post_attention", "intermediate", "output")
            },
            **fields,
        }
    )


def pair(name: str, config: SqueezeBertConfig, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """Our model of the class `name` and transformers', both in eval mode, with equal random weights."""
    torch.manual_seed(seed)
    ours = getattr(modeling, name)(config)
    for parameter in ours.parameters():  # biases and norms too, which initialise to constants
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    theirs = getattr(transformers, name)(transformers.SqueezeBertConfig.from_dict(config.to_dict()))
    theirs.load_state_dict(ours.state_dict())
    return ours.eval(), theirs.eval()


def inputs_for(
    name: str, config: SqueezeBertConfig, seed: int = 0, batch: int = 3, tokens: int = 7
) -> dict[str, Tensor]:
    """Ids, token types and a padding mask; with an axis of choices for multiple choice."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 2, tokens) if name.endswith("MultipleChoice") else (batch, tokens)
    lengths = torch.randint(1, tokens + 1, shape[:-1], generator=generator)
    return {
        "input_ids": torch.randint(0, config.vocab_size, shape, generator=generator),
        "token_type_ids": torch.randint(0, config.type_vocab_size, shape, generator=generator),
        "attention_mask": (torch.arange(tokens) < lengths[..., None]).long(),
    }


def labels_for(
    name: str, config: SqueezeBertConfig, inputs: dict[str, Tensor], seed: int = 0
) -> dict[str, Tensor]:
    """Labels that give each class its loss, some of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    batch, tokens = inputs["input_ids"].shape[0], inputs["input_ids"].shape[-1]

    def indices(limit: int, *shape: int) -> Tensor:
        return torch.randint(0, limit, shape, generator=generator)

    if name.endswith("QuestionAnswering"):  # tokens and beyond are positions past the end
        return {"start_positions": indices(tokens + 2, batch), "end_positions": indices(tokens, batch)}
    if name.endswith("MultipleChoice"):
        return {"labels": indices(2, batch)}
    if name.endswith("SequenceClassification"):
        return {"labels": indices(config.num_labels, batch)}
    if name.endswith("Model"):
        return {}
    labels = indices(config.vocab_size if name.endswith("MaskedLM") else config.num_labels, batch, tokens)
    labels[0, 0] = -100
    return {"labels": labels}
