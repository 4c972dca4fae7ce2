"""One training step of the base sequence classifier: the model, its inputs, the engines that run it, what it costs."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

from benchmarks.agreement import check_gradients
from benchmarks.passes import PassWork, pass_work
from benchmarks.report import Shape
from benchmarks.subjects import spread_scores
from squeezebert_fast import SqueezeBertConfig, patch

EAGER, COMPILED, PATCHED = "transformers eager", "torch.compile", "transformers patched"
ENGINES = (EAGER, COMPILED, PATCHED)
PRECISIONS = ("float32", "bfloat16")
"""The model's own, and autocast to bfloat16."""

BACKWARD = 2
"""Products of the backward for each one of the forward: a gradient for either operand."""

CHECKED_SHAPE = (3, 16)


@dataclass(frozen=True)
class Batch:
    """What a step learns from."""

    input_ids: Tensor
    """int64 [batch, tokens]."""
    attention_mask: Tensor
    """The same."""
    labels: Tensor
    """int64 [batch]."""


def base_classifier(layers: int) -> nn.Module:
    """transformers' sequence classifier in train mode, of the base size but for `layers`, with random weights."""
    torch.manual_seed(0)
    config = transformers.SqueezeBertConfig(num_hidden_layers=layers)
    model = transformers.SqueezeBertForSequenceClassification(config).train()
    spread_scores(model, 6.0)
    return model


def random_batch(shape: Shape) -> Batch:
    """Random ids and labels, and a mask of ones."""
    generator = torch.Generator().manual_seed(shape[0] * shape[1])
    input_ids = torch.randint(0, SqueezeBertConfig().vocab_size, shape, generator=generator)
    labels = torch.randint(0, 2, shape[:1], generator=generator)
    return Batch(input_ids, torch.ones_like(input_ids), labels)


@dataclass(frozen=True)
class Candidate:
    """A model of its own in one engine and one precision."""

    engine: str
    precision: str
    model: nn.Module
    """Whose parameters have the gradients."""
    forward: nn.Module
    """What is called: the model, or what torch.compile made of it."""

    @property
    def name(self) -> str:
        return self.engine if self.precision == "float32" else f"{self.engine} {self.precision}"

    def step(self, batch: Batch) -> None:
        """The forward and backward."""
        with autocast(self.precision, batch.input_ids.device.type):
            loss = self.forward(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
            ).loss
        loss.backward()

    def prepare(self, *, keep_gradients: bool = False) -> None:
        """What lies between two steps: `zero_grad` drops the gradients, and an optimizer writes the parameters.

        Their values stay. But what was made of them, packed weights say, has to be made again in the next step.
        keep_gradients: as zeros, which the next step adds to.
        """
        self.model.zero_grad(set_to_none=not keep_gradients)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(1.0)


def autocast(precision: str, device_type: str) -> contextlib.AbstractContextManager[object]:
    return (
        torch.autocast(device_type, torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()
    )


def candidate(engine: str, precision: str, base: nn.Module) -> Candidate:
    """`base`, copied, in an engine; `patch` with `strict`, so that no operation falls back unseen."""
    model = copy.deepcopy(base)
    if engine == PATCHED:
        patch(model, strict=True)
    forward = torch.compile(model, dynamic=False) if engine == COMPILED else model
    return Candidate(engine, precision, model, forward)


def warm_up(candidate: Candidate, batch: Batch, *, keep_gradients: bool = False) -> None:
    """A step, and `prepare`."""
    candidate.step(batch)
    candidate.prepare(keep_gradients=keep_gradients)


def gradients(candidate: Candidate, batch: Batch) -> dict[str, Tensor]:
    """By parameter, those of one step without dropout; the candidate has none afterwards."""
    candidate.model.eval()
    candidate.step(batch)
    candidate.model.train()
    found = {name: p.grad for name, p in candidate.model.named_parameters() if p.grad is not None}
    candidate.model.zero_grad(set_to_none=True)
    return found


def exact_gradients(base: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """`gradients` of `base` in float64."""
    double = copy.deepcopy(base).double()
    return gradients(Candidate(EAGER, "float64", double, double), batch)


def check_patched(precision: str, base: nn.Module) -> None:
    """Raise WrongEngine unless `patch` leaves the gradients, on a padded batch, as near to float64's as eager's are."""
    batch = random_batch(CHECKED_SHAPE)
    batch.attention_mask[-1, CHECKED_SHAPE[1] * 3 // 4 :] = 0
    patched = candidate(PATCHED, precision, base)
    check_gradients(
        patched.name,
        precision,
        gradients(patched, batch),
        gradients(candidate(EAGER, precision, base), batch),
        exact_gradients(base, batch),
    )


class StepRunner:
    """A training step in the process that measures it."""

    def __init__(self, engine: str, precision: str, shape: Shape, layers: int) -> None:
        self.candidate = candidate(engine, precision, base_classifier(layers))
        self.batch = random_batch(shape)
        warm_up(self.candidate, self.batch)

    def prepare(self) -> None:
        """As between two steps of a training run."""
        self.candidate.prepare()

    def call(self) -> None:
        """The forward and backward."""
        self.candidate.step(self.batch)


def forward_work(config: SqueezeBertConfig, shape: Shape) -> dict[str, PassWork]:
    """The forward's operations by the names of `squeezebert_fast.ops`; together they are `encoder_flops`."""
    passes = pass_work(config, shape)
    return {
        "qkv_projection": PassWork(passes["attention"].products),
        "grouped_pointwise_conv": PassWork(passes["post_attention"].products),
        "attention": PassWork(0, passes["attention"].scores),
        "grouped_mlp": passes["feed_forward"],
    }


def step_flops(config: SqueezeBertConfig, shape: Shape) -> int:
    """Of the forward's and the backward's products; what a backward computes again isn't counted."""
    return (1 + BACKWARD) * sum(work.flops for work in forward_work(config, shape).values())
