"""Whole models as `benchmarks.gpu_check` runs them: ours beside transformers', torch.compile, and the best of PyTorch.

No candidate is timed before its output on a padded batch agrees with eager's in float32.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import squeezebert_fast
from benchmarks import agreement
from benchmarks.gpu_measure import (
    INPUT_SETS,
    Call,
    Context,
    host_latency,
    interleaved,
    one_line,
    row,
    square_product,
    synchronize,
)
from benchmarks.gpu_names import BMM, COMPILED, EAGER, GRAPHS, OURS, PATCHED, PRODUCT
from benchmarks.report import Shape, shape_name
from benchmarks.subjects import spread_scores
from squeezebert_fast import SqueezeBertModel
from squeezebert_fast.benchmark import encoder_flops

LARGE: tuple[Shape, ...] = ((256, 128), (64, 512))
MIDDLE: Shape = (32, 128)
ONE: Shape = (1, 128)


class BmmModel(nn.Module):
    """transformers' SqueezeBERT as an expert would write it in PyTorch alone: what a custom kernel must beat.

    Rows of channels throughout, so that nothing is transposed; each grouped convolution is one torch.bmm over strided
    views; attention is PyTorch's fused one.
    """

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.embeddings, self.layers = theirs.embeddings, theirs.encoder.layers
        self.heads = theirs.config.num_attention_heads

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        x = self.embeddings(input_ids=input_ids)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        mask = mask.expand(-1, 1, x.shape[1], -1)
        for layer in self.layers:
            x = self._feed_forward(layer, self._attention(layer, x, mask))
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=x)

    def _attention(self, layer: Any, x: Tensor, mask: Tensor) -> Tensor:
        own = layer.attention
        q, k, v = (
            grouped(part, x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (own.query, own.key, own.value)
        )
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return normalized(layer.post_attention, grouped(layer.post_attention.conv1d, context) + x)

    def _feed_forward(self, layer: Any, x: Tensor) -> Tensor:
        hidden = F.gelu(grouped(layer.intermediate.conv1d, x))
        return normalized(layer.output, grouped(layer.output.conv1d, hidden) + x)


def grouped(conv: Any, x: Tensor) -> Tensor:
    """A convolution of width 1, [batch, tokens, channels]."""
    if conv.groups == 1:
        return F.linear(x, conv.weight.flatten(1), conv.bias)
    rows = x.flatten(0, 1).unflatten(1, (conv.groups, -1)).transpose(0, 1)
    columns = conv.weight.flatten(1).unflatten(0, (conv.groups, -1)).transpose(1, 2)
    y = torch.baddbmm(conv.bias.view(conv.groups, 1, -1), rows, columns)
    return y.transpose(0, 1).flatten(1).view(*x.shape[:2], -1)


def normalized(block: Any, x: Tensor) -> Tensor:
    norm = block.layernorm
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


@dataclass
class Models:
    """The base model with random weights (time doesn't depend on them), and other ways to run it."""

    context: Context
    theirs: Any
    float32: Any

    @staticmethod
    def make(context: Context) -> Models:
        torch.manual_seed(0)
        config = transformers.SqueezeBertConfig.from_dict(context.config.to_dict())
        theirs = transformers.SqueezeBertModel(config).eval().requires_grad_(False)
        spread_scores(theirs, 6.0)
        theirs = theirs.to(context.device, context.dtype)
        return Models(context, theirs, copy.deepcopy(theirs).float())

    def patched(self, **options: Any) -> Any:
        return squeezebert_fast.patch(copy.deepcopy(self.theirs), backend="triton", strict=True, **options)

    def ours(self, **options: Any) -> Any:
        model = SqueezeBertModel(self.context.config).eval().requires_grad_(False)
        model = model.to(self.context.device, self.context.dtype)
        model.load_state_dict(self.theirs.state_dict())
        return squeezebert_fast.patch(model, backend="triton", strict=True, **options)

    def ways(self, makers: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        """Those that can be made and agree with eager float32 on a padded batch; the others' errors are kept."""
        shape = self.context.shape((4, 48))
        lengths = torch.linspace(1, shape[1], shape[0]).long()
        (inputs, *_) = self.inputs(shape, lengths)
        agreeing = {}
        for name, make in makers.items():
            try:
                model = make()
                self.agrees(name, model, inputs)
                agreeing[name] = model
            except Exception as error:
                self.context.errors[name] = one_line(error)
                synchronize(self.context)
        return agreeing

    def agrees(self, name: str, model: Any, inputs: dict[str, Tensor]) -> None:
        """Raises WrongEngine unless `model` computes what eager does in float32, as well as its precision can."""
        precision = "int8" if name.endswith("int8") else str(self.context.dtype).removeprefix("torch.")
        with torch.inference_mode():
            actual, expected = (one(**inputs).last_hidden_state for one in (model, self.float32))
        agreement.check(name, precision, actual, expected, inputs["attention_mask"])

    def inputs(self, shape: Shape, lengths: Tensor | None = None) -> list[dict[str, Tensor]]:
        """Some sets of random ids, and a mask of ones, or of the lengths of each sequence."""
        generator = torch.Generator().manual_seed(shape[0] * shape[1])
        mask = torch.ones(shape, dtype=torch.int64)
        if lengths is not None:
            mask = (torch.arange(shape[1]) < lengths[:, None]).long()
        return [
            {
                "input_ids": torch.randint(0, self.context.config.vocab_size, shape, generator=generator).to(
                    self.context.device
                ),
                "attention_mask": mask.to(self.context.device),
            }
            for _ in range(INPUT_SETS)
        ]

    def call(self, model: Any, inputs: Sequence[dict[str, Tensor]]) -> Call:
        def run(number: int) -> object:
            with torch.inference_mode():
                return model(**inputs[number % len(inputs)]).last_hidden_state

        return run


def timed(
    models: Models, ways: Mapping[str, Any], inputs: Sequence[Any], flops: float
) -> list[dict[str, Any]]:
    """A row for each, and for the square product in the same rounds."""
    product, product_flops = square_product(models.context)
    calls = {name: models.call(way, inputs) for name, way in ways.items()}
    times = interleaved({**calls, PRODUCT: product}, models.context)
    return [row(name, ms, product_flops if name == PRODUCT else flops) for name, ms in times.items()]


def model(context: Context, shape: Shape) -> dict[str, Any]:
    """The whole model at one shape in every way that takes no minute to compile."""
    models, at = Models.make(context), context.shape(shape)
    makers = {
        EAGER: lambda: models.theirs,
        BMM: lambda: BmmModel(models.theirs),
        OURS: models.ours,
        PATCHED: models.patched,
        f"{OURS}, int8": lambda: models.ours(precision="int8"),
    }
    if shape[0] * shape[1] <= 4096:
        makers[GRAPHS] = lambda: squeezebert_fast.cuda_graphs(models.ours())
    ways, flops = models.ways(makers), encoder_flops(context.config, *at)
    result: dict[str, Any] = {"flops": flops, "rows": timed(models, ways, models.inputs(at), flops)}
    if GRAPHS in ways:
        result["graphs_not_used"] = sorted(set(ways[GRAPHS].reasons.values()))
    return result


def compiled(context: Context, shape: Shape) -> dict[str, Any]:
    """torch.compile of transformers' model, and of PyTorch's best, beside ours and eager."""
    models, at = Models.make(context), context.shape(shape)
    ways = models.ways({EAGER: lambda: models.theirs, OURS: models.ours})
    inputs = models.inputs(at)
    for name, made in compiled_models(models).items():
        # not by `ways`: that batch would be compiled for too. The mask of ones is left to the compiled model.
        try:
            models.agrees(name, made, inputs[0])
            ways[name] = made
        except Exception as error:
            context.errors[name] = one_line(error)
            synchronize(context)
    flops = encoder_flops(context.config, *at)
    return {"flops": flops, "rows": timed(models, ways, inputs, flops)}


def compiled_models(models: Models) -> dict[str, Any]:
    options: dict[str, Any] = {"backend": "eager"} if models.context.dry else {}
    return {
        COMPILED + name: torch.compile(way, dynamic=False, **options)
        for name, way in ((BMM, BmmModel(models.theirs)), (EAGER, models.theirs))
    }


def ragged(context: Context) -> dict[str, Any]:
    """Lengths of 5 to 128, uniform: over the real tokens only, against the same batch padded."""
    models, shape = Models.make(context), context.shape(LARGE[0])
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(min(5, shape[1]), shape[1] + 1, shape[:1], generator=generator)
    unpad = f"{OURS}, unpad"
    ways = models.ways(
        {EAGER: lambda: models.theirs, OURS: models.ours, unpad: lambda: models.ours(unpad=True)}
    )
    useful = sum(encoder_flops(context.config, 1, length) for length in lengths.tolist())
    share = float(lengths.sum()) / (shape[0] * shape[1])
    rows = timed(models, ways, models.inputs(shape, lengths), useful)
    return {"real_tokens": share, "flops": useful, "rows": rows}


def latency(context: Context) -> dict[str, Any]:
    """One sequence of 128, from the call to the result, on the host's clock; and what a replay's checks take of it."""
    models, shape = Models.make(context), context.shape(ONE)
    makers = {
        EAGER: lambda: models.theirs,
        BMM: lambda: BmmModel(models.theirs),
        OURS: models.ours,
        GRAPHS: lambda: squeezebert_fast.cuda_graphs(models.ours()),
    }
    ways, inputs = models.ways(makers), models.inputs(shape)
    times = host_latency({name: models.call(way, inputs) for name, way in ways.items()}, context)
    flops = encoder_flops(context.config, *shape)
    result: dict[str, Any] = {"flops": flops, "rows": [row(name, ms, flops) for name, ms in times.items()]}
    if GRAPHS in ways:
        result["graphs_not_used"] = sorted(set(ways[GRAPHS].reasons.values()))
        result["host_us_of_a_call"] = host_time(models.call(ways[GRAPHS], inputs), context)
    return result


def host_time(call: Call, context: Context, calls: int = 20) -> float | None:
    """Microseconds until a call returns, the GPU's work going on behind it: launches and checks, no waiting."""
    if context.dry:
        return None
    rounds = []
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for number in range(calls):
            call(number)
        rounds.append((time.perf_counter() - start) / calls)
        torch.cuda.synchronize()
    return round(1e6 * min(rounds), 1)


def cases() -> dict[str, Callable[[Context], dict[str, Any]]]:
    """The most important first."""

    def at(
        run: Callable[[Context, Shape], dict[str, Any]], shape: Shape
    ) -> Callable[[Context], dict[str, Any]]:
        return lambda context: run(context, shape)

    return {
        f"model, {shape_name(LARGE[0])}": at(model, LARGE[0]),
        f"model, {shape_name(LARGE[1])}": at(model, LARGE[1]),
        f"latency, {shape_name(ONE)}": latency,
        f"model, {shape_name(ONE)}": at(model, ONE),
        f"compiled, {shape_name(LARGE[0])}": at(compiled, LARGE[0]),
        "model, 256x5..128": ragged,
        f"compiled, {shape_name(LARGE[1])}": at(compiled, LARGE[1]),
        f"model, {shape_name(MIDDLE)}": at(model, MIDDLE),
    }
