"""A server that loads a model and then forks its workers (`gunicorn --preload`), each case in a process of its own.

PyTorch's threads, started by loading, packing or a forward, don't survive a fork, and its operations used to wait for
them for ever in the child.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from squeezebert_fast.backends import cpu
from tests.slow import slow

pytestmark = [
    pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="OpenMP is borrowed on Linux alone"),
]

SERVER = """
import os, signal, sys, threading
import torch
import squeezebert_fast
from squeezebert_fast import SENTIMENT_MODEL, SqueezeBertConfig

torch.set_num_threads(2)
large = torch.rand(600, 600)
folder = sys.argv[1]

def answer(model, choices=()):
    ids = torch.arange(64 * 40).reshape(64, *choices, -1) % 1000
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=(ids % 3 > 0).long())[0]

def in_child(check):
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hang is a failure
        os._exit(0 if check() else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child failed or hung"

def works(model, *options):
    # what the model needs, and what a server does around it
    large.tanh(), large.softmax(1), large @ large, torch.equal(large, large.clone())
    return answer(model, *options).isfinite().all()

def saved(name="SqueezeBertModel"):
    cls = getattr(squeezebert_fast, name)
    torch.manual_seed(0)
    config = SqueezeBertConfig(hidden_size=96, num_attention_heads=4, num_hidden_layers=2, intermediate_size=192)
    cls(config).save_pretrained(folder)
    return cls
"""

CASES = {
    "loaded by from_pretrained": """
model = squeezebert_fast.patch(saved().from_pretrained(folder))
in_child(lambda: works(model))
""",
    "loaded by transformers": """
from transformers import SqueezeBertModel
saved()
model = squeezebert_fast.patch(SqueezeBertModel.from_pretrained(folder).eval())
in_child(lambda: works(model))
""",
    "the shipped model": """
model = squeezebert_fast.SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL)
in_child(lambda: works(model))
""",
    "packed, and the original weights given up": """
model = squeezebert_fast.patch(saved().from_pretrained(folder), keep_original=False)
in_child(lambda: works(model))
""",
    "after forwards in the parent": """
model = squeezebert_fast.patch(saved().from_pretrained(folder))
expected = answer(model)
in_child(lambda: works(model) and torch.equal(answer(model), expected))
assert torch.equal(answer(model), expected)
in_child(lambda: in_child(lambda: works(model)) is None and torch.equal(answer(model), expected))
""",
    "every head": """
for name, choices in (("MaskedLM", ()), ("MultipleChoice", (2,)), ("QuestionAnswering", ()),
                      ("SequenceClassification", ()), ("TokenClassification", ())):
    for precision in ("float32", "int8"):
        model = saved("SqueezeBertFor" + name).from_pretrained(folder)
        squeezebert_fast.patch(model, precision=precision)
        in_child(lambda: works(model, choices))
        expected = answer(model, choices)
        in_child(lambda: works(model, choices) and torch.equal(answer(model, choices), expected))
""",
    "forked by one thread while another computes": """
model = squeezebert_fast.patch(saved().from_pretrained(folder))
stop = threading.Event()
def work():
    while not stop.is_set():
        answer(model), large.tanh()
worker = threading.Thread(target=work)
worker.start()
for _ in range(5):
    in_child(lambda: works(model))
stop.set()
worker.join()
""",
    "training in the child": """
model = squeezebert_fast.patch(saved("SqueezeBertForSequenceClassification").from_pretrained(folder)).train()
def step():
    loss = model(input_ids=torch.ones(8, 40, dtype=torch.long), labels=torch.zeros(8, dtype=torch.long)).loss
    loss.backward()
    return loss.isfinite()
step()
in_child(step)
""",
}


@pytest.mark.parametrize("case", slow(CASES, but=CASES.keys() - {"every head"}))
def test_a_forked_worker_answers(case: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER + CASES[case], str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
