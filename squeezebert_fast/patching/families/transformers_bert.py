"""transformers' BERT, and the families whose encoder is BERT's text under another name (ELECTRA; RoBERTa in its file).

    layer: attention.self (query, key, value, dropout), attention.output (dense, dropout, LayerNorm)
           intermediate (dense, activation), output (dense, dropout, LayerNorm)

What differs over versions of transformers:

- masks: 4.x adds numbers to scores; 5.x, with sdpa, hands out booleans that say "attend";
- attention: 4.x has a class for eager attention and one for sdpa; 5.x looks up a function by the configuration's name;
- hidden states: 4.x's encoder returns them; 5.x collects them by hooks on the layers, which stay there ever after;
- a layer returns a tuple in 4.x and a tensor in 5.x.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from squeezebert_fast.patching.families.family import (
    Call,
    Dropout,
    Embeddings,
    Family,
    Mask,
    Parts,
    find,
    is_own,
    mask_of_sdpa,
    mask_to_add,
    nested,
)
from squeezebert_fast.patching.families.own import EMBEDDINGS_ARGUMENTS, SCORES
from squeezebert_fast.patching.families.ready_masks import holder_in

_BERT = "transformers.models.bert.modeling_bert"
_ELECTRA = "transformers.models.electra.modeling_electra"
HOMES = (_BERT, _ELECTRA)
WORD_HEADS = {
    "BertForMaskedLM": ("cls",),
    "ElectraForMaskedLM": ("generator_predictions", "generator_lm_head"),
}
ENCODERS = ((_BERT, "BertEncoder"), (_ELECTRA, "ElectraEncoder"))

PLACES = Parts(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    heads="attention.self.num_attention_heads",
    attention_dropout="attention.self.dropout",
    post_attention="attention.output.dense",
    post_attention_dropout="attention.output.dropout",
    post_attention_norm="attention.output.LayerNorm",
    intermediate="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    output="output.dense",
    output_dropout="output.dropout",
    output_norm="output.LayerNorm",
)

IDLE = ("position_ids", "token_type_ids", "cache_position", "output_hidden_states", "return_dict")
"""Arguments that say nothing to eager or sdpa attention. transformers 5 hands on all that a model is called with."""


def family(encoder: type[nn.Module]) -> Family:
    """See `families.FAMILIES`."""
    return bert_like(encoder, embeddings_like_bert)


def bert_like(encoder: type[nn.Module], embeddings: Callable[[type[nn.Module]], Embeddings]) -> BertFamily:
    """The family of an encoder XEncoder whose module has XLayer, XSelfAttention and so on, as BERT's has."""
    prefix = encoder.__name__.removesuffix("Encoder")
    names = sys.modules[encoder.__module__].__dict__
    attentions = (f"{prefix}SelfAttention", f"{prefix}SdpaSelfAttention")  # the second of transformers 4
    attention = {"query": nn.Linear, "key": nn.Linear, "value": nn.Linear, "dropout": nn.Dropout}
    norm_block = {"dense": nn.Linear, "dropout": nn.Dropout, "LayerNorm": nn.LayerNorm}
    layer = names[f"{prefix}Layer"]
    return BertFamily(
        encoder=encoder,
        layer=layer,
        layers="layer",
        places=PLACES,
        modules=nested(
            {
                "attention": (names[f"{prefix}Attention"], {}),
                "attention.self": (tuple(names[name] for name in attentions if name in names), attention),
                "attention.output": (names[f"{prefix}SelfOutput"], norm_block),
                "intermediate": (names[f"{prefix}Intermediate"], {"dense": nn.Linear}),
                "output": (names[f"{prefix}Output"], norm_block),
            }
        ),
        embeddings=embeddings(names[f"{prefix}Embeddings"]),
        holder=holder_in(names, f"{prefix}Model", "encoder"),
        **versions(encoder, layer),
    )


def embeddings_like_bert(cls: type[nn.Module]) -> Embeddings:
    return Embeddings(
        cls,
        EMBEDDINGS_ARGUMENTS,
        idle=("cache_length", "past_key_values_length"),
        obstacle=relative_positions,
    )


def relative_positions(module: Any) -> str | None:
    """Why a module whose positions are relative, as transformers 4 has them, must run itself, or None."""
    kind = module.__dict__.get("position_embedding_type", "absolute")
    return None if kind == "absolute" else f"positions are {kind}"


def versions(encoder: type[nn.Module], layer: type[nn.Module]) -> dict[str, Any]:
    """What all families in the manner of BERT have, by the signatures of their encoder and its layers."""
    arguments, of_layer = _named(encoder), _named(layer)[2:]
    positional = len(of_layer)
    if hasattr(layer, "gradient_checkpointing") and "encoder_hidden_states" in of_layer:
        positional = of_layer.index("encoder_hidden_states") + 1
    return {
        "arguments": arguments,
        "by_position": of_layer[:positional],
        "by_name": of_layer[positional:],
        "returns_states": "output_hidden_states" in arguments,
        "attributes": ("is_decoder", "is_causal", "scaling", "position_embedding_type"),
    }


def _named(cls: type[nn.Module]) -> tuple[str, ...]:
    """The arguments of a class's forward, but for keywords of any name."""
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
    return tuple(p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class BertFamily(Family):
    """An encoder of transformers in the manner of BERT."""

    arguments: tuple[str, ...] = ()
    """Of the encoder's forward, but for keywords of any name: the hidden states, the mask, and others."""
    by_position: tuple[str, ...] = ()
    """Arguments that the encoder hands a layer behind the hidden states and the mask."""
    by_name: tuple[str, ...] = ()
    """And those that it hands by name."""
    returns_states: bool = False
    """Whether the encoder returns all hidden states itself, and layers return tuples, as in transformers 4."""

    def call(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        given = {**dict(zip(self.arguments, args, strict=False)), **kwargs}
        x, mask = (given.pop(name, None) for name in self.arguments[:2])
        call = Call(
            x,
            mask,
            keep_states=self.returns_states and bool(given.get("output_hidden_states", False)),
            as_tuple=self.returns_states and not given.get("return_dict", True),
            extra=given,
        )
        if (
            x is None
            or len(args) > len(self.arguments)
            or any(n in kwargs for n in self.arguments[: len(args)])
        ):
            return call._replace(
                obstacle="the arguments are not the forward's"
            )  # which raises its own TypeError
        if given.get("output_attentions", False):
            return call._replace(obstacle=SCORES)
        for name, value in given.items():
            if value is None or value is False or (name == "head_mask" and all(m is None for m in value)):
                continue
            if name not in IDLE:
                return call._replace(obstacle=f"{name} is given, which the accelerated layers don't take")
        if self.returns_states:
            return call
        names = _collected()
        if any(name not in ("hidden_states", "_hidden_states_layers") for name in names):
            return call._replace(obstacle=SCORES)
        by_hooks = "hidden_states" in names
        obstacle = self.attention_obstacle(encoder)
        return call._replace(keep_states=by_hooks, by_hooks=by_hooks, obstacle=obstacle)

    def result(self, encoder: nn.Module, call: Call, x: Tensor, states: tuple[Tensor, ...] | None) -> Any:
        names = sys.modules[self.encoder.__module__].__dict__
        output = names.get("BaseModelOutputWithPastAndCrossAttentions") or names["BaseModelOutput"]
        if self.returns_states:
            if call.as_tuple:
                return (x,) if states is None else (x, states)
            return output(last_hidden_state=x, hidden_states=states)
        if states is not None:  # what the hooks would have seen, had the layers been called
            for layer, before, after in zip(self.layers_of(encoder), states, states[1:], strict=False):
                for hook in layer._forward_hooks.values():
                    if self.is_idle(hook):
                        hook(layer, (before,), after)
        return output(last_hidden_state=x)

    def collected(self) -> list[Tensor | None] | None:
        return _collected().get("hidden_states")

    def mask(self, encoder: Any, call: Call) -> Mask:
        if self._is_sdpa(encoder):
            return mask_of_sdpa(call.mask, call.x)
        if not self.returns_states and self._attention_kind(encoder) != "eager":
            return Mask(None)  # what other functions make of theirs is not known
        return mask_to_add(call.mask, call.x)

    def run_layer(self, layer: Any, x: Tensor, call: Call) -> Tensor:
        y = self.called(layer, x, call)
        return y[0] if self.returns_states else y

    def called(self, layer: Any, x: Tensor, call: Call) -> Any:
        """What a layer returns, called to the letter as its encoder does: hooks see how."""
        given = {**call.extra, "head_mask": None}  # of which the encoder hands each layer its own
        further = {} if self.returns_states else {n: v for n, v in given.items() if n not in self.arguments}
        further.pop("head_mask", None)
        by_name = {name: given.get(name) for name in self.by_name}
        by_position = [given.get(name) for name in self.by_position]
        return layer(x, call.mask, *by_position, **by_name, **further)

    def checkpointed(
        self, encoder: Any, layer: Any, index: int, run: Callable[..., Tensor]
    ) -> Callable[..., Tensor]:
        for owner in (layer, encoder):  # the encoder in the oldest versions
            if getattr(owner, "gradient_checkpointing", False) and owner.training:
                return functools.partial(owner._gradient_checkpointing_func, run)
        return run

    def run_original(
        self, encoder: Any, layer: Any, index: int, x: Tensor, call: Call, needs_grad: bool
    ) -> Tensor:
        if hasattr(layer, "gradient_checkpointing"):  # then its call sees to it itself
            return self.run_layer(layer, x, call)
        return super().run_original(encoder, layer, index, x, call, needs_grad)

    def layer_obstacle(self, layer: Any) -> str | None:
        attention = find_attention(self, layer)
        if layer.__dict__.get("is_decoder") or attention.__dict__.get("is_causal"):
            return "the layer is a decoder's"
        scaling, size = attention.__dict__.get("scaling"), attention.__dict__.get("attention_head_size")
        if scaling is not None and scaling != size**-0.5:
            return f"scores are scaled by {scaling}, not by the root of the head's size"
        return relative_positions(attention)

    def attention_obstacle(self, encoder: Any) -> str | None:
        kind = self._attention_kind(encoder)
        if kind is None:
            return None
        if kind not in ("eager", "sdpa"):
            return f"attention is {kind}, not eager or sdpa"
        names = sys.modules[self.encoder.__module__].__dict__
        function = names["ALL_ATTENTION_FUNCTIONS"].get(kind, names["eager_attention_forward"])
        home = self.encoder.__module__ if kind == "eager" else "transformers.integrations.sdpa_attention"
        return None if is_own(function, home) else f"attention {kind} is another function than {home}'s"

    def attention_dropout(self, layer: Any) -> Dropout:
        """Of transformers 4's eager attention it is the module, otherwise a number that is passed on."""
        attention = find_attention(self, layer)
        if not self.returns_states:
            return Dropout(attention, self.parts(layer).attention_dropout)
        if "Sdpa" in type(attention).__name__:
            return Dropout(attention, attention, "dropout_prob")
        return super().attention_dropout(layer)

    def is_idle(self, hook: Callable[..., Any]) -> bool:
        return getattr(hook, "__module__", None) == "transformers.utils.output_capturing"

    def _is_sdpa(self, encoder: Any) -> bool:
        if not self.returns_states:
            return self._attention_kind(encoder) == "sdpa"
        return any(
            "Sdpa" in type(find_attention(self, layer)).__name__ for layer in self._own_layers(encoder)
        )

    def _own_layers(self, encoder: nn.Module) -> Iterator[Any]:
        """Those layers that are the family's."""
        return (layer for layer in self.layers_of(encoder) if isinstance(layer, self.layer))

    def _attention_kind(self, encoder: Any) -> str | None:
        """The name of the function that computes attention in transformers 5, or None if there are no layers."""
        for layer in self._own_layers(encoder):
            return find_attention(self, layer).config._attn_implementation
        return None


def _collected() -> dict[str, Any]:
    """What transformers 5 collects by hooks on the layers in this call: lists by name."""
    module = sys.modules.get("transformers.utils.output_capturing")
    return (module._active_collector.get() if module else None) or {}


def find_attention(family: Family, layer: nn.Module) -> Any:
    """The module of a layer that holds its query."""
    return find(layer, tuple(family.places.query.split(".")[:-1]))
