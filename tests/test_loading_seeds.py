"""One seed gives a new head the same numbers in every process, whatever the order of its sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from squeezebert_fast import SqueezeBertModel
from tests.loading_helpers import make

PROGRAM = """
import sys, torch
from squeezebert_fast import SqueezeBertForMaskedLM
torch.manual_seed(0)
model = SqueezeBertForMaskedLM.from_pretrained(sys.argv[1])
print(model.cls.predictions.transform.dense.weight.double().sum().item())
"""


def test_a_new_head_depends_on_the_seed_alone(tmp_path: Path) -> None:
    make(SqueezeBertModel).save_pretrained(tmp_path)
    said = set()
    for hash_seed in ("1", "2"):  # with which a set of the head's modules would be in another order
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        said.add(result.stdout)
    assert len(said) == 1
