"""The embeddings that `patch` puts in a model's place: gather, sum and LayerNorm in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from squeezebert_fast import backends, ops
from squeezebert_fast.backends import cpu, triton
from squeezebert_fast.backends.request import (
    Request,
    autocast_dtype,
    context_obstacle,
    tensor_obstacle,
    tracing,
)
from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.patching.layer import module_obstacle
from squeezebert_fast.patching.swapping import SETTINGS, Accelerated, Settings

TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")


class AcceleratedEmbeddings(Accelerated):
    """Mixed into a SqueezeBertEmbeddings' class; `forward` has that class's arguments and results."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        settings: Settings = self.__dict__[SETTINGS]
        if tracing() and settings.keep_original:
            return super().forward(*args, **kwargs)
        names = ("input_ids", "token_type_ids", "position_ids", "inputs_embeds")
        given = {**dict.fromkeys(names), **dict(zip(names, args, strict=False)), **kwargs}
        reason = self._obstacle(settings, **given)
        if reason is None:
            y = self._run(settings, given["input_ids"], given["token_type_ids"], given["position_ids"])
            if y is not None:
                return self.__dict__["_modules"]["dropout"](y)
            reason = "an index is out of its table's range"
        if self._words_given_up(settings) and given["inputs_embeds"] is None:
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
            if name in TABLES and self._needs_grad() and (module.sparse or module.scale_grad_by_freq):
                return f"{name} wants sparse gradients, or scaled by frequency"
        norm = modules["LayerNorm"]
        parameters = [modules[name].weight for name in TABLES] + [norm.weight, norm.bias]
        words = parameters[0]
        channels = words.shape[1]
        given_up = self._words_given_up(settings)
        device = words.device
        for parameter in parameters:
            if parameter is None or parameter.dtype is not words.dtype or parameter.shape[-1] != channels:
                return f"a parameter is missing, not {words.dtype}, or of another size"
            if given_up and parameter is words:
                continue
            if reason := tensor_obstacle(parameter):
                return reason
            if parameter.device != device:
                return f"parameters are on {parameter.device} and {device}"
        if input_ids.dim() != 2 or any(
            ids is not None and (ids.device != device or ids.dtype not in (torch.int64, torch.int32))
            for ids in (input_ids, token_type_ids, position_ids)
        ):
            return f"ids are not integers [batch, tokens] on {device}"
        choice = self._choice(settings)
        return None if choice.backend in ("cpu", "triton") else choice.reason

    def _words_given_up(self, settings: Settings) -> bool:
        """Whether the words have no values, rather than values that are elsewhere for now (accelerate's offloading)."""
        return not settings.keep_original and self.__dict__["_modules"][TABLES[0]].weight.is_meta

    def _needs_grad(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())

    def _choice(self, settings: Settings) -> backends.Choice:
        modules: Any = self.__dict__["_modules"]
        words, norm = modules[TABLES[0]].weight, modules["LayerNorm"].weight
        request = Request(
            "embeddings",
            norm.device,
            words.dtype,
            needs_grad=self._needs_grad(),
            autocast=autocast_dtype(norm.device),
            sizes={"channels": words.shape[1]},
        )
        return backends.choose(request, settings.backend)

    def _run(
        self,
        settings: Settings,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
    ) -> Tensor | None:
        """None when ids don't broadcast, or, on the CPU, an index is out of range."""
        modules = self.__dict__["_modules"]
        weights = [modules[name].weight for name in TABLES]
        norm = modules["LayerNorm"]
        needs_grad = self._needs_grad()
        on_gpu = self._choice(settings).backend == "triton"
        if on_gpu or needs_grad:  # the native kernel counts positions itself, and takes no types for 0
            device = input_ids.device
            if position_ids is None:
                position_ids = torch.arange(input_ids.shape[1], device=device)
            if token_type_ids is None:
                token_type_ids = torch.zeros((), dtype=torch.int64, device=device)
        try:
            ids = [
                given if given is None else given.expand(input_ids.shape)
                for given in (input_ids, position_ids, token_type_ids)
            ]
        except RuntimeError:
            return None
        of_all = [given for given in ids if given is not None]
        if needs_grad:
            word_ids, at, kinds = of_all
            words, positions, types = weights
            options = norm.weight, norm.bias, norm.eps, modules[TABLES[0]].padding_idx
            try:
                return ops.embeddings(
                    word_ids, at, kinds, words, positions, types, *options, backend=settings.backend
                )
            except IndexError:
                return None
        if on_gpu:
            return triton.embeddings(weights, of_all, (norm.weight, norm.bias, norm.eps))
        ids = [given if given is None else given.to(torch.int64).contiguous() for given in ids]
        words, *others = weights
        given_up = self._words_given_up(settings)
        with torch.no_grad():
            y = cpu.embeddings(
                [
                    cpu.kept_table(words) if given_up else words.contiguous(),
                    *(w.contiguous() for w in others),
                ],
                ids,
                (norm.weight.contiguous(), norm.bias.contiguous(), norm.eps),
                rounded=settings.precision == "int8" and not given_up,
            )
        if y is not None and not given_up and words.is_contiguous():
            assert ids[0] is not None
            cpu.compare_rows(words, ids[0])  # with what a decoder that is tied to them has packed
        return y
