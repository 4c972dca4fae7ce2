"""Averages of parameters, which are often better than any of those that they are made of.

Over the last steps of a run: Polyak and Juditsky 1992; for deep networks Izmailov et al. 2018, arXiv 1803.05407; as a
moving average Tarvainen and Valpola 2017, arXiv 1703.01780. Over several runs: Wortsman et al. 2022, arXiv 2203.05482.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.pretrained import Model, is_int8
from squeezebert_fast.trained_with import ENTRY as TRAINED_WITH
from squeezebert_fast.trained_with import TrainedWith


def moving_average(model: Model, decay: float) -> AveragedModel:
    """A copy of `model`, as `module`; `update_parameters(model)` moves its parameters by 1 - decay towards the model's.

    So it remembers some 1 / (1 - decay) steps, and in the beginning a fraction of those that there were: the first
    update copies, and after n of them the decay is (1 + n) / (5 + n) if that is less.
    """

    def move(averages: Sequence[Tensor], parameters: Sequence[Tensor], _: Any) -> None:
        updates = int(average.n_averaged)  # on the CPU; to read the argument would wait for a GPU
        torch._foreach_lerp_(list(averages), list(parameters), 1 - min(decay, (1 + updates) / (5 + updates)))

    average = AveragedModel(model, multi_avg_fn=move)
    return average


def average_parameters(models: Sequence[Model], names: Sequence[str]) -> Model:
    """The first of `models`, of one class, with the mean of everybody's parameters, summed in float64.

    It was trained with what all of them were.
    Raises ArgumentError, by the models' `names`, for an int8 model and for one with another configuration.
    """
    first = models[0]
    fields = first.config.to_dict()
    for name, model in zip(names, models, strict=True):
        if is_int8(model):
            raise ArgumentError(f"{name} is an int8 checkpoint, which can't be averaged; give the float one")
        for field, value in model.config.to_dict().items():
            if field not in ("_name_or_path", TRAINED_WITH) and value != fields.get(field):
                raise ArgumentError(
                    f"{field} of {name} is {value!r}, but {fields.get(field)!r} of {names[0]}"
                )
    kept = [
        TrainedWith.of_config(model.config.to_dict(), name) for name, model in zip(names, models, strict=True)
    ]
    functools.reduce(TrainedWith.in_common, kept).keep_in(first.config)
    with torch.no_grad():
        for each in zip(*(model.parameters() for model in models), strict=True):
            each[0].copy_(torch.stack([parameter.double() for parameter in each]).mean(0))
    return first
