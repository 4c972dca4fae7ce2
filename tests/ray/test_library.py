"""Models in a user's own pipeline of Ray Data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from squeezebert_fast.answering.options import AnswerOptions
from squeezebert_fast.errors import CheckpointError, ColumnError, InputError
from squeezebert_fast.ray import Embed, Predict, embed, predict
from tests.cli_helpers import run
from tests.ray.helpers import texts, write_lines

TEXTS = texts(40)


@pytest.fixture(scope="module")
def labels(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the command answers."""
    source = write_lines(tmp_path_factory.mktemp("texts") / "texts.txt", TEXTS)
    return [json.loads(line) for line in run("predict", source, "-m", model).stdout.splitlines()]


@pytest.mark.usefixtures("cluster")
def test_answers_stand_beside_the_columns(model: Path, labels: list[dict[str, Any]]) -> None:
    import ray.data

    dataset = ray.data.from_items([{"id": at, "label": "old", "text": text} for at, text in enumerate(TEXTS)])
    both = embed(predict(dataset, str(model)), str(model), normalize=True, workers=1)
    rows = sorted(both.take_all(), key=lambda row: row["id"])
    assert [(row["text"], row["label"], row["score"]) for row in rows] == [
        (row["text"], row["label"], row["score"]) for row in labels
    ]
    assert {row["input_label"] for row in rows} == {"old"}
    assert np.allclose([np.square(row["vector"]).sum() for row in rows], 1, atol=1e-5)


@pytest.mark.parametrize("form", [dict, pd.DataFrame])
def test_batches_have_the_form_that_the_user_chose(
    form: Any, model: Path, labels: list[dict[str, Any]]
) -> None:
    batch = form({"text": np.array(TEXTS, dtype=object), "other": np.arange(40)})
    found = Predict(str(model), options=AnswerOptions(top_k=2))(batch)
    assert type(found) is type(batch)
    assert list(found) == ["text", "other", "label", "score", "label_2", "score_2"]
    blanks = [row["label"] is None for row in labels]  # NaN in pandas
    assert list(found["label"][~np.array(blanks)]) == [row["label"] for row in labels if row["label"]]
    assert list(pd.isna(found["label"])) == blanks
    vectors = Embed(str(model))(batch)["vector"]
    assert np.stack(list(vectors)).shape == (40, 16)


def test_none_is_a_text_without_characters(model: Path) -> None:
    found = Predict(str(model))({"text": np.array(["good", None], dtype=object)})
    assert found["label"][1] is None
    assert found["label"][0] is not None


def test_pairs(model: Path) -> None:
    stage = Predict(str(model), column="a", pair_column="b")
    one, other = stage({"a": np.array(["good", "good"]), "b": np.array(["film", "slow"])})["score"]
    assert one != other


def test_bad_columns_are_typed_errors(model: Path) -> None:
    stage = Predict(str(model))
    with pytest.raises(ColumnError, match="the dataset has no column 'text'; it has texts"):
        stage({"texts": np.array(["good"])})
    with pytest.raises(InputError, match="the dataset's column 'text' holds a value of the type int"):
        stage({"text": np.array([5], dtype=object)})


@pytest.mark.usefixtures("cluster")
def test_a_bad_model_or_option_is_an_error_at_once(model: Path, tmp_path: Path) -> None:
    import ray.data

    dataset = ray.data.from_items([{"text": "good"}])
    with pytest.raises(CheckpointError, match="nothing"):
        predict(dataset, str(tmp_path / "nothing"))
    with pytest.raises(CheckpointError, match="nothing"):
        embed(dataset, str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"--top-k is 9, but .* has 3 labels"):
        predict(dataset, str(model), options=AnswerOptions(top_k=9))
