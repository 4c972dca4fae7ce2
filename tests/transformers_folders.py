"""Folders with tiny random models of transformers and their tokenizers, made without network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from tests.training_helpers import VOCAB, write_vocab

MODEL_TYPES = ("bert", "distilbert", "roberta", "xlm-roberta", "electra", "camembert")
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DISTILBERT = {"hidden_dim": 128, "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
PREFIXES = {
    "bert": "Bert",
    "distilbert": "DistilBert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "electra": "Electra",
    "camembert": "Camembert",
}


def transformers_class(model_type: str, head: str) -> Any:
    return getattr(transformers, PREFIXES[model_type] + head)


def make_tokenizer(model_type: str, folder: Path) -> Any:
    """Words of the small vocabulary, as BERT cuts them, or as a RoBERTa's bytes and its special tokens."""
    if model_type in ("bert", "distilbert", "electra"):
        name = {"bert": "Bert", "distilbert": "DistilBert", "electra": "Electra"}[model_type]
        return getattr(transformers, f"{name}TokenizerFast")(str(write_vocab(folder)))
    whole = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=list(ROBERTA_TOKENS),
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    whole.train_from_iterator([" ".join(VOCAB[5:])], trainer)
    start, end = (("<s>", 0), ("</s>", 2))
    whole.post_processor = tokenizers.processors.RobertaProcessing(end, start, add_prefix_space=True)
    names = dict(
        zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), ROBERTA_TOKENS, strict=True)
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=whole,
        cls_token="<s>",
        sep_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def save_folder(model_type: str, head: str, folder: Path, seed: int = 3, **fields: Any) -> Path:
    """A folder as transformers writes it, with a random model of the class that ends in `head`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(model_type, folder)
    cls = transformers_class(model_type, head)
    own = DISTILBERT if model_type == "distilbert" else {}
    if model_type == "electra":
        own = {"embedding_size": 32}
    if tokenizer.pad_token_id:
        own = {"max_position_embeddings": 66}  # counted from behind the padding's id
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **SIZES, **own, **fields}
    model = cls(cls.config_class(**sizes)).eval()
    with torch.no_grad():  # biases and norms too, which initialise to constants
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_sentence_folder(
    folder: Path, model_type: str = "bert", *, inside: str = "", max_length: int = 12, **says: Any
) -> Path:
    """A sentence-transformers folder as its version 2 wrote it.

    inside: the transformer's folder in it. says: `pooling` (fields of the pooling), `normalize`, and
    config_sentence_transformers.json's fields.
    """
    save_folder(model_type, "Model", folder / inside)
    kinds = ["Transformer", "Pooling", *(["Normalize"] if says.pop("normalize", False) else [])]
    places = [inside, *(f"{at}_{kind}" for at, kind in enumerate(kinds[1:], 1))]
    modules = [
        {"idx": at, "name": str(at), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]
    write_json(folder / "modules.json", modules)
    write_json(
        folder / inside / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False}
    )
    pooling = says.pop("pooling", {"pooling_mode_mean_tokens": True})
    write_json(folder / places[1] / "config.json", {"word_embedding_dimension": 64, **pooling})
    write_json(folder / "config_sentence_transformers.json", says)
    return folder


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
