"""Threads of the native kernels, each test in a fresh process: PyTorch's OpenMP borrowed, or our own pool.

csrc/tests/test_thread_team.cpp tests the own pool closer.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

SPEC = importlib.util.find_spec("squeezebert_fast._native")

pytestmark = [
    pytest.mark.skipif(SPEC is None, reason="installed without native kernels"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="OpenMP is borrowed on Linux alone"),
]

# result(threads) is a product large enough for several threads, right when it is NumPy's and has the
# same bits each time. The module is loaded from its file, since the package would load PyTorch.
PRELUDE = """
import importlib.machinery, importlib.util, os, re, signal, sys, threading, time
{torch}
import numpy as np

loader = importlib.machinery.ExtensionFileLoader("_native", {path!r})
native = importlib.util.module_from_spec(importlib.util.spec_from_loader("_native", loader))
loader.exec_module(native)

GROUPS, IN, OUT, TOKENS = 2, 96, 160, 70
random = np.random.default_rng(0)
x = random.standard_normal((TOKENS, GROUPS * IN), np.float32)
weight = random.standard_normal((GROUPS * OUT, IN), np.float32)
exact = np.concatenate([
    x[:, g * IN:(g + 1) * IN].astype(np.float64) @ weight[g * OUT:(g + 1) * OUT].T.astype(np.float64)
    for g in range(GROUPS)
], 1)

def result(threads):
    packed = native.PackedGroupedPointwiseConv(
        native.instruction_sets()[0], native.Precision.float32,
        (weight.ctypes.data, 0, 0, 0, GROUPS, GROUPS * IN, GROUPS * OUT, 1), threads)
    y = np.full(exact.shape, np.nan, np.float32)
    none, float32 = native.Activation.none, native.Element.float32
    packed.run(x.ctypes.data, x.shape[1], TOKENS, 0, y.ctypes.data, y.shape[1], none, threads, float32)
    return y

def is_right(y):
    return np.allclose(y, exact, rtol=0, atol=1e-4) and y.tobytes() == once.tobytes()

def check_in_child(check):
    child = os.fork()
    if child == 0:
        signal.alarm(40)  # a hang is a failure
        os._exit(0 if check() else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child failed or hung"

once = result(1)
assert is_right(once)
"""

# The same result(threads) for a patched model: one native call for its whole encoder.
MODEL_PRELUDE = """
import os, signal, sys, threading, time
import torch
import squeezebert_fast
from squeezebert_fast.backends import cpu
native = cpu._native

torch.manual_seed(0)
config = squeezebert_fast.SqueezeBertConfig(vocab_size=61, hidden_size=96, num_attention_heads=6,
    num_hidden_layers=2, intermediate_size=192, max_position_embeddings=80)
model = squeezebert_fast.SqueezeBertModel(config).eval()
ids = torch.randint(0, 61, (3, 70))
mask = (torch.arange(70) < torch.tensor([[70], [31], [2]])).long()

with torch.inference_mode():
    expected = model(ids, attention_mask=mask).last_hidden_state
squeezebert_fast.patch(model, strict=True)

def result(threads):
    torch.set_num_threads(threads)
    with torch.inference_mode():
        return model(ids, attention_mask=mask).last_hidden_state.numpy()

def is_right(y):
    return abs(y - expected.numpy()).max() < 1e-4 and y.tobytes() == once.tobytes()

def check_in_child(check):
    child = os.fork()
    if child == 0:
        signal.alarm(40)  # a hang is a failure
        os._exit(0 if check() else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child failed or hung"

once = result(1)
assert is_right(once)
"""


def run(script: str, with_torch: bool) -> None:
    assert SPEC is not None
    torch = "import torch\ntorch.ones(300_000).sum()  # starts the threads" if with_torch else ""
    execute(PRELUDE.format(torch=torch, path=SPEC.origin) + script)


def execute(script: str) -> None:
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr


either_runtime = pytest.mark.parametrize("with_torch", [True, False], ids=["pytorch's OpenMP", "own pool"])


def test_pytorchs_own_openmp_runtime_is_borrowed() -> None:
    run(
        """
path = native.thread_runtime().removeprefix("openmp: ")
assert "torch" in path and os.path.exists(path), native.thread_runtime()
result(2)
mapped = re.findall(r"/.*/lib(?:gomp|omp|iomp5)\\b.*", open("/proc/self/maps").read())
assert {os.path.realpath(p) for p in mapped} == {os.path.realpath(path)}, mapped
""",
        with_torch=True,
    )


def test_without_an_openmp_runtime_there_is_a_pool() -> None:
    run('result(2); assert native.thread_runtime() == "own pool", native.thread_runtime()', with_torch=False)


@either_runtime
def test_results_do_not_depend_on_the_number_of_threads(with_torch: bool) -> None:
    run("assert all(is_right(result(threads)) for threads in (1, 2, 3, 8, 2, 1))", with_torch)


def test_pytorchs_number_of_threads_may_change_between_calls() -> None:
    run(
        """
for threads in (1, 2, 1, 3, 2):
    torch.set_num_threads(threads)
    assert is_right(result(torch.get_num_threads()))
    a = torch.ones(200, 200)
    assert (a @ a).sum() == 200 ** 3
    assert is_right(result(torch.get_num_threads()))
    assert torch.get_num_threads() == threads
""",
        with_torch=True,
    )


@either_runtime
def test_a_forked_child_computes_right_after_its_parent_used_threads(with_torch: bool) -> None:
    run(
        """
assert is_right(result(2))
runtime = native.thread_runtime()
def check():
    return is_right(result(2)) and is_right(result(3)) and native.thread_runtime() == runtime
check_in_child(check)
assert is_right(result(2))
check_in_child(lambda: check_in_child(check) is None and check())
""",
        with_torch,
    )


@either_runtime
def test_a_fork_while_other_threads_compute_leaves_the_child_working(with_torch: bool) -> None:
    run(
        """
stop, wrong = threading.Event(), []
def work():
    while not stop.is_set():
        if not is_right(result(2)):
            wrong.append(1)
workers = [threading.Thread(target=work) for _ in range(2)]
for worker in workers:
    worker.start()
for _ in range(5):
    time.sleep(0.02)
    check_in_child(lambda: is_right(result(2)))
stop.set()
for worker in workers:
    worker.join()
assert not wrong
""",
        with_torch,
    )


@either_runtime
def test_python_threads_compute_at_the_same_time(with_torch: bool) -> None:
    run(
        """
right = []
def work():
    right.extend(is_right(result(1 + i % 3)) for i in range(30))
workers = [threading.Thread(target=work) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert len(right) == 120 and all(right)
""",
        with_torch,
    )


def test_the_pool_sleeps_between_calls() -> None:
    run(
        """
before = len(os.listdir("/proc/self/task"))
for _ in range(20):
    result(3)
assert len(os.listdir("/proc/self/task")) == before + 2
time.sleep(0.5)  # NumPy's own threads stay awake for a while
used = time.process_time()
time.sleep(1)
assert time.process_time() - used < 0.1
""",
        with_torch=False,
    )


def test_a_process_ends_while_the_pools_threads_sleep() -> None:
    run("result(3); sys.exit(0)", with_torch=False)


def test_a_patched_model_gives_the_same_bits_on_any_number_of_threads() -> None:
    execute(MODEL_PRELUDE + "assert all(is_right(result(threads)) for threads in (1, 2, 3, 8, 16, 2, 1))")


def test_a_patched_model_works_in_forked_children_and_in_its_parent_after_them() -> None:
    execute(
        MODEL_PRELUDE
        + """
assert is_right(result(2)) and native.thread_runtime().startswith("openmp: ")
def check():
    return is_right(result(2)) and native.thread_runtime().startswith("openmp: ")
check_in_child(check)
assert is_right(result(2))
check_in_child(lambda: check_in_child(check) is None and check())
"""
    )


def test_python_threads_run_one_patched_model_at_the_same_time() -> None:
    execute(
        MODEL_PRELUDE
        + """
right = []
def work():
    right.extend(is_right(result(2)) for _ in range(20))
workers = [threading.Thread(target=work) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert len(right) == 80 and all(right)
"""
    )


def test_a_patched_models_encoder_leaves_no_thread_awake_between_calls() -> None:
    execute(
        MODEL_PRELUDE
        + """
for _ in range(20):
    result(2)
time.sleep(0.5)
used = time.process_time()
time.sleep(1)
assert time.process_time() - used < 0.1
"""
    )
