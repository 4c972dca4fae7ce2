"""What a model serves, in this process: as the commands answer, each request on its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as built

from squeezebert_fast.errors import InputError
from squeezebert_fast.modeling import (
    SqueezeBertForMaskedLM,
    SqueezeBertForQuestionAnswering,
    SqueezeBertForSequenceClassification,
    SqueezeBertForTokenClassification,
    SqueezeBertModel,
)
from squeezebert_fast.serving.application import build
from squeezebert_fast.serving.models import Served, served, warm_up
from squeezebert_fast.serving.options import ServingOptions
from squeezebert_fast.serving.work import EMBEDDINGS, FILL_MASK, PREDICT, Done, Work
from squeezebert_fast.tables.rows import Record
from tests.cli_helpers import save_model, succeeds


def loaded(folder: Path, cls: Any = None, **options: Any) -> Served:
    """The model of a folder, saved there first if a class is given."""
    if cls is not None:
        save_model(cls, folder)
    model = served(str(folder), ServingOptions(**options))
    model.load()
    return model


def answers(model: Served, work: Work) -> list[Any]:
    (outcome,) = model.compute([work])
    assert isinstance(outcome, Done), outcome
    return outcome.answers


@pytest.mark.parametrize(
    ("cls", "endpoint", "pairs"),
    [
        (SqueezeBertModel, EMBEDDINGS, "no"),
        (SqueezeBertForSequenceClassification, PREDICT, "may"),
        (SqueezeBertForTokenClassification, PREDICT, "no"),
        (SqueezeBertForQuestionAnswering, PREDICT, "must"),
        (SqueezeBertForMaskedLM, FILL_MASK, "no"),
    ],
)
def test_a_folder_says_what_its_model_serves(cls: Any, endpoint: str, pairs: str, tmp_path: Path) -> None:
    model = loaded(tmp_path / "model", cls)
    warm_up(model)
    assert (model.endpoint, model.offer().pairs, model.name) == (endpoint, pairs, "model")


def test_fills_are_those_of_the_command_and_dont_depend_on_who_else_asks(tmp_path: Path) -> None:
    model = loaded(tmp_path / "model", SqueezeBertForMaskedLM)
    texts = [
        "paris is the [MASK] of france .",
        "[MASK] [MASK]",
        "a much longer text with a [MASK] in it , and more",
    ]
    works = [Work((Record(text),), top_k) for top_k, text in enumerate(texts, 2)]
    together = model.compute(works)
    for work, outcome in zip(works, together, strict=True):
        arguments = (work.records[0].text, "-m", tmp_path / "model", "--top-k", work.top_k, "--json")
        wanted = json.loads(succeeds("fill-mask", *arguments))
        assert answers(model, work) == [wanted]
        assert isinstance(outcome, Done)
        assert outcome.answers == [wanted]


def test_a_text_that_cant_be_answered_doesnt_take_the_others_of_its_batch(tmp_path: Path) -> None:
    model = loaded(tmp_path / "model", SqueezeBertForMaskedLM)
    good, without, long, many = (
        Work((Record("a [MASK]"),), 1),
        Work((Record("no mask"),), 1),
        Work((Record("[MASK] " * 100),), 1),
        Work((Record("a [MASK]"),), 10**6),
    )
    outcomes = model.compute([good, without, long, many])
    assert isinstance(outcomes[0], Done)
    said = [str(outcome) for outcome in outcomes[1:] if isinstance(outcome, InputError)]
    assert said[0] == "the text has no [MASK]: 'no mask'"
    assert "the text has 102 tokens, but the model takes 64 at most" in said[1]
    assert "but the vocabulary has" in said[2]


def test_answers_to_questions_are_those_of_predict(tmp_path: Path) -> None:
    questions = loaded(tmp_path / "squad", SqueezeBertForQuestionAnswering)
    row = {"question": "who ?", "context": "a man and a dog"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    wanted = json.loads(succeeds("predict", tmp_path / "rows.jsonl", "-m", tmp_path / "squad"))
    (answer,) = answers(questions, Work((Record(row["question"], row["context"]),)))
    assert {"question": row["question"]} | answer == wanted


def test_the_builder_of_configuration_files_takes_the_commands_options_and_no_others(tmp_path: Path) -> None:
    application = built(build, {"model": str(tmp_path), "replicas": 2, "max_batch": 8, "threads": 3})
    deployment = application._bound_deployment
    assert deployment.num_replicas == 2
    assert deployment.ray_actor_options["num_cpus"] == 3
    assert deployment.init_args[:2] == (str(tmp_path), ServingOptions(replicas=2, max_batch=8, threads=3))
    for wrong, said in (
        ({}, "model"),
        ({"model": "m", "max_batch": "many"}, "max_batch"),
        ({"model": "m", "max_batch": 0}, "--max-batch is 0, expected 1 or more"),
        ({"model": "m", "maxbatch": 1}, "maxbatch"),
    ):
        with pytest.raises(ValueError, match=said):
            built(build, wrong)


def test_a_prompt_or_pooling_that_means_nothing_is_refused_before_the_weights_are_read(
    tmp_path: Path,
) -> None:
    save_model(SqueezeBertForMaskedLM, tmp_path / "model")
    with pytest.raises(InputError, match="--pooling means nothing"):
        served(str(tmp_path / "model"), ServingOptions(pooling="cls"))
    assert served(str(tmp_path / "model"), ServingOptions(served_name="mine")).name == "mine"


def test_a_linked_folder_has_the_links_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(SqueezeBertModel, tmp_path / "model" / "snapshot-1")
    (tmp_path / "latest").symlink_to(tmp_path / "model" / "snapshot-1")
    assert served(str(tmp_path / "latest"), ServingOptions()).name == "latest"
    monkeypatch.chdir(tmp_path / "model" / "snapshot-1")
    assert served(".", ServingOptions()).name == "snapshot-1"
