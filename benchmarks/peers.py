"""The engines that models are measured on, from the same weights, each with the settings of its experts.

Where a shape is given, an engine may specialise for it; squeezebert_fast doesn't.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.agreement import check
from benchmarks.report import Shape, shape_name
from benchmarks.subjects import LastHiddenState, Subject, random_inputs
from squeezebert_fast import SqueezeBertModel, patch

Inputs = tuple[Tensor, Tensor]
"""input_ids and attention_mask, both int64 [batch, tokens]."""

Forward = Callable[[Tensor, Tensor], Tensor]
"""Inputs to the last hidden state [batch, tokens, channels]."""

ANY_SHAPE_SAMPLE = (2, 16)
"""What an engine for any shape is built and checked with."""


class EngineUnavailable(Exception):
    """An engine can't be measured here, and why."""


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
    try:
        with torch.inference_mode():
            forward(*inputs)
    except RuntimeError as error:
        raise EngineUnavailable(f"it fails: {str(error).strip().splitlines()[0]}") from error
    return forward


def onnx_runtime(subject: Subject, shape: Shape | None, precision: str) -> Forward:
    """ONNX Runtime: every graph optimisation; int8 is its dynamic quantisation."""
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Its threads spin while it runs, as by default, but not into the next candidate's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
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
    """OpenVINO: for latency, in the precision asked for (it would pick bfloat16 where the CPU has it)."""
    ov: Any = importlib.import_module("openvino")
    core = ov.Core()
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineUnavailable("it has no bfloat16 on this CPU")
    model = core.read_model(subject.onnx_file())
    if shape is not None:
        model.reshape({port.any_name: list(shape) for port in model.inputs})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
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
    model = transformers.SqueezeBertModel(subject.model.config).eval()
    model.load_state_dict(subject.model.state_dict())
    return LastHiddenState(patch(model, precision=precision))


@dataclass(frozen=True)
class Engine:
    """One way to run a model, in one precision."""

    family: str
    precision: str
    make: Callable[[Subject, Shape | None, str], Forward]
    """For a subject, the one shape it will be asked for (None: for any), and the precision."""
    peer: bool = True
    """Whether it is none of this project's."""

    @property
    def name(self) -> str:
        return self.family if self.precision == "float32" else f"{self.family} {self.precision}"


EAGER = Engine("transformers eager", "float32", eager)
ENGINES = (
    EAGER,
    Engine("torch.compile", "float32", compiled),
    Engine("ONNX Runtime", "float32", onnx_runtime),
    Engine("OpenVINO", "float32", openvino),
    Engine("squeezebert_fast", "float32", squeezebert_fast, peer=False),
    Engine("transformers patched", "float32", patched_transformers, peer=False),
    Engine(EAGER.family, "bfloat16", eager),
    Engine("torch.compile", "bfloat16", compiled),
    Engine("OpenVINO", "bfloat16", openvino),
    Engine("squeezebert_fast", "bfloat16", squeezebert_fast, peer=False),
    # PyTorch's dynamic quantisation knows nn.Linear, and SqueezeBERT's products are convolutions.
    Engine("ONNX Runtime", "int8", onnx_runtime),
    Engine("squeezebert_fast", "int8", squeezebert_fast, peer=False),
)
FAMILIES = tuple(dict.fromkeys(engine.family for engine in ENGINES))

BERT_ENGINES = tuple(
    engine
    for engine in ENGINES
    if (engine.family in ("ONNX Runtime", "OpenVINO") and engine.precision != "bfloat16") or engine is EAGER
)

UNPADDED = tuple(
    Engine("squeezebert_fast unpad", precision, partial(squeezebert_fast, unpad=True), peer=False)
    for precision in ("float32", "bfloat16", "int8")
)


def build(
    subject: Subject, engines: Iterable[Engine], shape: Shape | None
) -> tuple[dict[Engine, Forward], dict[str, str]]:
    """Engines for one shape (None: any), each checked against eager, and by name the reasons why others are left out.

    The forwards run under torch.inference_mode(); a later call may overwrite what an earlier one returned.
    Raises WrongEngine for an engine that computes something else.
    """
    input_ids, attention_mask = random_inputs(subject, shape or ANY_SHAPE_SAMPLE)
    padding = input_ids.shape[1] // 4
    attention_mask[-1, input_ids.shape[1] - padding :] = 0
    with torch.inference_mode():
        expected = LastHiddenState(subject.model)(input_ids, attention_mask)
    ready: dict[Engine, Forward] = {}
    skipped: dict[str, str] = {}
    for engine in engines:
        try:
            forward = engine.make(subject, shape, engine.precision)
        except (ImportError, EngineUnavailable) as error:
            skipped[engine.name] = str(error)
            continue
        with torch.inference_mode():
            actual = forward(input_ids, attention_mask)
        what = f"{engine.name}, {subject.name} {shape_name(shape or ANY_SHAPE_SAMPLE)}"
        check(what, engine.precision, actual, expected, attention_mask)
        ready[engine] = forward
    return ready, skipped


def run(forward: Forward, inputs: Inputs) -> Tensor:
    """A forward as every engine is timed."""
    with torch.inference_mode():
        return forward(*inputs)


def forget_compiled() -> None:
    """Drop what torch.compile made for other shapes; before an engine is built, since it drops all."""
    torch._dynamo.reset()
