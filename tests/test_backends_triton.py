"""Where the Triton backend serves, and what it says where it doesn't; no GPU is needed to know."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from squeezebert_fast import ArgumentError, UnsupportedError, backends, doctor, ops, triton_kernels
from squeezebert_fast.activations import ACTIVATIONS
from squeezebert_fast.backends import assembler, triton
from squeezebert_fast.backends.request import Request
from squeezebert_fast.ops import reference
from tests.fake_triton import fake_triton
from tests.test_backends import run_python

GPU = torch.device("cuda", 0)
CONV = Request("grouped_pointwise_conv", GPU, torch.bfloat16)

NOT_REMEMBERED = triton._triton_refusal.__wrapped__


class FakeProbe:
    """In the place of triton_kernels/probe.py."""

    def __init__(self, result: object) -> None:
        self.result, self.runs = result, 0

    def run(self, device: torch.device) -> object:
        self.runs += 1
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeProbe]:
    """Calls make this process believe in a GPU."""

    def make(
        capability: tuple[int, int] = (9, 0),
        version: str | None = "3.6.0",
        probe: object = None,
        ptxas: str | None = "12.8.93",
    ) -> FakeProbe:
        def installed(package: str) -> str:
            if version is None:
                raise importlib.metadata.PackageNotFoundError(package)
            return version

        fake = FakeProbe(probe)
        monkeypatch.delenv(triton.INTERPRET_VARIABLE, raising=False)
        monkeypatch.setattr(triton, "_device_refusals", {})
        monkeypatch.setattr(triton, "_triton_refusal", NOT_REMEMBERED)
        monkeypatch.setattr(importlib.metadata, "version", installed)
        monkeypatch.setattr(triton, "kernels", lambda name: fake)
        monkeypatch.setattr(assembler, "version", lambda capability: ptxas)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        properties = SimpleNamespace(shared_memory_per_block_optin=227 * 1024)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
        return fake

    return make


def test_a_gpu_of_the_right_kind_serves_after_one_probe(gpu: Callable[..., FakeProbe]) -> None:
    for version in ("3.6.0", "3.9.0", "3.10.1", "4.0.0+git1"):
        probe = gpu(version=version)
        for dtype in triton.DTYPES:
            for device in (GPU, torch.device("cuda")):
                assert triton.refusal(Request("attention", device, dtype)) is None
        assert probe.runs == 1
        assert backends.choose(CONV) == backends.Choice("triton", "the first choice here")


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "no triton": ({"version": None}, "triton is not installed"),
    "an old one": ({"version": "3.5.1"}, "triton 3.5.1 is installed, the kernels need 3.6 or later"),
    "an odd one": ({"version": "main"}, "triton main is installed, the kernels need 3.6 or later"),
    "an old GPU": ({"capability": (7, 5)}, "cuda:0 has compute capability 7.5, the kernels need 8.0"),
    "an assembler that no one checked": (
        {"ptxas": "12.3.107"},
        "triton assembles with ptxas 12.3.107; before 13.3 it may overwrite what a tensor core still reads",
    ),
    "a failing compiler": (
        {"probe": RuntimeError("Failed to find C compiler.\nSpecify CC")},
        "the probe kernel failed on cuda:0: RuntimeError: Failed to find C compiler.",
    ),
    "a broken kernel": (
        {"probe": "it computed a wrong product"},
        "the probe kernel failed on cuda:0: it computed a wrong product",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_missing_is_a_reason_never_an_exception(case: str, gpu: Callable[..., FakeProbe]) -> None:
    settings, reason = REFUSALS[case]
    probe = gpu(**settings)
    for _ in range(2):
        choice = backends.choose(CONV)
        assert choice.backend == "reference"
        assert choice.reason.startswith(f"triton: {reason}")
    assert probe.runs == ("probe" in settings)
    with pytest.raises(UnsupportedError, match=re.escape(reason)):
        backends.choose(CONV, strict=True)


def test_what_a_call_brings_is_refused_too(gpu: Callable[..., FakeProbe]) -> None:
    gpu()

    def refusal(**change: Any) -> str | None:
        return triton.refusal(CONV._replace(**change))

    assert refusal() is None
    takes = "the kernels take torch.float32, torch.bfloat16, torch.float16"
    assert refusal(dtype=torch.float64) == f"the dtype is torch.float64, {takes}"
    assert refusal(device=torch.device("cpu")) == "the tensors are on cpu, not on a CUDA GPU"
    assert refusal(obstacle="autocast is active") == "autocast is active"
    for operation in ("encoder", "embeddings"):
        assert refusal(operation=operation) is None
        for change in ({"needs_grad": True}, {"traced": True}, {"autocast": torch.bfloat16}):
            assert refusal(operation=operation, **change) is not None
            assert refusal(**change) is None
    assert refusal(autocast=torch.float64) == f"autocast to torch.float64 is active, {takes}"
    assert refusal(operation="pooler") == "no Triton kernel for pooler in this version"
    wide = refusal(operation="attention", sizes={"channels": 512, "num_heads": 2})
    assert wide == "heads of 256 channels, the kernel takes at most 128"
    assert "16384" in str(refusal(operation="add_layer_norm", sizes={"channels": 16385}))


def test_a_first_call_inside_a_capture_is_refused_and_not_remembered(
    gpu: Callable[..., FakeProbe], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = gpu()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert "a CUDA graph is being captured" in backends.choose(CONV).reason
    assert probe.runs == 0
    assert backends.choose(CONV).backend == "triton"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert backends.choose(CONV).backend == "triton"


def test_rocm_is_refused(gpu: Callable[..., FakeProbe], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu()
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert "ROCm" in backends.choose(CONV).reason


def test_the_interpreter_serves_cpu_tensors_and_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(triton.INTERPRET_VARIABLE, "1")
    monkeypatch.setattr(triton, "_triton_refusal", lambda: None)
    on_cpu = Request("attention", torch.device("cpu"), torch.float32)
    assert backends.choose(on_cpu, "triton") == backends.Choice("triton", "chosen by name")
    assert backends.choose(on_cpu).backend != "triton"
    assert backends.choose(CONV).reason.startswith(
        "triton: TRITON_INTERPRET is set, so kernels run on the CPU"
    )
    for off in ("0", "", "false"):
        monkeypatch.setenv(triton.INTERPRET_VARIABLE, off)
        assert not triton.interpreting()


def test_without_a_gpu_triton_is_never_imported() -> None:
    done = run_python(
        """
import sys, torch, squeezebert_fast as s
config = s.SqueezeBertConfig(
    hidden_size=8, num_attention_heads=2, intermediate_size=8, num_hidden_layers=1, vocab_size=9)
model, ids = s.SqueezeBertModel(config).eval(), torch.tensor([[1, 2]])
expected = model(ids)[0]
for backend in ("auto", "triton"):
    s.patch(model, backend=backend)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids)[0], expected)
    s.explain(model)
x = torch.ones(1, 2, 8)
s.ops.attention(x, x, x, num_heads=2, backend="triton")
report = str(s.doctor())
print("triton" in sys.modules, s.backends.choose(s.backends.Request("encoder", x.device, x.dtype), "triton").reason)
""",
        TRITON_INTERPRET="",
    )
    assert done.stdout == "False triton: the tensors are on cpu, not on a CUDA GPU\n", done.stderr


def test_doctor_says_whether_the_kernels_can_run(
    gpu: Callable[..., FakeProbe], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(capability=(7, 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "A GPU")
    sections = doctor().sections
    rows = dict(sections["GPU"])
    assert rows["cuda:0"] == "A GPU"
    assert rows["Triton kernels on cuda:0"] == "no: cuda:0 has compute capability 7.0, the kernels need 8.0"
    chosen = dict(sections["operations on cuda, bfloat16"])
    pytorchs = "reference (no kernel for dropout in this version)"
    assert chosen.pop("dropout") == pytorchs
    assert all(value.startswith("reference (triton: cuda:0 has compute") for value in chosen.values())
    gpu()
    sections = doctor().sections
    rows = dict(sections["GPU"])
    assert rows["Triton kernels on cuda:0"] == "yes"
    assert rows["their assembler for cuda:0"] == (
        "ptxas 12.8.93, before 13.3: the kernels' machine code is checked with this release"
    )
    chosen = dict(sections["operations on cuda, bfloat16"])
    assert chosen.pop("dropout") == pytorchs
    assert set(chosen.values()) == {"triton (the first choice here)"}


# The operations


def tensors(dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {
        "x": (2, 5, 24),
        "w": (24, 12, 1),
        "w_in": (48, 12, 1),
        "w_out": (24, 24, 1),
        "b": (24,),
        "b_in": (48,),
    }
    return {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}


def operations(t: dict[str, Tensor]) -> dict[str, tuple[Callable[..., Tensor], tuple[Any, ...]]]:
    x = t["x"]
    return {
        "grouped_pointwise_conv": (ops.grouped_pointwise_conv, (x, t["w"], t["b"], 2, "gelu")),
        "qkv_projection": (
            lambda *args, **options: torch.stack(ops.qkv_projection(*args, **options)),
            (x, t["w"], t["b"], t["w"].neg(), None, t["w"].flip(0), t["b"], 2),
        ),
        "attention": (ops.attention, (x, x.flip(0), x, torch.zeros(2, 1, 1, 5, dtype=x.dtype), 4)),
        "add_layer_norm": (ops.add_layer_norm, (x, x.flip(1), t["b"], t["b"], 1e-12)),
        "grouped_mlp": (ops.grouped_mlp, (x, t["w_in"], t["b_in"], t["w_out"], None, 2, "relu")),
    }


@pytest.mark.parametrize("dtype", triton.DTYPES)
@pytest.mark.parametrize("name", operations(tensors(torch.float32)))
def test_an_operation_runs_its_kernels(name: str, dtype: torch.dtype) -> None:
    given = tensors(dtype)
    run, args = operations(given)[name]
    with fake_triton() as calls:
        actual, expected = run(*args, backend="triton", strict=True), run(*args, backend="reference")
        assert (actual - expected).norm() <= 0.02 * expected.norm()  # what stands in rounds elsewhere
        assert calls == [name]
        not_contiguous = operations({**given, "x": given["x"].mT.contiguous().mT})[name][1]
        actual = run(*not_contiguous, backend="triton", strict=True)
        assert (actual - expected).norm() <= 0.02 * expected.norm()
        del calls[:]
        given["x"].requires_grad_()
        run(*operations(given)[name][1], backend="triton", strict=True).sum().backward()
        assert calls == [name, name + "_backward"]
        assert given["x"].grad.dtype is dtype
        del calls[:]
        with torch.no_grad():
            assert not run(*operations(given)[name][1], backend="triton", strict=True).requires_grad
        assert calls == [name]


@pytest.mark.parametrize("name", operations(tensors(torch.float32)))
def test_autocast_rounds_what_a_product_takes(name: str) -> None:
    run, args = operations(tensors(torch.float32))[name]
    with fake_triton() as calls, torch.autocast("cpu", torch.bfloat16):
        rounds = name != "add_layer_norm"
        expected = torch.bfloat16 if rounds else torch.float32
        assert run(*args, backend="triton", strict=True).dtype is expected
    assert calls == [name]


def test_a_graph_asks_once_whether_the_kernels_can_run() -> None:
    def asked(x: Tensor) -> Tensor:
        return x + len(triton.unavailable(x.device) or "")

    x = torch.zeros(2)
    assert torch.equal(torch.compile(asked, backend="eager", fullgraph=True)(x), asked(x))


def test_what_no_kernel_takes_runs_on_the_reference() -> None:
    t = tensors(torch.float32)
    x = t["x"]
    with fake_triton() as calls:
        wide = torch.randn(1, 3, 400)
        ops.attention(wide, wide, wide, num_heads=2, backend="triton")
        assert calls == []
        with pytest.raises(UnsupportedError, match="attention: triton: heads of 200 channels"):
            ops.attention(wide, wide, wide, num_heads=2, backend="triton", strict=True)
        learning = torch.zeros(2, 1, 1, 5, requires_grad=True)
        with pytest.raises(UnsupportedError, match="attention: triton: the mask needs a gradient"):
            ops.attention(x, x, x, learning, 4, backend="triton", strict=True)
        # an activation that isn't fused is PyTorch's, after the kernel
        actual = ops.grouped_pointwise_conv(x, t["w"], t["b"], 2, "tanh", backend="triton", strict=True)
        torch.testing.assert_close(actual, reference.grouped_pointwise_conv(x, t["w"], t["b"], 2, "tanh"))
        assert calls == ["grouped_pointwise_conv"]
        actual = ops.grouped_mlp(
            x, t["w_in"], None, t["w_out"], None, 2, "mish", backend="triton", strict=True
        )
        torch.testing.assert_close(
            actual, reference.grouped_mlp(x, t["w_in"], None, t["w_out"], None, 2, "mish")
        )
        assert calls == 3 * ["grouped_pointwise_conv"]


def test_wrong_arguments_never_reach_a_kernel() -> None:
    t = tensors(torch.float32)
    with fake_triton() as calls:
        for w_out, b_out in (
            (t["w_in"], None),
            (t["w_out"], t["b_in"]),
            (t["w_out"].double(), None),
            (None, None),
        ):
            with pytest.raises(ArgumentError, match=r"weight_out|bias_out"):
                ops.grouped_mlp(t["x"], t["w_in"], None, w_out, b_out, 2, "gelu", backend="triton")
        assert set(calls) <= {"grouped_pointwise_conv"}  # the first product, of arguments that are right


def test_fused_activations_are_known_ones() -> None:
    assert set(triton_kernels.FUSED_ACTIVATIONS) - {None} <= set(ACTIVATIONS)
