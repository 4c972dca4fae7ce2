"""What every forward compares: `Structure`, by its native watch and by the same in Python, and `Places`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast.backends import cpu
from squeezebert_fast.patching import structure
from squeezebert_fast.patching.structure import Places, PythonWatch, Structure
from tests.engine_helpers import encoder_of, run, states

WATCHES = [
    pytest.param(PythonWatch, id="python"),
    pytest.param(
        None if cpu._native is None else cpu._native.Watch,
        id="native",
        marks=pytest.mark.skipif(cpu._native is None, reason="the native module is not built"),
    ),
]


class Holder(nn.Module):
    """What is watched: a convolution, a norm and a dropout within it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv1d(4, 4, 1, groups=2), nn.LayerNorm(4), nn.Dropout(0.5))
        self.inner.heads = 2  # type: ignore[assignment]


class Other(nn.Conv1d):
    pass


def reclass(m: Any) -> None:
    m.inner[0].__class__ = Other


def new_parameter(m: Any) -> None:
    m.inner[0].weight = nn.Parameter(m.inner[0].weight.detach().clone())


def equal_but_another_bias(m: Any) -> None:
    m.inner[1].bias = nn.Parameter(torch.zeros(4))


def no_bias(m: Any) -> None:
    m.inner[0].bias = None


CHANGES: dict[str, Callable[[Any], object]] = {
    "a class": reclass,
    "a parameter": new_parameter,
    "a parameter with equal values": equal_but_another_bias,
    "a parameter gone": no_bias,
    "a child": lambda m: setattr(m, "inner", Holder().inner),
    "a child of a child": lambda m: m.inner.__setitem__(2, nn.Dropout(0.5)),
    "a child more": lambda m: m.inner.append(nn.Identity()),
    "a child less": lambda m: m.inner.__delitem__(2),
    "an attribute": lambda m: setattr(m.inner[0], "groups", 1),
    "an attribute of the family": lambda m: setattr(m.inner, "heads", 4),
    "an attribute gone": lambda m: delattr(m.inner[1], "eps"),
    "a forward on a module": lambda m: setattr(m.inner[1], "forward", lambda x: x),
    "a hook": lambda m: m.inner[1].register_forward_hook(lambda *_: None),
    "a hook before": lambda m: m.inner[1].register_forward_pre_hook(lambda *_: None),
    "a backward hook": lambda m: m.inner.register_full_backward_hook(lambda *_: None),
    "a forward of a class": lambda m: pytest.MonkeyPatch().setattr(Holder, "forward", lambda self, x: x),
}


def watched(holder: Holder) -> Structure:
    modules = list(holder.inner.modules())
    return Structure(modules, modules, holder, ["heads"], [Holder])


@pytest.fixture(params=WATCHES)
def any_watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "_watch", request.param)


@pytest.mark.usefixtures("any_watch")
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str) -> None:
    own = Holder.forward
    try:
        holder = Holder()
        kept = watched(holder)
        assert kept.unchanged()
        CHANGES[change](holder)
        assert not kept.unchanged()
        assert not kept.unchanged()  # asking doesn't make it right
    finally:
        Holder.forward = own  # type: ignore[method-assign]


@pytest.mark.usefixtures("any_watch")
def test_what_does_not_count_is_not_seen() -> None:
    holder = Holder()
    kept = watched(holder)
    holder.note = 1  # type: ignore[assignment]
    holder.inner.train(False)
    with torch.no_grad():
        holder.inner[0].weight.mul_(2.0)  # type: ignore[operator]
    handle = nn.Linear(2, 2).register_forward_hook(lambda *_: None)  # elsewhere
    assert kept.unchanged()
    handle.remove()
    holder.inner[0].groups = True + True  # equal, and perhaps another object
    assert kept.unchanged()


@pytest.mark.usefixtures("any_watch")
def test_a_change_undone_is_no_change() -> None:
    holder = Holder()
    kept = watched(holder)
    handle = holder.inner.register_forward_hook(lambda *_: None)
    assert not kept.unchanged()
    handle.remove()
    assert kept.unchanged()
    weight = holder.inner[0].weight
    new_parameter(holder)
    assert not kept.unchanged()
    holder.inner[0].weight = weight
    assert kept.unchanged()


@pytest.mark.usefixtures("any_watch")
def test_an_idle_hook_does_not_count() -> None:
    holder, idle = Holder(), [lambda *_: None]
    modules = list(holder.inner.modules())
    kept = Structure(modules, modules, holder, is_idle=lambda hook: hook is idle[0])
    holder.inner.register_forward_hook(idle[0])
    assert kept.unchanged()
    holder.inner.register_forward_hook(lambda *_: None)
    assert not kept.unchanged()


@pytest.mark.usefixtures("any_watch")
def test_dropout_is_off_when_nothing_would_be_dropped() -> None:
    holder = Holder()
    kept = watched(holder)
    assert not kept.dropout_is_off()
    holder.eval()
    assert kept.dropout_is_off()
    holder.train()
    holder.inner[2].p = 0.0
    assert kept.dropout_is_off()


@pytest.mark.usefixtures("any_watch")
def test_an_error_in_a_comparison_is_raised() -> None:
    class Strange:
        def __eq__(self, other: object) -> bool:
            raise ValueError("no comparison")

        __hash__ = None  # type: ignore[assignment]

    holder = Holder()
    kept = watched(holder)
    holder.inner.heads = Strange()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="no comparison"):
        kept.unchanged()


WRITES: dict[str, Callable[[nn.Parameter], object]] = {
    "in place": lambda p: p.detach().mul_(2.0),
    "by data": lambda p: setattr(p, "data", p.data.clone()),
    "to another dtype": lambda p: setattr(p, "data", p.data.double()),
    "by an optimizer": lambda p: torch.optim.SGD([p], lr=0.0).step() or p.detach().add_(0.0),
}


@pytest.mark.skipif(cpu._native is None, reason="the native module is not built")
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("index", [0, 13, 39])
def test_a_write_to_any_parameter_is_seen(write: str, index: int) -> None:
    parameters = [nn.Parameter(torch.randn(1 + i, 2)) for i in range(40)]
    places = Places(parameters)
    assert places.unchanged()
    assert [float(p.detach().sum()) for p in parameters]  # read
    assert places.unchanged()
    with torch.no_grad():
        WRITES[write](parameters[index])
    assert not places.unchanged()


@pytest.mark.skipif(cpu._native is None, reason="the native module is not built")
def test_no_parameters_never_change() -> None:
    empty: list[Tensor] = []
    assert Places(empty).unchanged()  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["layers.1.attention.dropout", "layers.0", "layers", ""])
def test_eval_reaches_what_is_in_training_mode(path: str) -> None:
    """Where everything is in eval mode, `eval` of a patched encoder goes no further."""
    encoder: Any = squeezebert_fast.patch(encoder_of(hidden_dropout_prob=0.5))
    run(encoder, states(encoder, 1, 3))  # makes its plan
    encoder.eval()
    encoder.get_submodule(path).training = True
    encoder.eval()
    assert not any(module.training for module in encoder.modules())
    encoder.train()
    assert all(module.training for module in encoder.modules())
    encoder.layers[1] = copy.deepcopy(encoder.layers[1]).train()
    encoder.eval()
    assert not any(module.training for module in encoder.modules())
