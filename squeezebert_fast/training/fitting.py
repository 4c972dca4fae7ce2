"""A new student's convolutions fitted to its teacher's by least squares, before the first gradient.

From the first convolution to the last, weights and bias minimise, over the tokens of some texts,

    |conv(x) - y|²    x: what the student, fitted so far, gives the convolution
                      y: what the teacher's convolution gives; before a LayerNorm, the teacher's sum with its residual
                         less the student's residual, which makes up for what earlier layers got wrong

A group of channels says much about the others: so this starts far nearer to the teacher than the blocks of weights
between a group's own channels do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from squeezebert_fast.errors import TrainingError
from squeezebert_fast.modeling import SqueezeBertPreTrainedModel
from squeezebert_fast.modeling.layers import ConvDropoutLayerNorm, PointwiseConv1d
from squeezebert_fast.training.seeds import generator_of
from squeezebert_fast.training.tasks.base import Batch, Features, length_of

TOKENS = 8192
CANDIDATES = 4096  # rows that the longest are chosen among
RIDGE = 1e-3
"""Of the mean square of a group's inputs: keeps directions that the texts hardly have from large weights."""

CONVS = ("attention.query", "attention.key", "attention.value", "intermediate.conv1d")
SUMS = ("post_attention", "output")


def texts_to_fit(rows: Sequence[Features], seed: int) -> list[Features]:
    """The longest of some random rows, TOKENS in all where there are as many: the same for the same seed."""
    order = torch.randperm(len(rows), generator=generator_of(seed, "fit"))[:CANDIDATES].tolist()
    chosen, tokens = [], 0
    for at in sorted(order, key=lambda at: -length_of(rows[at])):
        if tokens < TOKENS:
            chosen.append(rows[at])
            tokens += length_of(rows[at])
    return chosen


@torch.no_grad()
def fit_to_teacher(
    student: SqueezeBertPreTrainedModel, teacher: nn.Module, batch: Batch, words: Mapping[int, int]
) -> None:
    """Fit all convolutions of `student`, whose embeddings and LayerNorms are the teacher's already.

    batch: `input_ids` and `attention_mask` [..., tokens], at least some thousand real tokens, on the models' device.
    words: from the ids that occur to the teacher's. A student's layers are fitted to the teacher's at even distances,
    the last to the last. Raises TrainingError for a teacher of another kind, other sizes, without words that occur, or
    in int8.
    """
    config = getattr(teacher, "config", None)
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads")
    if not isinstance(teacher, SqueezeBertPreTrainedModel) or any(p.is_meta for p in teacher.parameters()):
        raise TrainingError("only a float SqueezeBERT or BERT has convolutions to fit a student's to")
    for name in sizes:
        if getattr(config, name) != getattr(student.config, name):
            raise TrainingError(
                f"a student can be fitted to a teacher of its sizes: {name} is {getattr(student.config, name)}, the "
                f"teacher's {getattr(config, name)}"
            )
    ids = batch["input_ids"].flatten(0, -2)
    if unknown := set(ids.unique().tolist()) - words.keys():
        raise TrainingError(f"a student can't be fitted: the teacher has no token for its id {min(unknown)}")
    their_ids = torch.tensor([words[index] for index in ids.flatten().tolist()]).view_as(ids).to(ids.device)
    mask = batch["attention_mask"].flatten(0, -2)
    real = mask.bool()
    theirs, ours = teacher.base_model.encoder.layers, student.base_model.encoder.layers
    sources = [theirs[(at + 1) * len(theirs) // len(ours) - 1] for at in range(len(ours))]
    targets = [_record(layer, real) for layer in sources]
    try:
        teacher.base_model(their_ids, mask)
    finally:
        for _, hooks in targets:
            _remove(hooks)
    hooks = [
        hook
        for layer, (wanted, _) in zip(ours, targets, strict=True)
        for hook in _fitting_hooks(layer, wanted, real)
    ]
    training = student.training
    try:
        student.eval().base_model(ids, mask)
    finally:
        _remove(hooks)
        student.train(training)


def _record(layer: nn.Module, real: Tensor) -> tuple[dict[str, Tensor], list[Any]]:
    """What the next forward gives at CONVS and SUMS of a teacher's layer, once it has run, and the hooks for it."""
    found: dict[str, Tensor] = {}

    def after(name: str) -> Callable[..., None]:
        return lambda _, __, output: found.update({name: output[real]})

    def before(name: str) -> Callable[..., None]:
        return lambda _, args: found.update({name: args[0][real]})

    hooks = [layer.get_submodule(name).register_forward_hook(after(name)) for name in CONVS]
    hooks += [
        layer.get_submodule(f"{name}.layernorm").register_forward_pre_hook(before(name)) for name in SUMS
    ]
    return found, hooks


def _fitting_hooks(layer: nn.Module, wanted: dict[str, Tensor], real: Tensor) -> list[Any]:
    def conv(name: str) -> Callable[..., None]:
        return lambda module, args: fit(module, args[0][real], wanted.pop(name))

    def summed(name: str) -> Callable[..., None]:
        def hook(module: ConvDropoutLayerNorm, args: tuple[Tensor, Tensor]) -> None:
            x, residual = args
            fit(module.conv1d, x[real], wanted.pop(name) - residual[real])

        return hook

    hooks = [layer.get_submodule(name).register_forward_pre_hook(conv(name)) for name in CONVS]
    return hooks + [layer.get_submodule(name).register_forward_pre_hook(summed(name)) for name in SUMS]


def fit(conv: PointwiseConv1d, x: Tensor, y: Tensor) -> None:
    """Set weight and bias of `conv` so that it gives about `y` [tokens, out channels] for `x` [tokens, in channels]."""
    weights = []
    for ours, theirs in zip(x.double().chunk(conv.groups, 1), y.double().chunk(conv.groups, 1), strict=True):
        centred = ours - ours.mean(0)
        gram = centred.T @ centred
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        weights.append(torch.linalg.solve(gram, centred.T @ (theirs - theirs.mean(0))).T)
    conv.weight.copy_(torch.cat(weights)[..., None])
    rest = y.double() - _applied(weights, x.double())
    assert conv.bias is not None  # PointwiseConv1d always has one
    conv.bias.copy_(rest.mean(0))


def _applied(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    parts = x.chunk(len(weights), 1)
    return torch.cat([part @ weight.T for part, weight in zip(parts, weights, strict=True)], 1)


def _remove(hooks: Sequence[Any]) -> None:
    for hook in hooks:
        hook.remove()
