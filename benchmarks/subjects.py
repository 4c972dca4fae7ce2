"""The models that engines are measured on, and the files and inputs that engines are given."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.minilm import minilm_directory
from benchmarks.report import Shape
from benchmarks.sst2 import TRAIN, batches, read_sentences
from squeezebert_fast import SqueezeBertConfig, SqueezeBertTokenizerFast
from squeezebert_fast.configuration import GROUPED_CHANNELS

Inputs = tuple[Tensor, Tensor]
"""input_ids and attention_mask, both int64 [batch, tokens]."""

CALIBRATED = 300
"""Inputs from which fixed scales are taken: as many as sentence-transformers takes."""


class LastHiddenState(nn.Module):
    """`model` with the one output that all engines are asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def random_samples(subject: Subject) -> list[Inputs]:
    """`random_inputs` of many lengths."""
    return [random_inputs(subject, (1, 1 + number % 128)) for number in range(CALIBRATED)]


@dataclass(frozen=True)
class Subject:
    """A base model, and what engines are built from: each process makes the same anew."""

    name: str
    make: Callable[[], nn.Module]
    """transformers' own, in eval mode. A function of a module, so that a process can be told of it."""
    config: SqueezeBertConfig
    """What counts its operations; BERT is a SqueezeBERT whose groups are all 1."""
    folder: Path
    """Where it is exported to."""
    calibration: Callable[[Subject], Sequence[Inputs]] = random_samples
    """Inputs such as it will see. A function of a module too."""

    @cached_property
    def model(self) -> nn.Module:
        return self.make()

    def onnx_file(self) -> Path:
        """The model as ONNX with a free batch and length, exported once."""
        return self._once("float32", "model.onnx", self._export)

    def _once(self, kind: str, name: str, write: Callable[[Path], None]) -> Path:
        """The model's file of that kind, whole: whoever writes it may fail, and another process looks for it then."""
        whole, part = (self.folder / f"{self.name}-{kind}{suffix}" for suffix in ("", ".part"))
        if not whole.exists():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            write(part / name)  # and its weights beside it
            part.rename(whole)
        return whole / name

    def _export(self, path: Path) -> None:
        """By TorchScript, attention written out.

        ONNX Runtime makes one operation of such an attention, but not of scaled_dot_product_attention, nor of what
        torch.export leaves of either: MiniLM at 32x32 takes 1.09 and 1.15 times as long then, in int8 1.25 times.
        SqueezeBERT is as fast either way, and OpenVINO is with all of them.
        """
        importlib.import_module("onnx")
        model = copy.deepcopy(self.model)
        model.set_attn_implementation("eager")
        names = ["input_ids", "attention_mask"]
        torch.onnx.export(
            LastHiddenState(model).eval(),
            random_inputs(self, (2, 16)),  # one tensor for both would become one input
            path,
            dynamo=False,
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in names},
        )

    def int8_onnx_file(self) -> Path:
        """`onnx_file`, quantised dynamically by ONNX Runtime, once.

        Signed weights, a scale per channel; but unsigned where products are convolutions: ONNX Runtime's signed
        integer convolution is several times slower than its unsigned one, and a peer gets its best settings.
        """
        return self._once("int8", "model.onnx", self._quantize)

    def _quantize(self, path: Path) -> None:
        quantization: Any = importlib.import_module("onnxruntime.quantization")
        convolutions = any(isinstance(module, nn.Conv1d) for module in self.model.modules())
        kind = quantization.QuantType.QUInt8 if convolutions else quantization.QuantType.QInt8
        quantization.quantize_dynamic(self.onnx_file(), path, weight_type=kind, per_channel=True)

    def int8_openvino_file(self) -> Path:
        """`onnx_file` in int8 by OpenVINO's compressor NNCF, once.

        Its scales are fixed, taken from `calibration`; sentence-transformers prescribes this for OpenVINO.
        """
        return self._once("int8-openvino", "model.xml", self._compress)

    def _compress(self, path: Path) -> None:
        nncf: Any = importlib.import_module("nncf")
        nncf.set_log_level(logging.ERROR)
        ov: Any = importlib.import_module("openvino")
        inputs = [
            {"input_ids": ids.numpy(), "attention_mask": mask.numpy()} for ids, mask in self.calibration(self)
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # its progress
            model = nncf.quantize(
                ov.Core().read_model(self.onnx_file()),
                nncf.Dataset(inputs),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(inputs),
            )
        ov.save_model(model, path)


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


def minilm(folder: Path) -> Subject:
    """MiniLM-L6 with its real weights. Raises DataMissing."""
    minilm_directory()
    sizes = {"hidden_size": 384, "embedding_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
    config = SqueezeBertConfig(**sizes, **dict.fromkeys(GROUPED_CHANNELS, 1))
    return Subject("MiniLM-L6", _minilm, config, folder, real_samples)


def _minilm() -> nn.Module:
    return transformers.BertModel.from_pretrained(minilm_directory()).eval()


def real_samples(subject: Subject) -> list[Inputs]:
    """Sentences of SST-2's training set, one by one, as MiniLM sees them."""
    tokenizer = SqueezeBertTokenizerFast(minilm_directory() / "vocab.txt")
    return batches(tokenizer, read_sentences(CALIBRATED, TRAIN), size=1)


def random_inputs(subject: Subject, shape: Shape) -> Inputs:
    """Random words and an attention_mask of ones."""
    generator = torch.Generator().manual_seed(shape[0] * shape[1])
    input_ids = torch.randint(0, subject.config.vocab_size, shape, generator=generator)
    return input_ids, torch.ones_like(input_ids)


def padded_inputs(subject: Subject, shape: Shape) -> Inputs:
    """`random_inputs`, of which a quarter of the last sequence is padding: what engines are checked with."""
    input_ids, attention_mask = random_inputs(subject, shape)
    attention_mask[-1, shape[1] - shape[1] // 4 :] = 0
    return input_ids, attention_mask
