"""A fine-tuned model to learn from, and what it says of the training data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from squeezebert_fast.configuration import MODEL_TYPE, SqueezeBertConfig
from squeezebert_fast.errors import TrainingError
from squeezebert_fast.modeling import SqueezeBertForSequenceClassification
from squeezebert_fast.modeling.bert_conversion import COUNTERPARTS, convert_bert
from squeezebert_fast.modeling.stored_heads import check_head
from squeezebert_fast.patching import patch
from squeezebert_fast.storage.files import CONFIG_NAME, read_json_object
from squeezebert_fast.storage.hub import ModelFiles
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast
from squeezebert_fast.training import devices
from squeezebert_fast.training.batches import sorted_batches
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.tasks.base import MODEL_INPUTS, Task, length_of

TEACHER_BATCH = 32


@dataclass(frozen=True)
class Teacher:
    """A model in eval mode with a tokenizer of its own. `pad` is its padding token's id, `length` its limit.

    `device` is where it is, and where it is asked.
    """

    model: nn.Module
    tokenizer: Any
    labels: Mapping[int, str]
    pad: int
    length: int
    device: torch.device

    def soft_targets(
        self,
        task: Task,
        examples: Sequence[Any],
        config: SqueezeBertConfig,
        length: int,
        processes: Processes,
    ) -> list[Tensor]:
        """For each row that `task` makes of the examples the teacher's logits on the CPU, as `Task.soft_rows` has them.

        config: the student's, whose classes the result has. length: tokens at which the student's inputs are cut.
        """
        columns = task.soft_columns(self.labels, config)
        rows = task.encode(examples, self.tokenizer, config, min(length, self.length))
        wanted = inspect.signature(self.model.forward).parameters
        said: dict[int, Tensor] = {}
        batches = sorted_batches([length_of(row) for row in rows], TEACHER_BATCH)
        with torch.inference_mode():
            for indices in batches[processes.rank :: processes.world]:
                batch = devices.moved(
                    task.collate([rows[index] for index in indices], self.pad, 0), self.device
                )
                inputs = {name: batch[name] for name in MODEL_INPUTS if name in wanted}
                answers = task.soft_rows(self.model(**inputs, return_dict=True), batch)
                for index, logits in zip(indices, answers, strict=True):
                    said[index] = (logits if columns is None else logits[:, columns]).cpu()
        everyones: dict[int, Tensor] = {}
        for part in processes.gather(said):
            everyones |= part
        if not all(logits.isfinite().all() for logits in everyones.values()):
            raise TrainingError("the teacher's answers are not finite: damaged weights?")
        return [everyones[index].clone() for index in range(len(rows))]  # no longer inference tensors


def load_teacher(name_or_path: str, task: Task, device: torch.device = devices.CPU) -> Teacher:
    """A teacher for `task`: a SqueezeBERT, a BERT, or, for texts with a label, whatever transformers loads.

    The first two run on this package's kernels; an int8 one's weights become float on a GPU.
    Raises what loading raises, and TrainingError for a checkpoint that wasn't fine-tuned for the task, or that needs
    transformers where that isn't installed.
    """
    config = read_json_object(ModelFiles(name_or_path).required(CONFIG_NAME))
    kind = config.get("model_type", MODEL_TYPE)
    if kind == MODEL_TYPE:
        check_head(task.model_class, name_or_path)
        model = task.model_class.from_pretrained(name_or_path, dequantize=device.type != "cpu")
    elif kind == "bert":
        stored = (config.get("architectures") or ["model of no class"])[0]
        if COUNTERPARTS.get(stored) is not task.model_class:
            raise TrainingError(f"the teacher {name_or_path} is a {stored}, not fine-tuned for {task.name}")
        model = convert_bert(name_or_path, model_class=task.model_class)
    else:
        return _foreign(name_or_path, kind, task, device)
    if not any(parameter.is_meta for parameter in model.parameters()):  # else int8, patched as it was loaded
        patch(model.to(device), unpad=True)
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(name_or_path)
    labels, length = model.config.id2label or {}, model.config.max_position_embeddings
    pad = model.config.pad_token_id or 0
    return Teacher(model.requires_grad_(False), tokenizer, labels, pad, length, device)


def _foreign(name_or_path: str, kind: str, task: Task, device: torch.device) -> Teacher:
    if task.model_class is not SqueezeBertForSequenceClassification:
        raise TrainingError(f"a teacher of model_type {kind!r} can teach classification and regression only")
    try:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise TrainingError(
            f"a teacher of model_type {kind!r} needs transformers ({error}); "
            "pip install squeezebert-fast[transformers]"
        ) from error
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            name_or_path, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except Exception as error:  # transformers has no common base for what can be wrong with a checkpoint
        reason = " ".join(str(error).split())[:300]
        raise TrainingError(f"transformers can't load the teacher {name_or_path}: {reason}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])[0]
        raise TrainingError(
            f"the teacher {name_or_path} has no {missing}: it wasn't fine-tuned for {task.name}"
        )
    length = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
    labels = {int(index): label for index, label in model.config.id2label.items()}
    pad = tokenizer.pad_token_id or 0
    model = model.to(device).eval().requires_grad_(False)
    return Teacher(model, _WithTypes(tokenizer), labels, pad, length, device)


class _WithTypes:
    """A tokenizer of transformers that gives token types where its model has none."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, *texts: Any, **options: Any) -> dict[str, Any]:
        encoded = dict(self.tokenizer(*texts, **options))
        encoded.setdefault("token_type_ids", [[0] * len(ids) for ids in encoded["input_ids"]])
        return encoded
