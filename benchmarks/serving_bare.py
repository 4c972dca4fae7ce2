"""One sentence after the other through the model, without a server: what a server's latency is held against."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from benchmarks.encoders import sentence_transformer
from benchmarks.minilm import minilm_directory
from squeezebert_fast import patch
from squeezebert_fast.answering.embedding import load_embedder
from squeezebert_fast.answering.options import EngineOptions
from squeezebert_fast.tables.rows import Record

ALONE, LIBRARY = "the model alone", "patched sentence-transformers"


class BareModel:
    """MiniLM, as `serve` has it in its replica, and as sentence-transformers does, patched."""

    def __init__(self, precision: str, sentences: Sequence[str]) -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._sentences = list(sentences)
        self._embedder = load_embedder(
            str(minilm_directory()),
            engine=EngineOptions(threads=torch.get_num_threads(), precision=precision),
        )
        self._library = patch(sentence_transformer(), precision=precision, unpad=True)

    def reference(self, count: int) -> NDArray[np.float32]:
        """The first sentences' vectors by sentence-transformers as it is, in float32."""
        vectors: NDArray[np.float32] = sentence_transformer().encode(
            self._sentences[:count], show_progress_bar=False
        )
        return vectors

    def seconds(self, limit: float) -> dict[str, tuple[float, ...]]:
        """Seconds of one sentence after the other by either way, for `limit` seconds each."""
        return {
            ALONE: self._timed(lambda text: list(self._embedder.run([Record(text)], 1)), limit),
            LIBRARY: self._timed(lambda text: self._library.encode(text, show_progress_bar=False), limit),
        }

    def _timed(self, encode: Callable[[str], object], limit: float) -> tuple[float, ...]:
        seconds, begin = [], time.perf_counter()
        for text in cycle(self._sentences):
            start = time.perf_counter()
            encode(text)
            end = time.perf_counter()
            seconds.append(end - start)
            if end - begin > limit:
                break
        return tuple(
            seconds[len(seconds) // 10 :]
        )  # the first tenth finds caches and clock as others left them
