"""What Trainer, PEFT, accelerate, pipelines and users ask of a model of transformers, besides its forward.

Names, arguments and results are those of transformers' `PreTrainedModel`. An argument that can't matter here is
accepted and does nothing, which its docstring says.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.loading.stored_model import StoredModel


class TransformersInterface(StoredModel):
    """Base of `SqueezeBertPreTrainedModel`, which adds the configuration, initialisation and saving."""

    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # accelerate keeps the modules of these classes whole when it spreads a model: the sums inside have one device.
    _no_split_modules: ClassVar[list[str]] = ["SqueezeBertEmbeddings", "SqueezeBertModule"]
    # Trainer divides the loss by the steps that it accumulates: the losses here are means, whatever the batch.
    accepts_loss_kwargs = False
    is_parallelizable = False
    model_parallel = False
    _keys_to_ignore_on_save: ClassVar[list[str] | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.name_or_path = ""
        self.model_tags: list[str] | None = None
        self.warnings_issued: dict[str, bool] = {}

    @property
    def device(self) -> torch.device:
        """The device of the first parameter."""
        return next(self.parameters()).device

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """A batch that every model takes, but for multiple choice: int64 ids [1, 3]."""
        return {"input_ids": torch.zeros(1, 3, dtype=torch.long)}

    @classmethod
    def can_generate(cls) -> bool:
        """False: no class here generates text."""
        return False

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the parameters hold, tied ones counted once."""
        embeddings = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if (parameter.requires_grad or not only_trainable)
            and not (exclude_embeddings and id(parameter) in embeddings)
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the parameters, tied ones counted once, and of the buffers unless told otherwise.

        As in transformers, weights that are elsewhere (offloaded, or packed by `patch`) count by their own shape and
        dtype.
        """
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.nbytes for tensor in tensors)

    def get_parameter_or_buffer(self, target: str) -> Tensor:
        """The parameter or buffer of this full name. Raises AttributeError."""
        try:
            return self.get_parameter(target)
        except AttributeError:
            return self.get_buffer(target)

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Add to `model_tags`, from which Trainer and PEFT write model cards."""
        added = [tags] if isinstance(tags, str) else tags
        self.model_tags = list(dict.fromkeys([*(self.model_tags or ()), *added]))

    # Training

    def enable_input_require_grads(self) -> None:
        """Make the word embeddings' output require gradients, so that adapters behind frozen layers get theirs."""
        self.disable_input_require_grads()
        embeddings = self.base_model.get_input_embeddings()
        self._require_grads_hook = embeddings.register_forward_hook(_require_grad)

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        hook = self.__dict__.pop("_require_grads_hook", None)
        if hook is not None:
            hook.remove()

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recompute each layer in the backward pass instead of keeping its activations, in training mode.

        activation_checkpointing_kwargs: for `torch.utils.checkpoint.checkpoint`, by default `{"use_reentrant":
        False}`. every_n_layers: leave all but each n-th layer, from the first on, as they are. offload: keep the
        recomputed layers' inputs in the host's memory. Raises ArgumentError.
        """
        if not isinstance(every_n_layers, int) or every_n_layers < 1:
            raise ArgumentError(f"every_n_layers is {every_n_layers!r}, expected a positive integer")
        encoder = self.base_model.encoder
        encoder.gradient_checkpointing = True
        encoder.gradient_checkpointing_kwargs = {
            "use_reentrant": False,
            **(activation_checkpointing_kwargs or {}),
        }
        encoder.gradient_checkpointing_every = every_n_layers
        encoder.gradient_checkpointing_offload = bool(offload)

    def activation_checkpointing_disable(self) -> None:
        """Keep every layer's activations again."""
        self.base_model.encoder.gradient_checkpointing = False

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether layers are recomputed."""
        return self.base_model.encoder.gradient_checkpointing

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """`activation_checkpointing_enable` by the name that it had before transformers 5.20."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def gradient_checkpointing_disable(self) -> None:
        """`activation_checkpointing_disable` by its older name."""
        self.activation_checkpointing_disable()

    @property
    def is_gradient_checkpointing(self) -> bool:
        """`is_activation_checkpointing` by its older name."""
        return self.is_activation_checkpointing


def _require_grad(module: nn.Module, inputs: Any, output: Tensor) -> None:
    output.requires_grad_(True)
