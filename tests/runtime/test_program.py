"""squeezebert-run: every command, one answer a line, exit statuses, and lines that are no texts."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import pytest

import squeezebert_fast
from squeezebert_fast.shipped import SENTIMENT_MODEL
from tests.runtime.library import RuntimeModel, program, run
from tests.runtime.test_answers import make_folder

SENTENCES = ["A lovely film.", "I hated every minute of it.", "It was fine, I suppose."]


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder("squeezebert", "ForMaskedLM", tmp_path_factory.mktemp("masked"))


def test_classify_reads_lines_or_arguments() -> None:
    by_lines = run("classify", SENTIMENT_MODEL, lines="\n".join(SENTENCES))
    assert by_lines.returncode == 0
    assert by_lines.stderr == ""
    answers = [line.split("\t") for line in by_lines.stdout.splitlines()]
    assert [label for label, _ in answers[:2]] == ["positive", "negative"]
    assert run("classify", SENTIMENT_MODEL, *SENTENCES).stdout == by_lines.stdout
    assert run("classify", SENTIMENT_MODEL, lines="\r\n".join(SENTENCES) + "\r\n").stdout == by_lines.stdout
    model = RuntimeModel(SENTIMENT_MODEL)
    scores = [max(model.classify(text)[1]) for text in SENTENCES]
    assert [float(score) for _, score in answers] == pytest.approx(scores, rel=1e-7)


def test_answers_are_those_of_predict(tmp_path: Path) -> None:
    from tests.cli_helpers import run as run_command

    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES) + "\n")
    command = run_command("predict", str(tmp_path / "texts.txt"), "--top-k", "2", "--format", "jsonl")
    expected = [json.loads(line) for line in command.stdout.splitlines()]
    ours = run("classify", SENTIMENT_MODEL, "--json", "--top", "2", lines="\n".join(SENTENCES)).stdout
    for row, answer in zip(expected, map(json.loads, ours.splitlines()), strict=True):
        assert {name: row[name] for name in answer} == pytest.approx(answer, abs=1e-6)


def test_fill_mask_gives_the_likeliest_words(masked: Path) -> None:
    (answer,) = run("fill-mask", masked, "--json", "it was a [MASK] [MASK]").stdout.splitlines()
    fills = json.loads(answer)
    assert [len(words) for words in fills] == [5, 5]
    assert all(a["score"] >= b["score"] for words in fills for a, b in itertools.pairwise(words))
    (plain,) = run("fill-mask", masked, "--top=2", "it was a [MASK]").stdout.splitlines()
    assert len(plain.split("\t")) == 4


def test_embed_gives_a_vector() -> None:
    (plain,) = run("embed", SENTIMENT_MODEL, SENTENCES[0]).stdout.splitlines()
    (as_json,) = run("embed", SENTIMENT_MODEL, "--json", SENTENCES[0]).stdout.splitlines()
    assert list(map(float, plain.split())) == json.loads(as_json)["vector"]
    (unit,) = run("embed", SENTIMENT_MODEL, "--normalize", SENTENCES[0]).stdout.splitlines()
    assert sum(float(x) ** 2 for x in unit.split()) == pytest.approx(1)


def test_tokenize_gives_ids_and_tokens_of_pairs_too() -> None:
    model = RuntimeModel(SENTIMENT_MODEL)
    ids, types = model.tokenize("good", "bad")
    (answer,) = run("tokenize", SENTIMENT_MODEL, "--json", "--pairs", "good\tbad").stdout.splitlines()
    assert json.loads(answer) == {
        "ids": ids,
        "token_types": types,
        "tokens": ["[CLS]", "good", "[SEP]", "bad", "[SEP]"],
    }
    assert run("tokenize", SENTIMENT_MODEL, "good").stdout.split() == list(
        map(str, model.tokenize("good")[0])
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_a_line_that_is_no_text_is_an_error_and_the_others_are_answered(as_json: bool) -> None:
    bad = [b"\xff\xfe bad", b"a\0b", b"x" * (100 << 20), b"\xed\xa0\x80"]
    lines = b"".join(line + b"\ngood\n" for line in bad) + b"last, without an end"
    done = run("classify", SENTIMENT_MODEL, *(["--json"] if as_json else []), lines=lines)
    assert done.returncode == 1
    answers = done.stdout.splitlines()
    assert len(answers) == 9
    if as_json:
        assert [json.loads(line)["error"] for line in answers[:8:2]] == ["bad_text"] * 4
    else:
        assert answers[:8:2] == [""] * 4
    assert len(set(answers[1:8:2])) == 1
    assert "positive" in answers[1]
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == [
        f"line {n}" for n in (1, 3, 5, 7)
    ]


def test_a_blank_line_has_an_empty_answer() -> None:
    done = run("classify", SENTIMENT_MODEL, lines="good\n\n  \t\ngood\n")
    assert (done.returncode, [bool(line) for line in done.stdout.split("\n")]) == (
        0,
        [True, False, False, True, False],
    )
    assert run("classify", SENTIMENT_MODEL, "--json", lines="\n").stdout == "null\n"
    assert run("classify", SENTIMENT_MODEL, lines="").stdout == ""


def test_answers_come_line_by_line() -> None:
    command = [str(program()), "classify", str(SENTIMENT_MODEL)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text in SENTENCES:  # a conversation: nothing waits for the end of the input
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            assert b"tive\t" in process.stdout.readline()
        process.stdin.close()
    assert process.returncode == 0


def test_a_text_without_a_mask_is_an_error_of_its_line(masked: Path) -> None:
    done = run("fill-mask", masked, "--json", lines="no mask\nit was [MASK]\n" + "was " * 200 + "[MASK]\n")
    assert done.returncode == 1
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert first == {"error": "bad_text", "message": "the text has no [MASK]"}
    assert len(second[0]) == 5
    assert "more than the 64 tokens" in third["message"]


def test_more_words_than_there_are_is_said_before_memory_is_asked_for(masked: Path) -> None:
    done = run("fill-mask", masked, "--top", "2000000000", "it was [MASK]")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("squeezebert-run: 2000000000 words are asked for, but the vocabulary has")


def test_a_label_with_a_newline_and_a_tab_is_one_field_of_one_line(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SENTIMENT_MODEL, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    labels = {"0": "no\tgood", "1": "very\ngood"}
    (folder / "config.json").write_text(json.dumps(config | {"id2label": labels}))
    (plain,) = run("classify", folder, "good").stdout.splitlines()
    assert plain.split("\t")[0] == r"very\u000agood"
    (as_json,) = run("classify", folder, "--json", "good").stdout.splitlines()
    assert json.loads(as_json)["label"] == "very\ngood"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no command, expected classify, fill-mask, embed or tokenize"),
        (["guess", "m"], "there is no command guess"),
        (["classify"], "classify needs the folder of a model"),
        (["classify", "m", "--threads", "0"], "--threads is '0', expected a whole number from 1 on"),
        (["classify", "m", "--threads=many"], "--threads is 'many'"),
        (["classify", "m", "--top"], "--top needs a value"),
        (["classify", "m", "--precision="], "--precision needs a value"),
        (["classify", "m", "--json=yes"], "--json takes no value"),
        (["classify", "m", "--tops", "2"], "there is no option --tops"),
        (["embed", "m", "--top", "2"], "--top means nothing for embed"),
        (["fill-mask", "m", "--pairs"], "--pairs means nothing for fill-mask"),
        (["classify", "m", "--normalize"], "--normalize means nothing for classify"),
    ],
)
def test_a_wrong_command_line_is_said_in_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"squeezebert-run: {message}")
    assert done.stderr.count("\n") == 1


def test_a_model_that_can_not_answer_is_said_in_one_line(masked: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("classify", tmp_path / "none", "x"), "none is not there"),
        (("classify", tmp_path, "x"), "config.json"),
        (
            ("classify", masked, "x"),
            "is a SqueezeBertForMaskedLM, expected a model for sequence classification",
        ),
        (("fill-mask", SENTIMENT_MODEL, "x"), "expected a masked language model"),
        (
            ("classify", SENTIMENT_MODEL, "--precision", "float32", "x"),
            "int8 weights, which run in int8 alone",
        ),
        (("classify", masked, "--precision", "int4", "x"), "expected float32, bfloat16 or int8"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (3, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_answers_that_can_not_be_written_are_an_error() -> None:
    command = [str(program()), "classify", str(SENTIMENT_MODEL), "good", "bad"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4
    assert "can't be written: No space left" in done.stderr
    with open("/dev/full", "w") as full:
        assert subprocess.run([str(program()), "--help"], stdout=full, check=False).returncode == 4


def test_help_and_version() -> None:
    assert "squeezebert-run COMMAND MODEL" in run("--help").stdout
    assert run("classify", "--version").stdout == f"squeezebert-run {squeezebert_fast.__version__}\n"


def test_what_follows_two_dashes_is_text() -> None:
    done = run("tokenize", SENTIMENT_MODEL, "--", "--json")
    assert done.stdout.split() == list(map(str, RuntimeModel(SENTIMENT_MODEL).tokenize("--json")[0]))
