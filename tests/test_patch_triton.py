"""`patch(model, backend="triton")`: which kernels run for which layers and calls, and what never reaches them.

The kernels are PyTorch's own operations here (tests/fake_triton.py); real ones are in tests/triton.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast import ArgumentError, UnsupportedError
from squeezebert_fast.patching.plan import engine_of
from squeezebert_fast.patching.swapping import Accelerated
from tests.engine_helpers import (
    EDGES,
    LIBRARIES,
    channels_of,
    encoder_of,
    groups,
    heads_of,
    keep_some,
    masks_for,
    padding_mask,
    random_encoder,
    states,
)
from tests.fake_triton import fake_triton
from tests.helpers import assert_within_rule
from tests.model_pairs import CLASSES, inputs_for, pair, tiny_config

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYER = ["self_attention", "conv_add_layer_norm", "feed_forward"]
OPERATIONS = [
    "qkv_projection",
    "attention",
    "grouped_pointwise_conv",
    "add_layer_norm",
    "grouped_mlp",
    "add_layer_norm",
]
"""A layer's, in their order."""


@pytest.fixture
def calls() -> Iterator[list[str]]:
    with fake_triton() as calls:
        yield calls


def patched(module: nn.Module, **options: Any) -> Any:
    return squeezebert_fast.patch(copy.deepcopy(module), **{"backend": "triton", **options})


def zero_mask(x: Tensor) -> Tensor:
    """What adds nothing: transformers 4 can't do without a mask."""
    return torch.zeros(x.shape[0], 1, 1, x.shape[1], dtype=x.dtype)


def run(encoder: Any, x: Tensor, mask: Tensor | str | None = "zeros") -> Tensor:
    """The last hidden state, without gradients. No mask at all (None) is for accelerated layers only."""
    if isinstance(mask, str) or (mask is None and not isinstance(encoder, Accelerated)):
        mask = zero_mask(x)
    with torch.no_grad():
        return encoder(x, mask)[0]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5, equal_nan=True)


def reasons(model: nn.Module) -> set[str]:
    return {row.reason for row in squeezebert_fast.explain(model).rows}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layer_is_three_passes_in_the_models_own_dtype(
    dtype: torch.dtype, library: str, calls: list[str]
) -> None:
    encoder = encoder_of(library, **groups(2, 2, 2, 1, 4, 4)).to(dtype)
    x = states(encoder, 3, 7).to(dtype)
    actual = run(patched(encoder, strict=True), x)
    assert calls == 2 * LAYER
    assert actual.dtype is dtype
    torch.testing.assert_close(actual, run(encoder, x), rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("seed", range(6))
def test_random_configurations_with_every_mask(seed: int, library: str, calls: list[str]) -> None:
    encoder = random_encoder(library, seed)
    fast, x = patched(encoder), states(encoder, 3, 6, seed)
    for kind, mask in masks_for(3, 6, heads_of(encoder), seed).items():
        del calls[:]
        torch.testing.assert_close(
            run(fast, x, mask), run(encoder, x, mask), rtol=1e-4, atol=1e-4, equal_nan=True, msg=kind
        )
        assert "self_attention" in calls


@pytest.mark.parametrize("edge", [name for name in EDGES if "layer" not in name and "200" not in name])
def test_unusual_configurations(edge: str, calls: list[str]) -> None:
    encoder = encoder_of(**EDGES[edge])
    x = states(encoder, 2, 5)
    close(run(patched(encoder), x), run(encoder, x))
    assert calls[0] == "self_attention"


def test_groups_that_do_not_line_up_split_a_pass_and_explain_says_so(calls: list[str]) -> None:
    encoder = encoder_of(num_hidden_layers=1, **groups(1, 2, 4, 1, 2, 4))
    fast = patched(encoder, strict=True)
    run(fast, states(encoder, 2, 5))
    assert calls == ["self_attention", "conv_add_layer_norm", "grouped_pointwise_conv", "conv_add_layer_norm"]
    rows = {row.part: row for row in squeezebert_fast.explain(fast).rows}
    assert {row.backend for row in rows.values()} == {"triton"}
    apart = "a kernel of its own, in inference: "
    assert (
        rows["key"].reason
        == rows["attention"].reason
        == f"{apart}query, key and value have 1, 2 and 4 groups"
    )
    assert rows["intermediate"].reason == f"{apart}intermediate and output have 2 and 4 groups"
    assert rows["output"].reason == rows["post_attention_norm"].reason == "pass B, one kernel, in inference"
    across = patched(encoder_of(num_hidden_layers=1, num_attention_heads=3, **groups(4)))
    reason = squeezebert_fast.explain(across).rows[0].reason
    assert reason == f"{apart}3 heads lie across 4 groups"


def test_explain_names_the_passes(calls: list[str]) -> None:
    rows = squeezebert_fast.explain(patched(encoder_of().bfloat16())).rows
    assert {(row.backend, row.precision) for row in rows} == {("triton", "bfloat16")}
    passes = "AAAABBCCC"
    assert [row.reason for row in rows[:9]] == [f"pass {p}, one kernel, in inference" for p in passes]


# What does not reach the engine


@pytest.mark.parametrize("library", LIBRARIES)
def test_gradients_run_operation_by_operation(library: str, calls: list[str]) -> None:
    encoder = encoder_of(library)
    x = states(encoder, 2, 5).requires_grad_()
    (expected,) = torch.autograd.grad(encoder(x, zero_mask(x))[0].square().sum(), x)
    strict = patched(encoder, strict=True)
    (actual,) = torch.autograd.grad(strict(x, zero_mask(x))[0].square().sum(), x)
    forward = 2 * OPERATIONS
    assert calls == forward + [f"{name}_backward" for name in reversed(forward)]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    del calls[:]
    for parameter in strict.parameters():
        parameter.requires_grad_(False)
    strict(x.detach())
    assert calls == 2 * LAYER


def test_dropout_runs_operation_by_operation(calls: list[str]) -> None:
    encoder = encoder_of(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5).train()
    x = states(encoder, 2, 5)
    fast = patched(encoder, strict=True)
    torch.manual_seed(7)
    first = run(fast, x)
    assert calls == 2 * OPERATIONS
    assert not torch.equal(run(fast, x), first)
    torch.manual_seed(7)
    assert torch.equal(run(fast, x), first)
    del calls[:]
    run(fast.eval(), x)
    assert calls == 2 * LAYER


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_hook_fires_and_the_other_layer_runs_its_operations(library: str, calls: list[str]) -> None:
    encoder: Any = encoder_of(library)
    fast, x, seen = patched(encoder), states(encoder, 2, 5), []
    run(fast, x)
    del calls[:]
    handle = fast.layers[1].output.conv1d.register_forward_hook(lambda *_: seen.append(1))
    close(run(fast, x), run(encoder, x))
    assert seen == [1]
    assert calls == OPERATIONS
    rows = squeezebert_fast.explain(fast).rows
    assert {row.backend for row in rows if row.layer.endswith("0")} == {"triton"}
    assert {row.backend for row in rows if row.layer.endswith("1")} == {"reference"}
    handle.remove()
    del calls[:]
    run(fast, x)
    assert calls == 2 * LAYER


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_a_call_asks_for_falls_back(library: str, calls: list[str]) -> None:
    encoder = encoder_of(library)
    fast, x = patched(encoder), states(encoder, 2, 5)
    with torch.no_grad():
        mask = zero_mask(x)
        scores = fast(x, mask, output_attentions=True).attentions
        for a, e in zip(scores, encoder(x, mask, output_attentions=True).attentions, strict=True):
            close(a, e)
    assert calls == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_autocast_runs_operation_by_operation(library: str, calls: list[str]) -> None:
    encoder = encoder_of(library)
    x = states(encoder, 2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        actual, expected = run(patched(encoder, strict=True), x), run(encoder, x)
    assert calls == 2 * OPERATIONS
    assert actual.dtype is expected.dtype is torch.float32
    torch.testing.assert_close(actual, expected, rtol=5e-2, atol=5e-2)


def test_an_activation_without_a_kernel_runs_between_two_products(calls: list[str]) -> None:
    for name in ("tanh", "prelu"):
        encoder = encoder_of(hidden_act=name)
        x = states(encoder, 2, 5)
        close(run(patched(encoder), x), run(encoder, x))
        assert "self_attention" not in calls
        assert calls.count("attention") == 2
        del calls[:]


def test_heads_that_are_too_wide_run_on_the_reference(calls: list[str]) -> None:
    encoder = encoder_of(**EDGES["one head of 200"])
    fast, x = patched(encoder), states(encoder, 2, 5)
    torch.testing.assert_close(run(fast, x), run(encoder, x), rtol=1e-3, atol=1e-3)
    assert "attention" not in calls
    assert calls.count("add_layer_norm") == 4
    too_wide = "triton: heads of 200 channels, the kernel takes at most 128"
    assert {row.part: row.reason for row in squeezebert_fast.explain(fast).rows}["attention"] == too_wide
    with pytest.raises(UnsupportedError, match=too_wide):
        run(patched(encoder, strict=True), x)


def test_a_precision_of_the_cpus_is_refused(calls: list[str]) -> None:
    encoder = encoder_of()
    x = states(encoder, 2, 5)
    with pytest.raises(UnsupportedError, match="precision 'bfloat16' is the CPU's"):
        patched(encoder, precision="bfloat16", strict=True)
    fast = patched(encoder, precision="bfloat16")
    close(run(fast, x), run(encoder, x))
    assert "self_attention" not in calls
    assert "not in bfloat16: one op at a time" in reasons(fast)


# int8, whose weights are made once


@pytest.mark.parametrize("library", LIBRARIES)
def test_int8_keeps_weights_and_sees_their_changes(library: str, calls: list[str]) -> None:
    encoder = encoder_of(library, **groups(2, 4, 1, 3, 2, 6))
    fast, x = patched(encoder, precision="int8", strict=True), states(encoder, 2, 5)
    before = run(fast, x)
    assert calls == 2 * LAYER
    torch.testing.assert_close(before, run(encoder, x), rtol=0.1, atol=0.1)
    assert not torch.equal(before, run(encoder, x))
    kept = engine_of(fast)
    assert kept is not None
    assert torch.equal(run(fast, x), before)
    assert engine_of(fast) is kept
    for one in (encoder, fast):
        with torch.no_grad():
            one.layers[0].output.conv1d.weight.mul_(-1.0)
    torch.testing.assert_close(run(fast, x), run(encoder, x), rtol=0.1, atol=0.1)
    assert engine_of(fast) is not kept
    rows = squeezebert_fast.explain(fast).rows
    assert {(r.backend, r.precision, r.reason) for r in rows} == {
        ("triton", "int8", "int8 products, a kernel each, in inference")
    }


def test_int8_without_padding_and_of_parameters_without_a_version(calls: list[str]) -> None:
    with torch.inference_mode():
        encoder = encoder_of()
        x, keep = states(encoder, 6, 13), keep_some(6, 13, "holes")
        fast = squeezebert_fast.patch(encoder, backend="triton", precision="int8", unpad=True, strict=True)
        actual = run(fast, x, padding_mask(keep))
        assert engine_of(fast) is None
        squeezebert_fast.patch(fast, backend="triton", precision="int8", strict=True)
        close(actual[keep], run(fast, x, padding_mask(keep))[keep])
        assert actual[~keep].eq(0).all()
    assert calls == 4 * LAYER


def test_giving_up_the_originals_is_refused(calls: list[str]) -> None:
    encoder = encoder_of()
    with pytest.raises(UnsupportedError, match="the triton backend reads the original parameters"):
        squeezebert_fast.patch(encoder, backend="triton", keep_original=False)
    assert type(encoder).__name__ == "SqueezeBertEncoder"
    close(run(encoder, states(encoder, 1, 3)), run(encoder_of(), states(encoder, 1, 3)))


def test_wrong_hidden_states_or_masks_raise_what_they_raised(calls: list[str]) -> None:
    encoder = encoder_of()
    fast, x = patched(encoder), states(encoder, 2, 5)
    run(fast, x)
    del calls[:]
    with pytest.raises(ArgumentError, match=r"x has shape \[2, 5, 7\]"):
        run(fast, x[..., :7])
    with pytest.raises(ArgumentError, match=r"weight_q is torch\.float32, but x is torch\.bfloat16"):
        run(fast, x.bfloat16())
    with pytest.raises(ArgumentError, match=r"mask has shape .* whose 3 heads the layers don't have"):
        run(fast, x, torch.zeros(2, 3, 5, 5))
    assert calls == []
    assert run(fast, x[:0]).shape == (0, 5, channels_of(encoder))
    assert calls == []


def test_a_norm_of_another_dtype_keeps_layers_apart(calls: list[str]) -> None:
    """As PyTorch mixes them: 16-bit rows, float32 parameters."""
    encoder: Any = encoder_of().bfloat16()
    for layer in encoder.layers:
        layer.output.layernorm.float()
    x = states(encoder, 2, 5).bfloat16()
    fast, same = run(patched(encoder), x), run(encoder, x)
    assert_within_rule(fast, same, run(encoder.double(), x.double()), whole_model=True)
    assert calls.count("add_layer_norm") == 4
    assert "self_attention" not in calls


# Parameters are live


def changes() -> dict[str, Any]:
    def data(encoder: Any) -> None:
        encoder.layers[0].output.conv1d.weight.data = torch.randn_like(encoder.layers[0].output.conv1d.weight)

    def one_element(encoder: Any) -> None:
        encoder.layers[1].attention.query.weight.data.view(-1)[3] += 1.0  # what a packed copy would not see

    def parameter(encoder: Any) -> None:
        encoder.layers[0].intermediate.conv1d.bias = nn.Parameter(torch.randn(48))

    def module(encoder: Any) -> None:
        encoder.layers[0], encoder.layers[1] = encoder.layers[1], encoder.layers[0]

    def eps(encoder: Any) -> None:
        encoder.layers[0].output.layernorm.eps = 0.5

    def dtype(encoder: Any) -> None:
        encoder.double().float()

    return {f.__name__: f for f in (data, one_element, parameter, module, eps, dtype)}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("change", changes())
def test_no_change_of_a_parameter_goes_unseen(change: str, library: str, calls: list[str]) -> None:
    encoder = encoder_of(library)
    fast, x = patched(encoder), states(encoder, 2, 5)
    before = run(fast, x)
    for one in (encoder, fast):
        torch.manual_seed(3)
        changes()[change](one)
    expected = run(encoder, x)
    close(run(fast, x), expected)
    assert calls == 4 * LAYER
    if change != "dtype":
        assert not torch.equal(before, expected)


def test_a_backend_changed_by_patching_again_is_used(calls: list[str]) -> None:
    encoder = encoder_of()
    x = states(encoder, 2, 5)
    fast = patched(encoder)
    for backend, expected in (("triton", 6), ("cpu", 0), ("triton", 6), ("auto", 0)):
        del calls[:]
        squeezebert_fast.patch(fast, backend=backend)
        close(run(fast, x), run(encoder, x))
        assert len(calls) == expected
    squeezebert_fast.unpatch(fast)
    assert engine_of(fast) is None
    assert type(fast) is type(encoder)


def test_copies_and_pickles_stay_patched(calls: list[str]) -> None:
    encoder = encoder_of()
    fast, x = patched(encoder), states(encoder, 2, 5)
    expected = run(fast, x)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):  # noqa: S301
        del calls[:]
        assert torch.equal(run(other, x), expected)
        assert calls == 2 * LAYER


# Without padding


@pytest.mark.parametrize("kind", ["right", "left", "holes"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_unpad_runs_over_real_tokens_only(library: str, kind: str, calls: list[str]) -> None:
    encoder = encoder_of(library)
    x, keep = states(encoder, 6, 13), keep_some(6, 13, kind)
    keep[2] = False
    mask = padding_mask(keep)
    with torch.no_grad():
        expected = encoder(x, mask, output_hidden_states=True)
        x[~keep] = torch.nan  # not computed
        actual = patched(encoder, unpad=True, strict=True)(x, mask, output_hidden_states=True)
    assert calls == 2 * LAYER
    assert actual.hidden_states[0] is x
    assert torch.equal(actual[0], actual.hidden_states[-1])
    for a, e in zip(actual.hidden_states[1:], expected.hidden_states[1:], strict=True):
        close(a[keep], e[keep])
        assert a[~keep].eq(0).all()


@pytest.mark.parametrize("lowest", [torch.finfo(torch.float32).min, -torch.inf])
def test_sequences_without_tokens_are_zero(lowest: float, calls: list[str]) -> None:
    encoder = encoder_of()
    fast, x, keep = patched(encoder, unpad=True), states(encoder, 4, 5), keep_some(4, 5, "right")
    for none in ([1], [0, 3], [0, 1, 2, 3]):
        some = keep.clone()
        some[none] = False
        actual = run(fast, x, torch.where(some, 0.0, lowest)[:, None, None])
        assert actual[none].eq(0).all()
        for row in set(range(4)) - set(none):
            close(actual[row, some[row]], run(encoder, x[row : row + 1, some[row]])[0])


def test_a_mask_that_is_no_padding_mask_runs_padded(calls: list[str]) -> None:
    encoder = encoder_of()
    fast, x = patched(encoder, unpad=True), states(encoder, 4, 7)
    masks = masks_for(4, 7, heads_of(encoder))
    for kind in (
        "soft",
        "a large number",
        "4-D additive",
        "4-D by query",
        "4-D with a query that attends to nothing",
    ):
        close(run(fast, x, masks[kind]), run(encoder, x, masks[kind]))
    keep = keep_some(4, 7, "holes")
    expected = run(fast, x, padding_mask(keep))
    assert expected[~keep].eq(0).all()
    written_out = padding_mask(keep).expand(4, 1, 7, 7).clone()  # as transformers 5 has it
    assert torch.equal(run(fast, x, written_out), expected)
    written_out[1, 0, 3, 0] = 1.0
    close(run(fast, x, written_out), run(encoder, x, written_out))
    close(run(fast, x), run(encoder, x))
    close(run(fast, x, torch.tensor([torch.nan] + [0.0] * 6)), torch.full_like(x, torch.nan))


def test_unpad_falls_back_to_zeroed_padding(calls: list[str]) -> None:
    encoder = encoder_of(hidden_act="tanh")
    x, keep = states(encoder, 4, 7), keep_some(4, 7, "right")
    actual = run(patched(encoder, unpad=True), x, padding_mask(keep))
    assert actual[~keep].eq(0).all()
    close(actual[keep], run(encoder, x, padding_mask(keep))[keep])


def test_while_a_graph_is_captured_padding_is_computed_and_zeroed(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from squeezebert_fast.backends import triton_encoder

    def no_waiting(*_: object) -> None:
        raise AssertionError

    encoder = encoder_of()
    fast, x, keep = patched(encoder, unpad=True), states(encoder, 4, 7), keep_some(4, 7, "holes")
    keep[2] = False
    mask = padding_mask(keep)
    expected = run(fast, x, mask)
    monkeypatch.setattr(triton_encoder, "_capturing", lambda x: True)
    monkeypatch.setattr(triton_encoder, "pack", no_waiting)
    with torch.no_grad():
        actual = fast(x, mask, output_hidden_states=True)
    close(actual[0], expected)
    assert all(state[~keep].eq(0).all() for state in actual.hidden_states[1:])
    soft = masks_for(4, 7, heads_of(encoder))["soft"]
    close(run(fast, x, soft), run(encoder, x, soft))


# Whole models


@pytest.mark.parametrize("library", [0, 1])
@pytest.mark.parametrize("name", CLASSES)
def test_every_model_class_with_its_embeddings(name: str, library: int, calls: list[str]) -> None:
    config = tiny_config()
    model = pair(name, config)[library]
    inputs = inputs_for(name, config)
    with torch.no_grad():
        expected = model(**inputs)
        actual = patched(model, strict=True)(**inputs)
    assert calls == ["embeddings", *LAYER, *LAYER]
    assert list(actual) == list(expected)
    for key in expected:
        close(actual[key], expected[key])


@pytest.mark.parametrize("library", [0, 1])
def test_embeddings_of_every_kind_of_ids(library: int, calls: list[str]) -> None:
    model: Any = pair("SqueezeBertModel", tiny_config())[library].bfloat16()
    fast = patched(model).embeddings
    ids = torch.randint(0, 61, (3, 7))
    kinds = [
        {},
        {"token_type_ids": torch.ones_like(ids)},
        {"position_ids": torch.arange(7).flip(0)[None]},
        {"position_ids": torch.arange(7)[None], "token_type_ids": torch.ones(3, 7, dtype=torch.int32)},
    ]
    with torch.no_grad():
        for extra in kinds:
            expected = model.embeddings(ids, **extra)
            torch.testing.assert_close(fast(ids, **extra), expected, rtol=3e-2, atol=3e-2)
        assert calls == 4 * ["embeddings"]
        fast(inputs_embeds=torch.randn(3, 7, 24).bfloat16())
        fast.LayerNorm.float()  # of another dtype
        fast(ids)
        fast.LayerNorm.bfloat16()
        fast.word_embeddings.register_forward_hook(lambda *_: None)
        fast(ids)
    assert calls == 4 * ["embeddings"]
    fast.word_embeddings._forward_hooks.clear()
    fast(ids)  # with gradients
    assert calls == 4 * ["embeddings"]
