"""The native grouped pointwise convolution in every build that runs here, against PyTorch's products.

All in one process: they share PyTorch's threads, so that nobody has others, which could get in the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import Case, Row
from squeezebert_fast import ops
from squeezebert_fast.activations import apply_activation
from squeezebert_fast.backends import cpu
from squeezebert_fast.benchmark import MultiplyAddPeak, Timing, measure

BATCH, LENGTH = 8, 128
TOKENS = BATCH * LENGTH
CALLS = 4
"""Calls a turn: the first finds the caches, and the clock rate, as another instruction set left them."""


@dataclass(frozen=True)
class Layer:
    """One convolution of the base model."""

    in_channels: int
    out_channels: int
    groups: int
    activation: str | None = None

    @property
    def name(self) -> str:
        groups = "1 group" if self.groups == 1 else f"{self.groups} groups"
        activation = f", {self.activation}" if self.activation else ""
        return f"{self.in_channels}->{self.out_channels}, {groups}{activation}"

    @property
    def flops(self) -> int:
        """Of the product alone."""
        return 2 * TOKENS * self.in_channels * self.out_channels // self.groups

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same random x, [tokens, in_channels], weight and bias on every call."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(TOKENS, self.in_channels, generator=generator)
        weight = torch.randn(self.out_channels, self.in_channels // self.groups, 1, generator=generator)
        return x, weight, torch.randn(self.out_channels, generator=generator)


LAYERS = (
    Layer(768, 768, 4),  # query, key, value
    Layer(768, 768, 1),  # post_attention
    Layer(768, 3072, 4),
    Layer(768, 3072, 4, "gelu"),  # intermediate, as the model has it
    Layer(3072, 768, 4),  # output
)


def conv1d(layer: Layer) -> Callable[[], object]:
    """As transformers calls it, [batch, channels, width]."""
    x, weight, bias = layer.tensors()
    x = x.view(BATCH, LENGTH, -1).transpose(1, 2).contiguous()
    return lambda: apply_activation(layer.activation, F.conv1d(x, weight, bias, groups=layer.groups))


def linear(layer: Layer) -> Callable[[], object]:
    """A matrix product for each group, the results side by side."""
    x, weight, bias = layer.tensors()
    inputs = x.chunk(layer.groups, dim=1)
    weights, biases = weight.squeeze(2).chunk(layer.groups), bias.chunk(layer.groups)

    def run() -> object:
        parts = [F.linear(*arguments) for arguments in zip(inputs, weights, biases, strict=True)]
        return apply_activation(layer.activation, parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))

    return run


def operation(layer: Layer, instruction_set: str) -> Callable[[], object]:
    """What users call."""
    x, weight, bias = layer.tensors()

    def run() -> object:
        with cpu.use_instruction_set(instruction_set):
            return ops.grouped_pointwise_conv(
                x, weight, bias, layer.groups, layer.activation, backend="cpu", strict=True
            )

    return run


def bare_kernel(layer: Layer, instruction_set: str) -> Callable[[], object]:
    """The native call alone, on an output that exists."""
    x, weight, bias = layer.tensors()
    y = torch.empty(TOKENS, layer.out_channels)
    with cpu.use_instruction_set(instruction_set):
        packed = cpu.packed_weight(weight, layer.groups)
    activation, threads = cpu.FUSED_ACTIVATIONS[layer.activation], torch.get_num_threads()

    def run() -> object:
        packed.run(
            x.data_ptr(),
            x.stride(0),
            TOKENS,
            bias.data_ptr(),
            y.data_ptr(),
            y.stride(0),
            activation,
            threads,
            cpu.element_of(x.dtype),
        )
        return y

    return run


def measure_kernel(layers: Iterable[Layer], repeats: int) -> Iterator[Case]:
    """For each layer, rows for F.conv1d, F.linear and, per instruction set, the op and its bare kernel.

    Raises UnsupportedError without the native module.
    """
    best = cpu.instruction_set()  # PyTorch picks its own at run time: it is held against this one's peak
    for layer in layers:
        peers = {
            "F.conv1d": conv1d(layer),
            "F.linear": linear(layer),
        }
        candidates, set_of = dict(peers), dict.fromkeys(peers, best)
        for instruction_set in cpu.instruction_sets():
            for kind, make in (("op", operation), ("kernel", bare_kernel)):
                name = f"{instruction_set} {kind}"
                candidates[name], set_of[name] = make(layer, instruction_set), instruction_set
        yield _measure_layer(layer, candidates, set_of, list(peers), repeats)


def _measure_layer(
    layer: Layer,
    candidates: Mapping[str, Callable[[], object]],
    set_of: Mapping[str, str],
    peers: Sequence[str],
    repeats: int,
) -> Case:
    peaks = {instruction_set: MultiplyAddPeak() for instruction_set in set_of.values()}

    def sample_peaks() -> None:
        for instruction_set, peak in peaks.items():
            with cpu.use_instruction_set(instruction_set):
                peak.sample()

    turns = {name: partial(_turn, run) for name, run in candidates.items()}
    with torch.inference_mode():
        timings = [
            Timing(turn.name, tuple(seconds / CALLS for seconds in turn.seconds))
            for turn in measure(turns, repeats, warmup=1, between=sample_peaks)
        ]
    best_peer = min((timing for timing in timings if timing.name in peers), key=lambda timing: timing.median)
    rows = [
        Row(layer.name, t, timings[0], best_peer, layer.flops, peaks[set_of[t.name]].flops_per_second)
        for t in timings
    ]
    return Case(layer.name, rows, left_out={})


def _turn(run: Callable[[], object]) -> None:
    for _ in range(CALLS):
        run()
