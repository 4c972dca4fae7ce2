"""Patched models on the real kernels: on the GPU, or in the interpreter, where sizes are what a test can afford."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast import backends, ops
from squeezebert_fast.backends import triton
from squeezebert_fast.backends.request import Request
from squeezebert_fast.ops import reference
from tests.engine_helpers import LIBRARIES, encoder_of, groups, keep_some, states
from tests.helpers import assert_within_rule, check
from tests.model_pairs import pair, tiny_config
from tests.triton.helpers import DTYPES

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SHAPES: dict[str, dict[str, Any]] = {
    "groups that line up": {"num_attention_heads": 2, **groups(2, 2, 2, 1, 4, 4)},
    "groups that don't": {"num_attention_heads": 3, **groups(2, 4, 1, 3, 2, 6)},
    "one group": {"num_attention_heads": 1, **groups(1)},
}


@pytest.fixture(autouse=True)
def convolutions_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, PyTorch's float32 convolutions, what kernels are compared with here, multiply in tf32 by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def padding_mask(keep: Tensor, dtype: torch.dtype) -> Tensor:
    lowest = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=keep.device)
    return torch.where(keep, torch.zeros_like(lowest), lowest)[:, None, None]


def run(encoder: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    with torch.no_grad():
        return encoder(x, mask)[0]


def hold_to_rule(
    fast: nn.Module, plain: nn.Module, x: Tensor, mask: Tensor | None, keep: Tensor | None = None
) -> None:
    """`fast`'s output against `plain`'s in its own precision and in float64, where `keep` says tokens are real."""
    real = slice(None) if keep is None else keep
    exact_mask = None
    if mask is not None:  # the lowest number of the mask's own dtype is as good in float64
        exact_mask = mask.double()
    exact = run(copy.deepcopy(plain).double(), x.double(), exact_mask)
    actual = run(fast, x, mask)
    assert_within_rule(actual[real], run(plain, x, mask)[real], exact[real], whole_model=True)


def patched(module: nn.Module, **options: Any) -> nn.Module:
    return squeezebert_fast.patch(copy.deepcopy(module), **{"backend": "triton", "strict": True, **options})


def test_the_probe_passes(device: str) -> None:
    assert triton.unavailable(torch.device(device)) is None


def test_the_probe_notices_a_wrong_product(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from squeezebert_fast.triton_kernels import probe

    assert probe.run(torch.device(device)) is None
    launch = probe.probe_kernel

    class Lazy:
        def __getitem__(self, grid: Any) -> Any:
            return lambda a, b, out, **options: launch[grid](a, b + (b == 5), out, **options)

    monkeypatch.setattr(probe, "probe_kernel", Lazy())
    assert probe.run(torch.device(device)) == "it computed a wrong product"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_an_encoder_with_a_padding_mask(library: str, dtype: torch.dtype, shape: str, device: str) -> None:
    encoder = encoder_of(library, num_hidden_layers=1, **SHAPES[shape]).to(device, dtype)
    x, keep = states(encoder, 2, 5).to(device, dtype), keep_some(2, 5, "right").to(device)
    hold_to_rule(patched(encoder), encoder, x, padding_mask(keep, dtype), keep)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_padding_nothing_changes_but_zeros(shape: str, device: str) -> None:
    encoder = encoder_of(num_hidden_layers=2, **SHAPES[shape]).to(device)
    x, keep = states(encoder, 3, 7).to(device), keep_some(3, 7, "holes").to(device)
    keep[1] = False
    mask = padding_mask(keep, torch.float32)
    expected = run(encoder, x, mask)
    actual = run(patched(encoder, unpad=True), x, mask)
    assert actual[~keep].eq(0).all()
    torch.testing.assert_close(actual[keep], expected[keep], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unpad", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_is_near(dtype: torch.dtype, unpad: bool, device: str) -> None:
    encoder = encoder_of(num_hidden_layers=1, **SHAPES["groups that don't"]).to(device, dtype)
    x, keep = states(encoder, 2, 5).to(device, dtype), keep_some(2, 5, "holes").to(device)
    mask = padding_mask(keep, dtype)
    actual = run(patched(encoder, precision="int8", unpad=unpad), x, mask)[keep].float()
    expected = run(encoder, x, mask)[keep].float()
    assert torch.cosine_similarity(actual, expected, dim=-1).min() > 0.99
    assert not torch.equal(actual, expected)


@pytest.mark.parametrize("library", [0, 1])
def test_a_whole_model(library: int, device: str) -> None:
    model: Any = pair("SqueezeBertForSequenceClassification", tiny_config(num_hidden_layers=1))[library].to(
        device
    )
    ids = torch.randint(0, 61, (2, 6), generator=torch.Generator().manual_seed(0)).to(device)
    mask = keep_some(2, 6, "right").long().to(device)
    with torch.no_grad():
        expected = model(ids, mask).logits
        torch.testing.assert_close(patched(model)(ids, mask).logits, expected, rtol=1e-4, atol=1e-4)
        wrong = ids.clone()
        wrong[0, 1] = 61  # outside the table: reported by nobody, and never a number
        fast = patched(model)
        base = fast.get_submodule("transformer" if hasattr(fast, "transformer") else "squeezebert")
        rows = base.embeddings(wrong)
        assert rows[0, 1].isnan().all()
        assert rows[1].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operations_by_name(dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    x, options = random(2, 5, 32), {"backend": "triton", "strict": True}

    def on_triton(name: str) -> Any:
        return lambda *args: getattr(ops, name)(*args, **(options if args[0].dtype is dtype else {}))

    check(
        on_triton("grouped_pointwise_conv"),
        reference.grouped_pointwise_conv,
        x,
        random(48, 16, 1),
        random(48),
        2,
        "gelu",
    )
    check(
        on_triton("attention"),
        reference.attention,
        x,
        random(2, 5, 32),
        random(2, 5, 32),
        random(2, 1, 1, 5),
        2,
    )
    check(
        on_triton("add_layer_norm"),
        reference.add_layer_norm,
        x,
        random(2, 5, 32),
        random(32),
        random(32),
        1e-12,
    )
    check(
        on_triton("grouped_mlp"),
        reference.grouped_mlp,
        x,
        random(64, 16, 1),
        random(64),
        random(32, 32, 1),
        None,
        2,
        "relu",
    )


def test_strided_inputs_are_read_right(device: str) -> None:
    encoder = encoder_of("theirs", num_hidden_layers=1, **SHAPES["groups that line up"]).to(device)
    x = states(encoder, 1, 5).mT.contiguous().mT.to(device)
    assert x.stride(-1) != 1
    torch.testing.assert_close(run(patched(encoder), x, None), run(encoder, x, None), rtol=1e-4, atol=1e-4)


# Sizes that only a GPU can afford


BASE = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,
    "initializer_range": 0.05,
    "max_position_embeddings": 512,
    **groups(4, 4, 4, 1, 4, 4),
}


@needs_gpu
@pytest.mark.parametrize("unpad", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 128), (3, 77), (32, 128), (256, 128), (4, 512), (64, 300)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_base_models_layers(dtype: torch.dtype, shape: tuple[int, int], unpad: bool) -> None:
    encoder = encoder_of(**BASE).to("cuda", dtype)
    x, keep = states(encoder, *shape).to("cuda", dtype), keep_some(*shape, "right").to("cuda")
    mask = padding_mask(keep, dtype)
    fast = patched(encoder, unpad=unpad)
    hold_to_rule(fast, encoder, x, mask, keep)
    if unpad:
        assert run(fast, x, mask)[~keep].eq(0).all()


@needs_gpu
@pytest.mark.parametrize("library", [0, 1])
def test_auto_takes_triton_on_a_gpu_and_says_so(library: int) -> None:
    model: Any = pair("SqueezeBertModel", tiny_config())[library].cuda()
    squeezebert_fast.patch(model, strict=True)
    assert {row.backend for row in squeezebert_fast.explain(model).rows} == {"triton"}
    choice = backends.choose(Request("attention", torch.device("cuda"), torch.float16))
    assert choice == backends.Choice("triton", "the first choice here")


@needs_gpu
@pytest.mark.parametrize("unpad", [False, True])
@pytest.mark.parametrize("library", [0, 1])
def test_cuda_graphs_replay_what_the_model_computes(library: int, unpad: bool) -> None:
    model: Any = pair("SqueezeBertModel", tiny_config())[library].cuda()
    squeezebert_fast.patch(model, strict=True, unpad=unpad)
    infer = squeezebert_fast.cuda_graphs(model, max_graphs=3)
    generator = torch.Generator().manual_seed(0)
    kept: list[tuple[Tensor, Tensor]] = []
    with torch.inference_mode():
        for tokens in (5, 9, 5, 13, 9, 17, 5):
            ids = torch.randint(0, 61, (2, tokens), generator=generator).cuda()
            mask = keep_some(2, tokens, "right", tokens).long().cuda()
            expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
            actual = infer(input_ids=ids, attention_mask=mask).last_hidden_state
            assert infer.reasons == {}
            kept.append((actual, expected))
            model.encoder.layers[0].output.conv1d.bias.data.add_(0.1)  # in place: no new capture
        for actual, expected in kept:
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@needs_gpu
def test_another_stream_and_another_thread_see_whole_results() -> None:
    import threading

    model: Any = squeezebert_fast.patch(pair("SqueezeBertModel", tiny_config())[0].cuda())
    infer = squeezebert_fast.cuda_graphs(model)
    ids = [torch.randint(0, 61, (2, 7), generator=torch.Generator().manual_seed(i)).cuda() for i in range(4)]
    with torch.inference_mode():
        expected = [model(one)[0] for one in ids]
    torch.cuda.synchronize()
    wrong: list[int] = []

    def work(index: int) -> None:
        with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                result = infer(ids[index])[0]
                torch.cuda.current_stream().synchronize()
                if not torch.allclose(result, expected[index], atol=1e-4):
                    wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@needs_gpu
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_an_encoder_with_a_mask_row_for_every_query_never_waits_for_the_gpu(
    library: str, training: bool
) -> None:
    encoder = encoder_of(library).cuda()
    fast, x = patched(encoder), states(encoder, 2, 7).cuda().requires_grad_(training)
    mask = padding_mask(keep_some(2, 7, "right").cuda(), torch.float32).repeat(1, 1, 7, 1)

    def step() -> None:
        with torch.set_grad_enabled(training):
            y = fast(x, mask)[0]
        if training:
            y.sum().backward()

    step()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_a_forward_without_unpad_never_waits_for_the_gpu() -> None:
    model: Any = squeezebert_fast.patch(pair("SqueezeBertModel", tiny_config())[0].cuda(), strict=True)
    ids, mask = torch.randint(0, 61, (2, 7)).cuda(), torch.ones(2, 7, device="cuda")
    with torch.inference_mode():
        model(ids, mask)  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(ids, mask)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def bert_encoder(device: str, dtype: torch.dtype, implementation: str) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(**sizes, vocab_size=11, attn_implementation=implementation)
    config.initializer_range = 0.3
    return transformers.BertModel(config).encoder.eval().to(device, dtype)


@pytest.mark.parametrize("unpad", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bert_takes_a_mask_that_says_attend(dtype: torch.dtype, unpad: bool, device: str) -> None:
    encoder = bert_encoder(device, dtype, "sdpa")
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    keep = keep_some(2, 5, "holes").to(device)
    attend = keep[:, None, None].expand(2, 1, 5, 5)
    exact = run(copy.deepcopy(encoder).double(), x.double(), attend)
    actual = run(patched(encoder, unpad=unpad), x, attend)
    plain = run(encoder, x, attend)
    assert_within_rule(actual[keep], plain[keep], exact[keep], whole_model=True)
    if unpad:
        assert actual[~keep].eq(0).all()


def test_a_bert_in_int8(device: str) -> None:
    encoder = bert_encoder(device, torch.float32, "eager")
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).to(device)
    expected, actual = run(encoder, x, None), run(patched(encoder, precision="int8"), x, None)
    assert not torch.equal(actual, expected)
    assert torch.cosine_similarity(actual, expected, dim=-1).min() > 0.99


def test_a_bert_trains(device: str) -> None:
    plain = bert_encoder(device, torch.float32, "sdpa")
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).to(device)
    attend = keep_some(2, 5, "right").to(device)[:, None, None].expand(2, 1, 5, 5)

    def gradients(encoder: nn.Module, x: Tensor) -> dict[str, Tensor]:
        encoder(x, attend)[0].square().sum().backward()
        # a bias of the keys moves a query's scores all alike, so its gradient is rounding alone
        named = ((n, p.grad) for n, p in encoder.named_parameters() if not n.endswith("key.bias"))
        return {name: gradient for name, gradient in named if gradient is not None}

    exact = gradients(copy.deepcopy(plain).double(), x.double())
    theirs, ours = gradients(plain, x), gradients(patched(plain), x)
    assert ours.keys() == theirs.keys() == exact.keys()

    def joined(found: dict[str, Tensor]) -> Tensor:
        return torch.cat([g.flatten() / exact[name].norm().to(g.dtype) for name, g in found.items()])

    assert_within_rule(joined(ours), joined(theirs), joined(exact), whole_model=True)
