"""Settings that hold for every test."""

from __future__ import annotations

import signal

import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Models here are tiny: on a busy machine a second thread costs them many times what it brings. Tests of
# threads set their own number.
torch.set_num_threads(1)


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training draws no picture, which is most of so short a run's time."""
    from squeezebert_fast.training import records

    monkeypatch.setattr(records, "draw_curves", lambda *_, **__: True)
