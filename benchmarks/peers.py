"""The engines that models are measured on, from the same weights, each with the settings of its experts.

Where a shape is given, an engine may specialise for it; squeezebert_fast doesn't.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.agreement import WrongEngine, check
from benchmarks.report import BFLOAT16_FEATURES, Shape, cpu_features, shape_name
from benchmarks.subjects import Inputs, LastHiddenState, Subject, padded_inputs, random_inputs
from squeezebert_fast import SqueezeBertModel, patch
from squeezebert_fast.backends.cpu import PRECISIONS
from squeezebert_fast.benchmark import CandidateFailed, Turns

Forward = Callable[[Tensor, Tensor], Tensor]
"""Inputs to the last hidden state [batch, tokens, channels]."""

ANY_SHAPE_SAMPLE = (2, 16)
"""What an engine for any shape is built and checked with."""


def eager(subject: Subject, shape: Shape | None, precision: str) -> Forward:
    """transformers as it is, or converted to bfloat16."""
    if precision == "float32":
        return LastHiddenState(subject.model)
    return LastHiddenState(copy.deepcopy(subject.model).to(getattr(torch, precision)))


def compiled(subject: Subject, shape: Shape | None, precision: str) -> Forward:
    """torch.compile: weights frozen into the graph, no max-autotune."""
    model = eager(subject, shape, precision)
    forward = torch.compile(model, dynamic=shape is None, options={"freezing": True})
    # outside: tensors of inference mode would make it compile again
    inputs = random_inputs(subject, shape or ANY_SHAPE_SAMPLE)
    run(forward, inputs)
    return forward


def onnx_runtime(subject: Subject, shape: Shape | None, precision: str) -> Forward:
    """ONNX Runtime: every graph optimisation; int8 is its dynamic quantisation."""
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    if shape is not None:
        options.add_free_dimension_override_by_name("batch", shape[0])
        options.add_free_dimension_override_by_name("tokens", shape[1])
    path = subject.int8_onnx_file() if precision == "int8" else subject.onnx_file()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        return torch.from_numpy(session.run(None, inputs)[0])

    return forward


def openvino(subject: Subject, shape: Shape | None, precision: str) -> Forward:
    """OpenVINO: for latency, in the precision asked for (it would pick bfloat16 where the CPU has it).

    In int8 it picks that of what isn't quantised.
    """
    ov: Any = importlib.import_module("openvino")
    core = ov.Core()
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise CandidateFailed("it has no bfloat16 on this CPU")
    model = core.read_model(subject.int8_openvino_file() if precision == "int8" else subject.onnx_file())
    if shape is not None:
        model.reshape({port.any_name: list(shape) for port in model.inputs})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    if precision != "int8":
        settings["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bfloat16": "bf16"}[precision]
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        return torch.from_numpy(request.infer(inputs, share_inputs=True, share_outputs=True)[0])

    return forward


def squeezebert_fast(
    subject: Subject, shape: Shape | None, precision: str, *, unpad: bool = False
) -> Forward:
    """This project's own model, patched."""
    model = SqueezeBertModel(subject.config).eval()
    model.load_state_dict(subject.model.state_dict())
    return LastHiddenState(patch(model, precision=precision, unpad=unpad))


def patched_transformers(subject: Subject, shape: Shape | None, precision: str) -> Forward:
    """transformers' model, patched by this project."""
    return LastHiddenState(patch(copy.deepcopy(subject.model), precision=precision))


@dataclass(frozen=True)
class Candidate:
    """What is measured, by its name."""

    family: str
    precision: str
    peer: bool = field(default=True, kw_only=True)
    """Whether it is none of this project's."""

    @property
    def name(self) -> str:
        return self.family if self.precision == "float32" else f"{self.family} {self.precision}"


@dataclass(frozen=True)
class Engine(Candidate):
    """One way to run a model, in one precision."""

    make: Callable[[Subject, Shape | None, str], Forward]
    """For a subject, the one shape it will be asked for (None: for any), and the precision."""


EAGER = Engine("transformers eager", "float32", eager)
PATCHED = tuple(
    Engine("transformers patched", precision, patched_transformers, peer=False) for precision in PRECISIONS
)
ENGINES = (
    EAGER,
    Engine("torch.compile", "float32", compiled),
    Engine("ONNX Runtime", "float32", onnx_runtime),
    Engine("OpenVINO", "float32", openvino),
    Engine("squeezebert_fast", "float32", squeezebert_fast, peer=False),
    PATCHED[0],
    Engine(EAGER.family, "bfloat16", eager),
    Engine("torch.compile", "bfloat16", compiled),
    Engine("OpenVINO", "bfloat16", openvino),
    Engine("squeezebert_fast", "bfloat16", squeezebert_fast, peer=False),
    # PyTorch's dynamic quantisation knows nn.Linear, and SqueezeBERT's products are convolutions.
    Engine("ONNX Runtime", "int8", onnx_runtime),
    Engine("OpenVINO", "int8", openvino),
    Engine("squeezebert_fast", "int8", squeezebert_fast, peer=False),
)
FAMILIES = tuple(dict.fromkeys(engine.family for engine in ENGINES))

BERT_ENGINES = (*(engine for engine in ENGINES if engine.peer), *PATCHED)

UNPADDED = tuple(
    Engine("squeezebert_fast unpad", precision, partial(squeezebert_fast, unpad=True), peer=False)
    for precision in PRECISIONS
)


def run(forward: Forward, inputs: Inputs) -> Tensor:
    """A forward as every engine is timed."""
    with torch.inference_mode():
        return forward(*inputs)


class EngineRunner:
    """An engine in the process that measures it, for one shape, or with `batches` (a file of many inputs) for any."""

    def __init__(self, engine: Engine, subject: Subject, shape: Shape | None, batches: Path | None) -> None:
        self._forward = engine.make(subject, shape, engine.precision)
        self._padded = padded_inputs(subject, shape or ANY_SHAPE_SAMPLE)
        self._inputs: list[Inputs] = []
        if batches is not None:
            self._inputs = torch.load(batches)
        elif shape is not None:
            self._inputs = [random_inputs(subject, shape)]

    def prepare(self) -> None:
        """Nothing lies between two forwards."""

    def call(self, number: int = 0) -> None:
        """The forward of one of the inputs."""
        run(self._forward, self._inputs[number])

    def output(self) -> NDArray[np.float32]:
        """For `padded_inputs`."""
        return run(self._forward, self._padded).float().numpy()


def unavailable(engine: Candidate) -> str | None:
    """Why a candidate isn't measured on this CPU, or None."""
    if engine.peer and engine.precision == "bfloat16" and not BFLOAT16_FEATURES & set(cpu_features()):
        return "this CPU has no instruction for bfloat16, with which a peer would only lose time"
    return None


def start_engines(
    turns: Turns,
    subject: Subject,
    engines: Sequence[Engine],
    shape: Shape | None,
    *,
    prefix: str = "",
    batches: Path | None = None,
) -> dict[str, Engine]:
    """Start a process for each engine, and check its output against that of EAGER, the first of them.

    Returns those that are ready, by the name of the candidate: `prefix` and the engine's. `turns` knows why others
    aren't: a peer that computes something else is one of them, named with what it computed. Raises WrongEngine where
    one of ours does.
    """
    assert engines[0] == EAGER
    mask = padded_inputs(subject, shape or ANY_SHAPE_SAMPLE)[1]
    ready: dict[str, Engine] = {}
    expected: Tensor | None = None
    for engine in turns.starting(engines, subject.name):
        name = f"{prefix}{engine.name}"
        reason = unavailable(engine)
        if engine != EAGER and expected is None:
            reason = f"there is no {EAGER.name} to check it against"
        if reason is not None:
            turns.leave_out(name, reason)
            continue
        if not turns.start(name, partial(EngineRunner, engine, subject, shape, batches)):
            continue
        try:
            actual = torch.from_numpy(turns.ask(name, EngineRunner.output))
        except CandidateFailed:
            continue
        if expected is None:
            expected = actual
        what = f"{engine.name}, {subject.name} {shape_name(shape or ANY_SHAPE_SAMPLE)}"
        try:
            check(what, engine.precision, actual, expected, mask)
        except WrongEngine as wrong:
            if not engine.peer:
                raise
            turns.leave_out(name, str(wrong))
            continue
        ready[name] = engine
    return ready
