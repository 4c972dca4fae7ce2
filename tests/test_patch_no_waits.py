"""On a GPU, neither a patched encoder's forward nor its backward makes the host wait for a value.

Such a wait would cost more than a kernel, and in the capture of a CUDA graph it is an error. Here tensors are the
CPU's, and whoever reads one on the host fails; the kernels are PyTorch's operations (tests/fake_triton.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast.backends import masks
from squeezebert_fast.patching.families import family
from tests.engine_helpers import LIBRARIES, encoder_of, keep_some
from tests.fake_triton import fake_triton

READS = ("item", "tolist", "numpy", "nonzero", "equal", "__bool__", "__int__", "__float__", "__index__")
CHANNELS, TOKENS = 24, 7
IMPLEMENTATIONS = ("bert eager", "bert sdpa")


def encoder_named(name: str) -> nn.Module:
    if name in LIBRARIES:
        return encoder_of(name)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": CHANNELS,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    config = transformers.BertConfig(**sizes, vocab_size=11, attn_implementation=name.split()[1])
    config.initializer_range = 0.3
    return transformers.BertModel(config).encoder.eval()


def masks_of(name: str) -> dict[str, Tensor]:
    """A padding mask in the forms in which transformers 4 and 5 hand it out. One sequence has no token."""
    keep = keep_some(3, TOKENS, "holes")
    keep[1] = False
    attend = keep[:, None, None]
    lowest = torch.finfo(torch.float32).min
    forms = {"by key": torch.where(attend, 0.0, lowest)}
    if name == "bert sdpa":
        forms |= {"booleans": attend, "-inf": torch.where(attend, 0.0, -torch.inf)}
    written_out = {f"{form}, a row a query": m.repeat(1, 1, TOKENS, 1) for form, m in forms.items()}
    return forms | written_out


CASES = [(name, form) for name in (*LIBRARIES, *IMPLEMENTATIONS) for form in masks_of(name)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What runs, where the host may not look at masks."""
    for module in (masks, family):
        monkeypatch.setattr(module, "is_readable", lambda tensor: False)
    with fake_triton() as calls:
        yield calls


def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("a value is read on the host")

    monkeypatch.setattr(torch, "equal", refuse)
    for name in READS:
        monkeypatch.setattr(Tensor, name, refuse)


def fast_of(encoder: nn.Module, **options: Any) -> nn.Module:
    return squeezebert_fast.patch(copy.deepcopy(encoder), backend="triton", **options)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(("name", "form"), CASES)
def test_inference_reads_no_value(name: str, form: str, precision: str, calls: list[str]) -> None:
    encoder, mask = encoder_named(name), masks_of(name)[form]
    fast, x = fast_of(encoder, precision=precision), torch.randn(3, TOKENS, CHANNELS)
    with torch.no_grad():
        expected = encoder(x, mask)[0]
        fast(x, mask)  # makes the engine
        with pytest.MonkeyPatch.context() as patch:
            nothing_is_read(patch)
            actual = fast(x, mask)[0]
    assert "self_attention" in calls, "all layers in one call"
    tolerance = 0.1 if precision == "int8" else 1e-4
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("unpad", [False, True])
@pytest.mark.parametrize(("name", "form"), CASES)
def test_training_reads_no_value(name: str, form: str, unpad: bool, calls: list[str]) -> None:
    encoder, mask = encoder_named(name), masks_of(name)[form]
    fast = fast_of(encoder, unpad=unpad)
    x = torch.randn(3, TOKENS, CHANNELS, requires_grad=True)
    (expected,) = torch.autograd.grad(encoder(x, mask)[0][0].sum(), x)
    fast(x, mask)
    with pytest.MonkeyPatch.context() as patch:
        nothing_is_read(patch)
        y = fast(x, mask)[0]
        (actual,) = torch.autograd.grad(y[0].sum(), x)
    assert "attention_backward" in calls
    if not unpad:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("calls")
def test_a_row_for_all_queries_is_found_by_its_stride() -> None:
    mask = masks_of("ours")["by key"].expand(3, 1, TOKENS, TOKENS)
    assert masks.by_key(mask).shape == (3, 1, 1, TOKENS)
    assert masks.by_key(mask.contiguous()).shape == mask.shape
