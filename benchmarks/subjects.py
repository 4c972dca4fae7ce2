"""The models that engines are measured on, and the files and inputs that engines are given."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.report import Shape
from squeezebert_fast import SqueezeBertConfig
from squeezebert_fast.configuration import GROUPED_CHANNELS


class LastHiddenState(nn.Module):
    """`model` with the one output that all engines are asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


@dataclass(frozen=True)
class Subject:
    """A base model with random weights, and what engines are built from: each process makes the same anew."""

    name: str
    make: Callable[[], nn.Module]
    """transformers' own, in eval mode. A function of a module, so that a process can be told of it."""
    config: SqueezeBertConfig
    """What counts its operations; BERT is a SqueezeBERT whose groups are all 1."""
    folder: Path
    """Where it is exported to."""

    @cached_property
    def model(self) -> nn.Module:
        return self.make()

    def onnx_file(self) -> Path:
        """The model as ONNX with a free batch and length, exported once."""
        return self._once("float32", self._export)

    def _once(self, kind: str, write: Callable[[Path], None]) -> Path:
        """The model's file of that kind, whole: whoever writes it may fail, and another process looks for it then."""
        whole, part = (self.folder / f"{self.name}-{kind}{suffix}" for suffix in ("", ".part"))
        if not whole.exists():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            write(part / "model.onnx")  # and its weights beside it
            part.rename(whole)
        return whole / "model.onnx"

    def _export(self, path: Path) -> None:
        for package in ("onnx", "onnxscript"):
            importlib.import_module(package)
        input_ids, attention_mask = random_inputs(self, (2, 16))  # one tensor for both would become one input
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

    def int8_onnx_file(self) -> Path:
        """`onnx_file`, quantised dynamically by ONNX Runtime, once.

        Signed weights, a scale per channel; but unsigned where products are convolutions: ONNX Runtime's signed
        integer convolution is several times slower than its unsigned one, and a peer gets its best settings.
        """
        return self._once("int8", self._quantize)

    def _quantize(self, path: Path) -> None:
        quantization: Any = importlib.import_module("onnxruntime.quantization")
        convolutions = any(isinstance(module, nn.Conv1d) for module in self.model.modules())
        kind = quantization.QuantType.QUInt8 if convolutions else quantization.QuantType.QInt8
        quantization.quantize_dynamic(self.onnx_file(), path, weight_type=kind, per_channel=True)


def spread_scores(model: nn.Module, factor: float) -> None:
    """Scale the weights of queries, keys and values.

    As initialised, attention is so nearly uniform, and adds so little, that no check of bfloat16 or int8 would notice
    an engine without mask or scores.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("query.weight", "key.weight", "value.weight")):
            parameter.data *= factor


def squeezebert_base(folder: Path) -> Subject:
    """The base SqueezeBERT of the paper, with random weights."""
    return Subject("SqueezeBERT", _squeezebert, SqueezeBertConfig(), folder)


def _squeezebert() -> nn.Module:
    torch.manual_seed(0)
    model = transformers.SqueezeBertModel(transformers.SqueezeBertConfig()).eval()
    spread_scores(model, 6.0)
    return model


def bert_base(folder: Path) -> Subject:
    """BERT-base, which the paper compares with, with random weights."""
    return Subject("BERT-base", _bert, SqueezeBertConfig(**dict.fromkeys(GROUPED_CHANNELS, 1)), folder)


def _bert() -> nn.Module:
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).eval()
    spread_scores(model, 3.0)  # each sums four times as many inputs
    return model


def random_inputs(subject: Subject, shape: Shape) -> tuple[Tensor, Tensor]:
    """input_ids and an attention_mask of ones, both int64 [batch, tokens]."""
    generator = torch.Generator().manual_seed(shape[0] * shape[1])
    input_ids = torch.randint(0, subject.config.vocab_size, shape, generator=generator)
    return input_ids, torch.ones_like(input_ids)


def padded_inputs(subject: Subject, shape: Shape) -> tuple[Tensor, Tensor]:
    """`random_inputs`, of which a quarter of the last sequence is padding: what engines are checked with."""
    input_ids, attention_mask = random_inputs(subject, shape)
    attention_mask[-1, shape[1] - shape[1] // 4 :] = 0
    return input_ids, attention_mask
