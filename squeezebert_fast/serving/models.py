"""What a model serves, which its folder says: vectors, predictions or fills for masks."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from squeezebert_fast.answering.embedding import Embedder, load_embedder
from squeezebert_fast.answering.kinds import INSTEAD
from squeezebert_fast.answering.masks import MaskFiller
from squeezebert_fast.answering.options import AnswerOptions
from squeezebert_fast.answering.predictor import Predictor
from squeezebert_fast.answering.running import use_threads
from squeezebert_fast.errors import InputError, SqueezeBertFastError
from squeezebert_fast.pretrained import find, find_sentence_folder
from squeezebert_fast.serving.options import ServingOptions
from squeezebert_fast.serving.work import EMBEDDINGS, FILL_MASK, PREDICT, Done, Offer, Outcome, Work
from squeezebert_fast.tables.rows import Record


class Served(ABC):
    """A model, and the endpoint that it answers. Its weights are loaded by `load`: options can be checked before."""

    endpoint: ClassVar[str]

    def __init__(self, model: str, options: ServingOptions) -> None:
        self.model, self.options = model, options
        path = Path(model).expanduser()
        self.name = options.served_name or (Path(os.path.abspath(path)).name if path.is_dir() else model)
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise what is wrong with the model's configuration or the options, without its weights."""

    def load(self) -> None:
        """Load and patch the model, in the thread that is going to compute. Raises what `load_engine` raises."""
        use_threads(self.options.threads)
        self._load()

    def offer(self) -> Offer:
        """What clients can ask for, once the model is loaded."""
        return Offer(self.name, self.endpoint)

    @abstractmethod
    def _load(self) -> None: ...

    @abstractmethod
    def _compute(self, works: Sequence[Work]) -> list[Done]: ...

    def compute(self, works: Sequence[Work]) -> list[Outcome]:
        """The answers to each, or why there is none. An error of one isn't the others'."""
        try:
            return list(self._compute(works))
        except SqueezeBertFastError as error:
            if len(works) == 1:
                return [error]
            return [outcome for work in works for outcome in self.compute([work])]

    def _refuse(self, *names: str) -> None:
        for name in names:
            if getattr(self.options, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} means nothing for {self.model}")


class Embeddings(Served):
    """Vectors of texts, each a float32 array."""

    endpoint = EMBEDDINGS
    embedder: Embedder

    def check(self) -> None:
        folder = find_sentence_folder(self.model)
        if folder is None:
            self._refuse("prompt_name")
        else:
            self._refuse("pooling")
            if folder.beyond is None:
                folder.prompts.chosen(self.options.prompt_name, self.model)

    def _load(self) -> None:
        options = self.options
        self.embedder = load_embedder(
            self.model, options.prompt_name, pooling=options.pooling, engine=options.engine
        )

    def offer(self) -> Offer:
        return Offer(self.name, self.endpoint, channels=self.embedder.channels)

    def _compute(self, works: Sequence[Work]) -> list[Done]:
        records = [record for work in works for record in work.records]
        results = self.embedder.run_counted(records, self.options.max_batch)
        return _shared([(vector.float().numpy(), tokens) for _, vector, tokens in results], works)


class Predictions(Served):
    """What `squeezebert-fast predict` answers, without what was asked."""

    endpoint = PREDICT

    def check(self) -> None:
        self._refuse("pooling")
        self.predictor = Predictor(self.model, AnswerOptions(prompt_name=self.options.prompt_name))

    def _load(self) -> None:
        self.predictor.load(self.options.engine)

    def offer(self) -> Offer:
        answers = self.predictor.answers
        first, second = answers.default_columns
        columns = () if second is None else (first, second)
        pairs: Literal["no", "may", "must"] = "must" if columns else "may" if answers.takes_pairs else "no"
        choices = len(answers.choice_columns)
        return Offer(self.name, self.endpoint, pairs=pairs, columns=columns, choices=choices)

    def _compute(self, works: Sequence[Work]) -> list[Done]:
        records = [record for work in works for record in work.records]
        results = self.predictor.run_counted(records, self.options.max_batch)
        return _shared([(answer, tokens) for _, answer, tokens in results], works)


class Fills(Served):
    """The likeliest tokens for the masks of texts."""

    endpoint = FILL_MASK
    filler: MaskFiller

    def check(self) -> None:
        self._refuse("pooling", "prompt_name")

    def _load(self) -> None:
        self.filler = MaskFiller(self.model, self.options.engine)

    def offer(self) -> Offer:
        return Offer(self.name, self.endpoint, mask_token=self.filler.engine.tokenizer.mask_token)

    def _compute(self, works: Sequence[Work]) -> list[Done]:
        top_k = [work.top_k for work in works for _ in work.records]
        self.filler.check_top_k(max(top_k))
        rows = [self.filler.encode(record.text) for work in works for record in work.records]
        fills = self.filler.fills(rows, top_k)
        return _shared([(fill, len(row)) for fill, row in zip(fills, rows, strict=True)], works)


def served(model: str, options: ServingOptions) -> Served:
    """What the model of this name serves. Raises what loading its configuration raises, and InputError."""
    if find_sentence_folder(model) is not None:
        return Embeddings(model, options)
    head = (find(model).architecture or "ForSequenceClassification").partition("For")[2]
    kinds: dict[str | None, type[Served]] = {"fill-mask": Fills, "embed": Embeddings, None: Predictions}
    return kinds[INSTEAD.get(head)](model, options)


def _shared(answers: Sequence[tuple[Any, int]], works: Sequence[Work]) -> list[Done]:
    """The answers to all texts, and the tokens of each, given to the works that they are of."""
    stream = iter(answers)
    shares = [[next(stream) for _ in work.records] for work in works]
    return [Done([answer for answer, _ in share], sum(tokens for _, tokens in share)) for share in shares]


def warm_up(model: Served) -> None:
    """Compute once, so that the first request doesn't wait for what is built at first use."""
    offer = model.offer()
    pair = None if offer.pairs == "no" else "up"
    record = Record(offer.mask_token or "warm", pair, ("up",) * offer.choices)
    model.compute([Work((record,), top_k=1)])
