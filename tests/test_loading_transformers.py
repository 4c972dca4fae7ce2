"""A directory saved by transformers loads here and the other way round, for every class, results equal."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from squeezebert_fast import modeling
from squeezebert_fast.loading.checkpoint import load_pretrained, save_pretrained
from tests.helpers import assert_within_rule
from tests.loading_helpers import SIZES, make

CLASSES: list[Any] = [
    modeling.SqueezeBertModel,
    modeling.SqueezeBertForMaskedLM,
    modeling.SqueezeBertForSequenceClassification,
    modeling.SqueezeBertForMultipleChoice,
    modeling.SqueezeBertForTokenClassification,
    modeling.SqueezeBertForQuestionAnswering,
]
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def theirs(cls: Any) -> Any:
    return getattr(transformers, cls.__name__)


def make_theirs(cls: Any, **fields: Any) -> Any:
    torch.manual_seed(3)
    model = theirs(cls)(transformers.SqueezeBertConfig(**{**SIZES, "embedding_size": 16, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs(cls: Any) -> dict[str, Tensor]:
    torch.manual_seed(5)
    shape = (2, 3, 11) if "MultipleChoice" in cls.__name__ else (3, 11)
    mask = torch.ones(shape, dtype=torch.long)
    mask[..., -1, 7:] = 0
    return {"input_ids": torch.randint(0, 61, shape), "attention_mask": mask}


def assert_same_results(ours: Any, reference: Any) -> None:
    batch = inputs(type(ours))
    with torch.no_grad():
        actual, expected = ours(**batch).to_tuple(), reference(**batch).to_tuple()
        exact = reference.double()(**batch).to_tuple()
    assert len(actual) == len(expected)
    for number, (a, e, x) in enumerate(zip(actual, expected, exact, strict=True)):
        assert_within_rule(a, e, x, f"output {number}", whole_model=True)


def load_theirs(cls: Any, directory: Path, **options: Any) -> Any:
    """Transformers' model of a directory, after checking that it found exactly the tensors it wanted."""
    model, report = theirs(cls).from_pretrained(directory, output_loading_info=True, **options)
    for kind, names in report.items():
        assert not names, f"{kind}: {names}"
    return model.eval()


@every_class
@pytest.mark.parametrize("max_shard_size", ["5GB", "5KB"])
def test_a_directory_of_transformers_loads_here(
    cls: Any, max_shard_size: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = make_theirs(cls)
    reference.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors").exists() == (max_shard_size == "5GB")
    with caplog.at_level(logging.INFO, logger="squeezebert_fast"):
        model = load_pretrained(cls, tmp_path)
    assert [r for r in caplog.records if r.name.startswith("squeezebert_fast")] == []
    assert_same_results(model, reference)


@every_class
@pytest.mark.parametrize("max_shard_size", ["5GB", "5KB"])
def test_a_directory_saved_here_loads_in_transformers(cls: Any, max_shard_size: str, tmp_path: Path) -> None:
    model = make(cls)
    save_pretrained(model, tmp_path, max_shard_size=max_shard_size)
    assert_same_results(model, load_theirs(cls, tmp_path))


@every_class
def test_a_directory_goes_through_both_and_keeps_its_tensors(cls: Any, tmp_path: Path) -> None:
    model = make(cls)
    save_pretrained(model, tmp_path / "ours")
    load_theirs(cls, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = load_pretrained(cls, tmp_path / "theirs")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    names = [sorted(path.name for path in (tmp_path / side).iterdir()) for side in ("ours", "theirs")]
    assert names[0] == names[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_dtype_of_a_saved_model_is_kept_by_both(dtype: str, tmp_path: Path) -> None:
    save_pretrained(make().to(getattr(torch, dtype)), tmp_path / "ours")
    reference = load_theirs(modeling.SqueezeBertModel, tmp_path / "ours", dtype="auto")
    assert reference.dtype == getattr(torch, dtype)
    reference.save_pretrained(tmp_path / "theirs")
    model = load_pretrained(modeling.SqueezeBertModel, tmp_path / "theirs", dtype="auto")
    assert model.dtype == reference.dtype
    assert model.config.dtype == dtype
    assert load_pretrained(modeling.SqueezeBertModel, tmp_path / "theirs").dtype == torch.float32


def test_an_untied_head_goes_both_ways(tmp_path: Path) -> None:
    cls = modeling.SqueezeBertForMaskedLM
    model = make(cls, tie_word_embeddings=False)
    save_pretrained(model, tmp_path / "ours")
    reference = load_theirs(cls, tmp_path / "ours")
    reference.save_pretrained(tmp_path / "theirs")
    assert_same_results(load_pretrained(cls, tmp_path / "theirs"), reference)


def test_labels_of_the_configuration_go_both_ways(tmp_path: Path) -> None:
    cls = modeling.SqueezeBertForSequenceClassification
    labels = {0: "entailment", 1: "neutral", 2: "contradiction"}
    model = make(cls, id2label=labels, problem_type="single_label_classification")
    save_pretrained(model, tmp_path / "ours")
    reference = load_theirs(cls, tmp_path / "ours")
    assert reference.config.id2label == labels
    reference.save_pretrained(tmp_path / "theirs")
    loaded = load_pretrained(cls, tmp_path / "theirs")
    assert loaded.config.id2label == labels
    assert loaded.config.label2id == {name: index for index, name in labels.items()}
    assert loaded.config.problem_type == "single_label_classification"


def test_auto_classes_of_transformers_find_the_class(tmp_path: Path) -> None:
    save_pretrained(make(modeling.SqueezeBertForTokenClassification), tmp_path)
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert type(model).__name__ == "SqueezeBertForTokenClassification"
