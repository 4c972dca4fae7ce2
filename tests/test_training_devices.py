"""`--device`, and mixed precision: where a run computes, what float16 skips, and a run that goes on elsewhere.

Tests of a real GPU run where there is one, in `make gpu-check` too. The others show as much as can be shown without.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from squeezebert_fast import SqueezeBertModel, SqueezeBertTokenizerFast
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.training import devices, loop, runs
from squeezebert_fast.training.conll import TaggedSentence
from squeezebert_fast.training.distillation import COUNTS, Distilled, hidden_distance
from squeezebert_fast.training.optimizing import SMALLEST_SCALE
from squeezebert_fast.training.processes import Processes
from squeezebert_fast.training.settings import Softness
from squeezebert_fast.training.squad import Question as Asked
from squeezebert_fast.training.tasks.base import Task
from squeezebert_fast.training.tasks.choices import ChoiceColumns, MultipleChoice, Question
from squeezebert_fast.training.tasks.masked import MaskedLanguageModel
from squeezebert_fast.training.tasks.questions import QuestionAnswering
from squeezebert_fast.training.tasks.sequences import (
    LabelledText,
    Regression,
    SequenceClassification,
    TableColumns,
)
from squeezebert_fast.training.tasks.tokens import TokenClassification
from squeezebert_fast.training.teachers import Teacher
from tests.cli_helpers import refuses, run, succeeds
from tests.training_helpers import (
    FILLERS,
    SIZES,
    assert_same_end,
    log_of,
    opinions,
    save_base,
    state_of,
    summary_of,
    trains,
    write_tsv,
    write_vocab,
)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU")


pytestmark = pytest.mark.usefixtures("without_curves")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("devices")
    save_base(SqueezeBertModel, path / "base")
    write_tsv(path / "train.tsv", opinions(48, 1))
    write_tsv(path / "dev.tsv", opinions(20, 2))
    return path


def command(folder: Path, output: str, *more: object) -> list[object]:
    """Two epochs of three steps."""
    files = [
        "finetune",
        folder / "train.tsv",
        "--dev",
        folder / "dev.tsv",
        "-m",
        folder / "base",
        "--no-head-first",
    ]
    how = ["--epochs", 2, "--batch-size", 16, "--learning-rate", 1e-2, "--max-length", 16, "--threads", 1]
    return [*files, "-o", folder / output, *how, "--log-every", 1, *more]


# The choice of a device


def pretend_gpus(count: int, monkeypatch: pytest.MonkeyPatch, **environment: object) -> list[torch.device]:
    """Let torch find so many GPUs; returns those that are made the current one."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    return current


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cuda", 2, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_name_is_a_device(name: str, count: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    current = pretend_gpus(count, monkeypatch)
    assert devices.choose(name) == torch.device(expected)
    assert current == ([] if expected == "cpu" else [torch.device(expected)])


@pytest.mark.parametrize(
    ("name", "count", "said"),
    [
        ("gpu", 1, "device is 'gpu', expected one of cpu, cuda, cuda:N, auto"),
        ("cuda:x", 1, "device is 'cuda:x', expected"),
        ("cuda:-1", 1, "device is 'cuda:-1', expected"),
        ("cuda", 0, "device is 'cuda', but torch finds no CUDA GPU"),
        ("cuda:0", 0, "device is 'cuda:0', but torch finds no CUDA GPU"),
        ("cuda:2", 2, "device is 'cuda:2', which is GPU 2, counted from 0, but torch finds 2"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    name: str, count: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(count, monkeypatch)
    with pytest.raises(ArgumentError, match=said):
        devices.choose(name)


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks: dict[str, object] = {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1}
    pretend_gpus(2, monkeypatch, **ranks)
    assert devices.choose("auto") == devices.choose("cuda") == torch.device("cuda:1")
    with pytest.raises(
        ArgumentError, match="'cuda:1' in each of 8 processes, expected cuda, which gives each"
    ):
        devices.choose("cuda:1")
    pretend_gpus(1, monkeypatch, **ranks)
    with pytest.raises(
        ArgumentError, match="process 1 of this machine needs GPU 1, counted from 0, but torch finds 1"
    ):
        devices.choose("auto")
    assert devices.choose("cpu") == devices.CPU


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:1", "cpu:gloo,cuda:nccl")])
def test_gradients_on_gpus_are_summed_by_nccl_and_all_else_by_gloo(
    device: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(2, monkeypatch, RANK=1, WORLD_SIZE=2, LOCAL_RANK=1)
    begun: list[str] = []
    monkeypatch.setattr(dist, "init_process_group", begun.append)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with Processes.joined(torch.device(device)) as processes:
        assert (processes.rank, processes.world, processes.local_rank) == (1, 2, 1)
    assert begun == [backend]


@pytest.mark.parametrize("name", ["finetune", "distill", "pretrain", "evaluate"])
def test_commands_refuse_a_device_before_they_write(name: str, folder: Path) -> None:
    output = [] if name == "evaluate" else ["-o", folder / "none"]
    model = [] if name == "distill" else ["-m", folder / "base"]
    teacher = ["--teacher", folder / "base", "--layers", 1] if name == "distill" else []
    refuses(name, folder / "train.tsv", *model, *teacher, *output, "--device", "tpu", said="device is 'tpu'")
    assert not (folder / "none").exists()


def test_float16_is_refused_on_the_cpu(folder: Path) -> None:
    said = "precision is 'float16', which is for CUDA GPUs, but the device is cpu; expected one of float32, bfloat16"
    refuses(*command(folder, "none", "--precision", "float16", "--device", "cpu"), said=said)
    assert not (folder / "none").exists()


# What is computed where the batch is


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> SqueezeBertTokenizerFast:
    return SqueezeBertTokenizerFast(write_vocab(folder))


LABELS = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
CONTEXT = "anna lives in paris and bob lives in rome"
TASKS: dict[str, tuple[Task, list[Any], dict[str, Any]]] = {
    "classification": (
        SequenceClassification(TableColumns()),
        [LabelledText("so good", None, "a", "1"), LabelledText("bad", None, "b", "2")],
        LABELS,
    ),
    "regression": (
        Regression(TableColumns()),
        [LabelledText("so good", None, "1.5", "1"), LabelledText("bad", None, "2", "2")],
        {"id2label": {0: "label"}},
    ),
    "choices": (
        MultipleChoice(ChoiceColumns(("x", "y"))),
        [Question("who", ("anna", "bob lives"), 1), Question("a film", ("it was", "so"), 0)],
        {},
    ),
    "tokens": (
        TokenClassification(),
        [TaggedSentence(["bob", "lives"], ["a", "b"], ["1", "2"]), TaggedSentence(["so"], ["b"], ["3"])],
        LABELS,
    ),
    "questions": (
        QuestionAnswering(),
        [Asked("1", "who lives in rome", CONTEXT, ("bob",), CONTEXT.index("bob"))] * 2,
        {"num_labels": 2},
    ),
    "masked": (MaskedLanguageModel(0), ["anna lives in paris", "bob and carl saw a film"], {}),
}


def output_of(task: Task, batch: dict[str, torch.Tensor], config: Any) -> Any:
    torch.manual_seed(1)
    model = task.model_class(config).eval()
    return task.forward(model, batch, hidden_states=True)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_makes_no_tensor_on_another_device(name: str, tokenizer: SqueezeBertTokenizerFast) -> None:
    """Whatever is made without a device is on meta here, and so fits nothing."""
    task, examples, fields = TASKS[name]
    config = task.model_class.config_class(**{**SIZES, **fields})
    batch = task.collate(task.encode(examples, tokenizer, config, 24), 0, 0)
    output = output_of(task, batch, config)
    with torch.device("meta"):
        loss, answers = task.loss(output, batch), task.answers(output, batch)
    assert torch.equal(loss, task.loss(output, batch))
    assert answers == task.answers(output, batch)


@pytest.mark.parametrize("name", ["classification", "choices", "tokens", "questions"])
def test_a_distillation_makes_no_tensor_on_another_device(
    name: str, tokenizer: SqueezeBertTokenizerFast
) -> None:
    task, examples, fields = TASKS[name]
    config = task.model_class.config_class(**{**SIZES, **fields})
    torch.manual_seed(2)
    model = task.model_class(config).eval()
    known = Teacher(model, tokenizer, dict(config.id2label or {}), 0, 48, devices.CPU)
    distilled = Distilled(task, known, Softness(hidden=0.5))
    batch = distilled.collate(distilled.encode(examples, tokenizer, config, 24), 0, 0)
    assert batch[COUNTS].sum() == task.count(batch)
    output = output_of(task, batch, config)
    with torch.device("meta"):
        loss = distilled.loss(output, batch)
    assert loss.isfinite()
    assert torch.equal(loss, distilled.loss(output, batch))


def test_the_distance_is_where_the_states_are() -> None:
    states = [torch.randn(2, 3, 4) for _ in range(2)]
    with torch.device("meta"):
        assert hidden_distance(states, states, torch.ones(2, 3, device="cpu")).tolist() == [0, 0]


# float16, by the CPU's autocast


@pytest.fixture
def float16_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "check_precision", lambda *_: None)


def overflow(steps: set[int] | range, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the training steps of these numbers, from 1, the loss is finite and the gradient is not."""
    original, calls = SequenceClassification.loss, []

    def steep(self: SequenceClassification, *arguments: Any) -> Any:
        loss = original(self, *arguments)
        if torch.is_grad_enabled():
            calls.append(loss)
            if len(calls) in steps:
                return loss + torch.sqrt(loss * 0)  # the root of 0 is infinitely steep
        return loss

    monkeypatch.setattr(SequenceClassification, "loss", steep)


@pytest.mark.usefixtures("float16_anywhere")
def test_float16_learns_and_is_resumed_to_the_same_bits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    more = ["--precision", "float16", "--save-every", 1, "--device", "cpu"]
    overflow({2}, monkeypatch)
    trains(*command(folder, "whole16", *more))
    losses = [line["loss"] for line in log_of(folder / "whole16") if "loss" in line]
    assert losses[-1] < losses[0]
    assert state_of(folder / "whole16")["scaler"]["scale"] == 2.0**15  # from 2**16, halved once

    overflow({2}, monkeypatch)
    original = loop.Trainer._save

    def save(self: loop.Trainer) -> None:
        original(self)
        if self.progress.step == 4:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "_save", save)
        assert isinstance(run(*command(folder, "killed16", *more)).exception, Killed)
    trains(*command(folder, "killed16", "--resume", *more))
    assert_same_end(folder / "killed16", folder / "whole16")


@pytest.mark.usefixtures("float16_anywhere")
def test_a_step_that_overflows_float16_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overflow({1}, monkeypatch)
    trains(*command(folder, "skipped", "--precision", "float16", "--max-steps", 1, "--device", "cpu"))
    (line,) = [line for line in log_of(folder / "skipped") if "loss" in line]
    assert (line["gradient_norm"], line["skipped_steps"], line["loss_scale"]) == (None, 1, 2.0**15)
    assert summary_of(folder / "skipped")["skipped_steps"] == 1
    state = state_of(folder / "skipped")
    before = SqueezeBertModel.from_pretrained(folder / "base").state_dict()
    for name, value in before.items():
        assert torch.equal(state["model"][f"transformer.{name}"], value)
    assert state["step"] == 1


@pytest.mark.usefixtures("float16_anywhere")
def test_a_scale_that_has_fallen_to_nothing_stops_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow(range(1, 1000), monkeypatch)
    more = ["--precision", "float16", "--epochs", 20, "--save-every", 10, "--device", "cpu"]
    result = run(*command(folder, "fallen", *more))
    assert result.exit_code == 2
    assert (
        "the gradient is not finite at step 32, with a loss scale of 3.1e-05: stopped before" in result.stderr
    )
    assert 2.0**-15 < SMALLEST_SCALE == 2.0**-14  # 2**16 halved 31 times
    assert all(value.isfinite().all() for value in state_of(folder / "fallen")["model"].values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_precisions_skip_nothing(precision: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overflow({1}, monkeypatch)
    result = run(*command(folder, f"stops-{precision}", "--precision", precision, "--device", "cpu"))
    assert "the gradient is not finite at step 1: stopped before" in result.stderr


# What a GPU's run tells


def test_memory_is_logged_and_outlasts_a_resumed_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "peak_memory", lambda device: 3_000_000_000)
    first = trains(*command(folder, "memory", "--device", "cpu"))
    assert "; at most 3.00 GB of cpu" in first
    assert {line["peak_memory_bytes"] for line in log_of(folder / "memory") if "loss" in line} == {
        3_000_000_000
    }
    monkeypatch.setattr(devices, "peak_memory", lambda device: 1)
    trains(*command(folder, "memory", "--resume", "--device", "cpu"))
    assert summary_of(folder / "memory")["peak_memory_bytes"] == 3_000_000_000


def test_the_cpu_tells_nothing_of_gpus(folder: Path) -> None:
    assert "GB" not in trains(*command(folder, "cpu", "--device", "cpu"))
    assert summary_of(folder / "cpu")["device"] == "cpu"
    assert not any(
        "peak_memory_bytes" in line for line in [summary_of(folder / "cpu"), *log_of(folder / "cpu")]
    )


def test_too_little_memory_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(SequenceClassification, "loss", loss)
    result = run(*command(folder, "full", "--device", "cpu"))
    assert result.exit_code == 2
    assert "cpu has not enough memory after step 0: a larger --accumulate or a smaller" in result.stderr


def test_a_run_of_another_device_goes_on_and_says_so(folder: Path) -> None:
    trains(*command(folder, "elsewhere", "--device", "cpu"))
    path = folder / "elsewhere" / "training_state.pt"
    torch.save({**state_of(folder / "elsewhere"), "device": "cuda"}, path)
    said = trains(*command(folder, "elsewhere", "--resume", "--device", "cpu"))
    assert "resumed after step 6 of 6, device cpu after cuda: results differ by rounding" in said


# On a GPU


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_trains_as_the_cpu_does(precision: str, folder: Path) -> None:
    """As far as the losses of the first steps tell: dropout draws other masks, rounding adds up."""
    base = folder / "undropped"
    if not base.exists():
        save_base(SqueezeBertModel, base, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    outputs = f"cpu-{precision}", f"cuda-{precision}"
    for output, device, used in zip(outputs, ("cpu", "cuda"), ("float32", precision), strict=True):
        trains(*command(folder, output, "-m", base, "--device", device, "--precision", used))
    ours, theirs = ([line["loss"] for line in log_of(folder / each) if "loss" in line] for each in outputs)
    assert theirs[0] == pytest.approx(ours[0], rel=2e-3 if precision == "float32" else 0.02)
    assert theirs[-1] == pytest.approx(ours[-1], rel=0.2)
    summary = summary_of(folder / f"cuda-{precision}")
    assert summary["device"].startswith("cuda:")
    assert summary["peak_memory_bytes"] > 0
    measured = json.loads(
        succeeds("evaluate", folder / "dev.tsv", "-m", folder / f"cuda-{precision}", "--json")
    )
    assert measured["float32"]["accuracy"] == pytest.approx(summary["best"]["dev"]["accuracy"], abs=0.06)


@needs_gpu
@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_checkpoint_goes_on_on_the_other_device(first: str, then: str, folder: Path) -> None:
    output = f"{first}-{then}"
    stopped = command(folder, output, "--device", first, "--save-every", 1)
    original = loop.Trainer._save

    def save(self: loop.Trainer) -> None:
        original(self)
        if self.progress.step == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop.Trainer, "_save", save)
        assert run(*stopped).exit_code == 130
    resumed = command(folder, output, "--device", then, "--save-every", 1, "--resume")
    assert f"after step 3 of 6, on {then}" in trains(*resumed)
    assert state_of(folder / output)["step"] == 6


@needs_gpu
def test_a_gpu_measures_each_precision(folder: Path) -> None:
    trains(*command(folder, "to-measure", "--device", "cpu"))
    measure = ["evaluate", folder / "dev.tsv", "-m", folder / "to-measure", "--json", "--precision"]
    cpu = json.loads(succeeds(*measure, "float32", "--device", "cpu"))
    gpu = json.loads(succeeds(*measure, "bfloat16,float32,int8", "--device", "cuda"))
    assert list(gpu) == ["bfloat16", "float32", "int8"]
    assert gpu["float32"]["loss"] == pytest.approx(cpu["float32"]["loss"], rel=2e-3)
    assert gpu["bfloat16"]["loss"] == pytest.approx(cpu["float32"]["loss"], rel=0.05)
    assert gpu["int8"]["loss"] == pytest.approx(cpu["float32"]["loss"], rel=0.1)


@needs_gpu
def test_a_gpu_distils(folder: Path) -> None:
    """The teacher, inheritance, fitting and hidden states, all on the GPU."""
    teacher = folder / "gpu-teacher"
    trains(*command(folder, "gpu-teacher", "--device", "cuda"))
    chance = random.Random(0)
    texts = [(" ".join(chance.choices(FILLERS, k=30)), chance.choice(("neg", "pos"))) for _ in range(40)]
    train = write_tsv(folder / "long.tsv", texts)
    sizes = ["--layers", 1, "--hidden-size", 16, "--heads", 2, "--intermediate-size", 32, "--groups", 2]
    how = ["--init-from-teacher", "--fit-to-teacher", "--hidden", 1, "--device", "cuda", "--epochs", 1]
    trains("distill", train, "--teacher", teacher, *sizes, *how, "-o", folder / "gpu-student")
    assert summary_of(folder / "gpu-student")["peak_memory_bytes"] > 0
