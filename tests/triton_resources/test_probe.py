"""The probe needs what the other kernels need: on Hopper, wgmma."""

from __future__ import annotations

import pytest
import torch

from benchmarks.triton_resources import compiled, recorded, resources
from squeezebert_fast.triton_kernels import probe


def test_the_probe_multiplies_by_wgmma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "equal", lambda a, b: True)  # of nothing: the launch is recorded alone
    with recorded() as launches:
        assert probe.run(torch.device("meta")) is None
    (launch,) = launches
    assert resources(compiled(launch, 90))["HGMMA"] > 0
    assert resources(compiled(launch, 80))["HMMA"] > 0
