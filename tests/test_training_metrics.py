"""Metrics against figures worked out by hand or known from the definitions' own examples."""

from __future__ import annotations

import math

import pytest

from squeezebert_fast.training import metrics
from squeezebert_fast.training.batches import epoch_batches, share, sorted_batches
from squeezebert_fast.training.optimizing import linear_schedule
from squeezebert_fast.training.seeds import seed_of
from squeezebert_fast.training.tagging import scheme_of


def test_two_classes() -> None:
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
    predicted = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    actual = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    result = metrics.classification(predicted, actual, 2)
    assert result["accuracy"] == pytest.approx(0.7)
    assert result["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert result["f1_macro"] == pytest.approx((6 / 9 + 8 / 11) / 2)
    assert result["matthews"] == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))


def test_more_classes_have_a_matthews_coefficient_and_no_f1_of_one() -> None:
    # By Gorodkin's sums: c = 2 right of s = 5, true [2, 2, 1], predicted [1, 3, 1]
    result = metrics.classification([0, 1, 1, 1, 2], [0, 0, 1, 2, 1], 3)
    assert "f1" not in result
    assert result["matthews"] == pytest.approx(
        (2 * 5 - (1 * 2 + 3 * 2 + 1 * 1)) / math.sqrt((25 - 11) * (25 - 9))
    )
    assert (
        metrics.classification([0, 1, 2], [0, 1, 2], 5)["f1_macro"] == 1.0
    )  # classes that don't occur don't count


def test_one_answer_for_everything_has_no_correlation() -> None:
    assert metrics.classification([1, 1, 1], [0, 1, 1], 2)["matthews"] == 0.0
    result = metrics.regression([2.0, 2.0], [1.0, 3.0])
    assert result == {"r2": 0.0, "pearson": 0.0, "spearman": 0.0, "mse": 1.0}


@pytest.mark.parametrize("constant", [0.1, 0.2, 5.0])
def test_a_constant_explains_no_variance(constant: float) -> None:
    """Nor one but for noise, with which a correlation may be perfect."""
    actual = [0.1, 0.2, 0.3, 0.6]
    noisy = [constant + 1e-7 * label for label in actual]
    for predicted in ([constant] * 4, noisy):
        assert metrics.regression(predicted, actual)["r2"] < 0
    assert metrics.regression([0.3] * 4, actual)["r2"] == pytest.approx(0, abs=1e-12)
    assert metrics.regression(noisy, actual)["pearson"] == pytest.approx(1)


def test_labels_that_are_all_the_same_tell_no_models_apart() -> None:
    """Also where their mean, rounded, is another number: 0.1 + 0.1 + 0.1 is not 3 * 0.1."""
    for predicted in ([0.1] * 3, [0.2, 0.3, 0.1]):
        result = metrics.regression(predicted, [0.1] * 3)
        assert (result["r2"], result["pearson"], result["spearman"]) == (0, 0, 0)


def test_regression() -> None:
    result = metrics.regression([1.0, 2.0, 3.0, 10.0], [1.0, 3.0, 2.0, 4.0])
    assert result["spearman"] == pytest.approx(0.8)  # 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15)
    assert result["pearson"] == pytest.approx(13 / math.sqrt(50 * 5))
    assert result["mse"] == pytest.approx(38 / 4)
    assert result["r2"] == pytest.approx(1 - 38 / 5)
    assert metrics.regression([1.0, 2.0], [1.0, 2.0])["r2"] == 1
    ties = metrics.regression([1.0, 1.0, 2.0], [5.0, 6.0, 7.0])  # ranks 1.5, 1.5, 3
    assert ties["spearman"] == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_an_entity_counts_whole_or_not() -> None:
    actual = [["B-A", "I-A", "O", "B-B"], ["O", "B-A"]]
    predicted = [["B-A", "O", "O", "B-B"], ["B-A", "B-A"]]
    bio = scheme_of(["O", "B-A", "I-A", "B-B"])
    result = metrics.tagging(predicted, actual, bio)
    assert (result["precision"], result["recall"]) == (2 / 4, 2 / 3)
    assert result["f1"] == pytest.approx(2 * 2 / 7)
    assert result["accuracy"] == pytest.approx(4 / 6)
    assert metrics.tagging([["O"]], [["O"]], bio)["f1"] == 0.0


def test_answers_are_compared_as_squad_does() -> None:
    assert metrics.normalized_answer("The  Cat's, an Apple!") == "cats apple"
    assert metrics.answers(["the cat"], [["a dog", "cat."]]) == {"f1": 1.0, "exact_match": 1.0}
    assert metrics.answers(["", "cat"], [[], []]) == {"f1": 0.5, "exact_match": 0.5}  # no answer is right
    assert metrics.answers([""], [["cat"]]) == {"f1": 0.0, "exact_match": 0.0}
    result = metrics.answers(["black cat", "no"], [["the black cat sat"], ["yes"]])
    assert result == {"f1": pytest.approx(2 * 2 / 5 / 2), "exact_match": 0.0}


def test_a_metric_that_is_better_lower() -> None:
    assert metrics.better("loss", 1.0, 2.0)
    assert not metrics.better("accuracy", 1.0, 2.0)
    assert not metrics.better("accuracy", 0.5, 0.5)
    assert metrics.better("accuracy", 0.0, None)
    assert not metrics.better("loss", math.nan, None)


def test_of_equals_the_one_with_the_lower_loss_is_kept() -> None:
    first = {"f1": 0.5, "loss": 1.0}
    assert metrics.beats("f1", first, None)
    assert metrics.beats("f1", {"f1": 0.5, "loss": 0.9}, first)
    assert not metrics.beats("f1", {"f1": 0.5, "loss": 1.0}, first)
    assert not metrics.beats("f1", {"f1": 0.4, "loss": 0.1}, first)
    assert metrics.beats("f1", {"f1": 0.6, "loss": 9.0}, first)


@pytest.mark.parametrize(("count", "size"), [(1, 4), (10, 4), (1000, 8), (999, 16)])
def test_an_epoch_holds_every_example_once_in_an_order_of_its_own(count: int, size: int) -> None:
    lengths = [(7 * index) % 31 + 3 for index in range(count)]
    batches = epoch_batches(lengths, size, seed=1, epoch=0)
    assert sorted(index for batch in batches for index in batch) == list(range(count))
    assert len(batches) == -(-count // size)
    assert batches == epoch_batches(lengths, size, seed=1, epoch=0)
    if count > 100:
        assert batches != epoch_batches(lengths, size, seed=1, epoch=1)
        assert batches != epoch_batches(lengths, size, seed=2, epoch=0)
        spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
        assert sum(spread) / len(spread) < 4  # of 30, if they were drawn blindly
    assert sorted(i for batch in sorted_batches(lengths, size) for i in batch) == list(range(count))


@pytest.mark.parametrize(("rows", "world", "parts"), [(16, 2, 3), (1, 2, 1), (5, 4, 2), (7, 1, 100)])
def test_processes_share_a_batch_without_gap_or_overlap(rows: int, world: int, parts: int) -> None:
    shares = [share(range(rows), rank, world, parts) for rank in range(world)]
    assert sorted(index for own in shares for part in own for index in part) == list(range(rows))
    assert all(part for own in shares for part in own)
    assert all(len(own) <= parts for own in shares)


def test_the_learning_rate_rises_and_falls() -> None:
    rate = linear_schedule(10, 0.2)
    assert [round(rate(step), 4) for step in range(11)] == [
        0.5,
        1,
        1,
        0.875,
        0.75,
        0.625,
        0.5,
        0.375,
        0.25,
        0.125,
        0,
    ]
    assert linear_schedule(4, 0.0)(0) == 1
    assert linear_schedule(4, 1.0)(3) == 1


def test_seeds_are_the_same_everywhere() -> None:
    assert seed_of(0, "step", 7) == 5712503053122524263
    assert len({seed_of(a, b) for a in range(10) for b in range(10)}) == 100
