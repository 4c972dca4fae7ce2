"""A patched model gives what it gave before, by the tolerance rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast import backends
from squeezebert_fast.backends import cpu
from tests.engine_helpers import native_runs
from tests.helpers import assert_within_rule
from tests.model_pairs import CLASSES, inputs_for, labels_for, pair, random_config, tiny_config

BACKENDS = ["auto", "reference", "cpu", "triton"]
LIBRARIES = ["ours", "theirs"]


def model_of(library: str, name: str = "SqueezeBertModel", config: Any = None, seed: int = 0) -> nn.Module:
    ours, theirs = pair(name, tiny_config() if config is None else config, seed)
    return ours if library == "ours" else theirs


def to_double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}


def assert_patch_keeps(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> None:
    """Every output of the patched model is within the rule of the unpatched one's."""
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(**to_double(inputs), return_dict=False)
        same = model(**inputs, return_dict=False)
        squeezebert_fast.patch(model, **options)
        actual = model(**inputs, return_dict=False)
    assert len(actual) == len(same)
    for i, (a, s, e) in enumerate(zip(flat(actual), flat(same), flat(exact), strict=True)):
        assert_within_rule(a, s, e, f"output {i}", whole_model=True)


def flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in flat(output)]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_every_class(name: str, library: str, backend: str) -> None:
    model = model_of(library, name)
    inputs = inputs_for(name, tiny_config())
    inputs |= labels_for(name, tiny_config(), inputs)
    assert_patch_keeps(model, inputs, backend=backend)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("seed", range(12))
def test_random_configurations_with_unequal_groups(seed: int, library: str) -> None:
    config = random_config(seed)
    model = model_of(library, "SqueezeBertModel", config, seed)
    shape = {"batch": 1 + seed % 4, "tokens": 1 + seed * 5 % 19}
    assert_patch_keeps(model, inputs_for("SqueezeBertModel", config, seed, **shape), backend="cpu")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "activation",
    ["relu", "gelu_10", "gelu_fast", "gelu_python", "quick_gelu", "swish", "laplace", "prelu", "xielu"],
)
def test_activations(activation: str, library: str) -> None:
    config = tiny_config(hidden_act=activation)
    ours, theirs = pair("SqueezeBertModel", config)
    model = (ours if library == "ours" else theirs).float()  # xielu starts in bfloat16
    assert_patch_keeps(model, inputs_for("SqueezeBertModel", config), backend="cpu")


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_a_training_step(backend: str, library: str) -> None:
    name = "SqueezeBertForSequenceClassification"
    model = model_of(library, name).train()
    inputs = inputs_for(name, tiny_config())
    inputs |= labels_for(name, tiny_config(), inputs)

    def gradients(model: nn.Module) -> dict[str, Tensor]:
        model.zero_grad()
        model(**inputs).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    exact, same = gradients(copy.deepcopy(model).double()), gradients(model)
    actual = gradients(squeezebert_fast.patch(model, backend=backend))
    assert actual.keys() == same.keys()
    largest = max(g.abs().max() for g in exact.values())
    for name, gradient in actual.items():  # the key's bias has no gradient but rounding: compare in one scale
        error, own = ((g[name].double() - exact[name]).abs().max() for g in (actual, same))
        assert error <= 2 * own + 1e-6 * largest, name
        assert gradient.dtype == torch.float32


def test_dropout_is_drawn_as_before_where_the_operations_are_the_same() -> None:
    config = tiny_config(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    model = model_of("ours", config=config).train()
    inputs = inputs_for("SqueezeBertModel", config)
    torch.manual_seed(3)
    expected = model(**inputs)[0]
    squeezebert_fast.patch(model, backend="reference")
    torch.manual_seed(3)
    torch.testing.assert_close(model(**inputs)[0], expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(model(**inputs)[0], model(**inputs)[0])
    assert torch.equal(model.eval()(**inputs)[0], model(**inputs)[0])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_each_dropout_acts_in_training(library: str, p: float) -> None:
    model = squeezebert_fast.patch(model_of(library)).train()
    inputs = inputs_for("SqueezeBertModel", tiny_config())
    layer = model.encoder.layers[1]
    expected = model(**inputs)[0]
    for block in (layer.attention, layer.post_attention, layer.output):
        block.dropout.p = p
        actual = model(**inputs)[0]
        assert actual.isfinite().all()
        assert not torch.equal(actual, expected)
        block.dropout.p = 0.0
    assert torch.equal(model(**inputs)[0], expected)
    if p == 1.0:  # nothing is random any more
        layer.attention.dropout.p = layer.output.dropout.p = p
        torch.testing.assert_close(
            model(**inputs)[0], squeezebert_fast.unpatch(model)(**inputs)[0], rtol=1e-4, atol=1e-4
        )


def masks(batch: int = 3, tokens: int = 7, heads: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lowest = torch.finfo(torch.float32).min
    half_zero = torch.ones(batch, tokens)
    half_zero[1] = 0
    full = torch.zeros(batch, heads, tokens, tokens)
    full[0, :, 2] = lowest  # a query that attends to nothing
    causal = torch.full((tokens, tokens), -float("inf")).triu(1)[None, None]
    return {
        "a sequence without tokens": half_zero,
        "4-D additive": torch.randn(batch, heads, tokens, tokens, generator=generator),
        "4-D with a query that attends to nothing": full,
        "4-D broadcast": causal.expand(batch, 1, tokens, tokens),
        "bool 2-D": half_zero.bool(),
        "integer 2-D": half_zero.long(),
    }


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("mask", masks())
def test_masks(mask: str, library: str) -> None:
    inputs = inputs_for("SqueezeBertModel", tiny_config()) | {"attention_mask": masks()[mask]}
    with torch.no_grad():
        model = model_of(library)
        try:
            same = model(**inputs)[0]
        except ValueError:
            assert (library, inputs["attention_mask"].dim()) == ("theirs", 4)
            pytest.skip("transformers 4 takes no 4-D mask here")
        squeezebert_fast.patch(model, backend="cpu")
        actual = model(**inputs)[0]
        assert actual.isfinite().all()
        torch.testing.assert_close(actual, same, rtol=2e-5, atol=2e-5)


MASKS_OF_THE_ENCODER = {
    "none": None,
    "bool": torch.arange(7) < 4,
    "bool 4-D": (torch.arange(49).view(1, 1, 7, 7) % 3 > 0).expand(3, 4, 7, 7),
    "bfloat16": torch.randn(3, 1, 1, 7, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "integer": torch.arange(7),
    "minus infinity for one query": torch.where(
        torch.arange(7)[:, None] == 2, -float("inf"), torch.zeros(7, 7)
    ),
    "not a number": torch.where(torch.arange(7) == 2, float("nan"), torch.zeros(7)),
    "widens the batch": torch.zeros(3, 4, 1, 7),
    "widens the dtype": torch.zeros(3, 1, 1, 7, dtype=torch.float64),
    "does not fit": torch.zeros(3, 1, 1, 6),
    "five axes": torch.zeros(1, 3, 1, 1, 7),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("mask", MASKS_OF_THE_ENCODER)
def test_the_encoder_alone_with_masks_that_models_never_make(mask: str, library: str) -> None:
    encoder = model_of(library).encoder
    x = torch.randn(1 if mask == "widens the batch" else 3, 7, 24, generator=torch.Generator().manual_seed(1))

    def result() -> Any:
        try:
            with torch.no_grad():
                return encoder(x, MASKS_OF_THE_ENCODER[mask])[0]
        except (RuntimeError, TypeError) as error:
            return type(error)

    expected = result()
    squeezebert_fast.patch(encoder, backend="cpu")
    actual = result()
    if isinstance(expected, type) and mask != "none":  # transformers 4 has no encoder without a mask
        assert actual == expected
    elif not isinstance(expected, type):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_nan_in_weights_or_inputs_shows_as_before(library: str) -> None:
    model = model_of(library)
    inputs = inputs_for("SqueezeBertModel", tiny_config())
    embeds = torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(0))
    embeds[1, 3, 2] = float("nan")
    spoilt = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    weight = model.encoder.layers[0].attention.query.weight
    with torch.no_grad():
        expected = model(**spoilt)[0].isnan()
        assert torch.equal(squeezebert_fast.patch(model, backend="cpu")(**spoilt)[0].isnan(), expected)
        weight[5, 0, 0] = float("nan")
        actual = model(**inputs)[0].isnan()
        assert torch.equal(actual, squeezebert_fast.unpatch(model)(**inputs)[0].isnan())
        assert actual.any()


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("return_dict", [False, True])
@pytest.mark.parametrize(
    ("states", "attentions"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_optional_outputs(library: str, return_dict: bool, states: bool, attentions: bool) -> None:
    model = model_of(library)
    inputs = inputs_for("SqueezeBertModel", tiny_config())
    options = {"return_dict": return_dict, "output_hidden_states": states, "output_attentions": attentions}
    with torch.no_grad():
        expected = model(**inputs, **options)
        actual = squeezebert_fast.patch(model)(**inputs, **options)
    assert type(actual) is type(expected)
    assert len(actual) == len(expected) == 2 + states + attentions
    if return_dict:
        assert list(actual) == list(expected)
        actual, expected = actual.to_tuple(), expected.to_tuple()
    for a, e in zip(flat(actual), flat(expected), strict=True):
        torch.testing.assert_close(a, e, rtol=2e-5, atol=2e-5)
    encoder_output = model.encoder(torch.randn(1, 3, 24), torch.zeros(1, 1, 1, 3), return_dict=return_dict)
    plain = squeezebert_fast.unpatch(model).encoder(
        torch.randn(1, 3, 24), torch.zeros(1, 1, 1, 3), return_dict=return_dict
    )
    assert type(encoder_output) is type(plain)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_and_back(dtype: torch.dtype, library: str) -> None:
    model = model_of(library)
    inputs = inputs_for("SqueezeBertModel", tiny_config())
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(**inputs)[0]
        same = copy.deepcopy(model).to(dtype)(**inputs)[0]
        squeezebert_fast.patch(model)(**inputs)
        actual = model.to(dtype)(**inputs)[0]
        assert_within_rule(actual, same, exact, whole_model=True)
        rounded = copy.deepcopy(squeezebert_fast.unpatch(model)).float()(**inputs)[0]
        again = squeezebert_fast.patch(model).float()(**inputs)[0]
        torch.testing.assert_close(again, rounded, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_autocast_and_an_empty_batch(library: str) -> None:
    model = model_of(library)
    inputs = inputs_for("SqueezeBertModel", tiny_config())
    x, mask = torch.randn(3, 5, 24), torch.zeros(3, 1, 1, 5)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = model(**inputs)[0]
            actual = squeezebert_fast.patch(model)(**inputs)[0]
        exact = copy.deepcopy(squeezebert_fast.unpatch(model)).double()(**inputs)[0]
        assert actual.dtype == expected.dtype
        error, own = ((t.double() - exact).square().mean().sqrt() for t in (actual, expected))
        assert error <= 2 * own
        squeezebert_fast.patch(model)
        assert model.encoder(x[:0], mask[:0])[0].shape == (0, 5, 24)
        assert model.encoder(x[:1, :1], mask[:1, ..., :1])[0].shape == (1, 1, 24)


@pytest.mark.parametrize("library", LIBRARIES)
def test_second_derivatives(library: str) -> None:
    model = model_of(library)
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def penalty() -> Tensor:
        (first,) = torch.autograd.grad(
            model.encoder(x, torch.zeros(2, 1, 1, 5))[0].square().sum(), x, create_graph=True
        )
        return torch.autograd.grad(first.square().sum(), x)[0]

    expected = penalty()
    squeezebert_fast.patch(model)
    torch.testing.assert_close(penalty(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_every_instruction_set(isa: str) -> None:
    with cpu.use_instruction_set(isa):
        assert_patch_keeps(model_of("ours"), inputs_for("SqueezeBertModel", tiny_config()), backend="cpu")


def test_the_kernels_really_run(monkeypatch: pytest.MonkeyPatch) -> None:
    if not cpu.instruction_sets():
        pytest.skip("the native module is not built")
    calls: list[str | None] = []
    native = cpu.grouped_pointwise_conv
    monkeypatch.setattr(cpu, "grouped_pointwise_conv", lambda *a: calls.append(a[4]) or native(*a))
    x, mask = torch.randn(3, 7, 24), torch.zeros(3, 1, 1, 7)
    for library in LIBRARIES:
        encoder = squeezebert_fast.patch(model_of(library).encoder, backend="cpu", strict=True)
        with native_runs() as runs:
            with torch.no_grad():
                encoder(x, mask)
            assert runs == ["float32"]
            assert calls == []  # all layers are one native call
            encoder(
                x, mask
            )  # with a gradient post-attention's is one, q, k and v are, and a feed-forward block is
            assert calls == 2 * [None]
            squeezebert_fast.patch(encoder, backend="reference")(x, mask)
            with torch.no_grad():
                encoder(x, mask)
            assert len(calls) == 2
            squeezebert_fast.patch(encoder, backend="cpu")
            encoder.layers[1].output.register_forward_hook(lambda *_: None)
            with torch.no_grad():
                encoder(x, mask)
            assert calls[2:] == [None]  # of the other layer
            assert runs == ["float32"]
        calls.clear()
    assert set(BACKENDS) == set(backends.NAMES)
