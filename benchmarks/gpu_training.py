"""What a training step of the base classifier costs on a GPU: time, memory and the share of dropout.

Cases of `benchmarks.gpu_check`: the forward and backward in bfloat16 autocast with float32 parameters, timed as in
gpu_measure.py. Memory is what was allocated at most during one step less what was before it, with gradients there
already: activations, what is kept for the backward, and gradients until they are added up.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn

from benchmarks.agreement import check_gradients
from benchmarks.gpu_measure import (
    INPUT_SETS,
    Call,
    Context,
    interleaved,
    one_line,
    row,
    square_product,
    synchronize,
)
from benchmarks.gpu_names import COMPILED, EAGER, PATCHED, PRODUCT
from benchmarks.report import Shape, shape_name
from benchmarks.subjects import spread_scores
from benchmarks.training_step import (
    Batch,
    Candidate,
    exact_gradients,
    gradients,
    step_flops,
)
from squeezebert_fast import patch

COMPILED_EAGER, COMPILED_PATCHED = COMPILED + EAGER, COMPILED + PATCHED
NO_DROPOUT = ", no dropout"
TRAINED: tuple[Shape, ...] = ((64, 512), (32, 128))


def precision_of(context: Context) -> str:
    return "float32" if context.dry else "bfloat16"


def classifier(context: Context) -> nn.Module:
    """transformers' sequence classifier in train mode with random weights, its parameters float32."""
    torch.manual_seed(0)
    config = transformers.SqueezeBertConfig.from_dict(context.config.to_dict())
    model = transformers.SqueezeBertForSequenceClassification(config).train()
    spread_scores(model, 6.0)
    return model.to(context.device)


def batches(context: Context, shape: Shape, count: int = INPUT_SETS) -> list[Batch]:
    """Random ids and labels, and masks of ones."""
    generator = torch.Generator().manual_seed(shape[0] * shape[1])
    made = []
    for _ in range(count):
        ids = torch.randint(0, context.config.vocab_size, shape, generator=generator)
        labels = torch.randint(0, 2, shape[:1], generator=generator)
        made.append(Batch(*(each.to(context.device) for each in (ids, torch.ones_like(ids), labels))))
    return made


def without_dropout(model: nn.Module) -> nn.Module:
    """`model`, in which nothing is dropped any more."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def candidate(context: Context, name: str, base: nn.Module) -> Candidate:
    """A copy of `base`, as `name` says. A patched one runs on kernels in all it does, or fails."""
    model = copy.deepcopy(base)
    if PATCHED in name:
        # a dry run's graph can't have the interpreter in it
        interpreted = context.dry and name == COMPILED_PATCHED
        patch(model, backend="auto" if interpreted else "triton", strict=True)
    if name.endswith(NO_DROPOUT):
        without_dropout(model)
    forward = model
    if name in (COMPILED_EAGER, COMPILED_PATCHED):
        backend = {"backend": "eager"} if context.dry else {}
        forward = torch.compile(model, dynamic=False, fullgraph=name == COMPILED_PATCHED, **backend)
    return Candidate(name, precision_of(context), model, forward)


def checked(context: Context, names: Sequence[str], base: nn.Module) -> dict[str, Candidate]:
    """Those whose gradients on a padded batch are as near to float64's as eager's are; the others' errors are kept.

    torch.compile would compile the check's shape too, for a minute: what it made is checked for finite gradients.
    """
    (batch,) = batches(context, context.shape((4, 48)), 1)
    batch.attention_mask[-1, batch.attention_mask.shape[1] // 2 :] = 0
    same_precision = gradients(candidate(context, EAGER, base), batch)
    exact = exact_gradients(base, batch)
    agreeing = {}
    for name in names:
        try:
            if name not in (COMPILED_EAGER, COMPILED_PATCHED):
                one = candidate(context, name, base)
                check_gradients(name, one.precision, gradients(one, batch), same_precision, exact)
            agreeing[name] = candidate(context, name, base)
        except Exception as error:
            context.errors[name] = one_line(error)
            synchronize(context)
    return agreeing


def step_bytes(one: Candidate, batch: Batch) -> int:
    """The memory of one step on the GPU. The candidate must have gradients."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    one.step(batch)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measured(context: Context, shape: Shape, names: Sequence[str]) -> dict[str, Any]:
    """A row for each candidate: times, then memory. Times are of steps that start without gradients."""
    at = context.shape(shape)
    candidates, inputs = checked(context, names, classifier(context)), batches(context, at)

    def step(one: Candidate, number: int) -> None:
        one.model.zero_grad(set_to_none=True)
        one.step(inputs[number % len(inputs)])

    product, product_flops = square_product(context)
    calls: Mapping[str, Call] = {name: partial(step, one) for name, one in candidates.items()}
    times = interleaved({**calls, PRODUCT: product}, context)
    flops, rows = step_flops(context.config, at), []
    for name, ms in times.items():
        if name == PRODUCT:
            rows.append(row(name, ms, product_flops))
            continue
        one, found = candidates[name], row(name, ms, flops)
        if not all(p.grad.isfinite().all() for p in one.model.parameters() if p.grad is not None):
            context.errors[name] = "a gradient is not finite"
            continue
        found["tokens_per_second"] = round(1e6 * at[0] * at[1] / found["us"])
        found["step_bytes"] = None if context.dry else step_bytes(one, inputs[0])
        rows.append(found)
    result: dict[str, Any] = {"flops": flops, "rows": rows}
    if PATCHED in candidates and not context.dry:
        try:
            result["profile"] = profile(partial(step, candidates[PATCHED]))
        except Exception as error:  # the profiler's, which costs no times
            context.errors["profile"] = one_line(error)
    return result


def profile(call: Call, lines: int = 30) -> list[tuple[str, int, float]]:
    """(kernel, launches, microseconds in all) of one step, those that take longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        call(0)
        torch.cuda.synchronize()
    kernels = sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)
    return [(each.key[:80], each.count, round(each.self_device_time_total, 1)) for each in kernels[:lines]]


def cases() -> dict[str, Callable[[Context], dict[str, Any]]]:
    """The most important first."""
    long, middle = TRAINED
    without = [name + NO_DROPOUT for name in (EAGER, PATCHED)]
    return {
        f"training step, {shape_name(long)}": partial(measured, shape=long, names=(EAGER, PATCHED)),
        f"training step, {shape_name(middle)}": partial(measured, shape=middle, names=(EAGER, PATCHED)),
        f"training step compiled, {shape_name(long)}": partial(
            measured, shape=long, names=(EAGER, PATCHED, COMPILED_EAGER)
        ),
        f"training step without dropout, {shape_name(long)}": partial(measured, shape=long, names=without),
        f"training step compiled, {shape_name(middle)}": partial(
            measured, shape=middle, names=(EAGER, PATCHED, COMPILED_EAGER, COMPILED_PATCHED)
        ),
    }
