"""MiniLM under sentence-transformers, by the engines of `peers.py` and by ours.

Tokenising, sorting by length, pooling and normalising are sentence-transformers' own, whatever the engine. Its own
backends for ONNX Runtime and OpenVINO need optimum, of which no release goes with the transformers that is measured
here. What they do is little: they call a session. `Session` does the same with the one of `peers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from benchmarks import peers
from benchmarks.agreement import WrongEngine, check_embeddings
from benchmarks.minilm import minilm_directory
from benchmarks.peers import Candidate, Forward, unavailable
from benchmarks.report import Shape
from benchmarks.sst2 import BATCH
from benchmarks.subjects import Subject, minilm
from squeezebert_fast import patch
from squeezebert_fast.backends.cpu import PRECISIONS
from squeezebert_fast.benchmark import CandidateFailed, Turns


class Session(nn.Module):
    """In place of transformers' model: tensors in, the last hidden state of `forward` out."""

    def __init__(self, config: transformers.PretrainedConfig, forward: Forward) -> None:
        super().__init__()
        self.config = config
        self._run = forward

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self._run(input_ids, attention_mask))


def sentence_transformer(precision: str = "float32") -> SentenceTransformer:
    """MiniLM as sentence-transformers loads it."""
    options = {"dtype": getattr(torch, precision)}
    return SentenceTransformer(str(minilm_directory()), device="cpu", model_kwargs=options)


def own(folder: Path, precision: str) -> SentenceTransformer:
    """As it is, or loaded in bfloat16."""
    return sentence_transformer(precision)


def session(
    make: Callable[[Subject, Shape | None, str], Forward], folder: Path, precision: str
) -> SentenceTransformer:
    """With an engine of `peers.py` in place of transformers' model."""
    model = sentence_transformer()
    model[0].model = Session(model[0].model.config, make(minilm(folder), None, precision))
    return model


def patched(folder: Path, precision: str) -> SentenceTransformer:
    """As a user of this project has it."""
    return patch(sentence_transformer(), precision=precision, unpad=True)


@dataclass(frozen=True)
class Encoder(Candidate):
    """One way to run the model under sentence-transformers, in one precision."""

    make: Callable[[Path, str], SentenceTransformer]
    """For a folder with exported models, and the precision."""


TORCH = Encoder("torch", "float32", own)
ENCODERS = (
    TORCH,
    Encoder("torch.compile", "float32", partial(session, peers.compiled)),
    Encoder("ONNX Runtime", "float32", partial(session, peers.onnx_runtime)),
    Encoder("OpenVINO", "float32", partial(session, peers.openvino)),
    Encoder(TORCH.family, "bfloat16", own),
    Encoder("torch.compile", "bfloat16", partial(session, peers.compiled)),
    Encoder("OpenVINO", "bfloat16", partial(session, peers.openvino)),
    Encoder("ONNX Runtime", "int8", partial(session, peers.onnx_runtime)),
    Encoder("OpenVINO", "int8", partial(session, peers.openvino)),
    *(Encoder("squeezebert_fast", precision, patched, peer=False) for precision in PRECISIONS),
)
FAMILIES = tuple(dict.fromkeys(encoder.family for encoder in ENCODERS))


class EncoderRunner:
    """An encoder in the process that measures it. folder: for exported models."""

    def __init__(
        self, encoder: Encoder, folder: Path, sentences: Sequence[str], queries: Sequence[str]
    ) -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._model = encoder.make(folder, encoder.precision)
        self._sentences = list(sentences)
        self._features = {query: self._features_of(query) for query in queries}

    def _features_of(self, query: str) -> dict[str, Tensor]:
        features = self._model.preprocess([query])
        return {name: features[name] for name in ("input_ids", "token_type_ids", "attention_mask")}

    def prepare(self) -> None:
        """Nothing lies between two calls."""

    def call(self, work: Callable[..., object], *arguments: Any) -> None:
        """work: one of the methods below, as the class has it."""
        work(self, *arguments)

    def encode(self, count: int) -> NDArray[np.float32]:
        """The embeddings of the first sentences."""
        embeddings = self._model.encode(
            self._sentences[:count], batch_size=BATCH, show_progress_bar=False, convert_to_tensor=True
        )
        return embeddings.float().numpy()

    def encode_query(self, query: str) -> None:
        """One text, from string to embedding."""
        self._model.encode(query, show_progress_bar=False)

    def forward_query(self, query: str) -> None:
        """What of `encode_query` the engine does."""
        with torch.inference_mode():
            self._model[0].model(**self._features[query])


def start_encoders(
    turns: Turns, encoders: Sequence[Encoder], folder: Path, sentences: Sequence[str], queries: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Start a process for each, and hold its embeddings of all sentences against those of TORCH, the first of them.

    Returns by name, of those that are ready, the cosine of each sentence; `turns` knows why others aren't: a peer that
    computes something else is one of them. Raises WrongEngine where one of ours does.
    """
    assert encoders[0] == TORCH
    cosines: dict[str, NDArray[np.float32]] = {}
    expected: NDArray[np.float32] | None = None
    for encoder in turns.starting(encoders, "encoders"):
        name, reason = encoder.name, unavailable(encoder)
        if encoder != TORCH and expected is None:
            reason = f"there is no {TORCH.name} to check it against"
        if reason is not None:
            turns.leave_out(name, reason)
            continue
        if not turns.start(name, partial(EncoderRunner, encoder, folder, sentences, queries)):
            continue
        try:
            actual = turns.ask(name, EncoderRunner.encode, len(sentences))
        except CandidateFailed:
            continue
        if expected is None:
            expected = actual
        try:
            cosines[name] = check_embeddings(name, encoder.precision, actual, expected)
        except WrongEngine as wrong:
            if not encoder.peer:
                raise
            turns.leave_out(name, str(wrong))
    return cosines
