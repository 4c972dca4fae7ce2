"""What `benchmarks.gpu_check` measures of inference. A step returns JSON values; gpu_plan.py has all in their order.

Times are CUDA events around each call, in milliseconds, candidates taking turns (A B C A B C ...), medians; ratios hold
within one step. In a dry run every candidate runs once, on the CPU in Triton's interpreter, on a tiny model, untimed.
"""

from __future__ import annotations

import copy
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import squeezebert_fast
from benchmarks import agreement
from benchmarks.passes import pass_work
from benchmarks.report import Shape, shape_name, surroundings
from benchmarks.subjects import spread_scores
from squeezebert_fast import SqueezeBertConfig, SqueezeBertModel
from squeezebert_fast.benchmark import encoder_flops

Call = Callable[[int], object]
"""A candidate: called with the number of the round, so that it can take other inputs each time."""

TINY = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
    **{f"{name}_groups": 2 for name in ("q", "k", "v", "intermediate", "output")},
}
INPUT_SETS = 4
EAGER, SDPA, OURS, PATCHED = (
    "transformers eager",
    "transformers, SDPA",
    "squeezebert_fast",
    "transformers, patched",
)
GRAPHS = "squeezebert_fast, CUDA graphs"
PRODUCT = "square product"
"""A large product in bfloat16, timed in the same rounds: what the GPU can do at that moment."""


@dataclass
class Context:
    """How and how long a step measures."""

    dry: bool
    seconds: float = 20.0
    """For timed rounds, compiling and warming up not counted."""
    rounds: int = 40
    errors: dict[str, str] = field(default_factory=dict)
    """By candidate, why it was left out."""

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.dry else torch.bfloat16

    @property
    def config(self) -> SqueezeBertConfig:
        return SqueezeBertConfig(**TINY) if self.dry else SqueezeBertConfig()

    def shape(self, shape: Shape) -> Shape:
        return (min(2, shape[0]), 6) if self.dry else shape


def one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


# Timing


def interleaved(candidates: Mapping[str, Call], context: Context, warmup: int = 3) -> dict[str, list[float]]:
    """Milliseconds of every round by candidate, by the GPU's clock. One that fails is left out, and its error kept."""
    alive: dict[str, Call] = {}
    for name, run in candidates.items():
        try:
            for number in range(1 if context.dry else warmup):
                run(number)
            _synchronize(context)
            alive[name] = run
        except Exception as error:
            context.errors[name] = one_line(error)
    times: dict[str, list[float]] = {name: [] for name in alive}
    if context.dry:
        return times
    start = time.monotonic()
    for number in range(context.rounds):
        events = {}
        for name, run in alive.items():
            events[name] = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[name][0].record()
            run(number)
            events[name][1].record()
        torch.cuda.synchronize()
        for name, (begin, end) in events.items():
            times[name].append(begin.elapsed_time(end))
        if time.monotonic() - start > context.seconds:
            break
    return times


def host_latency(candidates: Mapping[str, Call], context: Context) -> dict[str, list[float]]:
    """Milliseconds from a call to its results, on the host's clock, candidates taking turns."""
    times: dict[str, list[float]] = {
        name: [] for name in interleaved(candidates, replace(context, seconds=0.0))
    }
    for number, name in itertools.product(range(0 if context.dry else 100), times):
        _synchronize(context)
        start = time.perf_counter()
        candidates[name](number)
        _synchronize(context)
        times[name].append(1e3 * (time.perf_counter() - start))
    return times


def _synchronize(context: Context) -> None:
    if not context.dry:
        torch.cuda.synchronize()


def median(times: Sequence[float]) -> float | None:
    """None where nothing was timed."""
    return statistics.median(times) if times else None


def row(name: str, times: Sequence[float], flops: float = 0.0, moved: float = 0.0) -> dict[str, Any]:
    """One candidate's figures: medians, operations (flops) and bytes (moved) a second; None where there are none."""
    middle = median(times)
    quantiles = statistics.quantiles(times, n=5) if len(times) > 1 else [None] * 4
    return {
        "candidate": name,
        "median_ms": middle,
        "p20_ms": quantiles[0],
        "p80_ms": quantiles[3],
        "tflops": flops / middle / 1e9 if middle and flops else None,
        "gbytes_per_second": moved / middle / 1e6 if middle and moved else None,
        "ms": list(times),
    }


# Models


class SdpaAttention(nn.Module):
    """transformers' SqueezeBertSelfAttention on PyTorch's fused attention, which transformers doesn't offer for it."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.query, self.key, self.value, self.heads = own.query, own.key, own.value, own.num_attention_heads

    def forward(self, x: Tensor, mask: Tensor | None, output_attentions: bool) -> dict[str, Tensor]:
        q, k, v = (
            part(x).unflatten(1, (self.heads, -1)).mT.contiguous()
            for part in (self.query, self.key, self.value)
        )
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return {"context_layer": context.mT.flatten(1, 2)}


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

    def sdpa(self) -> Any:
        model = copy.deepcopy(self.theirs)
        for layer in model.encoder.layers:
            layer.attention = SdpaAttention(layer.attention)
        return model

    def patched(self, **options: Any) -> Any:
        return squeezebert_fast.patch(copy.deepcopy(self.theirs), backend="triton", strict=True, **options)

    def ours(self, **options: Any) -> Any:
        model = SqueezeBertModel(self.context.config).eval().requires_grad_(False)
        model = model.to(self.context.device, self.context.dtype)
        model.load_state_dict(self.theirs.state_dict())
        return squeezebert_fast.patch(model, backend="triton", strict=True, **options)

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

    def check(self, models: Mapping[str, Any]) -> dict[str, Any]:
        """Those that agree with eager float32 on a padded batch; the others' errors are kept."""
        shape = self.context.shape((4, 48))
        lengths = torch.linspace(1, shape[1], shape[0]).long()
        (inputs, *_) = self.inputs(shape, lengths)
        agreeing = {}
        for name, model in models.items():
            try:
                self.agrees(name, model, inputs)
                agreeing[name] = model
            except Exception as error:
                self.context.errors[name] = one_line(error)
        return agreeing

    def agrees(self, name: str, model: Any, inputs: dict[str, Tensor]) -> None:
        """Raises WrongEngine unless `model` computes what eager does in float32, as well as its precision can."""
        precision = "int8" if name.endswith("int8") else str(self.context.dtype).removeprefix("torch.")
        with torch.inference_mode():
            actual, expected = (one(**inputs).last_hidden_state for one in (model, self.float32))
        agreement.check(name, precision, actual, expected, inputs["attention_mask"])


def square_product(context: Context, size: int = 8192) -> tuple[Call, float]:
    """The product, and its operations."""
    size = 16 if context.dry else size
    a, b = (torch.randn(size, size, device=context.device, dtype=context.dtype) for _ in range(2))
    c = torch.empty_like(a)
    return lambda _: torch.mm(a, b, out=c), 2.0 * size**3


# Steps


def about(context: Context) -> dict[str, Any]:
    """Where and with what."""
    result = surroundings("gpu_check", context.rounds)
    result["triton"] = result["machine"]["versions"]["triton"]
    result["python"] = platform.python_version()
    result["dry_run"] = context.dry
    if not context.dry:
        properties = torch.cuda.get_device_properties(0)
        result["gpu"] = {
            "name": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "l2_mib": properties.L2_cache_size / 2**20,
            "cuda": torch.version.cuda,
        }
    return result


def ceilings(context: Context) -> dict[str, Any]:
    """What the GPU multiplies in bfloat16, and copies, reads and writes counted."""
    product, flops = square_product(context)
    elements = 64 if context.dry else 2**30
    source = torch.randint(0, 100, (elements,), dtype=torch.int16, device=context.device)
    target = torch.empty_like(source)
    times = interleaved({PRODUCT: product, "copy": lambda _: target.copy_(source)}, context)
    work = {PRODUCT: (flops, 0.0), "copy": (0.0, 2.0 * source.nbytes)}
    return {"rows": [row(name, ms, *work[name]) for name, ms in times.items()]}


def _model_rows(context: Context, calls: Mapping[str, Call], flops: float) -> list[dict[str, Any]]:
    product, product_flops = square_product(context)
    times = interleaved({**calls, PRODUCT: product}, context)
    return [row(name, ms, product_flops if name == PRODUCT else flops) for name, ms in times.items()]


def model(shape: Shape) -> Callable[[Context], dict[str, Any]]:
    """The whole model at one shape in every way that takes no minute to compile."""

    def run(context: Context) -> dict[str, Any]:
        models, at = Models.make(context), context.shape(shape)
        ways = {EAGER: models.theirs, SDPA: models.sdpa(), OURS: models.ours(), PATCHED: models.patched()}
        ways[f"{OURS}, int8"] = models.ours(precision="int8")
        if shape[0] * shape[1] <= 4096:
            ways[GRAPHS] = squeezebert_fast.cuda_graphs(models.ours())
        ways = models.check(ways)
        inputs = models.inputs(at)
        calls = {name: models.call(way, inputs) for name, way in ways.items()}
        result: dict[str, Any] = {"case": shape_name(shape), "flops": encoder_flops(context.config, *at)}
        result["rows"] = _model_rows(context, calls, result["flops"])
        if GRAPHS in ways:
            result["graphs_not_used"] = sorted(set(ways[GRAPHS].reasons.values()))
        return result

    return run


def compiled(shape: Shape, attention: str) -> Callable[[Context], dict[str, Any]]:
    """torch.compile(max-autotune) of transformers' model, as it is or on SDPA, beside ours and eager."""

    def run(context: Context) -> dict[str, Any]:
        models, at = Models.make(context), context.shape(shape)
        theirs = models.sdpa() if attention == SDPA else models.theirs
        backend: dict[str, Any] = {"backend": "eager"} if context.dry else {"mode": "max-autotune"}
        inputs = models.inputs(at)
        name = f"torch.compile of {attention}"
        # The mask of ones is left to the compiled model too. Its outputs live in its own graph's memory, which the
        # next call overwrites: nothing is kept of them.
        compiled_model = torch.compile(theirs, dynamic=False, **backend)
        ways = models.check({EAGER: models.theirs, OURS: models.ours()})
        calls = {label: models.call(way, inputs) for label, way in ways.items()}
        calls[name] = models.call(compiled_model, inputs)
        flops = encoder_flops(context.config, *at)
        rows = _model_rows(context, calls, flops)
        models.agrees(name, compiled_model, inputs[0])
        return {"case": shape_name(shape), "flops": flops, "rows": rows}

    return run


def ragged(context: Context) -> dict[str, Any]:
    """Lengths of 5 to 128, uniform: over the real tokens only, against the same batch padded."""
    models, shape = Models.make(context), context.shape((256, 128))
    lengths = torch.randint(
        min(5, shape[1]), shape[1] + 1, shape[:1], generator=torch.Generator().manual_seed(1)
    )
    inputs = models.inputs(shape, lengths)
    ways = {EAGER: models.theirs, OURS: models.ours(), f"{OURS}, unpad": models.ours(unpad=True)}
    ways = models.check(ways)
    useful = sum(encoder_flops(context.config, 1, length) for length in lengths.tolist())
    rows = _model_rows(context, {name: models.call(way, inputs) for name, way in ways.items()}, useful)
    share = float(lengths.sum()) / (shape[0] * shape[1])
    return {"case": "256 sequences of 5 to 128", "real_tokens": share, "flops": useful, "rows": rows}


def latency(context: Context) -> dict[str, Any]:
    """One sequence of 128, from the call to the result, on the host's clock."""
    models, shape = Models.make(context), context.shape((1, 128))
    graphs = squeezebert_fast.cuda_graphs(models.ours())
    ways = models.check({EAGER: models.theirs, SDPA: models.sdpa(), OURS: models.ours(), GRAPHS: graphs})
    inputs = models.inputs(shape)
    times = host_latency({name: models.call(way, inputs) for name, way in ways.items()}, context)
    flops = encoder_flops(context.config, *shape)
    return {
        "case": "1x128, host clock",
        "flops": flops,
        "rows": [row(name, ms, flops) for name, ms in times.items()],
        "graphs_not_used": sorted(set(graphs.reasons.values())),
    }


@dataclass(frozen=True)
class PassCall:
    """One pass of one layer on random data, with the operations and bytes that it can't do without."""

    call: Callable[..., Call]
    """Takes keyword arguments of the host function, such as `tile`."""
    flops: float
    moved: float


def pass_calls(context: Context, shape: Shape) -> dict[str, PassCall]:
    """Each kernel of triton_kernels/ at the model's sizes; inputs rotate, so that no cache holds them from before."""
    from squeezebert_fast.triton_kernels.attention import attention, self_attention
    from squeezebert_fast.triton_kernels.embeddings import embeddings
    from squeezebert_fast.triton_kernels.feed_forward import feed_forward
    from squeezebert_fast.triton_kernels.grouped_pointwise_conv import grouped_pointwise_conv
    from squeezebert_fast.triton_kernels.post_attention import conv_add_layer_norm

    config, (batch, tokens) = context.config, shape
    channels, hidden, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    rows, size = batch * tokens, torch.finfo(context.dtype).bits // 8

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=context.device, dtype=context.dtype) * 0.5

    def weight(out_channels: int, in_channels: int, groups: int) -> Tensor:
        return random(out_channels, in_channels // groups, 1) * (groups / in_channels) ** 0.5

    xs = [random(batch, tokens, channels) for _ in range(INPUT_SETS)]

    def x(number: int, further: int = 0) -> Tensor:
        return xs[(number + further) % len(xs)]

    bias, hidden_bias, ones = random(channels), random(hidden), torch.ones_like(random(channels))
    qkv = tuple(weight(channels, channels, config.q_groups) for _ in range(3))
    dense = weight(channels, channels, config.post_attention_groups)
    into = weight(hidden, channels, config.intermediate_groups)
    out = weight(channels, hidden, config.output_groups)
    words = random(config.vocab_size, channels)
    places, kinds = random(config.max_position_embeddings, channels), random(config.type_vocab_size, channels)
    ids = [torch.randint(0, config.vocab_size, (batch, tokens), device=context.device) for _ in xs]
    at, kind = (
        torch.arange(tokens, device=context.device),
        torch.zeros((), dtype=torch.int64, device=context.device),
    )
    work = {name: one.flops / config.num_hidden_layers for name, one in pass_work(config, shape).items()}
    row_bytes = float(rows * channels * size)
    scores = 4.0 * rows * tokens * channels
    qkv_bytes, dense_bytes = 3.0 * qkv[0].nbytes, float(dense.nbytes)

    def of(run: Callable[..., object]) -> Callable[..., Call]:
        return lambda **options: lambda number: run(number, **options)

    return {
        "A self_attention": PassCall(
            of(lambda n, **o: self_attention(x(n), qkv, (bias,) * 3, config.q_groups, heads, None, **o)),
            work["attention"],
            2 * row_bytes + qkv_bytes,
        ),
        "B conv_add_layer_norm": PassCall(
            of(
                lambda n, **o: conv_add_layer_norm(
                    x(n), dense, bias, config.post_attention_groups, x(n, 1), ones, bias, 1e-12, **o
                )
            ),
            work["post_attention"],
            3 * row_bytes + dense_bytes,
        ),
        "C feed_forward": PassCall(
            of(
                lambda n, **o: feed_forward(
                    x(n),
                    into,
                    hidden_bias,
                    out,
                    bias,
                    config.output_groups,
                    config.hidden_act,
                    ones,
                    bias,
                    1e-12,
                    **o,
                )
            ),
            work["feed_forward"],
            2 * row_bytes + into.nbytes + out.nbytes,
        ),
        "embeddings": PassCall(
            of(
                lambda n, **o: embeddings(
                    words,
                    places,
                    kinds,
                    ids[n % len(ids)],
                    at,
                    kind.expand(1, tokens),
                    ones,
                    bias,
                    1e-12,
                    **o,
                )
            ),
            0.0,
            2 * row_bytes + 8.0 * rows,
        ),
        "attention alone": PassCall(
            of(lambda n, **o: attention(x(n), x(n, 1), x(n, 2), None, heads, **o)), scores, 4 * row_bytes
        ),
        "product alone": PassCall(
            of(lambda n, **o: grouped_pointwise_conv(x(n), qkv[0], bias, config.q_groups, **o)),
            2.0 * rows * channels * channels / config.q_groups,
            2 * row_bytes + qkv_bytes / 3,
        ),
    }


def passes(shape: Shape) -> Callable[[Context], dict[str, Any]]:
    """Each pass of one layer against the two ceilings, which are timed in the same rounds."""

    def run(context: Context) -> dict[str, Any]:
        at = context.shape(shape)
        calls = pass_calls(context, at)
        product, product_flops = square_product(context)
        source = torch.randint(
            0, 100, (64 if context.dry else 2**29,), dtype=torch.int16, device=context.device
        )
        target = torch.empty_like(source)
        candidates: dict[str, Call] = {name: one.call() for name, one in calls.items()}
        candidates |= {PRODUCT: product, "copy": lambda _: target.copy_(source)}
        work = {name: (one.flops, one.moved) for name, one in calls.items()}
        work |= {PRODUCT: (product_flops, 0.0), "copy": (0.0, 2.0 * source.nbytes)}
        times = interleaved(candidates, context)
        return {"case": shape_name(shape), "rows": [row(name, ms, *work[name]) for name, ms in times.items()]}

    return run


def neighbours(tile: Any) -> Iterator[Any]:
    """A tile, and those with another number of warps or stages."""
    yield tile
    for stages in (tile.stages - 1, tile.stages + 1):
        if 1 <= stages <= 5:
            yield tile._replace(stages=stages)
    for warps in (tile.warps // 2, tile.warps * 2):
        if 1 <= warps <= 16:
            yield tile._replace(warps=warps)


TILED = {
    "A self_attention": "attention",
    "B conv_add_layer_norm": "post_attention",
    "C feed_forward": "feed_forward",
    "product alone": "grouped_pointwise_conv",
}
"""Kernels whose tiles are looked at, and the file of triton_kernels/ with their table."""


def tiles(name: str, shape: Shape) -> Callable[[Context], dict[str, Any]]:
    """A kernel with every tile of its table and their neighbours, so that the table can be revised."""

    def run(context: Context) -> dict[str, Any]:
        module = __import__(f"squeezebert_fast.triton_kernels.{TILED[name]}", fromlist=["TILES"])
        table = module.TILES_FLOAT32 if context.dtype is torch.float32 else module.TILES
        one = pass_calls(context, context.shape(shape))[name]
        candidates: dict[str, Call] = {"shipped choice": one.call()}
        for tile in dict.fromkeys(itertools.chain.from_iterable(map(neighbours, table[:3]))):
            candidates[str(tile)] = one.call(tile=tile)
        if context.dry:
            candidates = dict(itertools.islice(candidates.items(), 2))
        times = interleaved(candidates, context, warmup=2)
        rows = [row(label, ms, one.flops, one.moved) for label, ms in times.items()]
        return {
            "case": f"{name}, {shape_name(shape)}",
            "rows": sorted(rows, key=lambda r: r["median_ms"] or 0.0),
        }

    return run
