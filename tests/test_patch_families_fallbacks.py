"""What the fast path can't honour in transformers' families runs through the model's own modules, and says why."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils import parametrize

import squeezebert_fast
from squeezebert_fast.errors import UnsupportedError
from tests.engine_helpers import native_runs, needs_native
from tests.family_pairs import (
    CASES,
    IS_TRANSFORMERS_4,
    attention_of,
    encoder_of,
    flat,
    inputs_for,
    layers_of,
    model_of,
    query_of,
)
from tests.slow import slow

KINDS = [case for case in CASES if case[0] in ("BertModel", "RobertaModel", "DistilBertModel")]
"""Families whose code differs in more than names, by kind of attention."""
NOBODY_ASKED = transformers.__version__.startswith(("5.0.", "5.1."))
"""Whether transformers has eager attention by no name."""
BY_FUNCTION = pytest.mark.skipif(
    IS_TRANSFORMERS_4, reason="transformers 4 has a class for each kind of attention here"
)


def outputs(model: Any, inputs: dict[str, Any], **options: Any) -> list[Tensor]:
    with torch.no_grad():
        return flat(model(**inputs, **options))


def close(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=2e-5, atol=2e-5)


def reasons(model: Any) -> dict[str, set[str]]:
    """By the last part of a layer's name."""
    found: dict[str, set[str]] = {}
    for row in squeezebert_fast.explain(model).rows:
        found.setdefault(row.layer.rpartition(".")[2], set()).add(row.reason)
    return found


# One layer


class Doubled(nn.Module):
    """Twice a module's result."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "inner" else getattr(self.inner, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return twice(self.inner(*args, **kwargs))


def twice(result: Any) -> Any:
    if isinstance(result, Tensor):
        return 2 * result
    return tuple(2 * part if isinstance(part, Tensor) else part for part in result)


class MyLinear(nn.Linear):
    """Another forward by extension."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def query_path(layer: Any) -> str:
    return "attention.self.query" if hasattr(layer.attention, "self") else "attention.q_lin"


def replace(layer: Any, path: str, new: Callable[[Any], nn.Module]) -> None:
    owner, _, name = path.rpartition(".")
    setattr(layer.get_submodule(owner), name, new(layer.get_submodule(path)))


def override(layer: Any, path: str) -> None:
    module = layer.get_submodule(path)
    own = module.forward
    module.forward = lambda *args, **kwargs: twice(own(*args, **kwargs))


def extend(layer: Any, path: str) -> None:
    module = layer.get_submodule(path)
    module.__class__ = MyLinear


def plain_weight(layer: Any) -> None:
    query = query_of(layer)
    weight = query.weight.detach() * 2
    del query.weight
    query.weight = weight


def without_bias(layer: Any) -> None:
    query_of(layer).bias = None


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "a product": (lambda layer: replace(layer, query_path(layer), Doubled), " is a Doubled"),
    "an attention": (lambda layer: replace(layer, "attention", Doubled), "attention is a Doubled"),
    "a subclass": (lambda layer: extend(layer, query_path(layer)), " is a MyLinear"),
    "the forward of a product": (lambda layer: override(layer, query_path(layer)), "the forward of "),
    "the forward of an attention": (lambda layer: override(layer, "attention"), "the forward of attention"),
    "the forward of a layer": (lambda layer: override(layer, ""), "the forward of layer, a "),
    "a parametrization": (
        lambda layer: parametrize.register_parametrization(query_of(layer), "weight", Halved()),
        " is a Parametrized",
    ),
    "a plain weight": (plain_weight, "whose weight or bias is not a parameter"),
    "dropout": (
        lambda layer: replace(
            layer, query_path(layer).rpartition(".")[0] + ".dropout", lambda _: nn.AlphaDropout(0.0)
        ),
        "dropout is a AlphaDropout",
    ),
    "scaling": (lambda layer: setattr(attention_of(layer), "scaling", 0.3), "scores are scaled by 0.3"),
}


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("before", [False, True], ids=["after patch", "before patch"])
def test_a_changed_layer_runs_through_its_own_modules(
    before: bool, change: str, name: str, attention: str
) -> None:
    if change == "scaling" and IS_TRANSFORMERS_4:
        pytest.skip("transformers 4 knows no scaling")
    model, inputs = model_of(name, attention), inputs_for(name)
    patched = copy.deepcopy(model)
    if not before:
        outputs(squeezebert_fast.patch(patched, backend="cpu"), inputs, output_hidden_states=True)
    for each in (model, patched):
        CHANGES[change][0](layers_of(each)[1])
    squeezebert_fast.patch(patched, backend="cpu") if before else None
    for _ in range(2):
        close(
            outputs(patched, inputs, output_hidden_states=True),
            outputs(model, inputs, output_hidden_states=True),
        )
        close(outputs(patched, inputs), outputs(model, inputs))
    assert all(CHANGES[change][1] in reason for reason in reasons(patched)["1"])
    assert reasons(squeezebert_fast.patch(patched, backend="reference"))["0"] == {"chosen by name"}
    with pytest.raises(UnsupportedError, match=r"layer\.1: .*\(strict\)"):
        squeezebert_fast.patch(patched, backend="reference", strict=True)


@needs_native
@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_products_without_bias_are_served(name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    without_bias(layers_of(model)[1])
    expected = outputs(model, inputs)
    squeezebert_fast.patch(model, backend="cpu", strict=True)
    with native_runs() as runs:
        close(outputs(model, inputs), expected)
    assert runs == ["float32"]


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("index", [0, 1])
def test_a_wrapped_layer_is_called_as_its_encoder_calls_it(index: int, name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    layers_of(model)[index] = Doubled(layers_of(model)[index])
    patched = squeezebert_fast.patch(copy.deepcopy(model), backend="cpu")
    for options in ({}, {"output_hidden_states": True}, {}):
        close(outputs(patched, inputs, **options), outputs(model, inputs, **options))


WRITES: dict[str, Callable[[Any], object]] = {
    "in place": lambda layer: query_of(layer).weight.mul_(2),
    "through data": lambda layer: query_of(layer).weight.data.mul_(2),
    "a new parameter": lambda layer: setattr(
        query_of(layer), "weight", nn.Parameter(query_of(layer).weight * 2)
    ),
    "new data": lambda layer: setattr(query_of(layer).weight, "data", query_of(layer).weight.data * 2),
    "a new module": lambda layer: replace(layer, query_path(layer), lambda old: nn.Linear(24, 24)),
    "a new layer": lambda layer: layer.load_state_dict({k: v * 1.5 for k, v in layer.state_dict().items()}),
    "epsilon": lambda layer: [setattr(m, "eps", 0.5) for m in layer.modules() if isinstance(m, nn.LayerNorm)],
}


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("write", WRITES)
def test_changed_weights_are_seen_in_the_next_call(write: str, name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    patched = squeezebert_fast.patch(copy.deepcopy(model), backend="cpu")
    before = outputs(patched, inputs)
    with torch.no_grad():
        for each in (model, patched):
            torch.manual_seed(0)
            WRITES[write](layers_of(each)[1])
    with native_runs() as runs:
        actual = outputs(patched, inputs)
    close(actual, outputs(model, inputs))
    assert not torch.allclose(actual[0], before[0], atol=1e-4)
    assert runs == ["float32"]


# Hooks


def paths_of(name: str) -> Iterator[str]:
    for path, module in layers_of(model_of(name, num_hidden_layers=1))[0].named_modules():
        if not isinstance(module, nn.ModuleList):
            yield path


HOOKED = [(name, path) for name in ("BertModel", "DistilBertModel") for path in paths_of(name)]


@pytest.mark.parametrize(("name", "path"), HOOKED)
def test_one_hook_on_one_module_may_change_its_result(name: str, path: str) -> None:
    inputs = inputs_for(name)
    model = model_of(name, "eager")  # whose attention calls its dropout in transformers 4
    outputs(squeezebert_fast.patch(model), inputs, output_hidden_states=True)
    handle = layers_of(model)[1].get_submodule(path).register_forward_hook(lambda m, i, output: twice(output))
    for options in ({}, {"output_hidden_states": True}):
        actual = outputs(model, inputs, **options)
        close(actual, outputs(squeezebert_fast.unpatch(model), inputs, **options))
        squeezebert_fast.patch(model)
    handle.remove()
    close(outputs(model, inputs), outputs(squeezebert_fast.unpatch(model), inputs))


def anatomy(part: Any) -> Any:
    """Names, types and shapes of what a hook is shown."""
    if isinstance(part, Tensor):
        return part.shape
    if isinstance(part, dict):
        return {name: anatomy(value) for name, value in part.items()}
    return [anatomy(value) for value in part] if isinstance(part, (tuple, list)) else part


KINDS_OF_HOOKS: dict[str, Callable[[nn.Module, Callable[..., None]], Any]] = {
    "forward": lambda m, f: m.register_forward_hook(f),
    "forward with keywords": lambda m, f: m.register_forward_hook(f, with_kwargs=True),
    "pre-forward": lambda m, f: m.register_forward_pre_hook(f),
    "pre-forward with keywords": lambda m, f: m.register_forward_pre_hook(f, with_kwargs=True),
    "backward": lambda m, f: m.register_full_backward_hook(f),
    "pre-backward": lambda m, f: m.register_full_backward_pre_hook(f),
}


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("kind", KINDS_OF_HOOKS)
@pytest.mark.parametrize("place", ["layer", "product"])
def test_every_kind_of_hook_fires_with_what_it_saw(place: str, kind: str, name: str, attention: str) -> None:
    inputs = inputs_for(name)
    seen: list[list[Any]] = []

    def record(model: Any) -> None:
        seen.append([])
        target = layers_of(model)[1] if place == "layer" else query_of(layers_of(model)[1])

        def see(module: nn.Module, *what: Any) -> None:
            seen[-1].append([anatomy(part) for part in what])

        handle = KINDS_OF_HOOKS[kind](target, see)
        model(**inputs)[0].sum().backward()
        handle.remove()
        model(**inputs)

    model = model_of(name, attention)
    record(model)
    record(squeezebert_fast.patch(model, backend="cpu"))
    assert seen[0] == seen[1]
    assert len(seen[0]) == 1
    assert not any("hook" in reason for found in reasons(model).values() for reason in found)


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_a_hook_beside_the_librarys_own_still_counts(name: str, attention: str) -> None:
    """Hidden states, once asked for, leave hooks on the layers in transformers 5: these alone are idle."""
    model, inputs = model_of(name, attention), inputs_for(name)
    outputs(model, inputs, output_hidden_states=True, output_attentions=True)
    squeezebert_fast.patch(model, backend="cpu")
    with native_runs() as runs:
        outputs(model, inputs)
        handle = layers_of(model)[0].register_forward_hook(lambda m, i, output: twice(output))
        outputs(model, inputs)
        outputs(model, inputs, output_hidden_states=True)
        handle.remove()
        outputs(model, inputs)
    assert runs == ["float32"] * 2


def test_a_hook_on_every_module_fires_everywhere() -> None:
    model = squeezebert_fast.patch(model_of("BertModel"), backend="cpu")
    seen: set[int] = set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(id(module)))
    try:
        outputs(model, inputs_for("BertModel"))
    finally:
        handle.remove()
    assert all(id(query_of(layer)) in seen for layer in layers_of(model))


# The encoder


def doubled_forward(cls: Any) -> Callable[..., Any]:
    own = cls.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = own(self, *args, **kwargs)
        return type(result)(last_hidden_state=2 * result[0])

    return forward


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_an_encoder_with_a_forward_of_its_own_keeps_it(name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    encoder = encoder_of(model)
    original = type(encoder)
    encoder.__class__ = type("Same", (original,), {})
    expected = outputs(model, inputs)
    squeezebert_fast.patch(model, backend="reference", strict=True)
    close(outputs(model, inputs), expected)
    assert type(squeezebert_fast.unpatch(model) and encoder).__name__ == "Same"
    encoder.__class__ = type("Mine", (original,), {"forward": doubled_forward(original)})
    expected = outputs(model, inputs)
    close(outputs(squeezebert_fast.patch(model), inputs), expected)
    assert reasons(model)["0"] == {"Mine has a forward of its own"}


@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("which", ["encoder", "layer", "attention", "product"])
def test_a_forward_replaced_in_the_class_is_called(
    which: str, name: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    squeezebert_fast.patch(model, backend="cpu")
    outputs(model, inputs)
    layer = layers_of(model)[0]
    cls = {
        "encoder": type(encoder_of(model)).__bases__[1],
        "layer": type(layer),
        "attention": type(attention_of(layer)),
        "product": nn.Linear,
    }[which]
    own = cls.forward
    calls: list[int] = []
    monkeypatch.setattr(cls, "forward", lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs))
    result = outputs(model, inputs)
    assert len(calls) >= (1 if which == "encoder" else 2)
    close(result, outputs(squeezebert_fast.unpatch(model), inputs))


# Attention by other functions, and decoders


@BY_FUNCTION
@pytest.mark.parametrize("name", ["BertModel", "RobertaModel", "DistilBertModel"])
def test_attention_switched_after_patch(name: str) -> None:
    model, inputs = model_of(name, "sdpa"), inputs_for(name)
    inputs["attention_mask"][1] = 0  # of which eager attention and sdpa make different things
    plain = copy.deepcopy(model)
    squeezebert_fast.patch(model, backend="cpu")
    for attention in ("eager", "sdpa", "eager"):
        for each in (model, plain):
            each.set_attn_implementation(attention)
        close(outputs(model, inputs), outputs(plain, inputs))
        close(
            outputs(model, inputs, output_hidden_states=True),
            outputs(plain, inputs, output_hidden_states=True),
        )


@BY_FUNCTION
@pytest.mark.parametrize("name", ["BertModel", "RobertaModel", "DistilBertModel"])
@pytest.mark.parametrize(
    "as_what", ["a name of its own", "sdpa", "eager", *slow(["flex_attention"]), "flash_attention_2"]
)
def test_attention_by_another_function_is_called(
    as_what: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    calls: list[int] = []
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def mine(module: Any, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        args = (*args[:2], None, *args[3:])
        result, weights = sdpa(module, query, *args, **kwargs)
        return result / 2, weights

    model, inputs = model_of(name), inputs_for(name)
    squeezebert_fast.patch(model, backend="cpu")
    outputs(model, inputs)
    key = "mine" if as_what == "a name of its own" else as_what
    monkeypatch.setitem(type(ALL_ATTENTION_FUNCTIONS)._global_mapping, key, mine)
    model.config._attn_implementation = key
    options: dict[str, Any] = {"attention_mask": None} if "fl" in key or key == "mine" else {}
    actual = outputs(model, {**inputs, **options})
    called = len(calls)
    close(actual, outputs(squeezebert_fast.unpatch(model), {**inputs, **options}))
    assert called == len(calls) - called
    assert called == 2 or (key == "eager" and NOBODY_ASKED)


@BY_FUNCTION
def test_the_modules_own_eager_attention_replaced_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = transformers.models.bert.modeling_bert
    calls: list[int] = []
    own = module.eager_attention_forward
    model, inputs = model_of("BertModel", "eager"), inputs_for("BertModel")
    squeezebert_fast.patch(model, backend="cpu")
    outputs(model, inputs)
    monkeypatch.setattr(module, "eager_attention_forward", lambda *a, **k: calls.append(1) or own(*a, **k))
    outputs(model, inputs)
    assert len(calls) == 2


DECODERS = ["BertLMHeadModel", "RobertaForCausalLM", "ElectraForCausalLM"]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("cross", [False, True])
def test_decoders_fall_back(name: str, cross: bool) -> None:
    model = model_of(name, is_decoder=True, add_cross_attention=cross)
    inputs = inputs_for(name)
    inputs.pop("token_type_ids", None)
    if cross:
        inputs["encoder_hidden_states"] = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(0))
        inputs["encoder_attention_mask"] = torch.ones(3, 5).tril()
    expected = outputs(model, inputs, output_hidden_states=True)
    with native_runs() as runs:
        squeezebert_fast.patch(model, backend="cpu")
        close(outputs(model, inputs, output_hidden_states=True), expected)
        model(**inputs)[0].sum().backward()
    assert runs == []
    assert reasons(model)["0"] == {"the layer is a decoder's"}
    if cross or not hasattr(model, "generate"):
        return  # transformers generates for neither here
    plain = squeezebert_fast.unpatch(copy.deepcopy(model))
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "use_cache": True}
    prompt = {
        **inputs,
        "input_ids": inputs["input_ids"][:, :3],
        "attention_mask": torch.ones(3, 3, dtype=torch.long),
    }
    assert torch.equal(model.generate(**prompt, **options), plain.generate(**prompt, **options))


def test_an_encoder_decoder_serves_its_encoder() -> None:
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        model_of("BertModel").config, model_of("BertModel").config
    )
    torch.manual_seed(0)
    model = transformers.EncoderDecoderModel(config).eval()
    inputs = inputs_for("BertModel")
    inputs.pop("token_type_ids")
    inputs["decoder_input_ids"] = inputs["input_ids"][:, :4]
    expected = outputs(model, inputs, output_hidden_states=True)
    squeezebert_fast.patch(model, backend="cpu")
    with native_runs() as runs:
        close(outputs(model, inputs), outputs(squeezebert_fast.unpatch(copy.deepcopy(model)), inputs))
        assert runs == ["float32"]
        close(outputs(model, inputs, output_hidden_states=True), expected)


@pytest.mark.parametrize("name", ["BertModel", "RobertaModel", "ElectraModel"])
def test_arguments_of_decoders_given_to_an_encoder(name: str) -> None:
    model, inputs = model_of(name), inputs_for(name)
    squeezebert_fast.patch(model, backend="cpu")
    extra = {"encoder_hidden_states": torch.randn(3, 5, 24), "use_cache": False}
    close(
        outputs(model, inputs, **extra),
        outputs(squeezebert_fast.unpatch(copy.deepcopy(model)), inputs, **extra),
    )


# Of transformers 4


@pytest.mark.skipif(not IS_TRANSFORMERS_4, reason="transformers 5 has no relative positions here")
@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@pytest.mark.parametrize(("name", "attention"), [case for case in KINDS if "Distil" not in case[0]])
def test_relative_positions(kind: str, name: str, attention: str) -> None:
    model, inputs = model_of(name, attention, position_embedding_type=kind), inputs_for(name)
    expected = outputs(model, inputs)
    squeezebert_fast.patch(model, backend="cpu")
    close(outputs(model, inputs), expected)
    assert reasons(model)["0"] == {f"positions are {kind}"}


@pytest.mark.skipif(not IS_TRANSFORMERS_4, reason="transformers 5 prunes no heads")
@pytest.mark.parametrize(("name", "attention"), KINDS)
@pytest.mark.parametrize("before", [False, True], ids=["after patch", "before patch"])
def test_pruned_heads(before: bool, name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    patched = copy.deepcopy(model)
    if not before:
        outputs(squeezebert_fast.patch(patched, backend="cpu"), inputs)
    for each in (model, patched):
        each.prune_heads({0: [1], 1: [0, 3]})
    squeezebert_fast.patch(patched, backend="cpu")
    close(outputs(patched, inputs), outputs(model, inputs))
    patched(**inputs)[0].sum().backward()
    for precision in ("bfloat16", "int8"):
        actual = outputs(squeezebert_fast.patch(patched, backend="cpu", precision=precision), inputs)
        assert torch.cosine_similarity(actual[0].flatten(), outputs(model, inputs)[0].flatten(), dim=0) > 0.98


@pytest.mark.skipif(not IS_TRANSFORMERS_4, reason="transformers 5 has no head masks here")
@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_head_masks(name: str, attention: str) -> None:
    model, inputs = model_of(name, attention), inputs_for(name)
    mask = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.5]])
    expected = outputs(model, inputs, head_mask=mask)
    squeezebert_fast.patch(model, backend="cpu")
    close(outputs(model, inputs, head_mask=mask), expected)
