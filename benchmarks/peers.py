"""The engines that a base model is measured on, from the same weights, each with the settings of its experts.

Every engine is told the shape it will be asked for and may specialise for it; squeezebert_fast doesn't.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from squeezebert_fast import SqueezeBertConfig, SqueezeBertModel, patch
from squeezebert_fast.configuration import GROUPED_CHANNELS

Forward = Callable[[Tensor, Tensor], Tensor]
"""input_ids and attention_mask, int64 [batch, tokens], to the last hidden state [batch, tokens, channels]."""

AGREEMENT = 1e-4
"""Largest difference from eager that is rounding, as a fraction of eager's largest output; 2e-6 is usual."""


class EngineUnavailable(Exception):
    """An engine can't be measured here, and why."""


class WrongEngine(Exception):
    """An engine's output is not the model's."""


class LastHiddenState(nn.Module):
    """`model` with the one output that all engines are asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


@dataclass(frozen=True)
class Subject:
    """A base model with random weights, and what engines are built from."""

    name: str
    model: nn.Module
    """transformers' own, in eval mode."""
    config: SqueezeBertConfig
    """What counts its operations; BERT is a SqueezeBERT whose groups are all 1."""
    folder: Path
    """Where it is exported to."""

    def onnx_file(self) -> Path:
        """The model as ONNX with a free batch and length, exported once."""
        path = self.folder / f"{self.name}.onnx"
        if path.exists():
            return path
        for package in ("onnx", "onnxscript"):
            importlib.import_module(package)
        input_ids, attention_mask = random_inputs(self, 2, 16)  # one tensor for both would become one input
        free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=512)}
        torch.onnx.export(
            LastHiddenState(self.model).eval(),
            (input_ids, attention_mask),
            path,
            dynamo=True,
            verbose=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_shapes={"input_ids": free, "attention_mask": free},
        )
        return path


def squeezebert_base(folder: Path) -> Subject:
    """The base SqueezeBERT of the paper, with random weights."""
    torch.manual_seed(0)
    model = transformers.SqueezeBertModel(transformers.SqueezeBertConfig()).eval()
    return Subject("SqueezeBERT", model, SqueezeBertConfig(), folder)


def bert_base(folder: Path) -> Subject:
    """BERT-base, which the paper compares with, with random weights."""
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).eval()
    return Subject("BERT-base", model, SqueezeBertConfig(**dict.fromkeys(GROUPED_CHANNELS, 1)), folder)


def eager(subject: Subject, batch: int, tokens: int) -> Forward:
    """transformers as it is."""
    return LastHiddenState(subject.model)


def compiled(subject: Subject, batch: int, tokens: int) -> Forward:
    """torch.compile: weights frozen into the graph, shape fixed, no max-autotune."""
    torch._dynamo.reset()  # without what was compiled for other shapes
    forward = torch.compile(LastHiddenState(subject.model), dynamic=False, options={"freezing": True})
    inputs = random_inputs(
        subject, batch, tokens
    )  # outside: tensors of inference mode would make it compile again
    try:
        with torch.inference_mode():
            forward(*inputs)
    except RuntimeError as error:
        raise EngineUnavailable(f"it fails: {str(error).strip().splitlines()[0]}") from error
    return forward


def onnx_runtime(subject: Subject, batch: int, tokens: int) -> Forward:
    """ONNX Runtime: every graph optimisation, shape fixed."""
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Its threads spin while it runs, as by default, but not into the next candidate's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_free_dimension_override_by_name("batch", batch)
    options.add_free_dimension_override_by_name("tokens", tokens)
    session = ort.InferenceSession(subject.onnx_file(), options, providers=["CPUExecutionProvider"])

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        return torch.from_numpy(session.run(None, inputs)[0])

    return forward


def openvino(subject: Subject, batch: int, tokens: int) -> Forward:
    """OpenVINO: for latency, in float32 (it would pick bfloat16 where the CPU has it), shape fixed."""
    ov: Any = importlib.import_module("openvino")
    core = ov.Core()
    model = core.read_model(subject.onnx_file())
    model.reshape({port.any_name: [batch, tokens] for port in model.inputs})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        return torch.from_numpy(request.infer(inputs, share_inputs=True, share_outputs=True)[0])

    return forward


def squeezebert_fast(subject: Subject, batch: int, tokens: int) -> Forward:
    """This project's own model, patched."""
    model = SqueezeBertModel(subject.config).eval()
    model.load_state_dict(subject.model.state_dict())
    return LastHiddenState(patch(model))


def patched_transformers(subject: Subject, batch: int, tokens: int) -> Forward:
    """transformers' model, patched by this project."""
    model = transformers.SqueezeBertModel(subject.model.config).eval()
    model.load_state_dict(subject.model.state_dict())
    return LastHiddenState(patch(model))


EAGER = "transformers eager"
PEERS = {
    EAGER: eager,
    "torch.compile": compiled,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino,
}
OURS = {
    "squeezebert_fast": squeezebert_fast,
    "transformers patched": patched_transformers,
}
ENGINES = {**PEERS, **OURS}


def build(
    subject: Subject, names: Iterable[str], batch: int, tokens: int
) -> tuple[dict[str, Forward], dict[str, str]]:
    """Engines for one shape, each checked against eager, and the reasons why others are left out.

    names: keys of ENGINES. The forwards run under torch.inference_mode(); a later call may overwrite what an
    earlier one returned. Raises WrongEngine for an engine that computes something else.
    """
    ready: dict[str, Forward] = {}
    skipped: dict[str, str] = {}
    for name in names:
        try:
            forward = ENGINES[name](subject, batch, tokens)
        except (ImportError, EngineUnavailable) as error:
            skipped[name] = str(error)
            continue
        check(f"{name}, {subject.name} {batch}x{tokens}", forward, subject, batch, tokens)
        ready[name] = forward
    return ready, skipped


def check(what: str, forward: Forward, subject: Subject, batch: int, tokens: int) -> None:
    """Raise WrongEngine unless `forward` agrees with eager on a padded batch, to rounding."""
    input_ids, attention_mask = random_inputs(subject, batch, tokens)
    attention_mask[-1, -(tokens // 4) :] = 0
    with torch.inference_mode():
        expected = LastHiddenState(subject.model)(input_ids, attention_mask)
        actual = forward(input_ids, attention_mask)
    if actual.shape != expected.shape:
        raise WrongEngine(f"{what}: output is {list(actual.shape)}, eager's is {list(expected.shape)}")
    difference = (actual - expected).abs().max().item()
    limit = AGREEMENT * expected.abs().max().item()
    if not difference <= limit:  # NaN is wrong too
        raise WrongEngine(
            f"{what}: output differs from eager by {difference:.3g}, expected at most {limit:.3g}"
        )


def random_inputs(subject: Subject, batch: int, tokens: int) -> tuple[Tensor, Tensor]:
    """input_ids and an attention_mask of ones, both int64 [batch, tokens]."""
    generator = torch.Generator().manual_seed(batch * tokens)
    input_ids = torch.randint(0, subject.config.vocab_size, (batch, tokens), generator=generator)
    return input_ids, torch.ones_like(input_ids)
