"""`fill-mask`, `convert`, `doctor`, and what every command shares."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from squeezebert_fast import (
    SqueezeBertForMaskedLM,
    SqueezeBertForTokenClassification,
    SqueezeBertModel,
    SqueezeBertTokenizerFast,
    __version__,
    backends,
)
from squeezebert_fast.answering import options
from squeezebert_fast.cli import app
from squeezebert_fast.errors import SqueezeBertFastError
from tests.cli_helpers import VOCAB, refuses, run, save_model, succeeds
from tests.full_disk import files_of_at_most

COMMANDS = [
    "doctor",
    "predict",
    "fill-mask",
    "embed",
    "serve",
    "finetune",
    "distill",
    "pretrain",
    "evaluate",
    "average",
    "quantize",
    "bench",
    "convert",
]


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(SqueezeBertForMaskedLM, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(SqueezeBertModel, tmp_path_factory.mktemp("model"))


# Every command


def test_a_paragraph_of_help_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """typer ends lines where the docstring does, which leaves single words on lines of their own."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 100)
    paragraph = succeeds("evaluate", "--help").split("\n \n")[0].split("The task is")[1].split("\n")
    lines = [line.strip() for line in ["The task is" + paragraph[0], *paragraph[1:]] if line.strip()][:2]
    assert all(len(line) > 80 for line in lines), lines


@pytest.mark.parametrize(
    "option", ["column", "choice_columns", "delimiter", "keep", "id_column", "threads", "backend", "device"]
)
def test_commands_say_the_same_of_an_option_that_they_share(option: str) -> None:
    commands = [
        command
        for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
        if (name, option) != ("serve", "threads")  # of each replica
    ]
    said = {each.help for command in commands for each in command.params if each.name == option}
    assert len(said) == 1
    shared = sum(each.name == option for command in commands for each in command.params)
    assert shared > 1


def test_what_shells_complete_is_what_the_library_takes() -> None:
    """Stated twice, since the library's own imports torch."""
    assert options.BACKENDS == backends.NAMES
    assert options.PRECISIONS == backends.cpu.PRECISIONS


def test_the_program_names_its_commands_and_version() -> None:
    said = succeeds("--help")
    assert all(command in said for command in COMMANDS)
    assert succeeds("--version") == f"squeezebert-fast {__version__}\n"


def test_an_unknown_command_is_one_line() -> None:
    refuses("predct", said="No such command 'predct'")
    refuses("--verbose", said="No such option: --verbose")


def test_a_typed_error_is_its_own_message_and_has_a_traceback_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses("convert", tmp_path / "none", tmp_path / "to", said="is not a directory on this machine")
    result = run("convert", tmp_path / "none", tmp_path / "to", SQUEEZEBERT_FAST_DEBUG="1")
    assert isinstance(result.exception, SqueezeBertFastError)


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1), (errno.EDQUOT, 1), (errno.EACCES, 2)])
def test_an_error_of_the_operating_system_names_its_file(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "/a/file")

    monkeypatch.setattr("squeezebert_fast.diagnostics.doctor", fail)
    result = run("doctor")
    assert (result.exit_code, result.stderr) == (code, f"squeezebert-fast: /a/file: {os.strerror(number)}\n")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, typer.Abort])
def test_ctrl_c_is_quiet(interruption: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise interruption

    monkeypatch.setattr("squeezebert_fast.diagnostics.doctor", interrupt)
    result = run("doctor")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


def test_a_bug_is_not_disguised_as_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("squeezebert_fast.diagnostics.doctor", fail)
    assert isinstance(run("doctor").exception, ZeroDivisionError)
    assert app.pretty_exceptions_enable is False


# doctor


def test_doctor_reports_as_text_and_json() -> None:
    text, data = succeeds("doctor"), json.loads(succeeds("doctor", "--json"))
    assert data["versions"]["squeezebert_fast"] == __version__
    for title, rows in data.items():
        assert title in text
        assert all(name in text and value in text for name, value in rows.items())


# fill-mask


def test_each_mask_gets_its_likeliest_tokens(masked_lm: Path) -> None:
    text = "Paris is the [MASK] of [MASK]."
    fills = json.loads(succeeds("fill-mask", "-m", masked_lm, text, "--json", "--top-k", 3))
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(masked_lm)
    batch = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = SqueezeBertForMaskedLM.from_pretrained(masked_lm)(**batch).logits
    expected = logits[batch["input_ids"] == tokenizer.mask_token_id].softmax(-1).topk(3)
    assert [
        [tokenizer.convert_tokens_to_ids(fill["token"]) for fill in mask] for mask in fills
    ] == expected.indices.tolist()
    scores = torch.tensor([[fill["score"] for fill in mask] for mask in fills])
    torch.testing.assert_close(scores, expected.values)

    table = succeeds("fill-mask", "-m", masked_lm, text, "--top-k", 3, "--backend", "reference").splitlines()
    assert [line.split()[-2] for line in table[1:]] == [fill["token"] for mask in fills for fill in mask]


def test_a_vocabulary_padded_in_the_model_gives_tokens_only(tmp_path: Path) -> None:
    model = save_model(SqueezeBertForMaskedLM, tmp_path, vocab_size=31_000)
    tokens = len(VOCAB.read_text(encoding="utf-8").splitlines())
    (mask,) = json.loads(succeeds("fill-mask", "-m", model, "[MASK]", "--json", "--top-k", tokens))
    assert all(isinstance(fill["token"], str) for fill in mask)
    assert 0.5 < sum(fill["score"] for fill in mask) < 1
    refuses(
        "fill-mask", "-m", model, "[MASK]", "--top-k", tokens + 1, said=f"the vocabulary has {tokens} tokens"
    )


def test_what_cannot_be_filled_is_refused(masked_lm: Path, encoder: Path) -> None:
    refuses("fill-mask", "-m", masked_lm, "Paris is the capital.", said="the text has no [MASK]: 'Paris")
    refuses("fill-mask", "-m", masked_lm, "", said="the text has no [MASK]: ''")
    refuses(
        "fill-mask",
        "-m",
        masked_lm,
        "word " * 70 + "[MASK]",
        said="has 73 tokens, but the model takes 64 at most",
    )
    refuses("fill-mask", "-m", masked_lm, "[MASK] \udcff", said="lone surrogate")
    refuses(
        "fill-mask", "-m", encoder, "[MASK]", said="is a SqueezeBertModel, expected a SqueezeBertForMaskedLM"
    )
    refuses("fill-mask", "-m", masked_lm, said="Missing argument 'TEXT'")


# convert


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_bytes(VOCAB.read_bytes())
    return tmp_path / "bert"


def test_a_converted_model_runs(bert: Path, tmp_path: Path) -> None:
    said = run("convert", bert, tmp_path / "new", "--dtype", "float16").stdout
    assert re.fullmatch(r"\S+/new: SqueezeBertForMaskedLM, 0\.3 M parameters, torch\.float16\n", said)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["q_groups"] == 1
    assert len(json.loads(succeeds("fill-mask", "-m", tmp_path / "new", "[MASK]", "--json"))[0]) == 5


def test_no_name_is_no_output(
    bert: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a variable that isn't set: Path("") would be the current directory."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    said = "the directory's name is empty; expected one to write to"
    refuses("quantize", encoder, "", said=said)
    refuses("convert", bert, "", said=said)
    refuses("average", encoder, encoder, "-o", "", said=said)
    assert list(here.iterdir()) == []


def test_a_shipped_models_name_is_no_output(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = "shipped:mine begins as the names of shipped models do; expected a directory to write to"
    refuses("quantize", encoder, "shipped:mine", said=said)
    refuses("average", encoder, encoder, "-o", "shipped:mine", said=said)
    refuses("finetune", "none.csv", "-m", encoder, "-o", "shipped:mine", said=said)
    assert list(tmp_path.iterdir()) == []
    refuses(
        "embed", "none.txt", "-m", "shipped:other", "-o", "v.npy", said="no model of the name shipped:other"
    )


def test_what_was_made_is_told_to_programs_too(bert: Path, encoder: Path, tmp_path: Path) -> None:
    made = json.loads(run("convert", bert, tmp_path / "new", "--json").stdout)
    assert made == {
        "path": str(tmp_path / "new"),
        "class": "SqueezeBertForMaskedLM",
        "parameters": made["parameters"],
        "dtype": "float32",
    }
    assert made["parameters"] > 250_000
    made = json.loads(succeeds("quantize", encoder, tmp_path / "int8", "--json"))
    assert made["class"] == "SqueezeBertModel"
    assert made["bytes"] == (tmp_path / "int8" / "model_int8.safetensors").stat().st_size
    made = json.loads(succeeds("average", encoder, encoder, "-o", tmp_path / "mean", "--json"))
    assert (made["path"], made["sources"]) == (str(tmp_path / "mean"), [str(encoder)] * 2)


def test_warnings_are_lines_of_their_own_and_only_where_all_went_well(bert: Path, tmp_path: Path) -> None:
    result = run("convert", bert, tmp_path / "new")
    assert re.fullmatch(r"squeezebert-fast: warning: not in the checkpoint, .*pooler.*\n", result.stderr)
    refuses("convert", bert, tmp_path / "newer", "--dtype", "int4", said="int4")


def test_a_conversion_that_cannot_be_is_refused(bert: Path, encoder: Path, tmp_path: Path) -> None:
    def refused(*arguments: Any, said: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        refuses("convert", *arguments, said=said)
        assert sorted(tmp_path.rglob("*")) == before

    refused(encoder, tmp_path / "new", said="already in SqueezeBERT form")
    refused(bert, bert, "--force", said="is the source")
    refused(bert, bert / "vocab.txt", said="is a file")
    refused(
        bert,
        tmp_path / "new",
        "--dtype",
        "int4",
        said="int4, expected one of float32, float16, bfloat16, float64, auto\n",
    )
    refused(bert, said="Missing argument 'TARGET'")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    refused(bert, tmp_path / "full", said="holds files already; --force")


def test_a_full_disk_is_one_line_and_not_bad_input(bert: Path, encoder: Path, tmp_path: Path) -> None:
    for command in (["convert", bert], ["quantize", encoder], ["average", encoder, encoder, "-o"]):
        with files_of_at_most(2000):
            result = run(*command, tmp_path / "new")
        assert (result.exit_code, result.stdout) == (1, ""), result.stderr
        assert re.fullmatch(r"squeezebert-fast: .*/new can't be written: .*File too large.*\n", result.stderr)
        assert not (tmp_path / "new").exists()


def test_an_int8_model_is_not_quantized_again(encoder: Path, tmp_path: Path) -> None:
    succeeds("quantize", encoder, tmp_path / "int8")
    said = f"{tmp_path / 'int8'} is an int8 checkpoint already; give the float one it was made from"
    refuses("quantize", tmp_path / "int8", tmp_path / "again", said=said)
    assert not (tmp_path / "again").exists()


def test_forced_conversion_keeps_other_files(bert: Path, tmp_path: Path) -> None:
    target = save_model(SqueezeBertForTokenClassification, tmp_path / "full")
    (target / "thesis.txt").write_text("mine")
    assert run("convert", bert, target, "--force").exit_code == 0
    assert (target / "thesis.txt").read_text() == "mine"
    assert isinstance(SqueezeBertForMaskedLM.from_pretrained(target), SqueezeBertForMaskedLM)
