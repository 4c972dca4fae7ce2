"""Which backend serves, and why not another."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from squeezebert_fast import ArgumentError, UnsupportedError, backends
from squeezebert_fast.backends import Backend, cpu
from squeezebert_fast.backends.request import Request
from squeezebert_fast.ops import reference

CONV = Request("grouped_pointwise_conv", torch.device("cpu"), torch.float32)
needs_native = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")


@pytest.fixture
def restored_choice() -> Iterator[None]:
    before = cpu._chosen
    yield
    cpu._chosen = before


@needs_native
def test_auto_takes_the_native_kernel_where_it_serves() -> None:
    with cpu.use_instruction_set(cpu.instruction_sets()[0]):
        if cpu.instruction_set() == "scalar":
            pytest.skip("only the scalar build is usable here")
        assert backends.choose(CONV) == backends.Choice("cpu", "the first choice here")
        assert backends.choose(CONV, strict=True).backend == "cpu"


@needs_native
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"dtype": torch.float64},
            "cpu: the dtype is torch.float64, the kernels take torch.float32 and torch.bfloat16",
        ),
        (
            {"operation": "encoder", "dtype": torch.bfloat16},
            "cpu: the dtype is torch.bfloat16, the kernel takes torch.float32",
        ),
        ({"operation": "encoder", "autocast": torch.bfloat16}, "cpu: autocast is active"),
        (
            {"autocast": torch.float16},
            "cpu: autocast to torch.float16 is active, the kernels take torch.bfloat16",
        ),
        ({"device": torch.device("meta")}, "cpu: the tensors are on meta, not on the CPU"),
        ({"obstacle": "a mode is active"}, "cpu: a mode is active"),
    ],
)
def test_a_refusal_is_told_and_strict_raises_it(change: dict[str, object], reason: str) -> None:
    request = CONV._replace(**change)  # type: ignore[arg-type]
    for backend in ("auto", "cpu"):
        assert backends.choose(request, backend) == backends.Choice("reference", reason)
        with pytest.raises(UnsupportedError, match=re.escape(reason)) as caught:
            backends.choose(request, backend, strict=True)
        assert f"(backend {backend!r}, strict)" in str(caught.value)


@pytest.mark.parametrize("operation", ["attention", "add_layer_norm"])
def test_an_operation_without_a_kernel_runs_on_the_reference_even_if_strict(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(operation, torch.device("cpu"), torch.float32)
    monkeypatch.setitem(backends.BACKENDS, "other", Backend("other", frozenset(), lambda _: "no kernel yet"))
    monkeypatch.setattr(backends, "NAMES", ("auto", *backends.BACKENDS))
    choice = backends.choose(request, "other", strict=True)
    assert choice == backends.Choice("reference", "other: no kernel yet")
    unknown = backends.choose(request._replace(operation="pooling"), strict=True)
    assert unknown == backends.Choice("reference", "no kernel for pooling in this version")


def test_a_gpu_keeps_pytorchs_dropout_and_says_so() -> None:
    request = Request("dropout", torch.device("cuda"), torch.float32)
    choice = backends.choose(request, "triton", strict=True)
    assert choice == backends.Choice("reference", "triton: no Triton kernel for dropout in this version")
    assert backends.choose(request).backend == "reference"


@needs_native
@pytest.mark.parametrize(
    "operation", ["qkv_projection", "attention", "add_layer_norm", "dropout", "grouped_mlp"]
)
def test_the_cpu_serves_single_operations_with_gradients_autocast_and_in_graphs(
    operation: str,
) -> None:
    how = {"needs_grad": True, "autocast": torch.bfloat16, "traced": True}
    request = Request(operation, torch.device("cpu"), torch.bfloat16, **how)
    assert backends.choose(request, "cpu", strict=True) == backends.Choice("cpu", "chosen by name")


def test_a_gpu_backend_says_why_it_can_not_serve() -> None:
    reason = "triton: the tensors are on cpu, not on a CUDA GPU"
    assert backends.choose(CONV, "triton") == backends.Choice("reference", reason)


def test_auto_asks_the_backends_of_the_tensors_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.triton, "unavailable", lambda device: None)
    on_gpu = Request(CONV.operation, torch.device("cuda", 1), torch.bfloat16)
    assert backends.choose(on_gpu) == backends.Choice("triton", "the first choice here")
    assert backends.choose(CONV).backend != "triton"
    reason = "cpu: the tensors are on cuda:1, not on the CPU"
    assert backends.choose(on_gpu, "cpu") == backends.Choice("reference", reason)


def test_the_reference_can_be_chosen_and_serves_everything() -> None:
    row = backends.BACKENDS["reference"]
    for operation in row.operations:
        assert callable(getattr(reference, operation))
        request = Request(operation, torch.device("meta"), torch.float16, "anything")
        choice = backends.choose(request, "reference", strict=True)
        assert choice == backends.Choice("reference", "chosen by name")
        assert row.refusal(request) is None


def test_an_unknown_backend_names_the_known_ones() -> None:
    with pytest.raises(
        ArgumentError, match=r"backend is 'onnx', expected one of auto, reference, cpu, triton$"
    ):
        backends.choose(CONV, "onnx")


def test_strict_auto_asks_every_backend_before_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Backend("first", frozenset({CONV.operation}), lambda _: "out of order", device_type="xpu")
    rows = {"first": first, "second": dataclasses.replace(first, name="second", refusal=lambda _: "busy")}
    monkeypatch.setattr(backends, "BACKENDS", backends.BACKENDS | rows)
    elsewhere = CONV._replace(device=torch.device("xpu"))
    with pytest.raises(UnsupportedError, match="first: out of order; second: busy"):
        backends.choose(elsewhere, strict=True)
    backends.BACKENDS["second"] = dataclasses.replace(rows["second"], refusal=lambda _: None)
    assert backends.choose(elsewhere, strict=True) == backends.Choice("second", "first: out of order")
    assert backends.choose(CONV).backend not in rows


# Instruction sets


@needs_native
def test_the_scalar_build_is_used_only_if_asked_for(
    monkeypatch: pytest.MonkeyPatch, restored_choice: None
) -> None:
    monkeypatch.delenv(cpu.ISA_VARIABLE, raising=False)
    with cpu.use_instruction_set("scalar"):
        assert "only the scalar build fits" in backends.choose(CONV).reason
        assert backends.choose(CONV, "cpu") == backends.Choice("cpu", "chosen by name")
        monkeypatch.setenv(cpu.ISA_VARIABLE, "scalar")
        assert backends.choose(CONV).backend == "cpu"


@needs_native
def test_the_environment_names_the_build(monkeypatch: pytest.MonkeyPatch, restored_choice: None) -> None:
    for name in cpu.instruction_sets():
        monkeypatch.setattr(cpu, "_chosen", None)
        monkeypatch.setenv(cpu.ISA_VARIABLE, name)
        assert cpu.instruction_set() == name
    monkeypatch.setattr(cpu, "_chosen", None)
    monkeypatch.setenv(cpu.ISA_VARIABLE, "")
    assert cpu.instruction_set() == cpu.instruction_sets()[0]


@needs_native
def test_a_build_that_amx_was_refused_to_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, restored_choice: None
) -> None:
    usable = [name for name in cpu.instruction_sets() if name != "avx512_amx"]
    monkeypatch.setattr(cpu, "_usable", usable)
    monkeypatch.setattr(cpu._native, "amx_refusal", lambda: "the kernel said no")
    monkeypatch.setattr(cpu, "_chosen", None)
    monkeypatch.setenv(cpu.ISA_VARIABLE, "avx512_amx")
    with pytest.raises(
        ArgumentError, match=r"is 'avx512_amx'; usable here: .*scalar \(AMX: the kernel said no\)"
    ):
        cpu.instruction_set()


@needs_native
def test_an_unusable_build_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match=r"instruction set 'sse9' is not usable; usable here: .*scalar"):
        cpu.use_instruction_set("sse9").__enter__()
    before = cpu.instruction_set()
    with pytest.raises(RuntimeError), cpu.use_instruction_set("scalar"):
        raise RuntimeError
    assert cpu.instruction_set() == before


RUN_MODEL = """
import torch, squeezebert_fast as s
torch.set_num_threads(1)
model = s.SqueezeBertModel(s.SqueezeBertConfig(
    hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1, vocab_size=20)).eval()
ids = torch.tensor([[1, 2, 3]])
with torch.no_grad():
    expected = model(ids)[0]
    s.patch(model)
    try:
        print(s.explain(model).rows[0].backend, "explained")
        torch.testing.assert_close(model(ids)[0], expected)
        print("right")
    except s.ArgumentError as error:
        print("refused:", error)
s.unpatch(model)
assert torch.equal(model(ids)[0], expected)
print(s.doctor())
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@needs_native
def test_a_process_honours_the_environment() -> None:
    done = run_python(RUN_MODEL, SQUEEZEBERT_FAST_ISA="scalar")
    assert done.stdout.startswith("cpu explained\nright\n"), done.stderr
    assert re.search(r"kernel build in use +scalar\n", done.stdout)


@needs_native
def test_a_process_refuses_an_unusable_build_and_doctor_says_so() -> None:
    done = run_python(RUN_MODEL, SQUEEZEBERT_FAST_ISA="avx1024")
    message = "SQUEEZEBERT_FAST_ISA is 'avx1024'; usable here: "
    assert done.stdout.startswith(f"refused: {message}"), done.stderr
    assert re.search(rf"kernel build in use +error: {message}", done.stdout)
    assert re.search(rf"grouped_pointwise_conv +error: {message}", done.stdout)


NO_NATIVE = "import sys; sys.modules['squeezebert_fast._native'] = None\n"
STRICT = """
import pytest
for backend in ("auto", "cpu"):
    with pytest.raises(s.UnsupportedError, match="native module is not built .*C.. compiler"):
        s.patch(model, backend=backend, strict=True)
with pytest.raises(s.UnsupportedError, match="native module is not built"):
    s.ops.grouped_pointwise_conv(torch.ones(2, 3), torch.ones(4, 3, 1), backend="cpu", strict=True)
with pytest.raises(s.UnsupportedError, match="native module is not built"):
    s.backends.cpu.instruction_set()
print("strict raised")
"""


def test_without_the_native_module_everything_runs_on_the_reference() -> None:
    done = run_python(NO_NATIVE + RUN_MODEL + STRICT)
    assert done.stdout.startswith("reference explained\nright\n"), done.stderr
    assert re.search(r"native module +the native module is not built \(.*\); reinstall with a C", done.stdout)
    assert re.search(r"grouped_pointwise_conv +reference \(cpu: the native module is not built", done.stdout)
    assert done.stdout.endswith("strict raised\n"), done.stderr
