"""accelerate's offloading and dispatching: weights that are elsewhere between calls, of a patched model too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch

import squeezebert_fast
from squeezebert_fast.errors import UnsupportedError
from tests.engine_helpers import native_runs, needs_native
from tests.model_pairs import CLASSES
from tests.works_with.helpers import CLOSE, LIBRARIES, inputs, logits, model_of, patched

pytestmark = needs_native
CPU = torch.device("cpu")


def half_on_disk(model: Any, folder: Path) -> Any:
    places = {"transformer.embeddings": "cpu", "transformer.encoder": "disk"}
    places |= {"transformer.pooler": "cpu", "classifier": "disk"}
    return accelerate.dispatch_model(model, places, offload_dir=folder, main_device="cpu")


WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "cpu_offload": lambda model, folder: accelerate.cpu_offload(model, CPU),
    "disk_offload": lambda model, folder: accelerate.disk_offload(model, folder, CPU),
    "dispatch_model": lambda model, folder: accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True),
    "dispatch_model, half on disk": half_on_disk,
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_patched_model_answers_as_before(precision: str, way: str, library: str, tmp_path: Path) -> None:
    model, batch = model_of(library), inputs()
    expected = logits(model, batch)
    fast = WAYS[way](patched(model, precision=precision), tmp_path)
    tolerance = CLOSE if precision == "float32" else {"rtol": 0.1, "atol": 0.1}
    for _ in range(2):
        torch.testing.assert_close(logits(fast, batch), expected, **tolerance)
    reasons = {row.reason for row in squeezebert_fast.explain(fast).rows}
    assert all("overridden" in reason for reason in reasons)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("way", WAYS)
def test_patching_what_is_offloaded(way: str, library: str, tmp_path: Path) -> None:
    model, batch = model_of(library), inputs()
    expected = logits(model, batch)
    offloaded = squeezebert_fast.patch(WAYS[way](model, tmp_path))
    torch.testing.assert_close(logits(offloaded, batch), expected, **CLOSE)
    torch.testing.assert_close(logits(squeezebert_fast.unpatch(offloaded), batch), expected, **CLOSE)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", CLASSES)
def test_every_head_is_offloaded(name: str, library: str) -> None:
    model, batch = model_of(library, name), inputs(name)
    with torch.no_grad():
        expected = model(**batch)[0]
        actual = accelerate.cpu_offload(patched(model), CPU)(**batch)[0]
    torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("way", WAYS)
def test_hooks_that_are_removed_leave_the_patched_model(way: str, library: str, tmp_path: Path) -> None:
    model, batch = patched(model_of(library)), inputs()
    expected = logits(model, batch)
    WAYS[way](model, tmp_path)
    logits(model, batch)
    accelerate.hooks.remove_hook_from_submodules(model)
    with native_runs() as runs:
        assert torch.equal(logits(model, batch), expected)
    assert runs == ["float32"]
    torch.testing.assert_close(logits(squeezebert_fast.unpatch(model), batch), expected, **CLOSE)
    with native_runs() as runs:
        assert torch.equal(logits(squeezebert_fast.patch(model), batch), expected)
    assert runs == ["float32"]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("way", WAYS)
def test_unpatching_what_was_offloaded_after_patch(way: str, library: str, tmp_path: Path) -> None:
    model, batch = model_of(library), inputs()
    expected = logits(model, batch)
    offloaded = squeezebert_fast.unpatch(WAYS[way](patched(model), tmp_path))
    torch.testing.assert_close(logits(offloaded, batch), expected, **CLOSE)


@pytest.mark.parametrize("way", WAYS)
def test_weights_that_were_given_up_can_not_be_brought_back(way: str, tmp_path: Path) -> None:
    model = patched(model_of("ours"), keep_original=False)
    with pytest.raises(UnsupportedError, match="keep_original=False"):
        logits(WAYS[way](model, tmp_path), inputs())
