"""A model with its tokenizer, and records through both: batches of like length, answers in order."""

from __future__ import annotations

import atexit
import gc
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from squeezebert_fast.backends import cpu
from squeezebert_fast.errors import ArgumentError, CheckpointError
from squeezebert_fast.loading.transformers_models import token_limit
from squeezebert_fast.patching import patch
from squeezebert_fast.pretrained import Config, Head, Model, Pretrained, Tokenizer, find, is_int8
from squeezebert_fast.streams import held_warnings
from squeezebert_fast.tables.rows import Record

Answer = TypeVar("Answer")

ON_CPU = ("auto", "cpu")
"""Backends on which an int8 checkpoint stays one, and batches are run without their padding."""

WINDOW_BATCHES = 64
"""Batches that are sorted together: more pad less, and hold more texts in memory."""


@dataclass(frozen=True)
class Engine:
    """A patched model in eval mode with its tokenizer. Texts are cut at `max_length` tokens."""

    model: Model
    tokenizer: Tokenizer
    max_length: int

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model takes of what the tokenizer gives: a DistilBERT has no token types."""
        return {name: batch[name] for name in batch if name in self._taken}

    @cached_property
    def _taken(self) -> Mapping[str, object]:
        return inspect.signature(self.model.forward).parameters


def leave_to_stay() -> None:
    """Have the garbage collector pass over what is there by now: libraries and a model, which stay to the end.

    Otherwise it goes through all of them again and again while texts become tokens, which makes many objects.
    """
    gc.unfreeze()  # what an earlier call left so may be gone by now
    gc.collect()
    gc.freeze()
    atexit.unregister(gc.unfreeze)
    atexit.register(
        gc.unfreeze
    )  # libraries that count what they made at the interpreter's end take it for leaked


def use_threads(threads: int | None) -> None:
    """Let torch and the native kernels compute with `threads` threads; None leaves what torch chose."""
    if threads is not None:
        torch.set_num_threads(threads)


@held_warnings()
def load_engine(
    head: Head,
    source: str | Pretrained,
    *,
    backend: str,
    threads: int | None,
    max_length: int | None = None,
    precision: str | None = None,
    usual_length: int | None = None,
) -> Engine:
    """The model and tokenizer of a directory or hub repository, ready to run.

    backend: `auto` may fall back; one that is named must serve. An int8 checkpoint is dequantized for `reference`,
    and where the native module is missing. precision: of `patch`; None is the checkpoint's own. usual_length: tokens
    at which texts are cut if `max_length` is None; by default what the tokenizer says.
    Raises the errors of loading, ConfigError for a checkpoint of another class, ArgumentError for a
    `max_length` that is more than the model takes, and UnsupportedError for a precision that can't be served.
    """
    use_threads(threads)
    stored = find(source) if isinstance(source, str) else source
    as_int8 = backend in ON_CPU and precision in (None, "int8") and cpu.native_module_missing() is None
    model = stored.load(head, dequantize=not as_int8)
    tokenizer = stored.tokenizer()
    check_length(max_length, model.config, stored.name)
    if not is_int8(model):  # else it was patched as it was loaded
        patched(model, backend, precision)
    usual = usual_length or tokenizer.model_max_length
    return Engine(model, tokenizer, max_length or min(token_limit(model.config), usual))


def patched(model: Model, backend: str, precision: str | None) -> Model:
    """The model, patched as the commands have it."""
    strict = backend != "auto" or precision not in (None, "float32")
    return patch(model, precision=precision, unpad=backend in ON_CPU, backend=backend, strict=strict)


def check_length(max_length: int | None, config: Config, name: str) -> None:
    """Raise ArgumentError for a length, in tokens, that is more than the model takes."""
    limit = token_limit(config)
    if max_length is not None and max_length > limit:
        raise ArgumentError(f"the maximum length is {max_length}, but {name} takes {limit} tokens at most")


Tokens = dict[str, Any]
"""A row of tokens: `input_ids` and the like, and what an answer needs to know of it."""

OF = "record"
"""Under which a row of tokens has the place of its record among those that were encoded with it."""


@dataclass(frozen=True)
class Steps:
    """What happens to some records: encode makes rows of tokens of them, one or several each, collate a padded batch of
    some rows, and forward an answer [rows, ...] of a batch, in inference mode. length: the tokens of a row."""

    encode: Callable[[Sequence[Record]], list[Tokens]]
    collate: Callable[[Sequence[Tokens]], Mapping[str, Tensor]]
    forward: Callable[[Mapping[str, Tensor]], Tensor]
    length: Callable[[Tokens], int] = lambda row: len(row["input_ids"])


def of_whole_texts(
    engine: Engine, forward: Callable[[Mapping[str, Tensor]], Tensor], prompt: str = ""
) -> Steps:
    """Steps that make one row of each text or pair. prompt: what each text begins with."""

    def encode(records: Sequence[Record]) -> list[Tokens]:
        pairs = [record.pair for record in records] if records[0].pair is not None else None
        texts = [prompt + record.text for record in records]
        encoded = engine.tokenizer(texts, pairs, truncation=True, max_length=engine.max_length)
        return [{name: encoded[name][at] for name in encoded} | {OF: at} for at in range(len(records))]

    def collate(rows: Sequence[Tokens]) -> Mapping[str, Tensor]:
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != OF}
        return engine.tokenizer.pad(columns, return_tensors="pt")

    return Steps(encode, collate, forward)


def run_in_order(
    records: Iterable[Record],
    steps: Steps,
    batch_size: int,
    is_skipped: Callable[[Record], bool] = lambda record: False,
) -> Iterator[tuple[Record, list[tuple[Tokens, Tensor]]]]:
    """Each record with its rows of tokens and their answers, in order and in constant memory.

    is_skipped: which records the model isn't asked about; they have no rows.
    """

    def answer(window: Sequence[Record]) -> list[list[tuple[Tokens, Tensor]]]:
        results: list[list[tuple[Tokens, Tensor]]] = [[] for _ in window]
        asked = [at for at, record in enumerate(window) if not is_skipped(record)]
        if asked:
            chosen = [window[at] for at in asked]
            rows = steps.encode(chosen)
            for row, result in zip(rows, _run(rows, chosen, steps, batch_size), strict=True):
                results[asked[row[OF]]].append((row, result))
        return results

    return in_windows(records, answer, batch_size)


def in_windows(
    records: Iterable[Record], answer: Callable[[Sequence[Record]], Sequence[Answer]], batch_size: int
) -> Iterator[tuple[Record, Answer]]:
    """Each record with its answer, of which `answer` gives those of some hundred records at once."""
    stream = iter(records)
    while window := list(itertools.islice(stream, WINDOW_BATCHES * batch_size)):
        yield from zip(window, answer(window), strict=True)


def _run(rows: Sequence[Tokens], records: Sequence[Record], steps: Steps, batch_size: int) -> list[Tensor]:
    """The answer to each row, computed in batches of like length."""
    by_length = sorted(range(len(rows)), key=lambda at: steps.length(rows[at]))
    results = [torch.empty(0)] * len(rows)
    for start in range(0, len(rows), batch_size):
        chosen = by_length[start : start + batch_size]
        batch = steps.collate([rows[at] for at in chosen])
        with torch.inference_mode():
            answers = steps.forward(batch)
        check_finite(answers, [records[rows[at][OF]].text for at in chosen])
        for at, answer in zip(chosen, answers, strict=True):
            results[at] = answer
    return results


def check_finite(answers: Tensor, texts: Sequence[str]) -> None:
    """Raise CheckpointError, naming the text, for an answer that isn't finite."""
    finite = answers.isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        text = texts[finite.index(False)]
        raise CheckpointError(
            f"the model's answer is not finite for the text {text[:60]!r}: damaged weights?"
        )
