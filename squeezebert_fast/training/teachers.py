"""A fine-tuned model to learn from, and what it says of the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.errors import ConfigError, TrainingError
from squeezebert_fast.loading import transformers_models
from squeezebert_fast.loading.transformers_models import token_limit
from squeezebert_fast.modeling import SqueezeBertForSequenceClassification
from squeezebert_fast.modeling.bert_conversion import convert_bert
from squeezebert_fast.patching import patch
from squeezebert_fast.pretrained import OWN_PREFIX, Config, Model, Tokenizer, Transformers, find, is_int8
from squeezebert_fast.storage.files import CONFIG_NAME, read_json_object
from squeezebert_fast.storage.hub import ModelFiles
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast
from squeezebert_fast.training import devices
from squeezebert_fast.training.batches import sorted_batches
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.tasks.base import Task, length_of

TEACHER_BATCH = 32


@dataclass(frozen=True)
class Teacher:
    """A model in eval mode with a tokenizer of its own. `pad` is its padding token's id, `length` its limit.

    `device` is where it is, and where it is asked.
    """

    model: Model
    tokenizer: Tokenizer
    labels: Mapping[int, str]
    pad: int
    length: int
    device: torch.device

    def soft_targets(
        self,
        task: Task,
        examples: Sequence[Any],
        config: Config,
        length: int,
        processes: Processes,
    ) -> list[Tensor]:
        """For each row that `task` makes of the examples the teacher's logits on the CPU, as `Task.soft_rows` has them.

        config: the student's, whose classes the result has. length: tokens at which the student's inputs are cut.
        """
        columns = task.soft_columns(self.labels, config)
        rows = task.encode(examples, self.tokenizer, config, min(length, self.length))
        said: dict[int, Tensor] = {}
        batches = sorted_batches([length_of(row) for row in rows], TEACHER_BATCH)
        with torch.inference_mode():
            for indices in batches[processes.rank :: processes.world]:
                batch = devices.moved(
                    task.collate([rows[index] for index in indices], self.pad, 0), self.device
                )
                answers = task.soft_rows(task.forward(self.model, batch), batch)
                for index, logits in zip(indices, answers, strict=True):
                    said[index] = (logits if columns is None else logits[:, columns]).cpu()
        everyones: dict[int, Tensor] = {}
        for part in processes.gather(said):
            everyones |= part
        if not all(logits.isfinite().all() for logits in everyones.values()):
            raise TrainingError("the teacher's answers are not finite: damaged weights?")
        return [everyones[index].clone() for index in range(len(rows))]  # no longer inference tensors


def load_teacher(
    name_or_path: str, task: Task, device: torch.device = devices.CPU, *, of_own_library: bool = False
) -> Teacher:
    """A teacher for `task`: a SqueezeBERT, a BERT, or, for texts with a label, whatever transformers loads.

    Those of the families that `patch` knows run on this package's kernels; an int8 one's weights become float on a GPU.
    of_own_library: leave a BERT to transformers. It is converted otherwise, so that a student may get its weights.
    Raises what loading raises, and TrainingError for a checkpoint that wasn't fine-tuned for the task, or that needs
    transformers where that isn't installed.
    """
    try:
        stored = find(name_or_path)
    except ConfigError:  # of another kind
        return _foreign(name_or_path, task, device)
    if isinstance(stored, Transformers):
        ending = task.model_class.__name__.removeprefix(OWN_PREFIX)
        if not (stored.architecture or ending).endswith(ending):
            raise TrainingError(
                f"the teacher {name_or_path} is a {stored.architecture}, not fine-tuned for {task.name}"
            )
    is_bert = isinstance(stored, Transformers) and stored.model_type == "bert"
    if is_bert and not of_own_library and not stored.is_int8():
        model: Any = convert_bert(name_or_path, model_class=task.model_class)
        tokenizer: Any = SqueezeBertTokenizerFast.from_pretrained(name_or_path)
    else:
        model = stored.load(task.model_class, dequantize=device.type != "cpu")
        tokenizer = stored.tokenizer(of_words=task.reads_words)
    if not is_int8(model):  # else patched as it was loaded
        patch(model.to(device), unpad=True)
    config = model.config
    limit = min(token_limit(config), tokenizer.model_max_length)
    pad = config.pad_token_id or 0
    return Teacher(model.requires_grad_(False), tokenizer, config.id2label or {}, pad, limit, device)


def _foreign(name_or_path: str, task: Task, device: torch.device) -> Teacher:
    """A model of another family, on transformers alone."""
    kind = read_json_object(ModelFiles(name_or_path).required(CONFIG_NAME))["model_type"]
    if task.model_class is not SqueezeBertForSequenceClassification:
        raise TrainingError(f"a teacher of model_type {kind!r} can teach classification and regression only")
    library = transformers_models.library(f"for a teacher of model_type {kind!r}")
    with transformers_models.refused_in_one_line(f"load the teacher {name_or_path}"):
        model, report = library.AutoModelForSequenceClassification.from_pretrained(
            name_or_path, output_loading_info=True, trust_remote_code=False
        )
        tokenizer = library.AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])[0]
        raise TrainingError(
            f"the teacher {name_or_path} has no {missing}: it wasn't fine-tuned for {task.name}"
        )
    length = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
    labels = {int(index): label for index, label in model.config.id2label.items()}
    pad = tokenizer.pad_token_id or 0
    return Teacher(model.to(device).eval().requires_grad_(False), tokenizer, labels, pad, length, device)
