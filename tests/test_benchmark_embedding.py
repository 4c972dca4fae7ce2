"""`benchmarks.embedding`: what it encodes, compares and writes. Nothing here depends on how long anything takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import BertConfig

from benchmarks import encoders, sst2
from benchmarks.agreement import WrongEngine, check_embeddings
from benchmarks.embedding import TOKENS, flops_of, queries_of, rows_of, table_of, turns_by_case
from benchmarks.encoders import ENCODERS, TORCH, Encoder, EncoderRunner, Session, start_encoders
from squeezebert_fast import SqueezeBertTokenizerFast
from squeezebert_fast.benchmark import CandidateFailed, Timing, encoder_flops
from squeezebert_fast.benchmark.turns import DROPPED
from tests.engine_helpers import needs_native
from tests.fake_turns import FakeTurns
from tests.minilm import minilm_directory

TEXTS = ["a warm and funny film", "it is thin", "the plot is thin, the acting thinner, and nobody laughed"]
QUERIES = {8: ["one", "two"], 16: ["three"]}


def by_name(*names: str) -> dict[str, Encoder]:
    return {encoder.name: encoder for encoder in ENCODERS if encoder.name in names}


def test_each_case_is_a_turn_of_its_own_calls() -> None:
    turns = turns_by_case(100, QUERIES)
    assert list(turns) == [
        "all sentences",
        *(f"1x{tokens}, {what}" for what in ("encode", "model alone") for tokens in QUERIES),
    ]
    assert turns["all sentences"][DROPPED:] == [(EncoderRunner.encode, 100)]
    for tokens, texts in QUERIES.items():
        for what, work in (
            ("encode", EncoderRunner.encode_query),
            ("model alone", EncoderRunner.forward_query),
        ):
            turn = turns[f"1x{tokens}, {what}"]
            assert {call[0] for call in turn} == {work}
            kept = [text for _, text in turn[DROPPED:]]
            assert kept == texts * (len(kept) // len(texts))


@pytest.mark.skipif(not sst2.PATH.exists(), reason="the sentences are not beside the repository")
@pytest.mark.parametrize("tokens", TOKENS)
def test_queries_have_the_tokens_that_are_said(tokens: int) -> None:
    queries = queries_of(tokens, sst2.read_sentences())
    tokenizer = SqueezeBertTokenizerFast(minilm_directory() / "vocab.txt")
    assert len(set(queries)) == 4
    assert {len(tokenizer(query)["input_ids"]) for query in queries} == {tokens}


def test_each_is_held_against_the_best_of_its_precision_and_of_any() -> None:
    names = ("torch", "ONNX Runtime", "OpenVINO bfloat16", "squeezebert_fast", "squeezebert_fast int8")
    timings = [
        Timing(name, (seconds,)) for name, seconds in zip(names, (8.0, 4.0, 2.0, 1.0, 0.5), strict=True)
    ]
    rows = rows_of("a case", timings, by_name(*names))
    assert [row["speed_up"] for row in rows] == [1, 2, 4, 8, 16]
    assert [row["best_peer_of_precision"] for row in rows] == [
        *["ONNX Runtime"] * 2,
        "OpenVINO bfloat16",
        "ONNX Runtime",
        None,
    ]
    assert [row["speed_up_over_best_peer_of_precision"] for row in rows] == [0.5, 1, 1, 4, None]
    assert {row["best_peer"] for row in rows} == {"OpenVINO bfloat16"}
    assert [row["speed_up_over_best_peer"] for row in rows] == [0.25, 0.5, 1, 2, 4]
    assert rows == json.loads(json.dumps(rows))


def test_without_a_peer_there_is_nothing_to_be_held_against() -> None:
    (row,) = rows_of("a case", [Timing("squeezebert_fast", (1.0,))], by_name("squeezebert_fast"))
    assert row["best_peer"] is row["speed_up_over_best_peer"] is row["best_peer_of_precision"] is None
    assert printed(table_of([row])).splitlines()[-2].count("│") == 8


def printed(table: Any) -> str:
    console = Console(width=140)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_sentences_a_second_and_cosines_stand_in_the_table() -> None:
    rows = rows_of("all sentences", [Timing("torch", (2.0, 4.0, 5.0))], by_name("torch"))
    text = printed(table_of(rows, sentences=100, cosines={"torch": np.array([1.0, 0.5])}))
    assert " 25 " in text
    assert "22 .. 36" in text
    assert " 0.75000 " in text
    assert " 0.5000 " in text
    assert "4,000 ms" in printed(table_of(rows))


def test_what_is_reached_of_the_peak_counts_real_tokens_alone() -> None:
    flops = flops_of(["a warm and funny film"])
    assert flops == encoder_flops(BertConfig.from_pretrained(minilm_directory()), 1, 7)
    assert flops_of(["a warm and funny film", "it works"]) > flops
    timings = [Timing(name, (0.5,)) for name in ("torch", "squeezebert_fast int8")]
    rows = rows_of(
        "all", timings, by_name("torch", "squeezebert_fast int8"), 40, {"float32": 100.0, "int8": None}
    )
    assert [row.get("fraction_of_peak") for row in rows] == [0.8, None]
    assert "80%" in printed(table_of(rows))


def test_embeddings_must_agree_as_their_precision_can() -> None:
    expected = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    np.testing.assert_allclose(check_embeddings("x", "float32", 2 * expected, expected), 1.0, atol=1e-6)
    rounded = np.round(expected * 2) / 2
    assert (check_embeddings("x", "int8", rounded, expected) < 1).all()
    with pytest.raises(WrongEngine, match=r"x: a sentence's cosine with torch's is 0\.9.*expected 0\.9999"):
        check_embeddings("x", "float32", rounded, expected)
    wrong = expected.copy()
    wrong[2] = expected[1]
    for precision in ("float32", "bfloat16", "int8"):
        with pytest.raises(WrongEngine):
            check_embeddings("x", precision, wrong, expected)
        with pytest.raises(WrongEngine):
            check_embeddings("x", precision, expected * np.nan, expected)
        with pytest.raises(WrongEngine, match=r"\[4, 64\]"):
            check_embeddings("x", precision, expected[:4], expected)


def test_encoders_are_checked_against_torch_and_those_that_fail_are_left_out(tmp_path: Path) -> None:
    right = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    some = list(by_name("torch", "torch.compile", "ONNX Runtime", "squeezebert_fast").values())
    fake: Any = FakeTurns(
        {"torch": right, "ONNX Runtime": CandidateFailed("crashed"), "squeezebert_fast": right},
        EncoderRunner.encode,
    )
    assert list(start_encoders(fake, some, tmp_path, TEXTS, [])) == ["torch", "squeezebert_fast"]
    assert fake.failed == {"torch.compile": "not built", "ONNX Runtime": "crashed"}
    fake = FakeTurns({"torch": right, "squeezebert_fast": -right}, EncoderRunner.encode)
    with pytest.raises(WrongEngine, match="squeezebert_fast: a sentence's cosine"):
        start_encoders(fake, some, tmp_path, TEXTS, [])


def test_without_torch_nothing_can_be_checked_so_nothing_is_measured(tmp_path: Path) -> None:
    fake: Any = FakeTurns({"squeezebert_fast": np.zeros((3, 8), np.float32)}, EncoderRunner.encode)
    assert start_encoders(fake, [TORCH, *by_name("squeezebert_fast").values()], tmp_path, TEXTS, []) == {}
    assert fake.failed == {"torch": "not built", "squeezebert_fast": "there is no torch to check it against"}


def test_a_session_stands_under_sentence_transformers_own_pooling() -> None:
    minilm_directory()
    model = encoders.sentence_transformer()
    expected = model.encode(TEXTS)
    inner = model[0].model
    seen: list[torch.Size] = []

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        seen.append(input_ids.shape)
        return inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    model[0].model = Session(inner.config, forward)
    np.testing.assert_array_equal(model.encode(TEXTS), expected)
    assert len(seen) == 1


@needs_native
@pytest.mark.parametrize("name", ["torch", "squeezebert_fast int8"])
def test_a_runner_encodes_what_it_is_asked_for(name: str, tmp_path: Path) -> None:
    minilm_directory()
    (encoder,) = by_name(name).values()
    runner = EncoderRunner(encoder, tmp_path, TEXTS, [TEXTS[1]])
    expected = encoders.sentence_transformer().encode(TEXTS[:2])
    assert check_embeddings(name, encoder.precision, runner.encode(2), expected).min() > 0.99
    runner.prepare()
    runner.call(EncoderRunner.encode_query, TEXTS[1])
    runner.call(EncoderRunner.forward_query, TEXTS[1])
    with pytest.raises(KeyError):
        runner.call(EncoderRunner.forward_query, TEXTS[0])


@needs_native
@pytest.mark.slow
@pytest.mark.skipif(not sst2.PATH.exists(), reason="the sentences are not beside the repository")
def test_the_command_writes_what_it_prints(tmp_path: Path) -> None:
    minilm_directory()
    options = ["--threads", "1", "--repeats", "1", "--sentences", "5", "--precisions", "int8"]
    command = [
        "-m",
        "benchmarks.embedding",
        "--out",
        str(tmp_path),
        *options,
        "--engines",
        "squeezebert_fast",
    ]
    root = Path(encoders.__file__).parents[1]
    done = subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "embedding.json").read_text())
    assert (tmp_path / "embedding.svg").read_text().startswith("<?xml")
    assert written["sentences"] == 5
    assert written["left_out"] == []
    assert all(row["fraction_of_peak"] > 0 for row in written["rows"])
    assert [row["candidate"] for row in written["accuracy"]] == ["torch", "squeezebert_fast int8"]
    assert written["accuracy"][1]["least_cosine"] > 0.99
    cases = list(dict.fromkeys(row["case"] for row in written["rows"]))
    assert len(cases) == 7
    for case in cases:
        assert f"{case}, 1 threads" in done.stdout
        assert all(row["median_ms"] > 0 for row in written["rows"] if row["case"] == case)
