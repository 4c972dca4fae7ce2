"""On a GPU a padding mask reaches the kernels with one row for all queries, which transformers 5 would write out.

Who may not look at values here is told so (`is_readable`), and the kernels are PyTorch's operations
(tests/fake_triton.py). What a mask means must not change: every result is held against the unpatched model's.
"""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import squeezebert_fast
from squeezebert_fast.backends import cpu_ops, masks
from squeezebert_fast.patching import holders
from squeezebert_fast.patching.families import family, ready_masks
from tests.engine_helpers import keep_some
from tests.fake_triton import KERNELS, fake_triton
from tests.family_pairs import CASES, VERSION, encoder_of, inputs_for, layers_of, model_of
from tests.model_pairs import pair, tiny_config
from tests.test_cuda_graphs import graphs_of
from tests.test_patch_no_waits import nothing_is_read

SQUEEZEBERT_TOO = VERSION >= (5, 10)
"""transformers' SqueezeBERT of 5.0 makes one row for all queries itself."""

pytestmark = pytest.mark.skipif(VERSION < (5, 0), reason="transformers 4 takes no masks of four axes")

MODELS = [case for case in CASES if case[0].endswith("Model")]
MODELS += [("BertForSequenceClassification", "sdpa"), ("DistilBertForMaskedLM", "eager")]
if SQUEEZEBERT_TOO:
    MODELS += [("SqueezeBertModel", "eager")]
BERT = [("BertModel", "eager"), ("BertModel", "sdpa")]
BATCH, TOKENS = 3, 7
BY_KEY, BY_QUERY = (BATCH, 1, 1, TOKENS), (BATCH, 1, TOKENS, TOKENS)


class Masks(list[tuple[int, ...] | None]):
    """The shape of the mask in each call of an attention kernel."""

    def wrap(self, run: Callable[..., Any], at: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.append(None if args[at] is None else tuple(args[at].shape))
            return run(*args, **kwargs)

        return call


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Masks]:
    """What attention kernels get, where the host may not look at masks."""
    for module in (masks, family, holders):
        monkeypatch.setattr(module, "is_readable", lambda tensor: False)
    seen = Masks()
    for file, at in (("self_attention", 5), ("int8_passes", 3)):
        run = KERNELS[file]["self_attention"]
        monkeypatch.setitem(KERNELS[file], "self_attention", seen.wrap(run, at))
    monkeypatch.setattr(cpu_ops, "attention", seen.wrap(cpu_ops.attention, 3))
    with fake_triton():
        yield seen


def unpatched(name: str, attention: str) -> Any:
    if name == "SqueezeBertModel":
        return pair(name, tiny_config())[1]
    return model_of(name, attention)


def fast_of(model: nn.Module, **options: Any) -> Any:
    return squeezebert_fast.patch(copy.deepcopy(model), backend="triton", **options)


def inputs_of(name: str, kind: str = "right") -> dict[str, Any]:
    inputs = inputs_for(name if name != "SqueezeBertModel" else "BertModel", tokens=TOKENS)
    keep = keep_some(BATCH, TOKENS, kind)
    return inputs | {"attention_mask": keep.long()}


def first(model: Any, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(**inputs)[0]
    return result


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "attention"), MODELS)
@pytest.mark.parametrize("kind", ["right", "left", "holes"])
def test_a_padding_mask_has_one_row_in_inference(kind: str, name: str, attention: str, seen: Masks) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name, kind)
    fast = fast_of(model)
    close(first(fast, inputs), first(model, inputs))
    assert set(seen) == {BY_KEY}


@pytest.mark.parametrize(("name", "attention"), BERT)
def test_a_padding_mask_has_one_row_in_int8(name: str, attention: str, seen: Masks) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name)
    close(first(fast_of(model, precision="int8"), inputs), first(model, inputs), 0.1)
    assert set(seen) == {BY_KEY}


@pytest.mark.parametrize(("name", "attention"), MODELS)
def test_a_padding_mask_has_one_row_in_training(name: str, attention: str, seen: Masks) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name)
    fast = fast_of(model)
    results = [each(**inputs)[0] for each in (fast, model)]
    close(*results)
    weights = torch.randn(results[0].shape, generator=torch.Generator().manual_seed(0))
    for result in results:
        (result * weights).sum().backward()
    assert set(seen) == {BY_KEY}
    for ours, theirs in zip(fast.parameters(), model.parameters(), strict=True):
        if theirs.grad is not None:
            close(ours.grad, theirs.grad, 1e-3)


@pytest.mark.parametrize(("name", "attention"), MODELS)
def test_a_call_of_the_whole_model_reads_no_value(name: str, attention: str, seen: Masks) -> None:
    inputs, fast = inputs_of(name), fast_of(unpatched(name, attention))
    expected = first(fast, inputs)
    if name == "SqueezeBertModel":  # which looks whether a mask was forgotten where there is none
        fast.warn_if_padding_and_no_attention_mask = lambda *args: None
    with pytest.MonkeyPatch.context() as patch:
        nothing_is_read(patch)
        actual = first(fast, inputs)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize(("name", "attention"), BERT)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.float32, torch.uint8])
def test_masks_of_every_dtype_mean_what_they_meant(
    dtype: torch.dtype, name: str, attention: str, seen: Masks
) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name, "holes")
    inputs["attention_mask"] = inputs["attention_mask"].to(dtype)
    if dtype.is_floating_point:
        inputs["attention_mask"] = inputs["attention_mask"] * 0.25  # whatever is not zero is attended to
    close(first(fast_of(model), inputs), first(model, inputs))
    assert set(seen) == {BY_KEY}


@pytest.mark.parametrize(("name", "attention"), MODELS)
@pytest.mark.parametrize("unpad", [False, True])
def test_a_sequence_without_tokens_is_what_it_was(
    unpad: bool, name: str, attention: str, seen: Masks
) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name)
    inputs["attention_mask"][1] = 0
    expected, actual = first(model, inputs), first(fast_of(model, unpad=unpad), inputs)
    if unpad and not name.startswith(("BertFor", "DistilBertFor")):
        expected = torch.where(inputs["attention_mask"].bool()[..., None], expected, actual)
    if not unpad or "For" not in name:
        close(actual, expected)
    assert set(seen) <= {BY_KEY, None}


@pytest.mark.parametrize(("name", "attention"), MODELS)
def test_no_mask_stays_none_and_a_full_one_changes_nothing(name: str, attention: str, seen: Masks) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name)
    inputs["input_ids"] = inputs["input_ids"].clamp(min=2)  # RoBERTa counts real tokens by their ids
    fast = fast_of(model)
    expected = first(model, {**inputs, "attention_mask": None})
    close(first(fast, {**inputs, "attention_mask": None}), expected)
    if name != "SqueezeBertModel":  # which makes one of ones itself
        assert set(seen) == {None}
    close(first(fast, {**inputs, "attention_mask": torch.ones(BATCH, TOKENS)}), expected)


def custom_masks() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    attend = torch.rand(BATCH, 1, TOKENS, TOKENS, generator=generator) > 0.4
    attend |= torch.eye(TOKENS, dtype=torch.bool)
    causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril().expand(BY_QUERY).contiguous()
    lowest = torch.finfo(torch.float32).min
    return {
        "booleans": attend,
        "causal booleans": causal,
        "lowest": torch.where(attend, 0.0, lowest),
        "causal lowest": torch.where(causal, 0.0, lowest),
        "numbers": torch.randn(BY_QUERY, generator=generator),
    }


@pytest.mark.parametrize(("name", "attention"), BERT)
@pytest.mark.parametrize("kind", custom_masks())
def test_a_mask_by_query_stays_one(kind: str, name: str, attention: str, seen: Masks) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name)
    inputs["attention_mask"] = custom_masks()[kind]
    close(first(fast_of(model), inputs), first(model, inputs))
    assert set(seen) == {BY_QUERY}


def outcome(model: Any, inputs: dict[str, Any]) -> Any:
    try:
        return first(model, inputs)
    except (ValueError, RuntimeError, IndexError) as error:
        return type(error)


@pytest.mark.parametrize(("name", "attention"), BERT)
@pytest.mark.parametrize(
    "shape", [(BATCH, TOKENS, TOKENS), (BATCH, TOKENS + 1), (1, TOKENS), (BATCH, 1), (TOKENS,)]
)
def test_a_mask_of_another_shape_is_left_to_the_library(
    shape: tuple[int, ...], name: str, attention: str, seen: Masks
) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name)
    inputs["attention_mask"] = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.3
    expected, actual = outcome(model, inputs), outcome(fast_of(model), inputs)
    assert isinstance(expected, type) == isinstance(actual, type)
    if isinstance(expected, Tensor):
        close(actual, expected)
        assert BY_KEY not in seen
    else:
        assert actual is expected


@pytest.mark.parametrize(("name", "attention"), MODELS)
def test_the_mask_is_where_the_hook_looks_for_it(name: str, attention: str) -> None:
    parameters = list(inspect.signature(unpatched(name, attention).base_model.forward).parameters)
    assert parameters[0] == "input_ids"
    assert parameters[holders.MASK_AT] == "attention_mask"
    assert "inputs_embeds" in parameters


def by_place(model: Any, inputs: dict[str, Any]) -> Any:
    return model(inputs["input_ids"], inputs["attention_mask"])[0]


def by_embeddings(model: Any, inputs: dict[str, Any]) -> Any:
    words = model.get_input_embeddings()(inputs["input_ids"])
    return model(inputs_embeds=words, attention_mask=inputs["attention_mask"])[0]


def recomputed(model: Any, inputs: dict[str, Any]) -> Any:
    words = model.get_input_embeddings()(inputs["input_ids"])

    def run(words: Tensor, mask: Tensor) -> Any:
        return model(inputs_embeds=words, attention_mask=mask)[0]

    y = checkpoint(run, words, inputs["attention_mask"], use_reentrant=False)
    return torch.cat([y, *torch.autograd.grad(y[:, 0].sum(), words)])


WAYS = [by_place, by_embeddings, recomputed]


@pytest.mark.parametrize(("name", "attention"), BERT)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_call_a_model_gives_the_row(
    way: Callable[..., Tensor], name: str, attention: str, seen: Masks
) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name)
    expected = way(model, inputs)
    close(way(fast_of(model), inputs), expected, 1e-3)
    assert set(seen) == {BY_KEY}


@pytest.mark.parametrize(("name", "attention"), [case for case in MODELS if case[0] != "SqueezeBertModel"])
@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.float16, False), (torch.float32, True)],
)
def test_the_row_is_the_librarys_own(dtype: torch.dtype, autocast: bool, name: str, attention: str) -> None:
    model, inputs = unpatched(name, attention).base_model.to(dtype), inputs_of(name, "holes")
    made: list[Tensor] = []
    encoder = encoder_of(model)
    encoder.register_forward_pre_hook(
        lambda module, args, kwargs: made.append(kwargs["attention_mask"]), with_kwargs=True
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(**inputs)
        ready = ready_masks.ready_mask(model, inputs["attention_mask"])
    assert ready is not None
    assert ready.dtype is made[0].dtype
    assert torch.equal(ready.expand_as(made[0]), made[0])


class Pooled(transformers.BertModel if VERSION >= (5, 0) else nn.Module):  # type: ignore[misc]
    """A class of the user's, whose forward has a use for the mask that it is called with."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Any:
        states = super().forward(input_ids, attention_mask, **kwargs)[0]
        return (states * attention_mask[..., None],)


def every_second(mask: Tensor) -> Tensor:
    """A mask by query made of one, in which a query doesn't see the token before it."""
    changed = mask.expand(BY_QUERY).clone()
    before = torch.eye(TOKENS, dtype=torch.bool).roll(-1, 1)
    changed[:, :, before] = False if mask.dtype is torch.bool else torch.finfo(mask.dtype).min
    return changed


def change_class(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.__class__ = Pooled


def hook_the_model(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        assert kwargs["attention_mask"].shape == (BATCH, TOKENS)
        return args, {**kwargs, "attention_mask": kwargs["attention_mask"].flip(1)}

    model.register_forward_pre_hook(hook, with_kwargs=True)


def hook_the_encoder(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        assert kwargs["attention_mask"].shape == BY_QUERY
        return args, {**kwargs, "attention_mask": every_second(kwargs["attention_mask"])}

    model.encoder.register_forward_pre_hook(hook, with_kwargs=True)


def hook_a_layer(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(module: Any, args: Any) -> Any:
        assert args[1].shape == BY_QUERY
        return (args[0], every_second(args[1]), *args[2:])

    layers_of(model)[0].register_forward_pre_hook(hook)


def another_forward(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = type(model).forward

    def forward(input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Any:
        return own(model, input_ids, attention_mask * attention_mask.flip(1), **kwargs)

    model.forward = forward


def another_forward_of_the_encoder(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = type(model.encoder).forward

    def forward(x: Tensor, attention_mask: Tensor, **kwargs: Any) -> Any:
        assert attention_mask.shape == BY_QUERY
        return own(model.encoder, x, attention_mask=every_second(attention_mask), **kwargs)

    model.encoder.forward = forward


def another_method(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = model._create_attention_masks

    def create(*args: Any, **kwargs: Any) -> Any:
        mask, other = own(*args, **kwargs)
        assert mask.shape == BY_QUERY
        return every_second(mask), other

    model._create_attention_masks = create


def another_maker(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = transformers.models.bert.modeling_bert
    own = module.create_bidirectional_mask

    def create(**given: Any) -> Tensor:
        assert given["attention_mask"].shape == (BATCH, TOKENS)
        return every_second(own(**given))

    monkeypatch.setattr(module, "create_bidirectional_mask", create)


def another_interface(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as makers

    kind = model.config._attn_implementation
    own = makers[kind]
    monkeypatch.setitem(
        makers._global_mapping, kind, lambda *args, **given: every_second(own(*args, **given))
    )


def another_attention(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = transformers.models.bert.modeling_bert
    eager, functions = module.eager_attention_forward, module.ALL_ATTENTION_FUNCTIONS

    def replaced(own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)  # so it says of itself that it is the library's
        def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **kwargs: Any) -> Any:
            assert mask.shape == BY_QUERY
            return own(module, q, k, v, every_second(mask), **kwargs)

        return attend

    monkeypatch.setattr(module, "eager_attention_forward", replaced(eager))
    monkeypatch.setitem(functions._global_mapping, "sdpa", replaced(functions["sdpa"]))


OF_THE_LIBRARY: list[Any] = [another_maker, another_interface, another_attention]
CHANGES = [
    change_class,
    hook_the_model,
    hook_the_encoder,
    hook_a_layer,
    another_forward,
    another_forward_of_the_encoder,
    another_method,
    *OF_THE_LIBRARY,
]


@pytest.mark.parametrize(("name", "attention"), BERT)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("before", [False, True], ids=["after patch", "before patch"])
def test_code_of_others_gets_and_gives_the_masks_that_it_did(
    before: bool,
    change: Callable[[Any, pytest.MonkeyPatch], None],
    name: str,
    attention: str,
    seen: Masks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name)
    del inputs["token_type_ids"]
    fast = copy.deepcopy(model)
    changes: list[Any] = [lambda: squeezebert_fast.patch(fast, backend="triton")]
    changes.insert(0 if before else 1, lambda: change(fast, monkeypatch))
    for each in changes:
        each()
    actual = first(fast, inputs)
    plain = first(model, inputs)
    with monkeypatch.context() as patch:
        if change not in OF_THE_LIBRARY:
            change(model, patch)
        expected = first(model, inputs)
    if change in OF_THE_LIBRARY:
        expected = plain  # the change is the library's: it holds for both
    close(actual, expected)
    assert BY_KEY not in seen


class Words(nn.Module):
    """Embeddings of the user's, of words alone."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.word_embeddings = table

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        states: Tensor = self.word_embeddings(input_ids)
        return states


def other_embeddings(model: Any) -> None:
    model.embeddings = Words(model.embeddings.word_embeddings)


def other_norm(model: Any) -> None:
    model.embeddings.LayerNorm = nn.Identity()


def norm_without_weight(model: Any) -> None:
    model.embeddings.LayerNorm = nn.LayerNorm(model.config.hidden_size, elementwise_affine=False)


def other_dtype(model: Any) -> None:
    model.encoder.bfloat16()
    model.embeddings.register_forward_hook(lambda module, args, result: result.bfloat16())
    model.pooler = None


@pytest.mark.parametrize(("name", "attention"), BERT)
@pytest.mark.parametrize("change", [other_embeddings, other_norm, norm_without_weight, other_dtype])
@pytest.mark.parametrize("before", [False, True], ids=["after patch", "before patch"])
def test_embeddings_of_others_leave_the_mask_to_the_library(
    before: bool, change: Callable[[Any], None], name: str, attention: str, seen: Masks
) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name)
    fast = copy.deepcopy(model)
    if before:
        change(fast)
    squeezebert_fast.patch(fast, backend="triton")
    if not before:
        change(fast)
    change(model)
    close(first(fast, inputs), first(model, inputs), 0.1 if change is other_dtype else 1e-4)
    assert set(seen) == {BY_QUERY}


def test_a_decoder_sees_what_comes_before_alone(seen: Masks) -> None:
    model, inputs = unpatched("BertModel", "sdpa"), inputs_of("BertModel")
    model.config.is_decoder = True  # once its layers are made: the model alone knows
    close(first(fast_of(model), inputs), first(model, inputs))
    assert BY_KEY not in seen


def test_copies_and_pickles_have_the_row_and_unpatched_nothing_is_left(seen: Masks) -> None:
    model, inputs = unpatched("BertModel", "sdpa"), inputs_of("BertModel")
    fast = squeezebert_fast.patch(fast_of(model), backend="triton")  # twice
    expected = first(fast, inputs)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):  # noqa: S301
        del seen[:]
        other.register_forward_pre_hook(lambda module, args: None).remove()
        assert torch.equal(first(other, inputs), expected)
        assert set(seen) == {BY_KEY}
    squeezebert_fast.unpatch(fast)
    assert not any(map(holders.is_ours, fast._forward_pre_hooks.values()))
    assert not fast._forward_pre_hooks_with_kwargs
    assert torch.equal(first(fast, inputs), first(model, inputs))


def test_a_cuda_graph_has_the_row_of_each_call(seen: Masks) -> None:
    model = unpatched("BertModel", "sdpa")
    infer, _ = graphs_of(fast_of(model))
    for kind in ("right", "left", "holes"):
        inputs = inputs_of("BertModel", kind)
        with torch.inference_mode():
            close(infer(**inputs)[0], first(model, inputs))
    assert infer.reasons == {}
    assert set(seen) == {BY_KEY}


@pytest.mark.parametrize(("name", "attention"), BERT)
def test_a_graph_of_torch_compile_has_the_row(name: str, attention: str, seen: Masks) -> None:
    model, inputs = unpatched(name, attention), inputs_of(name)
    fast = squeezebert_fast.patch(copy.deepcopy(model), backend="cpu")
    shapes: list[Any] = []

    def backend(graph: Any, example: Any) -> Any:
        operation = torch.ops.squeezebert_fast.attention.default
        for node in graph.graph.nodes:
            if node.target in (operation, torch.ops.squeezebert_fast.attention):
                shapes.append(tuple(node.args[3].meta["example_value"].shape))
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(fast, backend=backend, fullgraph=True)
    close(first(compiled, inputs), first(model, inputs))
    assert set(shapes) == {BY_KEY}
