"""What `squeezebert_fast.benchmark` measures and reports. Nothing here depends on how long anything takes."""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import peers
from benchmarks import report as reporting
from benchmarks.agreement import WrongEngine, check
from benchmarks.passes import pass_work
from benchmarks.report import Row, best_peer, rows_of, table
from benchmarks.sentences import over_all, turns_over
from benchmarks.subjects import LastHiddenState, Subject, padded_inputs
from squeezebert_fast import ArgumentError, SqueezeBertConfig, SqueezeBertModel, UnsupportedError
from squeezebert_fast.backends import cpu
from squeezebert_fast.benchmark import (
    Case,
    Load,
    MultiplyAddPeak,
    MultiplyAddPeaks,
    Report,
    Timing,
    check_plot,
    encoder_flops,
    forward_candidates,
    measure,
    milliseconds,
)
from tests.loading_helpers import make


def report() -> Report:
    timings = (Timing("slow", (0.4, 0.2, 0.3)), Timing("fast", (0.1, 0.15, 0.2)))
    return Report("a title", (Case("2x3", timings, flops=30, peak=1000.0), Case("4x5", timings)), threads=3)


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    candidates = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = measure(candidates, 3, warmup=2, between=lambda: calls.append("|"))
    assert "".join(calls) == "aabb" + "ab|" * 3
    assert [(timing.name, len(timing.seconds)) for timing in timings] == [("a", 3), ("b", 3)]
    assert all(second >= 0 for timing in timings for second in timing.seconds)


@pytest.mark.parametrize(("repeats", "warmup", "names"), [(0, 0, "a"), (1, -1, "a"), (1, 0, "")])
def test_nothing_to_measure_is_refused(repeats: int, warmup: int, names: str) -> None:
    with pytest.raises(ArgumentError, match="expected at least"):
        measure({name: lambda: None for name in names}, repeats, warmup=warmup)


def test_medians_ratios_and_fractions() -> None:
    case = report().cases[0]
    slow, fast = case.timings
    assert slow.median == 0.3
    assert fast.percentile(20) == pytest.approx(0.12)
    assert case.speed_up(fast) == pytest.approx(2.0)
    assert case.speed_up(slow) == 1.0
    assert case.rate(fast) == pytest.approx(200.0)
    assert case.fraction_of_peak(fast) == pytest.approx(0.2)


def test_a_candidate_is_held_against_its_own_peak() -> None:
    timings = report().cases[0].timings
    case = Case("2x3", timings, flops=30, peak=1000.0, peaks={"fast": 4000.0})
    assert [case.fraction_of_peak(timing) for timing in timings] == pytest.approx([0.1, 0.05])


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        ([1.288], "1,288 ms"),
        ([1234.5678], "1,234,568 ms"),
        ([0.1], "100 ms"),
        ([0.09996], "100 ms"),
        ([0.0371], "37.1 ms"),
        ([0.009996], "10.0 ms"),
        ([0.00053], "0.530 ms"),
        ([0.00000421], "0.00421 ms"),
        ([0.0], "0 ms"),
        ([0.0371, 1.0402], "37.1 .. 1,040 ms"),
    ],
)
def test_milliseconds_have_three_digits_and_no_exponent(seconds: list[float], written: str) -> None:
    assert milliseconds(*seconds) == written


def test_tables_and_plots_write_milliseconds_so(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    slow, fast = Timing("slow", (1.288,) * 3), Timing("fast", (0.00053,) * 3)
    made = Report("a title", (Case("2x3", (slow, fast)),), threads=3)
    shown = Console(file=StringIO(), width=100)
    shown.print(made.table())
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "1,288 ms  1,288 .. 1,288 ms" in text
    assert "0.530 ms  0.530 .. 0.530 ms" in text
    made.plot(tmp_path / "plot.svg")
    assert "1,288 ms" in re.sub(r"\s+", " ", (tmp_path / "plot.svg").read_text())
    shown.print(table([Row("1x2", slow, slow, slow, 10, None), Row("1x2", fast, slow, slow, 10, None)]))
    assert "0.530 .. 0.530 ms" in shown.file.getvalue()  # type: ignore[attr-defined]


def test_figures_are_doubted_when_others_had_the_cpus_or_times_spread() -> None:
    calm = Report("a title", (Case("2x3", (Timing("a", (1.0, 1.1, 1.2)),)),), load=Load(others_during=0.05))
    assert calm.doubt() is None
    assert replace(calm, load=None).doubt() is None
    assert replace(calm, load=Load()).doubt() is None
    crowded = replace(calm, load=Load(others_before=0.0, others_during=0.432))
    assert crowded.doubt() == "others took 43% of the CPUs' time"
    wide = replace(crowded, cases=(*calm.cases, Case("4x5", (Timing("b", (1.0,) * 5 + (3.0,) * 5),))))
    assert wide.doubt() == "others took 43% of the CPUs' time and p80 is 3.0 times p20 (b at 4x5)"


def test_without_a_flop_count_there_is_no_rate() -> None:
    case = report().cases[1]
    assert case.rate(case.timings[0]) is None
    assert case.fraction_of_peak(case.timings[0]) is None


def test_the_base_model_costs_what_the_paper_design_says() -> None:
    assert round(encoder_flops(SqueezeBertConfig(), 1, 128) / 1e9, 1) == 7.4


@pytest.mark.parametrize("seed", range(4))
def test_flops_are_those_that_torch_counts(seed: int) -> None:
    fields = [
        {},
        {"q_groups": 4, "v_groups": 1},
        {"intermediate_groups": 2, "output_groups": 8},
        {"num_hidden_layers": 1},
    ]
    config = make(hidden_size=16 * (seed + 1), **fields[seed]).config
    model = SqueezeBertModel(config).eval()
    batch, tokens = seed + 1, 3 * seed + 2
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.encoder(torch.randn(batch, tokens, config.hidden_size))
    assert encoder_flops(config, batch, tokens) == counter.get_total_flops()


@pytest.mark.skipif(cpu.native_module_missing() is not None, reason="the native module is not built")
def test_the_peak_is_the_median_of_its_samples() -> None:
    peak = MultiplyAddPeak(threads=1)
    assert peak.flops_per_second is None
    peak.sample()
    assert peak.flops_per_second == peak.samples[0] > 0


@pytest.mark.skipif(cpu.native_module_missing() is not None, reason="the native module is not built")
def test_every_precision_has_its_peak() -> None:
    peaks = MultiplyAddPeaks(["float32", "int8"], threads=1)
    assert peaks["int8"] is None
    peaks.sample()
    for precision in ("float32", "int8"):
        assert peaks[precision] == peaks.by_precision[precision].samples[0] > 0


@pytest.mark.skipif(cpu.native_module_missing() is not None, reason="the native module is not built")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_tile_of_every_build_has_a_rate(precision: str) -> None:
    for instruction_set in cpu.instruction_sets():
        with cpu.use_instruction_set(instruction_set):
            assert 0.0 < cpu.tile_rate(precision, threads=2, seconds=0.001) < float("inf")


def test_without_the_native_module_there_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_native", None)
    peak = MultiplyAddPeak()
    peak.sample()
    assert peak.flops_per_second is None


def test_candidates_share_weights_agree_and_leave_the_model_alone() -> None:
    model = make()
    before = type(model.encoder)
    outputs = [
        run() for run in forward_candidates(model, ["reference", "auto", "transformers"], 2, 7).values()
    ]
    assert type(model.encoder) is before
    for output in outputs:
        assert output.last_hidden_state.shape == (2, 7, 16)  # type: ignore[attr-defined]
        torch.testing.assert_close(output.last_hidden_state, outputs[0].last_hidden_state)  # type: ignore[attr-defined]
    model.pooler.dense.bias.data += 1
    changed = forward_candidates(model, ["reference"], 2, 7)["reference"]()
    assert not torch.equal(changed.pooler_output, outputs[0].pooler_output)  # type: ignore[attr-defined]


@pytest.mark.skipif(cpu.native_module_missing() is not None, reason="the native module is not built")
def test_each_precision_is_a_candidate_of_every_backend_that_has_it() -> None:
    runs = forward_candidates(make(), ["reference", "cpu"], 2, 7, precisions=["float32", "int8"])
    assert list(runs) == ["reference", "cpu", "cpu int8"]
    exact, same, rounded = (run().last_hidden_state for run in runs.values())  # type: ignore[attr-defined]
    torch.testing.assert_close(same, exact)
    assert 0 < (rounded - exact).abs().max() < 0.2


@pytest.mark.parametrize(
    ("precisions", "said"), [(["int8", "int8"], "not all different"), (["int4"], "'int4'")]
)
def test_precisions_that_make_no_sense_are_refused(precisions: list[str], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        forward_candidates(make(), ["auto"], 1, 4, precisions=precisions)


@pytest.mark.parametrize(
    ("names", "batch", "tokens", "said"),
    [
        (["reference", "reference"], 1, 4, "not all different"),
        (["fastest"], 1, 4, "'fastest'"),
        (["reference"], 1, 20, "up to 19 tokens"),
        (["reference"], 0, 4, "0x4"),
    ],
)
def test_candidates_that_make_no_sense_are_refused(
    names: list[str], batch: int, tokens: int, said: str
) -> None:
    with pytest.raises(ArgumentError, match=said):
        forward_candidates(make(), names, batch, tokens)


def test_a_backend_that_cannot_serve_is_refused_rather_than_replaced() -> None:
    with pytest.raises(UnsupportedError, match="the tensors are on cpu, not on a CUDA GPU"):
        forward_candidates(make(), ["triton"], 1, 4)


def test_transformers_must_be_there_to_be_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnsupportedError, match="pip install"):
        forward_candidates(make(), ["transformers"], 1, 4)


def test_a_report_is_written_with_every_run(tmp_path: Path) -> None:
    report().write_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["title"] == "a title"
    assert data["threads"] == 3
    assert "torch" in data["machine"]["versions"]
    first, second = data["cases"]
    assert first["candidates"][1]["seconds"] == [0.1, 0.15, 0.2]
    assert first["candidates"][1]["speed_up"] == pytest.approx(2.0)
    assert first["peak_flops_per_second"] == 1000.0
    assert second["candidates"][0]["flops_per_second"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (data["load"], data["left_out"]) == (None, {})
    watched = replace(
        report(), load=Load(0.5, 2.5, 0.0, 0.25), left_out={"theirs": "not installed"}
    ).to_dict()
    assert watched["load"] == {
        "average_before": 0.5,
        "average_during": 2.5,
        "others_before": 0.0,
        "others_during": 0.25,
    }
    assert watched["left_out"] == {"theirs": "not installed"}


def test_the_table_has_a_row_for_each_candidate() -> None:
    made = report()
    assert made.table().row_count == sum(1 + len(case.timings) for case in made.cases)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".SVG", b"<?xml")])
def test_a_report_is_drawn(suffix: str, start: bytes, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plot{suffix}"
    report().plot(path)
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_a_plot_that_cannot_be_drawn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match=r"\.png, \.svg"):
        check_plot(Path("plot.gif"))
    monkeypatch.setattr(importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(UnsupportedError, match=r"pip install squeezebert-fast\[plot\]"):
        check_plot(Path("plot.png"))


# What the commands of benchmarks/ share


def test_an_engine_must_agree_on_real_tokens_as_its_precision_can() -> None:
    expected = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    padding_differs = torch.where(mask[..., None] == 1, expected, 7.0)
    check("x", "float32", padding_differs, expected, mask)
    rounded = (expected * 20).round() / 20
    check("x", "int8", rounded, expected, mask)
    with pytest.raises(WrongEngine, match=r"x: output differs from eager by 0\.0"):
        check("x", "float32", rounded, expected, mask)
    wrong = expected.clone()
    wrong[0, 1] = expected[0, 2]  # one token is enough
    for precision in ("float32", "bfloat16", "int8"):
        with pytest.raises(WrongEngine):
            check("x", precision, wrong, expected, mask)
        with pytest.raises(WrongEngine):
            check("x", precision, expected * torch.nan, expected, mask)
        with pytest.raises(WrongEngine, match=r"\[1, 4, 16\]"):
            check("x", precision, expected[:1], expected, mask)


def tiny_subject(name: str, folder: Path) -> Subject:
    """BERT or SqueezeBERT of random weights, small."""
    sizes = {"hidden_size": 16, "embedding_size": 16, "intermediate_size": 32, "vocab_size": 99}
    sizes |= {"num_attention_heads": 2, "num_hidden_layers": 2}

    def build() -> torch.nn.Module:
        torch.manual_seed(0)
        model_class, config_class = (getattr(transformers, f"{name}{what}") for what in ("Model", "Config"))
        return model_class(config_class(**sizes)).eval()

    return Subject(name, build, SqueezeBertConfig(**sizes), folder)


@pytest.mark.skipif(cpu.native_module_missing() is not None, reason="the native module is not built")
@pytest.mark.parametrize("name", ["Bert", "SqueezeBert"])
def test_engines_run_either_model_at_any_shape(name: str, tmp_path: Path) -> None:
    subject = tiny_subject(name, tmp_path)
    expected = LastHiddenState(subject.model)
    wanted = [engine for engine in peers.ENGINES if engine.family == "ONNX Runtime"]
    for engine in (*wanted, *peers.PATCHED):
        forward = engine.make(subject, None, engine.precision)
        for shape in ((1, 5), (3, 11)):
            inputs = padded_inputs(subject, shape)
            actual = peers.run(forward, inputs).clone()
            check(engine.name, engine.precision, actual, peers.run(expected, inputs), inputs[1])


def test_bert_has_all_peers_and_is_patched_in_every_precision() -> None:
    peerless = [engine for engine in peers.BERT_ENGINES if not engine.peer]
    assert peerless == list(peers.PATCHED)
    assert set(peers.BERT_ENGINES) - set(peerless) == {engine for engine in peers.ENGINES if engine.peer}


def test_the_passes_do_what_the_encoder_does() -> None:
    config = SqueezeBertConfig()
    work = pass_work(config, (2, 33))
    assert sum(each.flops for each in work.values()) == encoder_flops(config, 2, 33)
    assert work["attention"].scores > 0 == work["feed_forward"].scores


def test_rows_survive_their_file_and_fill_a_table() -> None:
    slow, fast = Timing("slow", (0.5, 0.25)), Timing("fast int8", (0.125, 0.0625))
    rows = [Row("1x2", slow, slow, slow, 10, 100.0), Row("1x2", fast, slow, slow, 10, None, "int8")]
    again = rows_of(json.loads(json.dumps([row.to_dict() for row in rows])))
    assert again == rows
    assert again[1].fraction_of_peak is None
    assert again[1].speed_up == pytest.approx(4.0)
    assert table(again).row_count == 2


def test_a_row_without_a_peer_survives_its_file_too() -> None:
    alone = Timing("alone", (0.5,))
    rows = [Row("1x2", alone, alone, None, 10, None)]
    assert rows_of(json.loads(json.dumps([row.to_dict() for row in rows]))) == rows
    assert table(rows).row_count == 1


def test_float32_and_bfloat16_have_peers_of_their_own_and_int8_must_beat_them_all() -> None:
    slow, fast, rounded = Timing("slow", (0.3,)), Timing("fast", (0.2,)), Timing("rounded", (0.1,))
    known = [("float32", slow), ("float32", fast), ("bfloat16", rounded)]
    assert best_peer("float32", known) is fast
    assert best_peer("bfloat16", known) is best_peer("int8", known) is rounded
    assert (
        best_peer("bfloat16", [("float32", fast), ("bfloat16", Timing("emulated", (0.9,)))]).name
        == "emulated"
    )  # type: ignore[union-attr]
    assert best_peer("bfloat16", known[:2]) is best_peer("int8", known[:2]) is fast  # none in that precision
    assert best_peer("float32", [("int8", rounded)]) is None


CPUINFO = "processor : 0\nmodel name\t: A CPU\nflags\t\t: fpu {}\n\nprocessor : 1\nflags : other\n"


@pytest.mark.parametrize(
    ("flags", "features", "title", "bfloat16"),
    [
        ("avx2 amx_bf16 amx_tile", ["amx_tile", "amx_bf16", "avx2"], "A CPU, with AMX", True),
        ("avx512_bf16", ["avx512_bf16"], "A CPU, without AMX", True),
        ("avx512f sse", ["avx512f"], "A CPU, without AMX", False),
    ],
)
def test_a_cpu_is_told_by_its_name_and_what_it_has(
    flags: str, features: list[str], title: str, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: CPUINFO.format(flags))
    monkeypatch.setattr(reporting.platform, "machine", lambda: "x86_64")
    assert reporting.cpu_features() == features
    assert reporting.cpu_title() == title
    for engine in peers.ENGINES:
        rounds = engine.precision == "bfloat16" and engine.peer
        assert (peers.unavailable(engine) is None) == (bfloat16 or not rounds)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_each_batch_counts_once_a_round_and_those_before_it_are_dropped(count: int) -> None:
    turns = turns_over(count)
    assert [number for turn in turns for (number,) in turn[2:]] == list(range(count))
    for turn in turns:
        numbers = [number for (number,) in turn]
        assert all((a + 1) % count == b for a, b in pairwise(numbers))


def test_seconds_of_batches_are_summed_round_by_round() -> None:
    assert over_all(Timing("x", (1.0, 2.0, 3.0, 10.0, 20.0, 30.0)), 3) == Timing("x", (6.0, 60.0))
