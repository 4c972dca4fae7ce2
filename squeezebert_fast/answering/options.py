"""What can be chosen about a model that answers: what is answered, and how it is computed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from squeezebert_fast.errors import InputError, check_among
from squeezebert_fast.trained_with import DEFAULT_STRIDE

# As the backends and `patch` have them, whose modules import torch.
BACKENDS = ("auto", "reference", "cpu", "triton")
PRECISIONS = ("float32", "bfloat16", "int8")

AGGREGATIONS = ("none", "simple", "first", "average", "max")
POOLINGS = ("mean", "cls")
CHOICE_COLUMNS_HELP = (
    "The columns that hold a multiple choice's choices, separated by commas; by default those the model was trained "
    "with."
)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a model is computed, as `running.load_engine` takes it."""

    backend: str = "auto"
    threads: int | None = None
    max_length: int | None = None
    precision: str | None = None

    @classmethod
    def of(cls, said: object) -> EngineOptions:
        """Those that are among the attributes of `said`, which has all of them."""
        return cls(**{field.name: getattr(said, field.name) for field in dataclasses.fields(cls)})


AS_STORED = EngineOptions()


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What of a model's answers is given. Each means something for some kinds of models alone."""

    top_k: int = field(
        default=1,
        metadata={
            "help": "Labels, answers or choices to give for each text, the best first.",
            "at_least": 1,
        },
    )
    all_scores: bool = field(
        default=False,
        metadata={"help": "Give the score of every label or choice too.", "names": ("--all-scores",)},
    )
    threshold: float = field(
        default=0.5,
        metadata={"help": "The score from which on a text has a label, where it may have several."},
    )
    aggregate: str = field(
        default="first",
        metadata={
            "help": "How tokens make entities: none, simple, first, average or max, as in transformers' pipeline.",
            "values": AGGREGATIONS,
        },
    )
    stride: int | None = field(
        default=None,
        metadata={
            "help": "Tokens by which the windows of a long text or context overlap; by default as in the model's "
            f"training, or else {DEFAULT_STRIDE}.",
            "at_least": 0,
        },
    )
    handle_impossible_answer: bool = field(
        default=False,
        metadata={
            "help": "Let a question have no answer, which is then empty.",
            "names": ("--handle-impossible-answer",),
        },
    )
    prompt_name: str | None = field(
        default=None,
        metadata={
            "help": "Of a CrossEncoder: which of its prompts the first text begins with; by default its default one."
        },
    )
    choice_columns: str | None = field(
        default=None,
        metadata={"help": CHOICE_COLUMNS_HELP},
    )

    def __post_init__(self) -> None:
        check_among("--aggregate", self.aggregate, AGGREGATIONS, InputError)
        if not 0 <= self.threshold <= 1:
            raise InputError(f"--threshold is {self.threshold}, expected a number from 0 to 1")

    def check(self, takes: frozenset[str], kind: str) -> None:
        """Raise InputError for an option that was given and isn't one of those that this kind of model takes."""
        for each in dataclasses.fields(self):
            if each.name not in takes and getattr(self, each.name) != each.default:
                raise InputError(f"--{each.name.replace('_', '-')} means nothing for {kind}")


USUAL = AnswerOptions()
