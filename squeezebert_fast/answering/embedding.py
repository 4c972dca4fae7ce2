"""From texts to vectors: by a model and a pooling, or by all that a sentence-transformers folder says."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from squeezebert_fast.answering.options import AS_STORED, EngineOptions
from squeezebert_fast.answering.running import (
    Engine,
    check_finite,
    check_length,
    in_windows,
    leave_to_stay,
    load_engine,
    of_whole_texts,
    patched,
    run_in_order,
    use_threads,
)
from squeezebert_fast.errors import InputError
from squeezebert_fast.loading.prompts import Prompts
from squeezebert_fast.loading.sentence_folder import (
    SentenceFolder,
    sentence_transformer,
    transformer_of,
)
from squeezebert_fast.loading.transformers_models import refused_in_one_line
from squeezebert_fast.modeling import SqueezeBertModel
from squeezebert_fast.patching.int8_checkpoint import load_quantized
from squeezebert_fast.pretrained import find, find_sentence_folder, of_files
from squeezebert_fast.sentence import mean_pool, to_unit_length
from squeezebert_fast.streams import held_warnings
from squeezebert_fast.tables.rows import Record

Vectors = Iterator[tuple[Record, Tensor]]
Counted = Iterator[tuple[Record, Tensor, int]]


@dataclass(frozen=True)
class Embedder:
    """run: from records and a batch size to each record, in order, with its vector of `channels` numbers.

    run_counted: the same, and with each the number of its tokens that were computed.
    """

    channels: int
    run: Callable[[Iterable[Record], int], Vectors]
    run_counted: Callable[[Iterable[Record], int], Counted]


def as_numbers(vector: np.ndarray) -> list[float]:
    """A float32 vector's values, each of which JSON spells as short as float32 allows."""
    return [float(str(value)) for value in vector]


def load_embedder(
    name: str,
    prompt_name: str | None = None,
    *,
    pooling: str | None = None,
    engine: EngineOptions = AS_STORED,
    normalize: bool = False,
    pairs: bool = False,
) -> Embedder:
    """What makes vectors of texts by the model of this name.

    prompt_name: of a sentence-transformers folder, which may have a default. pooling: of another model, one of
    POOLINGS, by default mean. pairs: whether records have a second text.
    Raises what `load_engine` raises, and InputError for an option that means nothing for this model.
    """
    embedder = _embedder(name, prompt_name, pooling, engine, normalize, pairs)
    leave_to_stay()
    return embedder


def _embedder(
    name: str,
    prompt_name: str | None,
    pooling: str | None,
    engine: EngineOptions,
    normalize: bool,
    pairs: bool,
) -> Embedder:
    options: dict[str, Any] = dataclasses.asdict(engine)
    folder = find_sentence_folder(name)
    if folder is None:
        if prompt_name is not None:
            raise InputError(f"--prompt-name is for a sentence-transformers folder, which {name} isn't")
        stored = find(name)
        loaded = load_engine(SqueezeBertModel, stored, usual_length=stored.trained_with.max_length, **options)
        return _pooled(loaded, pooling or "mean", normalize)
    if pooling is not None:
        raise InputError(f"--pooling means nothing for {name}, a sentence-transformers folder with its own")
    if pairs:
        raise InputError(f"--pair-column means nothing for {name}, a sentence-transformers folder")
    if folder.beyond is not None:
        return _by_library(folder, prompt_name, normalize, **options)
    prompt = folder.prompts.chosen(prompt_name, name)
    loaded = load_engine(
        SqueezeBertModel, of_files(folder.transformer), usual_length=folder.max_length, **options
    )
    return _pooled(loaded, folder.pooling, normalize or folder.normalize, prompt)


class _NoPooler(nn.Module):
    """Stands where the model's pooler did, of whose output no vector is made: a tenth of the time of a short text."""

    def forward(self, hidden_states: Tensor) -> None:
        return None


def _pooled(engine: Engine, pooling: str, normalize: bool, prompt: str = "") -> Embedder:
    if getattr(engine.model, "pooler", None) is not None:
        engine.model.pooler = _NoPooler()

    def forward(batch: Mapping[str, Tensor]) -> Tensor:
        hidden = engine.model(**engine.inputs(batch)).last_hidden_state
        vectors = mean_pool(hidden, batch["attention_mask"]) if pooling == "mean" else hidden[:, 0]
        return to_unit_length(vectors) if normalize else vectors

    steps = of_whole_texts(engine, forward, prompt)

    def run_counted(records: Iterable[Record], batch_size: int) -> Counted:
        for record, ((tokens, vector),) in run_in_order(records, steps, batch_size):
            yield record, vector, steps.length(tokens)

    def run(records: Iterable[Record], batch_size: int) -> Vectors:
        for record, vector, _ in run_counted(records, batch_size):
            yield record, vector

    return Embedder(engine.model.config.hidden_size, run, run_counted)


@held_warnings()
def _by_library(
    folder: SentenceFolder,
    prompt_name: str | None,
    normalize: bool,
    *,
    backend: str,
    threads: int | None,
    max_length: int | None,
    precision: str | None,
) -> Embedder:
    use_threads(threads)
    name = str(folder.files.name_or_path)
    if of_files(folder.transformer).is_int8():
        if precision not in (None, "int8"):
            raise InputError(f"the precision is {precision!r}, but {name} is an int8 checkpoint")
        model = load_quantized(name)
    else:
        model = patched(sentence_transformer(folder), backend, precision)
    if max_length is not None:
        check_length(max_length, transformer_of(model).config, name)
        model.max_seq_length = max_length
    Prompts(model.prompts).chosen(prompt_name, name)
    size = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension

    def encode(window: Sequence[Record], batch_size: int) -> list[Tensor]:
        texts = [record.text for record in window]
        with refused_in_one_line(f"embed by {name}"):
            vectors = model.encode(
                texts,
                prompt_name=prompt_name,
                batch_size=batch_size,
                normalize_embeddings=normalize,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        check_finite(vectors, texts)
        return list(vectors)

    def run(records: Iterable[Record], batch_size: int) -> Vectors:
        return in_windows(records, functools.partial(encode, batch_size=batch_size), batch_size)

    def run_counted(records: Iterable[Record], batch_size: int) -> Counted:
        for record, vector in run(records, batch_size):
            tokens = model.tokenizer([record.text], truncation=True, max_length=model.max_seq_length)
            yield record, vector, len(tokens["input_ids"][0])

    return Embedder(size(), run, run_counted)
