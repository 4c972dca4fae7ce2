"""Working memory of a forward: what one part of the batch needs, whatever the batch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.engine_helpers import needs_native

pytestmark = needs_native

SCRIPT = """
import resource, sys
import torch
import squeezebert_fast
from squeezebert_fast import SqueezeBertConfig, SqueezeBertModel

precision, unpad = sys.argv[1], sys.argv[2] == "True"
torch.set_num_threads(2)
config = SqueezeBertConfig(hidden_size=128, num_attention_heads=4, intermediate_size=512, num_hidden_layers=2,
                           vocab_size=9)
encoder = SqueezeBertModel(config).eval().encoder
squeezebert_fast.patch(encoder, backend="cpu", precision=precision, unpad=unpad)
x = torch.randn(96, 256, 128)
mask = torch.zeros(96, 1, 1, 256)
mask[:, :, :, 250:] = torch.finfo(torch.float32).min

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

with torch.no_grad():
    for _ in range(2):
        encoder(x[:8], mask[:8])  # as many rows as one part has
    # what importing took at its peak is filled up, so that all that a forward takes is seen
    ballast = torch.ones(max(peak() - resident(), 0) // 4 + 1)
    before = max(peak(), resident())
    y = encoder(x, mask)[0]
    print(peak() - before, y.numel() * y.element_size())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("precision", "unpad"), [("float32", False), ("float32", True), ("bfloat16", False), ("int8", True)]
)
def test_memory_grows_by_the_output_alone(precision: str, unpad: bool) -> None:
    command = [sys.executable, "-c", SCRIPT, precision, str(unpad)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    grown, output = map(int, result.stdout.split())
    assert output == 96 * 256 * 128 * 4
    # a single buffer for every row would take as much as the output again
    assert 0.5 * output <= grown <= 1.4 * output
