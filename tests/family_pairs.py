"""Small models of transformers' families, with every head that each has, and inputs for them."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import squeezebert_fast
from tests.helpers import assert_within_rule, to_double

VERSION = tuple(int(number) for number in transformers.__version__.split(".")[:2])
IS_TRANSFORMERS_4 = VERSION < (5, 0)

FAMILIES = ("Bert", "Electra", "Roberta", "XLMRoberta", "Camembert", "DistilBert")
"""Prefixes of transformers' class names."""

_OF_ALL = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
_OF_ALL += ("ForQuestionAnswering", "ForMultipleChoice")
_MORE = {"Bert": ("ForNextSentencePrediction", "ForPreTraining"), "Electra": ("ForPreTraining",)}
_BROKEN = ("XLMRobertaForMultipleChoice", "CamembertForMultipleChoice")
"""Which lack the pooler that they need, in transformers 5.0 to 5.14."""

CLASSES = [
    family + head
    for family in FAMILIES
    for head in (*_OF_ALL, *_MORE.get(family, ()))
    if family + head not in _BROKEN or not (5, 0) <= VERSION < (5, 15)
]
CASES = [
    (name, attention)
    for name in CLASSES
    for attention in ("eager", "sdpa")
    if getattr(transformers, name)._supports_sdpa or attention == "eager"
]
"""Classes and kinds of attention. transformers 4 has no sdpa for ELECTRA."""

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 23,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "hidden_act": "activation",
}
"""Its configuration's names for BERT's."""


def family_prefix(name: str) -> str:
    """The family of a class name."""
    return max((family for family in FAMILIES if name.startswith(family)), key=len)


def config_of(name: str, **fields: Any) -> Any:
    """A configuration that a test can afford, by BERT's names for its fields: dropout off, weights wide enough."""
    family = family_prefix(name)
    sizes = {**SIZES, **fields}
    if family == "Electra":
        sizes.setdefault("embedding_size", 16)
    if family == "Roberta":
        sizes.setdefault("pad_token_id", 1)
    if family == "DistilBert":
        heads = {"qa_dropout": 0.0, "seq_classif_dropout": 0.0}
        sizes = heads | {DISTILBERT.get(field, field): value for field, value in sizes.items()}
    return getattr(transformers, family + "Config")(**sizes)


def model_of(name: str, attention: str | None = None, seed: int = 0, /, **fields: Any) -> Any:
    """An unpatched model in eval mode with random weights, biases and norms.

    attention: None is the library's choice. fields: of `config_of`, or of the class.
    """
    options = {"add_pooling_layer": fields.pop("add_pooling_layer")} if "add_pooling_layer" in fields else {}
    torch.manual_seed(seed)
    cls = getattr(transformers, name)
    model = cls._from_config(config_of(name, **fields), attn_implementation=attention, **options)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def encoder_of(model: Any) -> Any:
    """The encoder of a model of one of the families."""
    base = model.base_model
    return base.transformer if hasattr(base, "transformer") else base.encoder


def layers_of(model: Any) -> Any:
    """The layers of that."""
    return encoder_of(model).layer


def attention_of(layer: Any) -> Any:
    """The module with a layer's query."""
    return getattr(layer.attention, "self", layer.attention)


def query_of(layer: Any) -> Any:
    """The product that makes a layer's queries."""
    attention = attention_of(layer)
    return attention.query if hasattr(attention, "query") else attention.q_lin


def inputs_for(name: str, seed: int = 0, batch: int = 3, tokens: int = 7, **extra: Any) -> dict[str, Any]:
    """Ids, a padding mask and, where there are any, token types; with an axis of choices for multiple choice."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 2, tokens) if name.endswith("MultipleChoice") else (batch, tokens)
    lengths = torch.randint(1, tokens + 1, shape[:-1], generator=generator)
    real = torch.arange(tokens) < lengths[..., None]
    ids = torch.randint(2, SIZES["vocab_size"], shape, generator=generator)
    inputs = {"input_ids": torch.where(real, ids, 1), "attention_mask": real.long(), **extra}
    if family_prefix(name) in ("Bert", "Electra"):
        inputs["token_type_ids"] = torch.randint(0, 2, shape, generator=generator)
    return inputs


def labels_for(name: str, inputs: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Labels that give each class its loss, some of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    batch, tokens = inputs["input_ids"].shape[0], inputs["input_ids"].shape[-1]

    def indices(limit: int, *shape: int) -> Tensor:
        return torch.randint(0, limit, shape, generator=generator)

    if name.endswith("Model"):
        return {}
    if name.endswith("QuestionAnswering"):  # tokens and beyond are positions past the end
        return {"start_positions": indices(tokens + 2, batch), "end_positions": indices(tokens, batch)}
    if name.endswith(("MultipleChoice", "SequenceClassification", "NextSentencePrediction")):
        return {"labels": indices(2, batch)}
    if name == "ElectraForPreTraining":
        return {"labels": indices(2, batch, tokens)}
    labels = indices(2 if name.endswith("TokenClassification") else SIZES["vocab_size"], batch, tokens)
    labels[0, 0] = -100
    if name == "BertForPreTraining":
        return {"labels": labels, "next_sentence_label": indices(2, batch)}
    return {"labels": labels}


def flat(outputs: Any) -> list[Tensor]:
    """All tensors in a model's outputs."""
    if outputs is None:
        return []
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for output in values for tensor in flat(output)]


def assert_patch_keeps(model: nn.Module, inputs: dict[str, Any], **options: Any) -> None:
    """Every output of the patched model is within the rule of the unpatched one's, and of the same type."""
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(**to_double(inputs))
        same = model(**inputs)
        squeezebert_fast.patch(model, **options)
        actual = model(**inputs)
    assert type(actual) is type(same)
    if not isinstance(same, tuple):
        assert list(actual) == list(same)
    for index, (a, s, e) in enumerate(zip(flat(actual), flat(same), flat(exact), strict=True)):
        assert_within_rule(a, s, e, f"output {index}", whole_model=True)
