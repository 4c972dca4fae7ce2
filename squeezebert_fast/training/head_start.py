"""A new head's last layer, fitted to what the encoder knows already, before the first gradient.

    texts -> encoder as it is -> the last layer's inputs, once -> logistic regression

A random layer's first gradients teach the encoder nothing, and of many classes a few epochs may not be enough to learn
which is which. A regression on fixed features takes seconds, and what it reaches is where training starts: the
evaluation before the first step is its score, and the best model is never worse on the dev data. (Also known as linear
probing before fine-tuning: Kumar et al. 2022, arXiv 2202.10054.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeezebert_fast.pretrained import Model
from squeezebert_fast.training import devices
from squeezebert_fast.training.batches import sorted_batches
from squeezebert_fast.training.evaluation import FIXED_EPOCH
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.seeds import generator_of
from squeezebert_fast.training.tasks.base import DataSet, Task
from squeezebert_fast.training.tasks.sequences import SequenceClassification

LAST_LAYERS = ("classifier", "classifier.out_proj")
ROWS = 50_000  # of the last layer's inputs: more take memory, and hardly change a regression
BATCH = 32
PENALTY = 10.0
"""Of the weights' square norm, for standardised inputs and the sum of all losses: of 1, 10 and 100 the best for MiniLM
on BANKING77."""
STEPS = 100


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
    """Fit the last layer of a classifier of texts to the labels of `data`; False for another task, or no such layer.

    pad: the padding token's id. Every process fits, and all take what the first one found. Same results for the same
    seed. Leaves the model in eval mode.
    """
    layer = last_layer(model)
    if layer is None or type(task) is not SequenceClassification:
        return False
    inputs, labels = _inputs(model.eval(), layer, task, data, pad, seed, device)
    weight, bias = logistic_regression(inputs, labels, layer.out_features)
    found = [weight, bias] if processes.first else [torch.zeros_like(weight), torch.zeros_like(bias)]
    processes.add_up(found)
    with torch.no_grad():
        layer.weight.copy_(found[0])
        layer.bias.copy_(found[1])
    return True


def _inputs(
    model: Model, layer: nn.Linear, task: Task, data: DataSet, pad: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What the layer gets for rows of the data, float32 [n, channels], and their labels, [n]."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    order = torch.randperm(len(data.rows), generator=generator_of(seed, "head")).tolist()[:ROWS]
    rows = [data.rows[index] for index in order]
    lengths = [len(row["input_ids"]) for row in rows]
    labels: list[Tensor] = []
    try:
        with torch.inference_mode():
            for indices in sorted_batches(lengths, BATCH):
                batch = task.collate([rows[index] for index in indices], pad, FIXED_EPOCH)
                task.forward(model, devices.moved(batch, device))
                labels.append(batch["labels"])
    finally:
        hook.remove()
    return torch.cat(seen).float().cpu(), torch.cat(labels)


def logistic_regression(inputs: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight [classes, channels] and bias [classes] of the penalised logistic regression of labels on inputs.

    inputs: float32 [n, channels]. labels: int64 [n].
    """
    with torch.inference_mode(False), torch.enable_grad():
        inputs, labels = inputs.clone(), labels.clone()
        mean, spread = inputs.mean(0), inputs.std(0, correction=0)
        spread = spread.clamp_min(1e-3 * spread.mean().clamp_min(1e-12))
        x = (inputs - mean) / spread
        weight, bias = _logistic(x, labels, classes)
        weight = weight / spread
        return weight, bias - weight @ mean


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
