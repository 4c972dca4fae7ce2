"""Whether training learns the same with kernels as without: a few hundred steps of the project's own training loop.

A case of `benchmarks.gpu_check`. The data are random tokens, some of each class's own words among them, and one label
in ten is wrong: so the loss falls to about 0.33, not to 0, and its noise is that of the batches, the same in all runs.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_measure import Context, one_line, synchronize
from squeezebert_fast import SqueezeBertConfig, SqueezeBertForSequenceClassification, patch
from squeezebert_fast.training.loop import Trainer
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.reporting import Reporter
from squeezebert_fast.training.run_folder import RunFolder
from squeezebert_fast.training.seeds import generator_of
from squeezebert_fast.training.settings import Settings
from squeezebert_fast.training.tasks.base import DataSet
from squeezebert_fast.training.tasks.sequences import SequenceClassification, TableColumns

STEPS, BATCH_SIZE = 300, 32
VOCABULARY, CLASS_WORDS = 2000, 50
WRONG_LABELS = 0.1


@dataclass(frozen=True)
class Run:
    """One of the runs that are compared."""

    name: str
    precision: str
    patched: bool
    dropout: float


RUNS = (
    Run("eager float32", "float32", False, 0.0),
    Run("eager bfloat16", "bfloat16", False, 0.0),
    Run("patched bfloat16", "bfloat16", True, 0.0),
    Run("eager bfloat16, dropout", "bfloat16", False, 0.1),
    Run("patched bfloat16, dropout", "bfloat16", True, 0.1),
)


def data(count: int, longest: int, vocabulary: int, name: str) -> DataSet:
    """Rows of 4 tokens and more, a quarter of them words of the row's class; the same for the same name."""
    generator, rows = generator_of("curves", name), []

    def draw(low: int, high: int, count: int) -> torch.Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    words = min(CLASS_WORDS, vocabulary // 4)
    for _ in range(count):
        label, length = (int(draw(low, high, 1)) for low, high in ((0, 2), (4, longest + 1)))
        own = torch.rand(length, generator=generator) < 0.25
        ids = torch.where(own, draw(1, 1 + words, length) + label * words, draw(1, vocabulary, length))
        wrong = float(torch.rand(1, generator=generator)) < WRONG_LABELS
        rows.append({"input_ids": ids.tolist(), "token_type_ids": [0] * length, "label": label ^ int(wrong)})
    return DataSet(rows, rows)


def trained(context: Context, run: Run, folder: Path) -> dict[str, Any]:
    """The losses of every step and the accuracy after the last."""
    fields = context.config.to_dict() | {"vocab_size": min(VOCABULARY, context.config.vocab_size)}
    fields |= {"num_hidden_layers": min(4, context.config.num_hidden_layers)}
    fields |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), run.dropout)
    config = SqueezeBertConfig.from_dict(fields)
    torch.manual_seed(0)
    model = SqueezeBertForSequenceClassification(config).to(context.device)
    if run.patched:
        patch(model, backend="triton", strict=True)
    steps, batch_size, longest = (2, 2, 6) if context.dry else (STEPS, BATCH_SIZE, 64)
    settings = Settings(
        epochs=1,
        batch_size=batch_size,
        learning_rate=1e-4,
        precision="float32" if context.dry else run.precision,
        log_every=1,
        save_every=10 * steps,
    )
    task, output = SequenceClassification(TableColumns()), RunFolder(folder)
    task.names = ("0", "1")
    output.begin({}, resume=False, overwrite=False)
    summary = Trainer(
        model,
        task,
        data(steps * batch_size, longest, config.vocab_size, "train"),
        data(8 * batch_size, longest, config.vocab_size, "dev"),
        pad=0,
        settings=settings,
        folder=output,
        processes=Processes(),
        reporter=Reporter(quiet=True),
        device=torch.device(context.device),
    ).run()
    records = [record for record in output.records() if "loss" in record]
    return {
        "name": run.name,
        "losses": [record["loss"] for record in records],
        "dev": summary["best"]["dev"],
        "tokens_per_second": None
        if context.dry
        else statistics.median(record["tokens_per_second"] for record in records),
    }


def apart(runs: dict[str, dict[str, Any]], name: str, other: str) -> float | None:
    """The mean difference of two runs' losses, step by step."""
    if name not in runs or other not in runs:
        return None
    pairs = zip(runs[name]["losses"], runs[other]["losses"], strict=True)
    return statistics.fmean(abs(a - b) for a, b in pairs)


def curves(context: Context) -> dict[str, Any]:
    """All runs, and how far their losses are apart: patched from eager, and two precisions of eager."""
    runs: dict[str, dict[str, Any]] = {}
    for run in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                runs[run.name] = trained(context, run, Path(folder) / "run")
            except Exception as error:
                context.errors[run.name] = one_line(error)
                synchronize(context)
    what = f"{STEPS} steps of {BATCH_SIZE} texts of 4 to 64 tokens, 4 layers of the base size, random weights"
    return {
        "curves": what,
        "runs": list(runs.values()),
        "patched_from_eager": apart(runs, "patched bfloat16", "eager bfloat16"),
        "bfloat16_from_float32": apart(runs, "eager bfloat16", "eager float32"),
    }
