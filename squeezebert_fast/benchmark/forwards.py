"""A model's forward by several backends, and what it costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from squeezebert_fast import backends
from squeezebert_fast.backends import cpu
from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError, check_among
from squeezebert_fast.loading.transformers_models import library, token_limit
from squeezebert_fast.modeling import SqueezeBertModel
from squeezebert_fast.patching import patch
from squeezebert_fast.pretrained import Config, Model

TRANSFORMERS = "transformers"
"""The candidate that is transformers' own model with the same weights: of a SqueezeBERT in eager mode."""

UNPATCHED = ("reference", TRANSFORMERS)
"""Those that compute in float32 alone, with PyTorch's operations."""

GROUPED = ("q", "k", "v", "post_attention", "intermediate", "output")
"""A layer's products, by the fields of the configuration with their groups; the last two are the wide ones."""


class Candidate(NamedTuple):
    """Who runs a model's forward, and as what: of `patch`, or transformers."""

    backend: str
    precision: str
    unpad: bool = False

    @property
    def label(self) -> str:
        """Such as `cpu`, `cpu int8`, `cpu int8 unpad`: what is usual isn't said."""
        precision = () if self.precision == "float32" else (self.precision,)
        return " ".join((self.backend, *precision, *(("unpad",) if self.unpad else ())))

    @property
    def call(self) -> str:
        """How a user gets it."""
        given = [] if self.backend in ("auto", "cpu") else [f'backend="{self.backend}"']
        given += [] if self.precision == "float32" else [f'precision="{self.precision}"']
        given += ["unpad=True"] if self.unpad else []
        return f"patch({', '.join(('model', *given))})"


class Shape(NamedTuple):
    """A batch of texts with as many tokens as it says; where they differ, with a mask for the padding."""

    batch: int
    shortest: int
    longest: int

    def __str__(self) -> str:
        tokens = f"{self.longest}" if self.shortest == self.longest else f"{self.shortest}-{self.longest}"
        return f"{self.batch}x{tokens}"

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text, from the shortest to the longest in even steps; of one text the longest."""
        most = max(self.batch - 1, 1)
        return [self.longest - round(at * (self.longest - self.shortest) / most) for at in range(self.batch)]

    @property
    def is_padded(self) -> bool:
        """Whether there is padding."""
        return min(self.lengths) < self.longest

    def flops(self, config: Config) -> int:
        """What the texts need, whether or not the padding is computed too."""
        return sum(encoder_flops(config, 1, length) for length in self.lengths)

    def inputs(self, config: Config) -> dict[str, Tensor]:
        """Random ids [batch, longest], and a mask if there is padding."""
        ids = random_ids(config, self.batch, self.longest)
        if not self.is_padded:
            return {"input_ids": ids}
        mask = torch.arange(self.longest) < torch.tensor(self.lengths)[:, None]
        return {"input_ids": ids, "attention_mask": mask.long()}


def encoder_flops(config: Config, batch: int, tokens: int) -> int:
    """Floating-point operations of the encoder's layers: two for each multiply-add of its products.

    Biases, activations, softmax, LayerNorm, embeddings and pooler, some percent of the time, aren't counted.

    >>> encoder_flops(SqueezeBertConfig(), 1, 128) / 1e9
    7.398752256
    """
    hidden = config.hidden_size
    intermediate = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    groups = {name: getattr(config, f"{name}_groups", 1) for name in GROUPED}
    per_token = sum(hidden * hidden // groups[name] for name in GROUPED[:4])
    per_token += sum(hidden * intermediate // groups[name] for name in GROUPED[4:])
    per_token += 2 * tokens * hidden  # scores, and their product with the values
    return 2 * per_token * config.num_hidden_layers * batch * tokens


def forward_candidates(
    model: Model,
    names: Sequence[str],
    batch: int,
    tokens: int,
    *,
    precisions: Sequence[str] = ("float32",),
    seed: int = 0,
) -> dict[str, Callable[[], object]]:
    """The model's forward on the same random ids, [batch, tokens], by each backend in `names`, for `measure`.

    names: backends, of which each must serve (no falling back unseen), or "transformers" for transformers'
        model, which must then be installed: of a SqueezeBERT the eager one with its weights.
    precisions: as `patch` takes them: each gives a candidate of every backend, named "cpu int8" and the like, but
        "cpu" alone for float32. The reference and transformers compute in float32, once.
    The candidates share `model`'s parameters; `model` itself stays as it is.

    Raises ArgumentError for a name or precision that is unknown or given twice, UnsupportedError for one that can't
    serve.
    """
    check_shape(model.config, batch, tokens)
    ids = random_ids(model.config, batch, tokens, seed)

    def forward_of(module: torch.nn.Module) -> Callable[[], object]:
        def forward() -> object:
            with torch.inference_mode():
                return module(ids)

        return forward

    found = candidates_of(names, precisions)
    return {label: forward_of(variant(model, *chosen)) for label, chosen in found.items()}


class ForwardRunner:
    """One candidate's forward in a process of its own (see `Turns`).

    build: makes the model. candidate: of `candidates_of`. A call's argument is the `Shape`.
    """

    def __init__(self, build: Callable[[], Model], candidate: Candidate) -> None:
        model = build()
        self._config, self._module = model.config, variant(model, *candidate)
        self._inputs: dict[Shape, dict[str, Tensor]] = {}

    def prepare(self) -> None:
        """Nothing."""

    def call(self, shape: Shape) -> object:
        """The forward. The first calls of a turn don't count, so making the ids doesn't either."""
        if shape not in self._inputs:
            self._inputs[shape] = shape.inputs(self._config)
        with torch.inference_mode():
            return self._module(**self._inputs[shape])


def base_model() -> SqueezeBertModel:
    """A SqueezeBERT of the base size, with random weights that are the same in every process."""
    torch.manual_seed(0)
    return SqueezeBertModel(SqueezeBertConfig()).eval()


def check_shape(config: Config, batch: int, tokens: int) -> None:
    """Raise ArgumentError for a shape that a model with this configuration doesn't take."""
    limit = token_limit(config)
    if batch < 1 or not 1 <= tokens <= limit:
        raise ArgumentError(f"the shape is {batch}x{tokens}; expected at least 1x1 and up to {limit} tokens")


def candidates_of(
    names: Sequence[str], precisions: Sequence[str], *, unpad: bool = False
) -> dict[str, Candidate]:
    """The candidates, by their names. Arguments and errors as of `forward_candidates`.

    unpad: of whatever has kernels, give a candidate that leaves padding out too.
    """
    for what, given in (("backends", names), ("precisions", precisions)):
        if len(set(given)) < len(given):
            raise ArgumentError(f"the {what} {', '.join(given)} are not all different")
    for name in names:
        check_among("backend", name, (*backends.NAMES, TRANSFORMERS))
    for precision in precisions:
        check_among("precision", precision, cpu.PRECISIONS)
    found = []
    for name in names:
        for precision in ("float32",) if name in UNPATCHED else precisions:
            found.append(Candidate(name, precision))
            if unpad and name not in UNPATCHED:
                found.append(Candidate(name, precision, unpad=True))
    return {each.label: each for each in found}


def random_ids(config: Config, batch: int, tokens: int, seed: int = 0) -> Tensor:
    """Ids of the model's vocabulary, int64 [batch, tokens]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.vocab_size, (batch, tokens), generator=generator)


def variant(model: Model, name: str, precision: str, unpad: bool = False) -> torch.nn.Module:
    """The model as a candidate has it, sharing the parameters. Raises UnsupportedError for one that can't serve."""
    if name == TRANSFORMERS:
        return _in_transformers(model) if isinstance(model, SqueezeBertModel) else model
    sharing = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    strict = name != "auto" or precision != "float32"
    copied = copy.deepcopy(model, sharing)
    return patch(copied, precision=precision, backend=name, unpad=unpad, strict=strict)


def _in_transformers(model: SqueezeBertModel) -> torch.nn.Module:
    transformers = library("for its model")
    config = transformers.SqueezeBertConfig.from_dict(model.config.to_dict())
    theirs = transformers.SqueezeBertModel(config).eval()
    theirs.load_state_dict(model.state_dict(), assign=True)
    return theirs
