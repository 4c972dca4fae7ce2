"""What is a word in a CoNLL file, and what a comment."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from squeezebert_fast import SqueezeBertConfig, SqueezeBertTokenizerFast
from squeezebert_fast.errors import InputError
from squeezebert_fast.training.conll import read_conll
from squeezebert_fast.training.tasks.tokens import TokenClassification
from tests.cli_helpers import VOCAB

WNUT = Path(__file__).parents[2] / "shared" / "data" / "wnut17"


def tagged(content: str, tmp_path: Path) -> list[list[tuple[str, str]]]:
    (tmp_path / "t.conll").write_bytes(content.encode())
    sentences = read_conll(str(tmp_path / "t.conll"))
    return [list(zip(sentence.words, sentence.tags, strict=True)) for sentence in sentences]


@pytest.mark.parametrize(
    "content",
    [
        "# id 5239d808\tdomain=en\nParis _ _ B-LOC\nis _ _ O\n\n# id 9c1\tdomain=en\n# _ _ O\n",  # MultiCoNER
        "# sent_id = 1\n# text = Paris is\nParis\tB-LOC\nis\tO\n\n# text = #\n#\tO\n",
        "# newdoc\n# newpar id = 3\n#\nParis B-LOC\nis O\n\n# O\n",
        "# id 5239d808\tdomain=en\nParis\tB-LOC\nis\tO\n\n# id 9c1\tdomain=en\n#\tO\n",
        "-DOCSTART- -X- O O\n\nParis NNP X B-LOC\nis VBZ X O\n\n# SYM X O\n",
        "#begin document (nw/1)\nParis B-LOC\nis O\n#end document\n#begin document (nw/2)\n# O\n#end document\n",
        "\ufeff# a comment after a byte order mark\r\nParis\tB-LOC\r\nis\tO\r\n\r\n# another\r\n#\tO\r\n",
        "Paris\tB-LOC\n# a comment in the midst of a sentence\nis\tO\n\n#\tO",
    ],
)
def test_comments_are_no_words_and_a_number_sign_is(content: str, tmp_path: Path) -> None:
    assert tagged(content, tmp_path) == [[("Paris", "B-LOC"), ("is", "O")], [("#", "O")]]


@pytest.mark.parametrize("separator", ["\t", " ", " _ _ ", "\t_\t_\t"])
def test_hashtags_are_words_also_with_a_tag_of_their_own(separator: str, tmp_path: Path) -> None:
    words = [("#ebola", "B-X"), ("in", "O"), ("#", "O"), ("#1", "I-Y"), ("##", "B-Z"), ("#\u00a0", "O")]
    content = "\n".join(separator.join(pair) for pair in words)
    assert tagged(content, tmp_path) == [words]
    assert tagged(f"#ebola{separator}B-X", tmp_path) == [[("#ebola", "B-X")]]


def test_a_comment_without_its_space_is_one_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "squeezebert_fast"):
        assert tagged("a\tO\n\n#sent_id = 1\n#b\tB-X\n#text b\n", tmp_path) == [[("a", "O")], [("#b", "B-X")]]
    assert "2 lines beginning with #" in caplog.text
    assert "the first is line 3: '#sent_id = 1'" in caplog.text


@pytest.mark.skipif(not WNUT.is_dir(), reason="../shared/data/wnut17 is not there")
def test_the_hashtags_of_wnut_17_are_all_there() -> None:
    found = 0
    for part in ("train", "dev", "test"):
        lines = (WNUT / f"{part}.conll").read_text(encoding="utf-8").split("\n")
        sentences = read_conll(str(WNUT / f"{part}.conll"))
        assert sum(len(sentence.words) for sentence in sentences) == sum(bool(line.strip()) for line in lines)
        found += sum(word.startswith("#") for sentence in sentences for word in sentence.words)
    assert found == 1097


def test_only_a_line_feed_ends_a_line_and_only_spaces_and_tabs_part_fields(tmp_path: Path) -> None:
    odd = ["10\u00a0km", "a\u2028b", "a\u0085b", "a\x0bb", "a\x1cb", "\u3000", "\u00a0", "\u200b", "a\rb"]
    for separator in ("\t", " "):
        content = "".join(f"{word}{separator}O\n" for word in odd)
        assert tagged(content, tmp_path) == [[(word, "O") for word in odd]]


def test_words_without_tokens_have_no_label_and_shift_no_other(tmp_path: Path) -> None:
    words = ["anna", "\u200b", "\ufe0f", "\u00a0", "smith", "\u0301", "lives"]
    (tmp_path / "t.conll").write_text("".join(f"{word}\tB-{at}\n" for at, word in enumerate(words)))
    task = TokenClassification()
    sentences = task.read(str(tmp_path / "t.conll"))
    config = SqueezeBertConfig(**task.label_fields(sentences))
    (row,) = task.encode(sentences, SqueezeBertTokenizerFast(VOCAB), config, 16)
    assert [config.id2label[label] for label in row["labels"] if label >= 0] == ["B-0", "B-4", "B-6"]
    assert row["words"] == [0, 4, 6]
    assert task.score(sentences, [row], task.right_answers([row]))["recall"] == 3 / 7


def test_a_plain_tag_of_a_word_that_was_cut_off_is_wrong_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "t.conll").write_text("anna\tN\nlives\tV\nsmith\tO\n")
    task = TokenClassification()
    sentences = task.read(str(tmp_path / "t.conll"))
    config = SqueezeBertConfig(**task.label_fields(sentences))
    (row,) = task.encode(sentences, SqueezeBertTokenizerFast(VOCAB), config, 4)
    assert task.score(sentences, [row], task.right_answers([row])) == {"accuracy": 2 / 3}


def test_conll_u_is_refused_since_its_words_are_not_first(tmp_path: Path) -> None:
    content = "# sent_id = 1\n1-2\tdu\t_\t_\n1\tde\tADP\t_\n2\tle\tDET\t_\n\n# sent_id = 2\n1\tParis\tPROPN\tB-LOC\n"
    with pytest.raises(InputError, match="line 2: the first field is the word's number in every line"):
        tagged(content, tmp_path)
    assert tagged("1\tO\n2\tB-X\n", tmp_path) == [[("1", "O"), ("2", "B-X")]]
