"""The embeddings that `patch` puts in a model's place: gather, sum and LayerNorm in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from squeezebert_fast import backends
from squeezebert_fast.backends import cpu
from squeezebert_fast.backends.request import Request, context_obstacle, tensor_obstacle
from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.patching.layer import module_obstacle
from squeezebert_fast.patching.swapping import SETTINGS, Accelerated, Settings

TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")


class AcceleratedEmbeddings(Accelerated):
    """Mixed into a SqueezeBertEmbeddings' class; `forward` has that class's arguments and results."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return super().forward(*args, **kwargs)
        settings: Settings = self.__dict__[SETTINGS]
        names = ("input_ids", "token_type_ids", "position_ids", "inputs_embeds")
        given = {**dict.fromkeys(names), **dict(zip(names, args, strict=False)), **kwargs}
        reason = self._obstacle(settings, **given)
        if reason is None:
            y = self._run(settings, given["input_ids"], given["token_type_ids"], given["position_ids"])
            if y is not None:
                return y
            reason = "an index is out of its table's range"
        if getattr(self, TABLES[0]).weight.is_meta and given["inputs_embeds"] is None:
            raise UnsupportedError(
                f"embeddings: {reason} (keep_original=False leaves nothing to fall back to)"
            )
        return super().forward(*args, **kwargs)  # which raises its own error for an index

    def _obstacle(
        self,
        settings: Settings,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        **others: Any,
    ) -> str | None:
        if inputs_embeds is not None or input_ids is None or others:
            return "word embeddings are given in place of ids"
        modules = self.__dict__["_modules"]
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            return "gradients are recorded"
        reason = context_obstacle() or tensor_obstacle(input_ids, token_type_ids, position_ids)
        if reason is not None:
            return reason
        for name in (*TABLES, "LayerNorm", "dropout"):
            module = modules.get(name)
            cls = {"LayerNorm": nn.LayerNorm, "dropout": nn.Dropout}.get(name, nn.Embedding)
            if reason := module_obstacle(name, module, cls):
                return reason
            if name in TABLES and module.max_norm is not None:
                return f"{name} has a max_norm"
        if modules["dropout"].training and modules["dropout"].p > 0.0:
            return "dropout is on"
        norm = modules["LayerNorm"]
        parameters = [modules[name].weight for name in TABLES] + [norm.weight, norm.bias]
        channels = modules[TABLES[0]].weight.shape[1]
        for parameter in parameters:
            if parameter is None or parameter.dtype is not torch.float32 or parameter.shape[-1] != channels:
                return "a parameter is missing, not float32, or of another size"
            if not parameter.is_meta and (reason := tensor_obstacle(parameter)):
                return reason
        if input_ids.dim() != 2 or any(
            ids is not None and (ids.device.type != "cpu" or ids.dtype not in (torch.int64, torch.int32))
            for ids in (input_ids, token_type_ids, position_ids)
        ):
            return "ids are not integers [batch, tokens] on the CPU"
        choice = backends.choose(Request("embeddings", norm.weight.device, torch.float32), settings.backend)
        return None if choice.backend == "cpu" else choice.reason

    def _run(
        self,
        settings: Settings,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
    ) -> Tensor | None:
        """None when an index is out of range or ids don't broadcast."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device="cpu")
        if token_type_ids is None:
            token_type_ids = torch.zeros((), dtype=torch.int64, device="cpu")
        ids = []
        for of_table in (input_ids, position_ids, token_type_ids):
            try:
                expanded = of_table.expand(input_ids.shape)
            except RuntimeError:
                return None
            ids.append(expanded.to(torch.int64).contiguous())
        modules = self.__dict__["_modules"]
        weights = [modules[name].weight for name in TABLES]
        words = cpu.quantized_table(weights[0]) if settings.precision == "int8" else weights[0].contiguous()
        norm = modules["LayerNorm"]
        with torch.no_grad():
            return cpu.embeddings(
                [words, *(w.contiguous() for w in weights[1:])],
                ids,
                (norm.weight.contiguous(), norm.bias.contiguous(), norm.eps),
            )
