"""`benchmarks.gpu_check` compiles before it launches, without a GPU's context, what it will launch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from benchmarks import gpu_warm
from benchmarks.gpu_kernels import Random, candidates, launched_with
from benchmarks.gpu_kernels_forward import cases
from benchmarks.gpu_names import SHIPPED, TORCH
from benchmarks.gpu_warm import NoDriver, launched_names, launches, not_launching, timed_calls, warm
from squeezebert_fast.triton_kernels.quantize_rows import quantize_rows


@pytest.fixture
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def driver_as_before() -> Any:
    before = driver.__dict__.copy()
    yield
    driver.__dict__.update(before)


def compiled(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/*.cubin")}


def test_what_was_compiled_without_a_gpu_is_found_by_a_launch(
    a_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launch looks for its machine code by what it is given; here it goes as far as having found that."""
    monkeypatch.setattr(gpu_warm, "exact_calls", lambda: {})
    monkeypatch.setattr(
        gpu_warm, "timed_calls", lambda: {"a": lambda: quantize_rows(torch.empty(640, 768, device="meta"), 4)}
    )
    found = warm((9, 0), time.time() + 60.0)
    assert (found["kernels"], found["compiled"], found["refused"], found["not_called"]) == (1, 1, [], {})
    (entry,) = compiled(a_cache)

    driver.set_active(NoDriver((9, 0)))
    own = JITFunction.run
    monkeypatch.setattr(JITFunction, "run", lambda *a, **k: own(*a, **{**k, "warmup": True}))
    quantize_rows(torch.randn(321, 768), 4)  # real tensors, other rows
    assert compiled(a_cache) == {entry}
    quantize_rows(torch.randn(321, 768, dtype=torch.bfloat16), 4)
    assert len(compiled(a_cache)) == 2


def test_time_ends_it(a_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_warm, "exact_calls", lambda: {})
    monkeypatch.setattr(gpu_warm, "_compiled", slow)
    found = warm((9, 0), time.time() + 0.5)
    assert found["kernels"] > 100
    assert found["compiled"] == 0


def slow(index: int) -> None:
    time.sleep(60.0)


def test_every_timed_case_launches_and_has_others_to_choose_from() -> None:
    found, errors = launches(timed_calls())
    assert errors == {}
    assert len({launch.kernel.fn.__name__ for launch in found}) >= 12  # each kernel of the two passes
    names = [case.name for case in cases()]
    assert len(names) == len(set(names))
    for case in cases():
        with not_launching():
            work = case.make(Random("meta"))
        offered = list(candidates(work))
        assert offered[0] == SHIPPED
        assert not work.tiles or len([name for name in offered if name != TORCH]) >= 4, case.name
        assert work.moved > 0
    kernels = set()
    for case in cases():
        if case.profiled:
            with not_launching(lambda launch: kernels.add(launch.kernel.fn.__name__)):
                case.make(Random("meta")).call(0)
    assert len(kernels) == 9


def test_options_reach_every_launch_within_the_block() -> None:
    seen: list[dict[str, Any]] = []
    x = torch.empty(64, 768, device="meta")
    with not_launching(lambda launch: seen.append(launch.keywords)):
        with launched_with(maxnreg=128), launched_names() as names:
            quantize_rows(x, 4)
        quantize_rows(x, 4)
    assert [keywords.get("maxnreg") for keywords in seen] == [128, None]
    assert names == ["quantize_rows_kernel"]
