"""A step of `pretrain`, and an evaluation's batch: CPU time and memory, by what the head runs on.

    python -m benchmarks.pretraining --threads 1 --out benchmarks/results

prints the table and writes pretraining.json. README.md says what it means.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn

from benchmarks.command import about, add_shapes, console, exit_with, parser_for, positive, prepare
from benchmarks.memory import peak_during
from benchmarks.report import Shape, shape_name, write_json
from benchmarks.training_step import step_flops
from squeezebert_fast import SqueezeBertConfig, SqueezeBertForMaskedLM, SqueezeBertTokenizerFast, patch
from squeezebert_fast.benchmark import MultiplyAddPeak
from squeezebert_fast.training import devices
from squeezebert_fast.training.optimizing import Optimizer
from squeezebert_fast.training.settings import Settings
from squeezebert_fast.training.tasks.base import Batch, model_inputs
from squeezebert_fast.training.tasks.masked import PLACES, MaskedLanguageModel

VOCABULARY = Path(__file__).parents[1] / "tests" / "data" / "vocab.txt"
EAGER, ALL, ENCODER, MASKED = "transformers eager", "head on all tokens", "encoder alone", "pretrain"
CANDIDATES = (EAGER, ALL, ENCODER, MASKED)
STEPS_BEFORE = 3
"""Untimed: they start threads and fill the optimizer's state."""

Loss = Callable[[Any, Batch], Tensor]


def config_of(layers: int, hidden: int) -> SqueezeBertConfig:
    """What `pretrain --layers --hidden-size --groups 4` makes with a BERT's vocabulary."""
    return SqueezeBertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        embedding_size=hidden,
        intermediate_size=4 * hidden,
        num_attention_heads=max(hidden // 64, 1),
    )


def step_work(config: SqueezeBertConfig, shape: Shape, share: float) -> tuple[int, int]:
    """Operations of a step's products, forward and backward: the encoder's, and the head's on a share of the tokens."""
    per_token = config.hidden_size * (config.hidden_size + config.vocab_size)
    return step_flops(config, shape), round(3 * 2 * shape[0] * shape[1] * share) * per_token


def model_of(candidate: str, config: SqueezeBertConfig) -> nn.Module:
    torch.manual_seed(0)
    if candidate != EAGER:
        return patch(SqueezeBertForMaskedLM(config))
    import transformers  # here: what it takes itself is eager's alone

    return transformers.SqueezeBertForMaskedLM(transformers.SqueezeBertConfig(**config.to_dict()))


def loss_of_all_tokens(model: Any, batch: Batch) -> Tensor:
    logits = model(**model_inputs(model, batch)).logits.flatten(0, 1)
    return F.cross_entropy(logits, batch["labels"].flatten(), reduction="sum")


def nothing_of_the_head(model: Any, batch: Batch) -> Tensor:
    return model.base_model(**model_inputs(model, batch)).last_hidden_state.sum()


class Run:
    """Training that stays at its first batch."""

    def __init__(self, candidate: str, shape: Shape, config: SqueezeBertConfig) -> None:
        self.task = MaskedLanguageModel(seed=0)
        tokenizer = SqueezeBertTokenizerFast(VOCABULARY)
        words = [word for word in tokenizer.get_vocab() if word.isalpha()]
        chance = np.random.default_rng(0)
        text = [" ".join(chance.choice(words, shape[1])) for _ in range(shape[0])]
        self.rows = self.task.encode(text, tokenizer, config, shape[1])[: shape[0]]
        self.model = model_of(candidate, config)
        self.loss: Loss = {
            EAGER: loss_of_all_tokens,
            ALL: loss_of_all_tokens,
            ENCODER: nothing_of_the_head,
            MASKED: lambda model, batch: self.task.loss(self.task.forward(model, batch), batch),
        }[candidate]
        parameters = list(self.model.parameters())
        self.optimizer = Optimizer(parameters, Settings(learning_rate=1e-3), 10**6, devices.CPU)

    def step(self) -> None:
        """As `training.stepping` makes one."""
        self.model.train()
        batch = self.task.collate(self.rows, 0, 0)
        self.optimizer.zero_grad()
        self.optimizer.backward(self.loss(self.model, batch) / len(batch[PLACES]))
        self.optimizer.clip().item()
        self.optimizer.step()

    def evaluation(self) -> None:
        """The loss of a batch, as `training.evaluation` asks for it."""
        self.model.eval()
        with torch.inference_mode():
            batch = self.task.collate(self.rows, 0, -1)
            self.loss(self.model, batch).item()


def child(candidate: str, part: str, shape: Shape, config: SqueezeBertConfig, repeats: int) -> dict[str, Any]:
    """CPU seconds of each `step` or `evaluation` here, and what was resident before and at most meanwhile."""
    run = Run(candidate, shape, config)
    once: Callable[[], None] = getattr(run, part)
    seconds = []

    def work() -> None:
        for _ in range(STEPS_BEFORE + repeats):
            start = time.process_time()
            once()
            seconds.append(time.process_time() - start)

    before, peak = peak_during(work)
    return {
        "cpu_seconds": seconds[STEPS_BEFORE:],
        "before_bytes": before,
        "peak_bytes": peak,
        "tokens_to_predict": len(run.task.collate(run.rows, 0, 0)[PLACES]),
    }


def in_a_process(candidate: str, part: str, chosen: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.pretraining", "--child", candidate, part, "--out", "."]
    for name in ("threads", "repeats", "layers", "hidden_size"):
        command += [f"--{name.replace('_', '-')}", str(getattr(chosen, name))]
    command += ["--shapes", shape_name(chosen.shapes[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode != 0:
        sys.exit(f"error: {candidate}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main() -> None:
    parser = parser_for("pretraining", __doc__, repeats=20)
    add_shapes(parser, ((32, 128),))
    parser.add_argument("--layers", type=positive, default=2)
    parser.add_argument("--hidden-size", type=positive, default=128)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    prepare(chosen)
    config, shape = config_of(chosen.layers, chosen.hidden_size), chosen.shapes[0]
    if chosen.child is not None:
        print(json.dumps(child(*chosen.child, shape, config, chosen.repeats)))
        return
    where, shown, peak, rows = about("pretraining", chosen.repeats), console(), MultiplyAddPeak(), []
    title = f"{chosen.layers} x {chosen.hidden_size}, {shape_name(shape)}, threads {chosen.threads}"
    table = Table("", "", title=title, title_justify="left")
    for column in ("GFLOP", "bound ms", "CPU ms", "p20 .. p80", "MB before", "MB at the peak"):
        table.add_column(column, justify="right")
    for part in ("step", "evaluation"):
        for candidate in CANDIDATES:
            taken = in_a_process(candidate, part, chosen)
            peak.sample()
            share = {ENCODER: 0.0, MASKED: taken["tokens_to_predict"] / (shape[0] * shape[1])}
            flops = sum(step_work(config, shape, share.get(candidate, 1.0))) // (1 if part == "step" else 3)
            rows.append({"part": part, "candidate": candidate, "flops": flops, **taken})
    limit = peak.flops_per_second
    for row in rows:
        low, median, high = (1e3 * np.percentile(row["cpu_seconds"], (20, 50, 80))).tolist()
        row |= {"median_ms": median, "bound_ms": None if limit is None else 1e3 * row["flops"] / limit}
        table.add_row(
            str(row["part"]),
            str(row["candidate"]),
            f"{row['flops'] / 1e9:.1f}",
            "" if limit is None else f"{row['bound_ms']:.0f}",
            f"{median:.0f}",
            f"{low:.0f} .. {high:.0f}",
            f"{row['before_bytes'] / 1e6:.0f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
        )
    shown.print(table)
    write_json(chosen.out / "pretraining.json", {**where, "peak_flops_per_second": limit, "rows": rows})
    shown.print(f"wrote {chosen.out / 'pretraining.json'}")


if __name__ == "__main__":
    exit_with(main)
