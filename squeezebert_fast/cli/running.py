"""A model with its tokenizer, and records through both: batches of like length, answers in order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from squeezebert_fast.backends import cpu
from squeezebert_fast.errors import ArgumentError, CheckpointError
from squeezebert_fast.modeling import SqueezeBertPreTrainedModel
from squeezebert_fast.modeling.stored_heads import HEADS, check_head
from squeezebert_fast.patching import patch
from squeezebert_fast.streams import held_warnings
from squeezebert_fast.tables.rows import Record
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast

Model = TypeVar("Model", bound=SqueezeBertPreTrainedModel)

WINDOW_BATCHES = 64
"""Batches that are sorted together: more pad less, and hold more texts in memory."""


@dataclass(frozen=True)
class Engine(Generic[Model]):
    """A patched model in eval mode with its tokenizer. Texts are cut at `max_length` tokens."""

    model: Model
    tokenizer: SqueezeBertTokenizerFast
    max_length: int


def use_threads(threads: int | None) -> None:
    """Let torch and the native kernels compute with `threads` threads; None leaves what torch chose."""
    if threads is not None:
        torch.set_num_threads(threads)


@held_warnings()
def load_engine(
    model_class: type[Model],
    name_or_path: str,
    *,
    backend: str,
    threads: int | None,
    max_length: int | None = None,
) -> Engine[Model]:
    """The model and tokenizer of a directory or hub repository, ready to run.

    backend: `auto` may fall back; one that is named must serve. An int8 checkpoint is dequantized for `reference`,
    and where the native module is missing.
    Raises the errors of loading, ConfigError for a checkpoint of another class, ArgumentError for a
    `max_length` that is more than the model takes.
    """
    use_threads(threads)
    if model_class in HEADS:
        check_head(model_class, name_or_path)
    without_native = backend == "reference" or cpu.native_module_missing() is not None
    model = model_class.from_pretrained(name_or_path, dequantize=without_native)
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(name_or_path)
    limit = model.config.max_position_embeddings
    if max_length is not None and max_length > limit:
        raise ArgumentError(
            f"the maximum length is {max_length}, but {name_or_path} takes {limit} tokens at most"
        )
    on_cpu = backend in ("auto", "cpu")
    if not (
        on_cpu and any(p.is_meta for p in model.parameters())
    ):  # an int8 checkpoint is patched as it is loaded
        patch(model, unpad=on_cpu, backend=backend, strict=backend != "auto")
    return Engine(model, tokenizer, max_length or min(limit, tokenizer.model_max_length))


def run_in_order(
    records: Iterable[Record],
    engine: Engine[Model],
    forward: Callable[[dict[str, Tensor]], Tensor],
    batch_size: int,
) -> Iterator[tuple[Record, Tensor]]:
    """Each record with its row of `forward`'s result, in order and in constant memory.

    forward: from a padded batch (`input_ids`, `attention_mask`, ..., [batch, tokens]) to [batch, ...]; runs
        in inference mode.
    """
    stream = iter(records)
    while window := list(itertools.islice(stream, WINDOW_BATCHES * batch_size)):
        yield from zip(window, _run_window(window, engine, forward, batch_size), strict=True)


def _run_window(
    window: Sequence[Record],
    engine: Engine[Model],
    forward: Callable[[dict[str, Tensor]], Tensor],
    batch_size: int,
) -> list[Tensor]:
    pairs = [record.pair for record in window] if window[0].pair is not None else None
    encoded = engine.tokenizer(
        [record.text for record in window], pairs, truncation=True, max_length=engine.max_length
    )
    by_length = sorted(range(len(window)), key=lambda index: len(encoded["input_ids"][index]))
    results = [torch.empty(0)] * len(window)
    for start in range(0, len(window), batch_size):
        chosen = by_length[start : start + batch_size]
        rows = {name: [values[index] for index in chosen] for name, values in encoded.items()}
        batch = engine.tokenizer.pad(rows, return_tensors="pt")
        with torch.inference_mode():
            answers = forward(dict(batch))
        finite = answers.isfinite().flatten(1).all(1).tolist()
        if not all(finite):
            text = window[chosen[finite.index(False)]].text
            raise CheckpointError(
                f"the model's answer is not finite for the text {text[:60]!r}: damaged weights?"
            )
        for index, answer in zip(chosen, answers, strict=True):
            results[index] = answer
    return results
