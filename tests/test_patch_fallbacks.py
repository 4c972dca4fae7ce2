"""What the fast path can't honour runs through the model's own modules: hooks, adapters, other forwards."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import squeezebert_fast
from squeezebert_fast import UnsupportedError
from tests.model_pairs import inputs_for, pair, tiny_config
from tests.test_ops_contexts import LoggingMode

LIBRARIES = ["ours", "theirs"]
INPUTS = inputs_for("SqueezeBertModel", tiny_config())


def model_of(library: str, **fields: Any) -> nn.Module:
    ours, theirs = pair("SqueezeBertModel", tiny_config(**fields))
    return ours if library == "ours" else theirs


def first(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**INPUTS)[0]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


def assert_falls_back(model: nn.Module, reason: str, layer: str | None = "encoder.layers.1") -> None:
    """The patched model equals the unpatched one, `explain` says why, and `strict` raises that."""
    expected = first(model)
    squeezebert_fast.patch(model, backend="cpu")
    close(first(model), expected)
    rows = [row for row in squeezebert_fast.explain(model).rows if layer is None or row.layer == layer]
    assert {row.backend for row in rows} == {"reference"}
    assert all(reason in row.reason for row in rows), rows[0].reason
    with pytest.raises(UnsupportedError, match=r"\(strict\)") as caught:
        squeezebert_fast.patch(squeezebert_fast.unpatch(model), backend="reference", strict=True)
    assert reason in str(caught.value)
    assert type(model.encoder).__name__ == "SqueezeBertEncoder"


class LowRank(nn.Module):
    """An adapter in place of a convolution, which it keeps."""

    def __init__(self, base: nn.Conv1d) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Conv1d(base.in_channels, 2, 1)
        self.up = nn.Conv1d(2, base.out_channels, 1)
        self.weight, self.bias, self.groups = base.weight, base.bias, base.groups  # looks like a convolution

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == self.down.in_channels and x.shape[1] != self.down.in_channels:
            return self.base(x) + self.up(self.down(x.mT)).mT
        return self.base(x) + self.up(self.down(x))


class Doubled(nn.Module):
    """Twice a module's result, whatever it holds."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "inner" else getattr(self.inner, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = self.inner.forward(*args, **kwargs)
        if isinstance(result, dict):
            return {name: 2 * value for name, value in result.items()}
        return 2 * result if isinstance(result, Tensor) else (2 * result[0], *result[1:])


def replace(path: str, new: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    def change(layer: nn.Module) -> None:
        owner, _, name = path.rpartition(".")
        setattr(layer.get_submodule(owner), name, new(layer.get_submodule(path)))

    return change


def override_forward(path: str) -> Callable[[nn.Module], None]:
    def change(layer: nn.Module) -> None:
        module = layer.get_submodule(path)
        own = module.forward

        def forward(*args: Any) -> Any:
            result = own(*args)
            if isinstance(result, dict):
                return {name: 2 * value for name, value in result.items()}
            return 2 * result if isinstance(result, Tensor) else (2 * result[0], *result[1:])

        module.forward = forward  # type: ignore[method-assign]

    return change


def subclass(path: str) -> Callable[[nn.Module], None]:
    def change(layer: nn.Module) -> None:
        module = layer.get_submodule(path)
        original = type(module)
        name = f"My{original.__name__}"
        module.__class__ = type(
            name, (original,), {"forward": lambda self, *a: 0.5 * original.forward(self, *a)}
        )

    return change


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def plain_attribute(layer: nn.Module) -> None:
    conv = layer.output.conv1d
    weight = conv.weight.detach() * 2
    del conv.weight
    conv.weight = weight


def wide_convolution(conv: nn.Module) -> nn.Module:
    return nn.Conv1d(conv.in_channels, conv.out_channels, 3, padding=1)  # type: ignore[arg-type]


CHANGES: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "adapter": (replace("output.conv1d", LowRank), "output: conv1d is a LowRank"),
    "adapter on a query": (replace("attention.query", LowRank), "attention: query is a LowRank"),
    "block": (replace("output", Doubled), "output is a Doubled"),
    "intermediate": (replace("intermediate", Doubled), "intermediate is a Doubled"),
    "norm": (replace("output.layernorm", lambda _: nn.Identity()), "output: layernorm is a Identity"),
    "dropout": (
        replace("output.dropout", lambda _: nn.AlphaDropout(0.0)),
        "output: dropout is a AlphaDropout",
    ),
    "subclass": (subclass("post_attention"), "post_attention is a MyConvDropoutLayerNorm"),
    "subclass of a convolution": (subclass("output.conv1d"), "output: conv1d is a My"),
    "forward of a convolution": (override_forward("output.conv1d"), "the forward of conv1d, a "),
    "forward of a block": (override_forward("post_attention"), "the forward of post_attention, a "),
    "forward of a layer": (override_forward(""), "the forward of layer, a SqueezeBertModule, is overridden"),
    "forward of an activation": (override_forward("intermediate.act"), "the forward of activation, a "),
    "parametrization": (
        lambda layer: parametrize.register_parametrization(layer.output.conv1d, "weight", Halved()),
        "conv1d is a Parametrized",
    ),
    "weight norm": (
        lambda layer: nn.utils.parametrizations.weight_norm(layer.attention.key),
        "key is a Parametrized",
    ),
    "pruning": (
        lambda layer: prune.l1_unstructured(layer.attention.value, "weight", 0.5),
        "a hook is registered on value",
    ),
    "plain weight": (plain_attribute, "whose weight or bias is not a parameter"),
    "norm without parameters": (
        lambda layer: layer.output.layernorm.register_parameter("bias", None),
        "a norm without weight or bias",
    ),
    "tensor subclass": (
        lambda layer: setattr(
            layer.output.conv1d, "weight", nn.Parameter(layer.output.conv1d.weight.data.as_subclass(Sub))
        ),
        "a tensor is a Sub",
    ),
}


class Sub(Tensor):
    """Computes as its base."""


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_runs_through_its_own_modules(change: str, library: str) -> None:
    model = model_of(library)
    torch.manual_seed(1)
    CHANGES[change][0](model.encoder.layers[1])
    assert_falls_back(model, CHANGES[change][1])
    rows = squeezebert_fast.explain(squeezebert_fast.patch(model, backend="reference")).rows
    assert {row.reason for row in rows if row.layer == "encoder.layers.0"} == {"chosen by name"}


@pytest.mark.parametrize("path", ["attention.matmul_qk", "attention.softmax"])
def test_a_replaced_part_of_transformers_attention_is_called(path: str) -> None:
    model = model_of("theirs")
    replace(path, Doubled)(model.encoder.layers[1])
    assert_falls_back(model, f"{path.partition('.')[2]} is a Doubled")


def test_a_convolution_that_is_not_pointwise_is_called() -> None:
    model = model_of("theirs")
    torch.manual_seed(1)
    replace("attention.query", wide_convolution)(model.encoder.layers[1])
    assert_falls_back(model, "a convolution that is not pointwise")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_wrapped_layer_is_called_as_its_encoder_calls_it(library: str) -> None:
    model = model_of(library)
    model.encoder.layers[1] = Doubled(model.encoder.layers[1])
    assert_falls_back(model, "layer is a Doubled")
    model.encoder.layers = nn.ModuleList()
    squeezebert_fast.patch(model)
    assert squeezebert_fast.explain(model).rows == ()
    close(first(model), squeezebert_fast.unpatch(model) and first(model))


class MyEncoder(nn.Module):
    """Mixed into an encoder class: another forward."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = super().forward(*args, **kwargs)
        return type(result)(last_hidden_state=2 * result[0])


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_encoder_with_a_forward_of_its_own_keeps_it(library: str) -> None:
    model = model_of(library)
    original = type(model.encoder)
    model.encoder.__class__ = type("Same", (original,), {})
    expected = first(model)
    squeezebert_fast.patch(model, backend="reference", strict=True)  # a subclass alone changes nothing
    close(first(model), expected)
    assert type(squeezebert_fast.unpatch(model).encoder).__name__ == "Same"
    model.encoder.__class__ = type("MyEncoder", (MyEncoder, original), {})
    doubled = first(model)
    assert not torch.equal(doubled, expected)
    close(first(squeezebert_fast.patch(model)), doubled)
    assert {r.reason for r in squeezebert_fast.explain(model).rows} == {"MyEncoder has a forward of its own"}
    with pytest.raises(UnsupportedError, match="encoder: MyEncoder has a forward of its own"):
        squeezebert_fast.patch(model, backend="reference", strict=True)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["SqueezeBertSelfAttention", "SqueezeBertModule", "SqueezeBertEncoder"])
def test_a_forward_replaced_in_the_class_is_called(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(library)
    cls = {type(m).__name__: type(m) for m in model.modules()}[name]
    own = cls.forward
    calls: list[str] = []
    monkeypatch.setattr(cls, "forward", lambda *a, **k: calls.append(name) or own(*a, **k))
    squeezebert_fast.patch(model)
    first(model)
    assert calls
    assert {r.reason for r in squeezebert_fast.explain(model).rows} == {
        f"the forward of class {name} was replaced"
    }


def test_a_forward_set_on_the_encoder_itself_wins_and_explain_says_so() -> None:
    model = squeezebert_fast.patch(model_of("ours"))
    own = model.encoder.forward
    model.encoder.forward = lambda *a, **k: own(*a, **k)
    assert {r.reason for r in squeezebert_fast.explain(model).rows} == {
        "the forward of the encoder is overridden"
    }


# Hooks


@pytest.mark.parametrize("library", LIBRARIES)
def test_hooks_on_any_submodule_see_what_they_saw(library: str) -> None:
    model = model_of(library)

    def record(model: nn.Module) -> list[tuple[str, Tensor]]:
        seen: list[tuple[str, Tensor]] = []
        handles = [
            module.register_forward_hook(lambda m, i, o, name=name: seen.append((name, o)))
            for name, module in model.encoder.named_modules()
            if not isinstance(module, nn.ModuleList)
        ]
        first(model)
        for handle in handles:
            handle.remove()
        return [(name, o) for name, o in seen if isinstance(o, Tensor)]

    expected = record(model)
    actual = record(squeezebert_fast.patch(model, backend="cpu"))
    assert [name for name, _ in actual] == [name for name, _ in expected]
    for (name, a), (_, e) in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=2e-5, atol=2e-5, msg=name)
    assert not any("hook" in row.reason for row in squeezebert_fast.explain(model).rows)


def paths_of(library: str) -> Iterator[str]:
    for name, module in model_of(library, num_hidden_layers=1).encoder.layers[0].named_modules():
        if not isinstance(module, nn.ModuleList):
            yield name


@pytest.mark.parametrize(
    ("library", "path"), [(library, path) for library in LIBRARIES for path in paths_of(library)]
)
def test_one_hook_on_one_module_may_change_its_result(library: str, path: str) -> None:
    model = model_of(library)

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, dict):
            return {name: 2 * value for name, value in output.items()}
        return 2 * output if isinstance(output, Tensor) else (2 * output[0], *output[1:])

    model.encoder.layers[1].get_submodule(path).register_forward_hook(hook)
    expected = first(model)
    close(first(squeezebert_fast.patch(model)), expected)


HOOKS: dict[str, Callable[[nn.Module, Callable[..., None]], Any]] = {
    "forward": lambda m, f: m.register_forward_hook(f),
    "forward with keywords": lambda m, f: m.register_forward_hook(f, with_kwargs=True),
    "pre-forward": lambda m, f: m.register_forward_pre_hook(f),
    "backward": lambda m, f: m.register_full_backward_hook(f),
    "pre-backward": lambda m, f: m.register_full_backward_pre_hook(f),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", HOOKS)
def test_every_kind_of_hook_fires_and_leaves_the_other_layer_fast(kind: str, library: str) -> None:
    model = squeezebert_fast.patch(model_of(library), backend="reference")
    calls: list[int] = []
    handle = HOOKS[kind](model.encoder.layers[1].attention.query, lambda *_: calls.append(1))
    model(**INPUTS)[0].sum().backward()
    assert calls == [1]
    reasons = {row.layer: row.reason for row in squeezebert_fast.explain(model).rows}
    assert reasons["encoder.layers.0"] == "chosen by name"
    assert reasons["encoder.layers.1"].startswith("attention: a hook is registered on query, a ")
    with pytest.raises(
        UnsupportedError, match=r"encoder\.layers\.1: attention: a hook is registered on query"
    ):
        squeezebert_fast.patch(model, backend="reference", strict=True)
    handle.remove()
    assert squeezebert_fast.explain(model).rows[-1].reason == "chosen by name"


GLOBAL_HOOKS = {
    "forward": "register_module_forward_hook",
    "pre-forward": "register_module_forward_pre_hook",
    "backward": "register_module_full_backward_hook",
    "pre-backward": "register_module_full_backward_pre_hook",
}


@pytest.mark.parametrize("kind", GLOBAL_HOOKS)
def test_a_hook_on_every_module_fires_everywhere(kind: str) -> None:
    model = squeezebert_fast.patch(model_of("ours"))
    seen: set[int] = set()
    register = getattr(torch.nn.modules.module, GLOBAL_HOOKS[kind])
    handle = register(lambda module, *_: seen.add(id(module)))
    try:
        model(**INPUTS)[0].sum().backward()
        assert id(model.encoder.layers[1].output.conv1d) in seen
        assert {r.backend for r in squeezebert_fast.explain(model).rows} == {"reference"}
        with pytest.raises(UnsupportedError, match="a hook is registered on every module"):
            squeezebert_fast.patch(model, backend="reference", strict=True)
    finally:
        handle.remove()


@pytest.mark.parametrize("library", LIBRARIES)
def test_hooks_on_the_encoder_and_the_model_keep_firing(library: str) -> None:
    model = model_of(library)
    calls: list[str] = []
    model.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    model.register_forward_pre_hook(lambda *_: calls.append("model"))
    squeezebert_fast.patch(model, backend="reference", strict=True)
    first(model)
    assert calls == ["model", "encoder"]


# What only a call can tell


@pytest.mark.parametrize("library", LIBRARIES)
def test_strict_raises_in_a_forward_and_only_there(library: str) -> None:
    model = squeezebert_fast.patch(model_of(library), backend="reference", strict=True)
    first(model)
    with pytest.raises(UnsupportedError, match="encoder: output_attentions asks for the scores"):
        model(**INPUTS, output_attentions=True)
    with pytest.raises(UnsupportedError, match="encoder: a torch dispatch mode is active"), LoggingMode():
        model(**INPUTS)
    model.encoder.layers[0].output.register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedError, match=r"encoder\.layers\.0: a hook is registered on output"):
        model(**INPUTS)


def test_strict_raises_for_a_dtype_at_patch_and_in_a_forward() -> None:
    for backend in ("auto", "cpu"):
        message = r"grouped_pointwise_conv: cpu: .*\(backend '.*', strict\)"
        with pytest.raises(UnsupportedError, match=message):
            squeezebert_fast.patch(model_of("ours").double(), backend=backend, strict=True)
        if not squeezebert_fast.backends.cpu.instruction_sets():
            continue
        model = squeezebert_fast.patch(model_of("ours"), backend="cpu", strict=True)
        with pytest.raises(UnsupportedError, match=r"the dtype is torch\.float64"):
            first(model.double())


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients() -> None:
    model = model_of("ours").train()
    plain = copy.deepcopy(model)
    squeezebert_fast.patch(model).gradient_checkpointing_enable()
    for one in (plain, model):
        (one(**INPUTS)[0] * torch.linspace(-1, 1, 24)).sum().backward()
    largest = max(float(p.grad.abs().max()) for p in plain.parameters() if p.grad is not None)
    for a, e in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, e.grad, rtol=1e-3, atol=1e-5 * largest)
    squeezebert_fast.patch(model, backend="reference", strict=True)
    model(**INPUTS)  # is no obstacle
    first(model.eval())


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_checkpoint_around_the_patched_encoder(library: str) -> None:
    model = model_of(library)
    x = torch.randn(2, 5, 24, requires_grad=True)
    mask = torch.zeros(2, 1, 1, 5)
    (expected,) = torch.autograd.grad(model.encoder(x, mask)[0].square().sum(), x)
    squeezebert_fast.patch(model)
    for reentrant in (False, True):
        y = torch.utils.checkpoint.checkpoint(lambda t: model.encoder(t, mask)[0], x, use_reentrant=reentrant)
        (actual,) = torch.autograd.grad(y.square().sum(), x) if not reentrant else (_backward(y, x),)
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def _backward(y: Tensor, x: Tensor) -> Tensor:
    y.square().sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("library", LIBRARIES)
def test_wrong_arguments_raise_what_they_raised(library: str) -> None:
    model = model_of(library)
    x = torch.randn(2, 5, 24)
    for args, kwargs in [((), {}), ((x, None, False, False, True, 1, 2), {}), ((x,), {"nonsense": 1})]:
        for patched in (False, True):
            if patched:
                squeezebert_fast.patch(model)
            with pytest.raises(TypeError):
                model.encoder(*args, **kwargs)
        squeezebert_fast.unpatch(model)


def test_a_mixed_up_dtype_is_an_error_that_names_it() -> None:
    model = squeezebert_fast.patch(model_of("ours"))
    model.encoder.layers[1].output.conv1d.double()
    with pytest.raises(
        squeezebert_fast.ArgumentError,
        match=r"weight_out is torch\.float64, but the hidden tensor is torch\.float32",
    ):
        first(model)
    row = next(
        r for r in squeezebert_fast.explain(model).rows if r.layer.endswith("1") and r.part == "output"
    )
    assert row.precision == "float64"


def test_transformers_head_mask_of_version_4() -> None:
    import transformers

    if int(transformers.__version__.partition(".")[0]) > 4:
        pytest.skip("an argument of transformers 4")
    encoder = squeezebert_fast.patch(model_of("theirs")).encoder
    x, mask = torch.randn(2, 5, 24), torch.zeros(2, 1, 1, 5)
    for unused in (None, [None, None]):
        assert encoder(x, mask, head_mask=unused)[0].shape == x.shape
    with pytest.raises(AssertionError, match="head_mask is not yet supported"):
        encoder(x, mask, head_mask=[None, torch.ones(4)])


def test_nothing_here_imports_transformers() -> None:
    import subprocess

    code = (
        "import sys, torch, squeezebert_fast as s\n"
        "m = s.patch(s.SqueezeBertModel(s.SqueezeBertConfig(hidden_size=8, num_attention_heads=2, "
        "intermediate_size=8, num_hidden_layers=1, vocab_size=9)))\n"
        "m(torch.tensor([[1, 2]])); s.explain(s.unpatch(m))\n"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
