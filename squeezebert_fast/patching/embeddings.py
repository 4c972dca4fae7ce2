"""The embeddings that `patch` puts in a model's place: gather, sum and LayerNorm in one pass."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from squeezebert_fast import backends, ops
from squeezebert_fast.backends import cpu, triton
from squeezebert_fast.backends.request import (
    Request,
    autocast_dtype,
    context_obstacle,
    graph_obstacle,
    tensor_obstacle,
    tracing,
)
from squeezebert_fast.errors import UnsupportedError
from squeezebert_fast.ops.attention import broadcasts
from squeezebert_fast.patching.families import embeddings_of
from squeezebert_fast.patching.families.family import Embeddings
from squeezebert_fast.patching.obstacles import hooks_on_every_module, module_obstacle
from squeezebert_fast.patching.structure import Places, Structure
from squeezebert_fast.patching.swapping import SETTINGS, Accelerated, Settings, original_class

INTEGERS = (torch.int64, torch.int32)
WORDS = "word_embeddings"
NOTHING: dict[str, Any] = dict.fromkeys(("input_ids", "token_type_ids", "position_ids", "inputs_embeds"))


class AcceleratedEmbeddings(Accelerated):
    """Mixed into the class of a family's embeddings; `forward` has that class's arguments and results."""

    _kind: ClassVar[Embeddings]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        kind = embeddings_of(original_class(cls))
        assert kind is not None  # as patch had it
        cls._kind = kind  # not found out in a forward, which torch.compile may be tracing

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        settings: Settings = self.__dict__[SETTINGS]
        kind = self._kind
        given = {**NOTHING, **dict(zip(kind.arguments, args, strict=False)), **kwargs}
        for name in kind.idle:
            if given.get(name) is None or given[name] == 0:
                given.pop(name, None)
        if tracing() and settings.keep_original:
            if torch.compiler.is_compiling() and self._dropped_in_graph(settings, **given):
                words = given["input_ids"]
                others = self._filled_in(words, given["position_ids"], given["token_type_ids"])
                return self._dropped(self._gathered(settings, words, *others), settings)
            return super().forward(*args, **kwargs)
        choice = self._served(settings, **given)
        reason = choice if isinstance(choice, str) else None
        if isinstance(choice, backends.Choice):
            ids = given["input_ids"], given["token_type_ids"], given["position_ids"]
            y = self._run(settings, choice, *ids)
            if y is not None:
                return self._dropped(y, settings)
            reason = "an index is out of its table's range"
        if self._words_given_up(settings) and given["inputs_embeds"] is None:
            raise UnsupportedError(
                f"embeddings: {reason} (keep_original=False leaves nothing to fall back to)"
            )
        return super().forward(*args, **kwargs)  # which raises its own error for an index

    def _dropped(self, y: Tensor, settings: Settings) -> Tensor:
        dropout = self.__dict__["_modules"]["dropout"]
        if _drops(dropout) and hooks_on_every_module() is None:
            return ops.dropout(y, dropout.p, backend=settings.backend)
        return dropout(y)

    def _dropped_in_graph(
        self,
        settings: Settings,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        **others: Any,
    ) -> bool:
        """Whether a graph has to have our dropout, since what runs in eager mode has.

        Without dropout it has the embeddings as their library wrote them, for the compiler to fuse.
        """
        if inputs_embeds is not None or input_ids is None or others:
            return False
        if _obstacle_in_graph(self) is not None or not _drops(self.__dict__["_modules"]["dropout"]):
            return False
        ids = [given for given in (input_ids, token_type_ids, position_ids) if given is not None]
        return input_ids.dim() == 2 and all(
            given.dtype in INTEGERS and broadcasts(tuple(given.shape), tuple(input_ids.shape))
            for given in ids
        )

    def _served(
        self,
        settings: Settings,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        **others: Any,
    ) -> backends.Choice | str:
        """The backend that has a kernel for a call, or why none serves it."""
        if inputs_embeds is not None or input_ids is None:
            return "word embeddings are given in place of ids"
        if others:
            return f"{', '.join(others)} is given"
        reason = context_obstacle() or tensor_obstacle(input_ids, token_type_ids, position_ids)
        if reason is not None:
            return reason
        if reason := self._own_obstacle(settings):
            return reason
        device = self.__dict__["_modules"]["LayerNorm"].weight.device
        fit = input_ids.dim() == 2
        for ids in (input_ids, token_type_ids, position_ids):
            fit = fit and (ids is None or (ids.dtype in INTEGERS and ids.device == device))
        if not fit:
            return f"ids are not integers [batch, tokens] on {device}"
        choice = self._choice(settings)
        return choice.reason if choice.backend == "reference" else choice

    def _own_obstacle(self, settings: Settings) -> str | None:
        """Why these modules and parameters keep the kernels away from any call, or None."""
        if reason := self._kind.obstacle(self):
            return reason
        found, needs_grad = _found.get(self), self._needs_grad()
        if found is not None and found.holds(needs_grad):
            return None
        _found.pop(self, None)
        if (reason := self._look_for_obstacle(settings, needs_grad)) is not None:
            return reason
        # nothing tells of changes of parameters without memory, as torch.export makes them, or of inference mode
        lasting = not torch.compiler.is_compiling() and not any(p.is_inference() for p in self.parameters())
        if lasting and cpu.native_module_missing() is None:
            _found[self] = _NoObstacle(self, needs_grad)
        return None

    def _look_for_obstacle(self, settings: Settings, needs_grad: bool) -> str | None:
        modules, kind = self.__dict__["_modules"], self._kind
        for name in (*kind.tables, "LayerNorm", "dropout"):
            module = modules.get(name)
            cls = {"LayerNorm": nn.LayerNorm, "dropout": nn.Dropout}.get(name, nn.Embedding)
            if reason := module_obstacle(name, module, (cls,)):
                return reason
            if cls is not nn.Embedding:
                continue
            if module.max_norm is not None:
                return f"{name} has a max_norm"
            if needs_grad:
                if module.sparse or module.scale_grad_by_freq:
                    return f"{name} wants sparse gradients, or scaled by frequency"
                if name != WORDS and module.padding_idx is not None:
                    return f"{name} has a row without gradients"
        norm = modules["LayerNorm"]
        parameters = [modules[name].weight for name in kind.tables] + [norm.weight, norm.bias]
        words = parameters[0]
        channels = words.shape[1]
        given_up = self._words_given_up(settings)
        device = words.device
        for parameter in parameters:
            if parameter is None or parameter.dtype is not words.dtype or parameter.shape[-1] != channels:
                return f"a parameter is missing, not {words.dtype}, or of another size"
            # torch.export makes parameters tensors without memory
            in_place = not (given_up and parameter is words) and not torch.compiler.is_compiling()
            if in_place and (reason := tensor_obstacle(parameter)):
                return reason
            if parameter.device != device:
                return f"parameters are on {parameter.device} and {device}"
        return None

    def _words_given_up(self, settings: Settings) -> bool:
        """Whether the words have no values, rather than values that are elsewhere for now (accelerate's offloading)."""
        return not settings.keep_original and self.__dict__["_modules"][WORDS].weight.is_meta

    def _needs_grad(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())

    def _choice(self, settings: Settings) -> backends.Choice:
        modules: Any = self.__dict__["_modules"]
        words, norm = modules[WORDS].weight, modules["LayerNorm"].weight
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
        choice: backends.Choice,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
    ) -> Tensor | None:
        """None when ids don't broadcast, or, on the CPU, an index is out of range."""
        modules = self.__dict__["_modules"]
        weights = self._tables()
        norm = modules["LayerNorm"]
        needs_grad = self._needs_grad()
        on_gpu = choice.backend == "triton"
        if on_gpu or needs_grad:  # the native kernel counts positions itself, and takes no types for 0
            position_ids, token_type_ids = self._filled_in(input_ids, position_ids, token_type_ids)
        elif position_ids is None:
            position_ids = self._kind.positions(self, input_ids)
        shape = input_ids.shape
        try:
            ids = [
                i if i is None or i.shape == shape else i.expand(shape)
                for i in (input_ids, position_ids, token_type_ids)
            ]
        except RuntimeError:
            return None
        if needs_grad or on_gpu:
            of_all = [i for i in ids if i is not None]
            if on_gpu and not needs_grad:
                return triton.embeddings(weights, of_all, (norm.weight, norm.bias, norm.eps))
            try:
                return self._gathered(settings, *of_all)
            except IndexError:
                return None
        ids = [i if i is None else i.to(torch.int64).contiguous() for i in ids]
        words, *others = weights
        given_up = self._words_given_up(settings)
        y = cpu.embeddings(
            [cpu.kept_table(words) if given_up else words.contiguous(), *(w.contiguous() for w in others)],
            ids,
            (norm.weight.contiguous(), norm.bias.contiguous(), norm.eps),
            rounded=settings.precision == "int8" and not given_up,
        )
        if y is not None and not given_up and words.is_contiguous():
            assert ids[0] is not None
            cpu.compare_rows(words, ids[0])  # with what a decoder that is tied to them has packed
        return y

    def _tables(self) -> list[Tensor]:
        """Of words, positions and token types; where a family has none of these, of one type that adds nothing."""
        modules = self.__dict__["_modules"]
        tables = [modules[name].weight for name in self._kind.tables]
        if len(tables) < 3:
            weight = modules["LayerNorm"].weight
            tables.append(weight.new_zeros(1, weight.shape[0]))
        return tables

    def _filled_in(
        self, input_ids: Tensor, position_ids: Tensor | None, token_type_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Positions and token types, those that are not given being what the family takes then."""
        device = input_ids.device
        if position_ids is None:
            position_ids = self._kind.positions(self, input_ids)
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=device)
        if token_type_ids is None:
            token_type_ids = torch.zeros((), dtype=torch.int64, device=device)
        return position_ids, token_type_ids

    def _gathered(
        self, settings: Settings, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor
    ) -> Tensor:
        modules = self.__dict__["_modules"]
        words, positions, types = self._tables()
        norm = modules["LayerNorm"]
        options = norm.weight, norm.bias, norm.eps, modules[WORDS].padding_idx
        ids = input_ids, position_ids, token_type_ids
        return ops.embeddings(*ids, words, positions, types, *options, backend=settings.backend)


class _NoObstacle:
    """That an embeddings module had no obstacle of its own, until it changes."""

    def __init__(self, embeddings: AcceleratedEmbeddings, needs_grad: bool) -> None:
        modules = list(embeddings.children())
        attributes = ("max_norm", "sparse", "scale_grad_by_freq", "padding_idx")
        # not itself: what a weak key keeps must not keep the key
        self._structure = Structure(modules, modules, embeddings, attributes)
        self._places, self._needs_grad = Places(self._structure.parameters), needs_grad

    def holds(self, needs_grad: bool) -> bool:
        return needs_grad is self._needs_grad and self._structure.unchanged() and self._places.unchanged()


_found: weakref.WeakKeyDictionary[nn.Module, _NoObstacle] = weakref.WeakKeyDictionary()


def _drops(dropout: nn.Dropout) -> bool:
    return dropout.training and dropout.p > 0.0


def _obstacle_in_graph(embeddings: AcceleratedEmbeddings) -> str | None:
    """Why the embeddings' dropout is PyTorch's in a graph, or None."""
    settings: Settings = embeddings.__dict__[SETTINGS]
    reason = graph_obstacle() or hooks_on_every_module() or embeddings._own_obstacle(settings)
    if reason is not None:
        return reason
    choice = embeddings._choice(settings)
    return None if choice.backend == "cpu" else choice.reason


# See `patching.encoder.tracing_obstacle`.
_obstacle_in_graph._dynamo_marked_constant = True  # type: ignore[attr-defined]
