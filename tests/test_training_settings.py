"""What a run takes that says nothing of it: learning rate and epochs."""

from __future__ import annotations

import pytest

from squeezebert_fast.training.settings import Settings


def test_a_wider_model_learns_in_smaller_steps_and_a_new_one_in_larger() -> None:
    def rate(hidden_size: int, new_model: bool, learning_rate: float | None = None) -> float | None:
        return Settings(learning_rate=learning_rate).filled(hidden_size, new_model, 100).learning_rate

    assert rate(768, False) == pytest.approx(5e-5)
    assert rate(384, False) == pytest.approx(1e-4)
    assert rate(128, True) == pytest.approx(2e-3)
    assert rate(128, True, 3e-5) == 3e-5


@pytest.mark.parametrize(
    ("steps_per_epoch", "pretrained", "new"),
    [
        (1, 20, 20),
        (12, 20, 20),
        (52, 8, 20),
        (107, 4, 20),
        (134, 3, 18),
        (313, 3, 8),
        (3_000, 3, 3),
        (5_000, 2, 2),
    ],
)
def test_few_examples_have_more_epochs_and_very_many_fewer(
    steps_per_epoch: int, pretrained: int, new: int
) -> None:
    assert Settings().filled(384, False, steps_per_epoch).epochs == pretrained
    assert Settings().filled(384, True, steps_per_epoch).epochs == new
    assert Settings(epochs=7).filled(384, True, steps_per_epoch).epochs == 7


def test_an_epoch_is_never_cut_short() -> None:
    assert Settings().filled(384, False, 10**6).epochs == 1
