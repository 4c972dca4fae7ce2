"""What was packed is never used for a model that has changed since."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

import squeezebert_fast
from squeezebert_fast.backends import cpu
from tests.engine_helpers import (
    LIBRARIES,
    PRECISIONS,
    encoder_of,
    native_runs,
    needs_native,
    patched,
    run,
    states,
    unpatched,
)
from tests.model_pairs import inputs_for, pair, tiny_config

pytestmark = needs_native


def optimizer_step(encoder: Any) -> None:
    encoder.requires_grad_(True)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.05)
    encoder(states(encoder, 2, 3, seed=5), torch.zeros(2, 1, 1, 3))[0].square().sum().backward()
    optimizer.step()


def fused_optimizer_step(encoder: Any) -> None:
    encoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.05, fused=True)
    encoder(states(encoder, 2, 3, seed=5), torch.zeros(2, 1, 1, 3))[0].square().sum().backward()
    optimizer.step()


def other_state(encoder: Any) -> dict[str, Tensor]:
    return {name: value.clone() * 1.25 for name, value in encoder.state_dict().items()}


def load_state_dict(encoder: Any) -> None:
    encoder.load_state_dict(other_state(encoder))


def load_state_dict_by_assignment(encoder: Any) -> None:
    encoder.load_state_dict(other_state(encoder), assign=True)


def write_one_element(encoder: Any) -> None:
    with torch.no_grad():
        encoder.layers[1].output.conv1d.weight[3, 1, 0] += 5.0


def write_a_bias(encoder: Any) -> None:
    with torch.no_grad():
        encoder.layers[0].attention.value.bias[2] += 5.0


def write_a_norm(encoder: Any) -> None:
    with torch.no_grad():
        encoder.layers[1].post_attention.layernorm.weight[2] += 5.0


def write_through_data(encoder: Any) -> None:
    encoder.layers[0].intermediate.conv1d.weight.data.mul_(1.5)


def write_through_numpy(encoder: Any) -> None:
    encoder.layers[0].intermediate.conv1d.weight.detach().numpy()[:] *= 1.5


def assign_data(encoder: Any) -> None:
    weight = encoder.layers[0].attention.key.weight
    weight.data = weight.data * 1.5


def swap_two_weights_data(encoder: Any) -> None:
    a, b = encoder.layers[0].attention.key.weight, encoder.layers[1].attention.key.weight
    a.data, b.data = b.data, a.data


def to_another_dtype_and_back(encoder: Any) -> None:
    encoder.to(torch.bfloat16).to(torch.float32)


def replace_a_parameter(encoder: Any) -> None:
    conv = encoder.layers[1].attention.query
    conv.weight = nn.Parameter(conv.weight.detach() * 1.5)


def remove_a_bias(encoder: Any) -> None:
    encoder.layers[0].output.conv1d.bias = None


def replace_a_convolution(encoder: Any) -> None:
    conv = copy.deepcopy(encoder.layers[1].post_attention.conv1d)
    with torch.no_grad():
        conv.weight.mul_(1.5)
    encoder.layers[1].post_attention.conv1d = conv


def replace_an_activation(encoder: Any) -> None:
    for library in LIBRARIES:
        layer = cast("Any", encoder_of(library, hidden_act="relu")).layers[0]
        if type(layer) is type(encoder.layers[0]):
            encoder.layers[0].intermediate.act = layer.intermediate.act


def replace_an_activation_by_one_without_a_kernel(encoder: Any) -> None:
    encoder.layers[0].intermediate.act = nn.Mish()


def replace_a_block(encoder: Any) -> None:
    encoder.layers[0].attention = copy.deepcopy(encoder.layers[1].attention)


def replace_a_layer(encoder: Any) -> None:
    encoder.layers[0] = copy.deepcopy(encoder.layers[1])


def swap_layers(encoder: Any) -> None:
    a, b = encoder.layers
    encoder.layers[0], encoder.layers[1] = b, a


def drop_a_layer(encoder: Any) -> None:
    del encoder.layers[1]


def append_a_layer(encoder: Any) -> None:
    encoder.layers.append(encoder.layers[0])


def replace_all_layers(encoder: Any) -> None:
    encoder.layers = nn.ModuleList([copy.deepcopy(encoder.layers[1])])


def remove_all_layers(encoder: Any) -> None:
    encoder.layers = nn.ModuleList()


def other_groups(encoder: Any) -> None:
    conv = encoder.layers[0].attention.query
    assert conv.groups == 4
    conv.groups = 2
    conv.weight = nn.Parameter(conv.weight.detach().repeat(1, 2, 1))


def other_eps(encoder: Any) -> None:
    encoder.layers[0].output.layernorm.eps = 0.5


def change_a_class(encoder: Any) -> None:
    conv = encoder.layers[0].output.conv1d
    conv.__class__ = type(
        "Half", (type(conv),), {"forward": lambda self, x: 0.5 * super(type(self), self).forward(x)}
    )


def override_a_forward(encoder: Any) -> None:
    block = encoder.layers[0].post_attention
    own = block.forward
    block.forward = lambda *args: 0.5 * own(*args)


def parametrize_a_weight(encoder: Any) -> None:
    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    parametrize.register_parametrization(encoder.layers[0].output.conv1d, "weight", Half())


def tie_two_weights(encoder: Any) -> None:
    encoder.layers[0].attention.key.weight = encoder.layers[0].attention.query.weight


def hook_that_changes_a_result(encoder: Any) -> None:
    encoder.layers[1].output.conv1d.register_forward_hook(lambda m, i, o: 0.5 * o)


def hook_before_a_norm(encoder: Any) -> None:
    encoder.layers[0].output.layernorm.register_forward_pre_hook(
        lambda m, i: (i[0] * 0.5 + 1.0 + i[0].square(),)
    )


CHANGES: dict[str, Callable[[Any], None]] = {
    f.__name__: f
    for f in (
        optimizer_step,
        fused_optimizer_step,
        load_state_dict,
        load_state_dict_by_assignment,
        write_one_element,
        write_a_bias,
        write_a_norm,
        write_through_data,
        write_through_numpy,
        assign_data,
        swap_two_weights_data,
        to_another_dtype_and_back,
        replace_a_parameter,
        remove_a_bias,
        replace_a_convolution,
        replace_an_activation,
        replace_an_activation_by_one_without_a_kernel,
        replace_a_block,
        replace_a_layer,
        swap_layers,
        drop_a_layer,
        append_a_layer,
        replace_all_layers,
        remove_all_layers,
        other_groups,
        other_eps,
        change_a_class,
        override_a_forward,
        parametrize_a_weight,
        tie_two_weights,
        hook_that_changes_a_result,
        hook_before_a_norm,
    )
}
FALL_BACK = {
    "replace_an_activation_by_one_without_a_kernel",
    "remove_all_layers",
    "change_a_class",
    "override_a_forward",
    "parametrize_a_weight",
    "hook_that_changes_a_result",
    "hook_before_a_norm",
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_shows(change: str, precision: str, library: str) -> None:
    encoder = patched(encoder_of(library), precision)
    x, mask = states(encoder, 2, 7), torch.zeros(2, 1, 1, 7)
    before = run(encoder, x, mask)
    CHANGES[change](encoder)
    with native_runs() as runs:
        actual = run(encoder, x, mask)
        again = run(encoder, x, mask)
    assert runs == ([] if change in FALL_BACK else [precision] * 2)
    assert torch.equal(again, actual)
    plain = squeezebert_fast.unpatch(encoder)
    expected = run(plain, x, mask)
    assert not torch.allclose(expected, before, rtol=1e-2, atol=1e-2) or change == "to_another_dtype_and_back"
    if precision == "float32" or change in FALL_BACK:
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=5e-5)
    fresh = squeezebert_fast.patch(plain, backend="cpu", precision=precision)
    assert torch.equal(run(fresh, x, mask), actual)
    assert not torch.equal(actual, before)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_hook_that_comes_and_goes(library: str) -> None:
    encoder: Any = patched(encoder_of(library))
    x, mask = states(encoder, 2, 7), torch.zeros(2, 1, 1, 7)
    expected = run(encoder, x, mask)
    calls: list[int] = []
    unrelated = nn.Linear(2, 2)
    with native_runs() as runs:
        for module in (
            encoder.layers[1].output.conv1d,
            encoder.layers[0].attention,
            encoder.layers[0].intermediate,
        ):
            handle = module.register_forward_hook(lambda *_: calls.append(1))
            torch.testing.assert_close(run(encoder, x, mask), expected, rtol=2e-5, atol=2e-5)
            assert calls.pop() == 1
            assert runs == []
            handle.remove()
            unrelated.register_forward_hook(lambda *_: None)
            for _ in range(2):
                assert torch.equal(run(encoder, x, mask), expected)
            assert runs == ["float32"] * 2
            runs.clear()


@pytest.mark.parametrize("kind", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_a_hook_on_every_module_after_the_engine_ran(kind: str) -> None:
    encoder: Any = patched(encoder_of())
    x = states(encoder, 2, 7)
    expected = run(encoder, x)
    seen: set[int] = set()
    handle = getattr(torch.nn.modules.module, kind)(lambda module, *_: seen.add(id(module)))
    try:
        torch.testing.assert_close(run(encoder, x), expected, rtol=2e-5, atol=2e-5)
    finally:
        handle.remove()
    assert id(encoder.layers[1].output.layernorm) in seen
    assert torch.equal(run(encoder, x), expected)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_dropout_that_is_switched_on_and_off(precision: str, library: str) -> None:
    encoder: Any = patched(encoder_of(library), precision)
    x, mask = states(encoder, 2, 7), torch.zeros(2, 1, 1, 7)
    expected = run(encoder, x, mask)
    for module in (m for m in encoder.modules() if isinstance(m, nn.Dropout)):
        assert torch.equal(run(encoder.train(), x, mask), expected)  # p is 0
        module.p = 1.0
        plain = unpatched(encoder)
        with native_runs() as runs:
            torch.testing.assert_close(run(encoder, x, mask), run(plain, x, mask), rtol=2e-5, atol=2e-5)
            assert runs == []
            assert torch.equal(run(encoder.eval(), x, mask), expected)
            module.train()
            torch.testing.assert_close(
                run(encoder, x, mask), run(unpatched(encoder), x, mask), rtol=2e-5, atol=2e-5
            )
            assert runs == [precision]
        module.p = 0.0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_instruction_set_is_the_one_in_use(precision: str) -> None:
    encoder = patched(encoder_of(), precision)
    x = states(encoder, 4, 20)
    results: dict[str, Tensor] = {}
    for _ in range(2):
        for isa in cpu.instruction_sets():
            with cpu.use_instruction_set(isa):
                actual = run(encoder, x)
                fresh = run(patched(squeezebert_fast.unpatch(copy.deepcopy(encoder)), precision), x)
            assert torch.equal(actual, fresh)
            assert torch.equal(results.setdefault(isa, actual), actual)
    if len(results) > 2:  # sums in another order have other bits: the build really changed
        assert len({r.numpy().tobytes() for r in results.values()}) > 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_patching_again_takes_the_new_precision(library: str) -> None:
    encoder = patched(encoder_of(library))
    x, mask = states(encoder, 2, 7), torch.zeros(2, 1, 1, 7)
    results = []
    with native_runs() as runs:
        for precision in ("float32", "int8", "bfloat16", None):
            results.append(run(squeezebert_fast.patch(encoder, backend="cpu", precision=precision), x, mask))
    assert runs == ["float32", "int8", "bfloat16", "float32"]
    assert torch.equal(results[0], results[3])
    assert len({r.numpy().tobytes() for r in results}) == 3


@pytest.mark.parametrize("library", LIBRARIES)
def test_resized_embeddings(library: str) -> None:
    ours, theirs = pair("SqueezeBertForMaskedLM", tiny_config())
    model: Any = squeezebert_fast.patch(ours if library == "ours" else theirs, backend="cpu")
    inputs = inputs_for("SqueezeBertForMaskedLM", tiny_config())
    with torch.no_grad():
        expected = model(**inputs)[0]
        model.resize_token_embeddings(70)
        actual = model(**inputs)[0]
    assert actual.shape[-1] == 70
    torch.testing.assert_close(actual[..., :61], expected, rtol=2e-5, atol=5e-5)


def test_a_copy_has_weights_of_its_own() -> None:
    encoder: Any = patched(encoder_of(), "int8")
    x = states(encoder, 2, 7)
    expected = run(encoder, x)
    other = copy.deepcopy(encoder)
    assert torch.equal(run(other, x), expected)
    with torch.no_grad():
        other.layers[0].attention.query.weight.mul_(1.5)
    assert not torch.equal(run(other, x), expected)
    assert torch.equal(run(encoder, x), expected)


def test_weights_of_inference_mode_are_read_every_time() -> None:
    with torch.inference_mode():
        encoder: Any = encoder_of()
    encoder = squeezebert_fast.patch(encoder, backend="cpu", precision="int8")
    x = states(encoder, 2, 7)
    before = run(encoder, x)
    with torch.inference_mode():
        encoder.layers[0].output.conv1d.weight[1, 1, 0] += 5.0
    with native_runs() as runs:
        actual = run(encoder, x)
    assert runs == ["int8"]
    assert F.mse_loss(actual, before) > 1e-6


def test_weights_that_are_not_contiguous_are_read_every_time() -> None:
    encoder: Any = encoder_of()
    conv = encoder.layers[0].output.conv1d
    wide = torch.zeros(conv.weight.shape[1], conv.weight.shape[0], 1)
    conv.weight = nn.Parameter(wide.transpose(0, 1).copy_(conv.weight.detach()))
    assert not conv.weight.is_contiguous()
    x, mask = states(encoder, 2, 7), torch.zeros(2, 1, 1, 7)
    fast = squeezebert_fast.patch(encoder, backend="cpu")
    for _ in range(2):
        with native_runs() as runs:
            actual = run(fast, x, mask)
        assert runs == ["float32"]
        torch.testing.assert_close(actual, run(unpatched(fast), x, mask), rtol=2e-5, atol=2e-5)
        wide[2, 3] += 1.0
