"""A model's forward by several backends, and what it costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch

from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.loading.transformers_models import library, token_limit
from squeezebert_fast.modeling import SqueezeBertModel
from squeezebert_fast.patching import patch
from squeezebert_fast.pretrained import Config, Model

TRANSFORMERS = "transformers"
"""The candidate that is transformers' own model with the same weights: of a SqueezeBERT in eager mode."""

GROUPED = ("q", "k", "v", "post_attention", "intermediate", "output")
"""A layer's products, by the fields of the configuration with their groups; the last two are the wide ones."""


def encoder_flops(config: Config, batch: int, tokens: int) -> int:
    """Floating-point operations of the encoder's layers: two for each multiply-add of its products.

    Biases, activations, softmax, LayerNorm, embeddings and pooler, some percent of the time, aren't counted.

    >>> encoder_flops(SqueezeBertConfig(), 1, 128) / 1e9
    7.398752256
    """
    hidden = config.hidden_size
    intermediate = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    groups = {name: getattr(config, f"{name}_groups", 1) for name in GROUPED}
    per_token = sum(hidden * hidden // groups[name] for name in GROUPED[:4])
    per_token += sum(hidden * intermediate // groups[name] for name in GROUPED[4:])
    per_token += 2 * tokens * hidden  # scores, and their product with the values
    return 2 * per_token * config.num_hidden_layers * batch * tokens


def forward_candidates(
    model: Model,
    names: Sequence[str],
    batch: int,
    tokens: int,
    *,
    precisions: Sequence[str] = ("float32",),
    seed: int = 0,
) -> dict[str, Callable[[], object]]:
    """The model's forward on the same random ids, [batch, tokens], by each backend in `names`.

    names: backends, of which each must serve (no falling back unseen), or "transformers" for transformers'
        model, which must then be installed: of a SqueezeBERT the eager one with its weights.
    precisions: as `patch` takes them: each gives a candidate of every backend, named "cpu int8" and the like, but
        "cpu" alone for float32. The reference and transformers compute in float32, once.
    The candidates share `model`'s parameters; `model` itself stays as it is.

    Raises ArgumentError for a name or precision that is unknown or given twice, UnsupportedError for one that can't
    serve.
    """
    for what, given in (("backends", names), ("precisions", precisions)):
        if len(set(given)) < len(given):
            raise ArgumentError(f"the {what} {', '.join(given)} are not all different")
    limit = token_limit(model.config)
    if batch < 1 or not 1 <= tokens <= limit:
        raise ArgumentError(f"the shape is {batch}x{tokens}; expected at least 1x1 and up to {limit} tokens")
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.config.vocab_size, (batch, tokens), generator=generator)

    def forward_of(module: torch.nn.Module) -> Callable[[], object]:
        def forward() -> object:
            with torch.inference_mode():
                return module(ids)

        return forward

    candidates = {}
    for name in names:
        for precision in ("float32",) if name in (TRANSFORMERS, "reference") else precisions:
            label = name if precision == "float32" else f"{name} {precision}"
            candidates[label] = forward_of(_variant(model, name, precision))
    return candidates


def precision_of(candidate: str) -> str:
    """The precision of a candidate of `forward_candidates`, by its name."""
    return candidate.partition(" ")[2] or "float32"


def _variant(model: Model, name: str, precision: str) -> torch.nn.Module:
    if name == TRANSFORMERS:
        return _in_transformers(model) if isinstance(model, SqueezeBertModel) else model
    sharing = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    strict = name != "auto" or precision != "float32"
    return patch(copy.deepcopy(model, sharing), precision=precision, backend=name, strict=strict)


def _in_transformers(model: SqueezeBertModel) -> torch.nn.Module:
    transformers = library("for its model")
    config = transformers.SqueezeBertConfig.from_dict(model.config.to_dict())
    theirs = transformers.SqueezeBertModel(config).eval()
    theirs.load_state_dict(model.state_dict(), assign=True)
    return theirs
