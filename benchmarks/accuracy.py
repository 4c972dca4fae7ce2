"""What int8 and bfloat16 cost in accuracy: sentence vectors against float32's.

    python -m benchmarks.accuracy --out benchmarks/results

prints the table and writes accuracy.json. README.md says what it means.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks.command import about, console, exit_with, parser_for, positive, prepare
from benchmarks.minilm import convert_minilm
from benchmarks.passes import base_model
from benchmarks.report import write_json
from benchmarks.sst2 import batches, read_sentences
from benchmarks.subjects import Inputs
from squeezebert_fast import SqueezeBertModel, patch
from squeezebert_fast.modeling.layers import PointwiseConv1d
from squeezebert_fast.sentence import mean_pool


def round_trip(x: Tensor, scales: int) -> Tensor:
    """x, [..., channels], through symmetric int8 and back, with `scales` scales for equal parts of the channels."""
    parts = x.unflatten(-1, (scales, -1))
    bound = parts.abs().amax(-1, keepdim=True).clamp(min=1e-36)
    return ((parts * (127.0 / bound)).round() * (bound / 127.0)).flatten(-2)


def emulated(model: SqueezeBertModel, scales_of: Callable[[int], int]) -> SqueezeBertModel:
    """A copy that quantises every convolution's weight, per output channel, and its input, per token, in plain PyTorch.

    scales_of: from a convolution's groups to how many scales a token's input has.
    """
    model = copy.deepcopy(model)
    for module in model.encoder.modules():
        if isinstance(module, PointwiseConv1d):
            with torch.no_grad():
                module.weight.copy_(round_trip(module.weight.squeeze(2), 1).unsqueeze(2))
            scales = scales_of(module.groups)
            module.register_forward_pre_hook(lambda _, inputs, scales=scales: round_trip(inputs[0], scales))
    return model


def embed(model: nn.Module, inputs: Sequence[Inputs]) -> Tensor:
    """Mean-pooled sentence vectors, float64 [sentences, channels]."""
    with torch.inference_mode():
        return torch.cat(
            [mean_pool(model(ids, mask).last_hidden_state.double(), mask) for ids, mask in inputs]
        )


def variants(model: SqueezeBertModel) -> dict[str, SqueezeBertModel]:
    """What is held against float32: the engine, and emulations of other ways to scale."""
    one_group = all(module.groups == 1 for module in model.modules() if isinstance(module, PointwiseConv1d))
    result = {name: patch(copy.deepcopy(model), precision=name) for name in ("bfloat16", "int8")}
    result["int8 emulated, a scale per token and group"] = emulated(model, lambda groups: groups)
    if one_group:
        result["int8 emulated, 4 scales per token"] = emulated(model, lambda _: 4)
    else:
        result["int8 emulated, a scale per token"] = emulated(model, lambda _: 1)
    return result


def main() -> None:
    parser = parser_for("accuracy", __doc__, repeats=None)
    parser.add_argument("--sentences", type=positive, default=None, metavar="N", help="the first N only")
    chosen = parser.parse_args()
    prepare(chosen)
    sentences, shown = read_sentences(chosen.sentences), console()
    minilm, tokenizer = convert_minilm()
    where, inputs = about("accuracy", None), batches(tokenizer, sentences)
    models = {
        "MiniLM-L6, real weights, 1 group": minilm,
        # There are no trained weights with groups here: random ones show the arithmetic, and have no outliers.
        "SqueezeBERT base, random weights, 4 groups": base_model(),
    }
    table = Table("model", "against float32", title=f"{len(sentences)} SST-2 sentences", title_justify="left")
    for column in ("mean cosine", "least cosine", "mean 1 - cosine"):
        table.add_column(column, justify="right")
    rows = []
    for name, model in models.items():
        exact = embed(model, inputs)
        for number, (variant, changed) in enumerate(variants(model).items()):
            cosines = torch.nn.functional.cosine_similarity(embed(changed, inputs), exact, dim=-1)
            mean, least = cosines.mean().item(), cosines.min().item()
            table.add_row("" if number else name, variant, f"{mean:.6f}", f"{least:.6f}", f"{1 - mean:.1e}")
            rows.append({"model": name, "variant": variant, "mean_cosine": mean, "least_cosine": least})
    shown.print(table)
    write_json(chosen.out / "accuracy.json", {**where, "sentences": len(sentences), "rows": rows})
    shown.print(f"wrote {chosen.out / 'accuracy.json'}")


if __name__ == "__main__":
    exit_with(main)
