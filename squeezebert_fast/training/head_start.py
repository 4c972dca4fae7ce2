"""A new head's last layer, fitted to what the encoder knows already, before the first gradient.

    texts -> encoder as it is -> the last layer's inputs, once -> logistic regression, or ridge for numbers

A random layer's first gradients teach the encoder nothing, and of many classes a few epochs may not be enough to learn
which is which; nor do some hundred steps of 1e-4 reach numbers that are far from 0. A regression on fixed features
takes seconds, and what it reaches is where training starts: the evaluation before the first step is its score, and the
best model is never worse on the dev data. (Also known as linear probing before fine-tuning: Kumar et al. 2022, arXiv
2202.10054.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezebert_fast.modeling.losses import IGNORED_LABEL
from squeezebert_fast.pretrained import Model
from squeezebert_fast.training import devices
from squeezebert_fast.training.batches import sorted_batches
from squeezebert_fast.training.evaluation import FIXED_EPOCH
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.seeds import generator_of
from squeezebert_fast.training.tasks.base import DataSet, Features, Task
from squeezebert_fast.training.tasks.sequences import Regression, SequenceClassification
from squeezebert_fast.training.tasks.tokens import TokenClassification

LAST_LAYERS = ("classifier", "classifier.out_proj")
ROWS = 50_000  # of the last layer's inputs, texts or words: more take memory, and hardly change a regression
BATCH = 32
PENALTY = 10.0
"""Of the weights' square norm, for standardised inputs and the sum of all losses: of 1, 10 and 100 the best for MiniLM
on BANKING77."""
STEPS = 100
RIDGE_PENALTIES = tuple(10.0**power for power in range(7))
"""What ridge chooses from. Of MiniLM's features and SST-2's labels as numbers, 10 is the best for 2,000 phrases, and
for 500 worse than the mean, where 1000 is the best."""


def last_layer(model: nn.Module) -> nn.Linear | None:
    """The layer that gives the logits, or None where a model keeps it elsewhere."""
    for name in LAST_LAYERS:
        try:
            found = model.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(found, nn.Linear):
            return found
    return None


def fit_head(
    model: Model,
    task: Task,
    data: DataSet,
    pad: int,
    seed: int,
    processes: Processes,
    *,
    device: torch.device = devices.CPU,
) -> bool:
    """Fit the last layer to the labels of `data`; False without a label, such a layer, or a regression for it.

    pad: the padding token's id. Every process fits, and all take what the first one found. Same results for the same
    seed. Leaves the model in eval mode.
    """
    layer, regression = last_layer(model), REGRESSIONS.get(type(task))
    if layer is None or regression is None:
        return False
    inputs, labels = _inputs(model.eval(), layer, task, data, pad, seed, device)
    if not len(labels):  # of words that the tokenizer drops
        return False
    weight, bias = regression(inputs, labels, layer.out_features)
    found = [weight, bias] if processes.first else [torch.zeros_like(weight), torch.zeros_like(bias)]
    processes.add_up(found)
    with torch.no_grad():
        layer.weight.copy_(found[0])
        layer.bias.copy_(found[1])
    return True


def _inputs(
    model: Model, layer: nn.Linear, task: Task, data: DataSet, pad: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What the layer gets for texts or labelled words of the data, float32 [n, channels], and their labels, [n]."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    rows = _some(data.rows, seed)
    lengths = [len(row["input_ids"]) for row in rows]
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    try:
        with torch.inference_mode():
            for indices in sorted_batches(lengths, BATCH):
                batch = task.collate([rows[index] for index in indices], pad, FIXED_EPOCH)
                task.forward(model, devices.moved(batch, device))
                found, targets = seen.pop().float().cpu(), batch["labels"]
                if targets.dim() == 2:  # of tokens
                    kept = targets != IGNORED_LABEL
                    found, targets = found[kept], targets[kept]
                inputs.append(found)
                labels.append(targets)
    finally:
        hook.remove()
    return torch.cat(inputs), torch.cat(labels)


def _some(rows: Sequence[Features], seed: int) -> list[Features]:
    """Rows drawn at random that have some ROWS labels in all, or all rows if they have fewer."""
    chosen: list[Features] = []
    labelled = 0
    for index in torch.randperm(len(rows), generator=generator_of(seed, "head")).tolist():
        if labelled >= ROWS:
            break
        chosen.append(rows[index])
        labelled += len(rows[index]["words"]) if "words" in rows[index] else 1
    return chosen


def ridge(inputs: Tensor, labels: Tensor, outputs: int = 1) -> tuple[Tensor, Tensor]:
    """Weight [1, channels] and bias [1] of the penalised linear regression of numbers on inputs.

    inputs: float32 [n, channels]. labels: float [n]. The penalty is the one of RIDGE_PENALTIES with the lowest squared
    error of each number by a regression on the others, which the residuals and the diagonal of the hat matrix tell.
    """
    x, mean, spread = _standardised(inputs.double())
    y = labels.double()
    left, singular, right = torch.linalg.svd(x, full_matrices=False)
    along = left.T @ (y - y.mean())
    errors, weights = [], []
    for penalty in RIDGE_PENALTIES:
        kept = singular.square() / (singular.square() + penalty)
        residuals = y - y.mean() - left @ (kept * along)
        hat = 1 / len(y) + left.square() @ kept
        errors.append((residuals / (1 - hat).clamp_min(1e-6)).square().sum().item())
        weights.append(right.T @ (singular / (singular.square() + penalty) * along))
    weight = weights[errors.index(min(errors))] / spread
    return weight[None].float(), (y.mean() - weight @ mean)[None].float()


def logistic_regression(inputs: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight [classes, channels] and bias [classes] of the penalised logistic regression of labels on inputs.

    inputs: float32 [n, channels]. labels: int64 [n].
    """
    with torch.inference_mode(False), torch.enable_grad():
        inputs, labels = inputs.clone(), labels.clone()
        x, mean, spread = _standardised(inputs)
        weight, bias = _logistic(x, labels, classes)
        weight = weight / spread
        return weight, bias - weight @ mean


def _standardised(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of mean 0 and standard deviation 1, and what those were; a channel that says nothing isn't blown up."""
    mean, spread = inputs.mean(0), inputs.std(0, correction=0)
    spread = spread.clamp_min(1e-3 * spread.mean().clamp_min(1e-12))
    return (inputs - mean) / spread, mean, spread


def _logistic(x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    search = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> float:
        search.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels)
        value = value + PENALTY / (2 * len(x)) * weight.square().sum()
        value.backward()
        return value.item()

    search.step(loss)
    return weight.detach(), bias.detach()


REGRESSIONS: Mapping[type[Task], Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]] = {
    SequenceClassification: logistic_regression,
    TokenClassification: logistic_regression,
    Regression: ridge,
}
"""What fits the last layer of each task, and of no task that derives from one of them: weight and bias from inputs,
labels and the number of outputs."""
