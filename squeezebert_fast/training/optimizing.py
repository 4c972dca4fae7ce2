"""What makes steps of gradients: AdamW, the learning rate, autocast and, for float16, the scale of the loss.

Small gradients vanish in float16, so the loss is multiplied by a scale before the backward and the gradients are
divided by it after (Micikevicius et al. 2018, arXiv 1710.03740). Where they overflow the step is skipped and the scale
halved; after 2000 steps without that it is doubled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.training.settings import Settings

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
SMALLEST_SCALE = torch.finfo(torch.float16).tiny
"""Of the loss: gradients that overflow even with a smaller one are no matter of scale."""


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ArgumentError for float16 on the CPU, where nothing is made for it."""
    if precision == "float16" and device.type != "cuda":
        raise ArgumentError(
            f"precision is 'float16', which is for CUDA GPUs, but the device is {device}; "
            "expected one of float32, bfloat16"
        )


class Optimizer:
    """AdamW over `parameters`, whose learning rate rises and falls over `total_steps`."""

    def __init__(
        self, parameters: list[torch.nn.Parameter], settings: Settings, total_steps: int, device: torch.device
    ) -> None:
        assert settings.learning_rate is not None  # see Settings.filled
        self.parameters, self.device = parameters, device
        self.dtype = AUTOCAST.get(settings.precision)
        self.clip_to = settings.max_gradient_norm or math.inf
        self.adamw = torch.optim.AdamW(
            parameter_groups(parameters, settings.weight_decay), lr=settings.learning_rate, fused=True
        )
        self.fraction = linear_schedule(total_steps, settings.warmup)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adamw, self.fraction)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def autocast(self) -> torch.autocast:
        """What the forward runs in."""
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled, to those that are there."""
        self.scaler.scale(loss).backward()

    def clip(self) -> Tensor:
        """Unscale and clip the gradients; returns their norm before that, [], without waiting for a GPU."""
        self.scaler.unscale_(self.adamw)
        return torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_to)

    @property
    def scales(self) -> bool:
        """Whether the loss is scaled."""
        return self.scaler.is_enabled()

    @property
    def scale(self) -> float:
        """What the loss is multiplied by; to ask waits for a GPU."""
        return self.scaler.get_scale()

    @property
    def may_skip(self) -> bool:
        """Whether gradients that aren't finite may be the scale's fault."""
        return self.scales and self.scale >= SMALLEST_SCALE

    def zero_grad(self) -> None:
        """Before the first backward of a step."""
        self.adamw.zero_grad()

    @property
    def rate(self) -> float:
        """The next step's learning rate."""
        return float(self.schedule.get_last_lr()[0])

    def step(self) -> None:
        """Update the parameters; with a scale, only if all gradients are finite, and then the scale."""
        self.scaler.step(self.adamw)
        self.scaler.update()
        self.schedule.step()

    def state(self) -> dict[str, Any]:
        """For a checkpoint, from which `load` goes on, on whatever device."""
        return {
            "optimizer": self.adamw.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Raises KeyError, ValueError or RuntimeError for a state that isn't of such an optimizer.

        The learning rate is where this schedule has it after as many steps, also if the state's was a shorter one.
        """
        self.adamw.load_state_dict(state["optimizer"])
        done = state["schedule"]["last_epoch"]
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adamw, self.fraction, last_epoch=done - 1)
        self.scaler.load_state_dict(state["scaler"])


def parameter_groups(parameters: list[torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: weight decay for matrices, none for biases and LayerNorms, which alone have one axis."""
    decayed: list[Tensor] = [p for p in parameters if p.dim() > 1]
    others: list[Tensor] = [p for p in parameters if p.dim() <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def linear_schedule(total: int, warmup: float) -> Callable[[int], float]:
    """From the number of steps done to the next one's learning rate, as a fraction of the highest.

    Rises over the first `warmup` of `total` steps, then falls, so that the step after the last would have 0.
    """
    rising = round(warmup * total)

    def rate(done: int) -> float:
        return (done + 1) / rising if done < rising else (total - done) / max(total - rising, 1)

    return rate
