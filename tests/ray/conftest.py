"""A cluster for all tests of a process, and a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from squeezebert_fast import SqueezeBertForSequenceClassification
from squeezebert_fast.ray.cluster import LOCAL, connected
from tests.cli_helpers import save_model


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """This process is connected to a cluster of this machine, and so commands with --ray use it."""
    with connected(LOCAL, 4, 1):
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(
        SqueezeBertForSequenceClassification,
        tmp_path_factory.mktemp("model"),
        id2label={0: "a", 1: "b", 2: "c"},
    )
