"""A training step of a patched model on the kernels: gradients by the tolerance rule, dropout's from its seed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast import SqueezeBertConfig, SqueezeBertForSequenceClassification
from tests.engine_helpers import groups
from tests.helpers import assert_within_rule

SIZES = {
    "vocab_size": 31,
    "hidden_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
    **groups(1, 3, 3, 1, 2, 3),
}


@pytest.fixture(autouse=True)
def products_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def classifier(device: str, dropout: float) -> nn.Module:
    torch.manual_seed(0)
    dropped = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    return SqueezeBertForSequenceClassification(SqueezeBertConfig(**SIZES, **dropped)).to(device).train()


def gradients(model: nn.Module, device: str, precision: torch.dtype | None = None) -> dict[str, Tensor]:
    """Of one step on a batch of odd sizes with padding."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, SIZES["vocab_size"], (3, 19), generator=generator).to(device)
    mask = (torch.arange(19) < torch.tensor([[19], [1], [10]])).long().to(device)
    labels = torch.tensor([0, 1, 1], device=device)
    with torch.autocast(device, precision or torch.bfloat16, enabled=precision is not None):
        logits = model(ids, mask).logits
    nn.functional.cross_entropy(logits.to(next(model.parameters()).dtype), labels).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bfloat16 autocast"])
def test_a_step_has_the_gradients_of_the_unpatched_model(device: str, precision: torch.dtype | None) -> None:
    plain = classifier(device, dropout=0.0)
    fast = squeezebert_fast.patch(copy.deepcopy(plain), backend="triton", strict=True)
    exact = gradients(copy.deepcopy(plain).double(), device)
    theirs, ours = gradients(plain, device, precision), gradients(fast, device, precision)
    assert ours.keys() == theirs.keys() == exact.keys()

    def joined(found: dict[str, Tensor]) -> Tensor:
        """Each in units of its own norm; but for the keys' biases: softmax doesn't feel those."""
        kept = [name for name in exact if not name.endswith("key.bias")]
        return torch.cat([found[name].flatten() / exact[name].norm().to(found[name].dtype) for name in kept])

    assert_within_rule(joined(ours), joined(theirs), joined(exact), whole_model=True)


def test_a_seed_gives_the_same_gradients_again(device: str) -> None:
    model = squeezebert_fast.patch(classifier(device, dropout=0.3), backend="triton", strict=True)
    found = []
    for seed in (1, 1):
        model.zero_grad()
        torch.manual_seed(seed)
        found.append({name: gradient.clone() for name, gradient in gradients(model, device).items()})
    first, again = found
    assert all(gradient.isfinite().all() for gradient in first.values())
    for name, gradient in first.items():
        assert torch.equal(again[name], gradient), f"{name}: the order of sums is fixed"
