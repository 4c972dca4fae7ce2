"""Settings that hold for every test."""

from __future__ import annotations

import torch

# Models here are tiny: on a busy machine a second thread costs them many times what it brings. Tests of
# threads set their own number.
torch.set_num_threads(1)
