"""Sentiments of real sentences, by the model that ships with the package, and how fast it answers.

    python examples/demo.py [--quick] [--out DIR]

1. The shipped model classifies the sentences of sentiments.tsv and heldout_sentiments.tsv, none of which it was
   trained on, and the dev set of SST-2 where ../shared/data/sst2 is there: in float32 as PyTorch runs it, in float32
   patched, and in int8.
2. The sentences of sentiments.tsv in batches: sentences a second, and times as fast as unpatched.
3. The base SqueezeBERT architecture on a batch of them. Its weights are random: time doesn't depend on them.

The package holds the model in int8. Its float32 form here has the same weights, dequantized.
Writes DIR/demo.png (DIR is out/ by default). Needs neither transformers nor a network.
"""

from __future__ import annotations

import argparse
import copy
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from squeezebert_fast import (
    SENTIMENT_MODEL,
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
    SqueezeBertModel,
    SqueezeBertTokenizerFast,
    explain,
    patch,
)
from squeezebert_fast.benchmark import Case, Report, check_plot, measure
from squeezebert_fast.modeling import SqueezeBertPreTrainedModel

SHOWN_TABLE, OTHER_TABLE = (
    Path(__file__).parent / name for name in ("sentiments.tsv", "heldout_sentiments.tsv")
)
SST2_DEV = Path(__file__).parents[2] / "shared" / "data" / "sst2" / "dev.tsv"
BATCH = 32
SHOWN = 12  # sentences of the first that are printed
UNPATCHED, FLOAT32, INT8 = "unpatched", "patched float32", "patched int8"
MODELS = (UNPATCHED, FLOAT32, INT8)


class Sentence(NamedTuple):
    """A sentence with its gold label."""

    text: str
    label: str


def read_sentences(path: Path) -> list[Sentence]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [Sentence(row["text"], row["label"]) for row in csv.DictReader(stream, delimiter="\t")]


def read_sst2() -> list[Sentence]:
    """The dev set, or nothing where it isn't: its sentences can't be part of this repository."""
    if not SST2_DEV.exists():
        return []
    _, *lines = SST2_DEV.read_text(encoding="utf-8").splitlines()
    rows = [line.rpartition("\t") for line in lines]
    return [Sentence(text, ("negative", "positive")[int(label)]) for text, _, label in rows]


def load_models() -> dict[str, SqueezeBertForSequenceClassification]:
    unpatched = SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL, dequantize=True)
    return {
        UNPATCHED: unpatched,
        FLOAT32: patch(copy.deepcopy(unpatched), unpad=True),
        INT8: patch(copy.deepcopy(unpatched), unpad=True, precision="int8"),
    }


Batches = list[dict[str, Tensor]]


def batches_of(tokenizer: SqueezeBertTokenizerFast, sentences: Sequence[Sentence]) -> Batches:
    """In the order they come, BATCH sentences each, padded to the longest of them."""
    texts = [sentence.text for sentence in sentences]
    parts = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
    return [dict(tokenizer(part, padding=True, truncation=True, return_tensors="pt")) for part in parts]


def probabilities(model: SqueezeBertForSequenceClassification, batches: Batches) -> Tensor:
    """[sentences, labels], float32."""
    with torch.inference_mode():
        return torch.cat([model(**batch).logits for batch in batches]).softmax(-1)


def accuracy(scores: Tensor, sentences: Sequence[Sentence], labels: Mapping[int, str]) -> float:
    said = [labels[index] for index in scores.argmax(-1).tolist()]
    return sum(label == sentence.label for label, sentence in zip(said, sentences, strict=True)) / len(said)


def answers_table(
    sentences: Sequence[Sentence], scores: Mapping[str, Tensor], labels: Mapping[int, str]
) -> Table:
    table = Table("sentence", "is", *(f"{name} says" for name in (FLOAT32, INT8)))
    for at, sentence in enumerate(sentences[:SHOWN]):
        best = [scores[name][at].max(-1) for name in (FLOAT32, INT8)]
        said = [f"{labels[int(index)]} {value:.1%}" for value, index in best]
        table.add_row(sentence.text, sentence.label, *said)
    return table


def accuracy_table(figures: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table("accuracy on", *MODELS)
    for name, by_model in figures.items():
        table.add_row(name, *(f"{by_model[model]:.3f}" for model in MODELS))
    return table


def time_all(
    name: str, models: Mapping[str, SqueezeBertPreTrainedModel], batches: Batches, repeats: int
) -> Case:
    """All batches through each model, in turns."""

    def forward_of(model: SqueezeBertPreTrainedModel) -> Callable[[], object]:
        return torch.inference_mode()(lambda: [model(**batch) for batch in batches])

    candidates = {label: forward_of(model) for label, model in models.items()}
    timings = measure(candidates, repeats, warmup=1)
    # no operations: the patched models leave padding out, so theirs are fewer
    return Case(name, tuple(timings))


def speed_table(case: Case, sentences: int) -> Table:
    table = Table("", "sentences a second", "times as fast as unpatched")
    for timing in case.timings:
        table.add_row(timing.name, f"{sentences / timing.median:.0f}", f"{case.speed_up(timing):.2f}")
    return table


def base_models() -> dict[str, SqueezeBertModel]:
    torch.manual_seed(0)
    base = SqueezeBertModel(SqueezeBertConfig()).eval()
    patched = patch(copy.deepcopy(base), unpad=True)
    return {UNPATCHED: base, FLOAT32: patched, INT8: patch(copy.deepcopy(base), unpad=True, precision="int8")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round on a few sentences: does it work?")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for demo.png")
    chosen = parser.parse_args()
    plot = chosen.out / "demo.png"
    check_plot(plot)
    repeats = 1 if chosen.quick else 8
    console = Console(width=None if sys.stdout.isatty() else 120)
    tables = {path.name: read_sentences(path) for path in (SHOWN_TABLE, OTHER_TABLE)}
    sentences = tables[SHOWN_TABLE.name]
    sets = {f"{len(some)} sentences of {name}": some for name, some in tables.items()}
    sst2 = [] if chosen.quick else read_sst2()
    if sst2:
        sets[f"SST-2 dev, {len(sst2)} sentences"] = sst2

    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=4)

        def step(description: str) -> None:
            progress.update(bar, description=description, advance=1)

        step("loading the shipped model")
        models = load_models()
        labels = models[UNPATCHED].config.id2label or {}
        tokenizer = SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL)
        figures: dict[str, dict[str, float]] = {}
        for name, some in sets.items():
            step(f"classifying {name}") if not figures else None
            batches = batches_of(tokenizer, some)
            scores = {label: probabilities(model, batches) for label, model in models.items()}
            figures[name] = {label: accuracy(values, some, labels) for label, values in scores.items()}
            if some is sentences:
                shown = answers_table(sentences, scores, labels)
        batches = batches_of(tokenizer, sentences)
        step(f"the shipped model, {repeats} rounds")
        cases = [time_all(f"shipped model, {len(sentences)} sentences", models, batches, repeats)]
        step(f"the base SqueezeBERT, {repeats} rounds")
        some = batches[:1] if not chosen.quick else [{k: v[:2] for k, v in batches[0].items()}]
        shape = "x".join(map(str, some[0]["input_ids"].shape))
        bases = base_models()
        cases.append(time_all(f"base SqueezeBERT, {shape}", bases, some, repeats))

    console.print(shown, accuracy_table(figures), speed_table(cases[0], len(sentences)))
    report = Report("Sentiments of real sentences", tuple(cases))
    console.print("", report.table(), "")
    console.print("What runs where in the int8 model:", style="bold")
    console.print(str(explain(models[INT8])), highlight=False, soft_wrap=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    report.plot(plot)
    console.print(f"\nPlot: {plot}")


if __name__ == "__main__":
    main()
