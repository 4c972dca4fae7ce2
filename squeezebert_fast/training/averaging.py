"""The average of a model's parameters over the last steps of a run, which is often better than any one of them.

Polyak and Juditsky 1992; for deep networks Izmailov et al. 2018, arXiv 1803.05407; as a moving average Tarvainen and
Valpola 2017, arXiv 1703.01780.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from squeezebert_fast.modeling import SqueezeBertPreTrainedModel


def moving_average(model: SqueezeBertPreTrainedModel, decay: float) -> AveragedModel:
    """A copy of `model`, as `module`; `update_parameters(model)` moves its parameters by 1 - decay towards the model's.

    So it remembers some 1 / (1 - decay) steps, and in the beginning a fraction of those that there were: the first
    update copies, and after n of them the decay is (1 + n) / (5 + n) if that is less.
    """

    def move(averages: Sequence[Tensor], parameters: Sequence[Tensor], _: Any) -> None:
        updates = int(average.n_averaged)  # on the CPU; to read the argument would wait for a GPU
        torch._foreach_lerp_(list(averages), list(parameters), 1 - min(decay, (1 + updates) / (5 + updates)))

    average = AveragedModel(model, multi_avg_fn=move)
    return average
