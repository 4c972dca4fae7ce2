"""transformers' Trainer, which saves this package's models whole: `from squeezebert_fast.trainer import Trainer`.

transformers' own `Trainer` trains, evaluates and resumes them too. But it asks `isinstance(model, PreTrainedModel)` to
save a model by its `save_pretrained`, and of any other it writes the state_dict alone: without config.json, and not at
all for tied weights (`SqueezeBertForMaskedLM`), which safetensors refuses.
"""

from __future__ import annotations

from collections.abc import Mapping

import transformers
from torch import Tensor

from squeezebert_fast.loading.checkpoint import saved_config
from squeezebert_fast.loading.shards import without_ties
from squeezebert_fast.modeling.base import SqueezeBertPreTrainedModel


class Trainer(transformers.Trainer):
    """`transformers.Trainer` whose checkpoints of this package's models are whole: `from_pretrained` loads them.

    Takes every model that transformers' does, and treats those of others as it does.

    >>> Trainer(model, TrainingArguments("out"), train_dataset=rows).train()  # doctest: +SKIP
    """

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if not isinstance(model, SqueezeBertPreTrainedModel):
            return super()._save(output_dir, state_dict)
        super()._save(output_dir, without_ties(model.state_dict() if state_dict is None else state_dict))
        if self.args.should_save:
            saved_config(model).save_pretrained(output_dir or self.args.output_dir)
