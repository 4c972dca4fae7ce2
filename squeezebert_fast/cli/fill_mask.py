"""`squeezebert-fast fill-mask`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from squeezebert_fast.cli import options
from squeezebert_fast.errors import InputError


def fill_mask(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A text with one [MASK] or several (<mask> of a RoBERTa).")
    ],
    model: options.Model,
    top_k: Annotated[int, typer.Option(min=1, help="Tokens to give for each mask, the best first.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    precision: options.Precision = None,
    backend: options.Backend = "auto",
    threads: options.Threads = None,
) -> None:
    """Fill in the masked words of a text: the likeliest tokens for each mask, with their probabilities.

    Example: squeezebert-fast fill-mask -m ./masked-lm "Paris is the [MASK] of France."
    """
    import torch

    from squeezebert_fast.answering.running import load_engine
    from squeezebert_fast.modeling import SqueezeBertForMaskedLM
    from squeezebert_fast.patching.families import word_logits

    engine = load_engine(SqueezeBertForMaskedLM, model, backend=backend, threads=threads, precision=precision)
    tokenizer = engine.tokenizer
    batch = tokenizer(text, return_tensors="pt")
    masked = batch["input_ids"][0] == tokenizer.mask_token_id
    if not masked.any():
        raise InputError(f"the text has no {tokenizer.mask_token}: {text!r}")
    known = min(len(tokenizer), engine.model.config.vocab_size)  # a vocabulary may be padded in the model
    if top_k > known:
        raise InputError(f"--top-k is {top_k}, but the vocabulary has {known} tokens")
    with torch.inference_mode():
        encoded = engine.model.base_model(**engine.inputs(batch))
        logits = word_logits(engine.model, encoded.last_hidden_state[0, masked])
        best = logits.softmax(-1)[:, :known].topk(top_k)
    fills = [
        [
            {"token": token, "score": score}
            for token, score in zip(tokenizer.convert_ids_to_tokens(ids), scores, strict=True)
        ]
        for ids, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    if as_json:
        typer.echo(json.dumps(fills, ensure_ascii=False))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table("mask", "token", "score", box=None, pad_edge=False)
    for number, candidates in enumerate(fills, 1):
        for place, fill in enumerate(candidates):
            table.add_row("" if place else str(number), str(fill["token"]), f"{fill['score']:.4f}")
    Console(markup=False, emoji=False, highlight=False).print(table)
