"""Intervals hold the figures of all such images about as often as they say, few mistakes and none included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from components.evaluate.comparison import compare
from components.evaluate.intervals import intervals_of, wilson
from components.evaluate.metrics import Probabilities, Scores, figures_of, scores_of
from components.shared.metrics import Integers, per_class


def sample(random: np.random.Generator, images: int, classes: int, signal: float) -> tuple[Integers, Probabilities]:
    """Images of random classes, and probabilities that tell them the better the stronger the signal."""
    labels = random.integers(0, classes, images)
    logits = random.normal(size=(images, classes))
    logits[np.arange(images), labels] += signal
    exponents = np.exp(logits)
    return labels, (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def figures(labels: Integers, scores: Scores, classes: int) -> dict[str, float]:
    return figures_of(labels, scores, per_class(labels, scores.predicted, classes))


def intervals(labels: Integers, scores: Scores, classes: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    of = per_class(labels, scores.predicted, classes)
    names = [str(index) for index in range(classes)]
    return intervals_of(names, labels, scores, of, figures_of(labels, scores, of), seed)


def covered(images: int, classes: int, signal: float, repetitions: int) -> dict[str, float]:
    """How often the interval of each figure holds the figure of 200,000 images."""
    random = np.random.default_rng(17)
    labels, probabilities = sample(random, 200_000, classes, signal)
    truth = figures(labels, scores_of(labels, probabilities), classes)
    hits = dict.fromkeys(truth, 0)
    for repetition in range(repetitions):
        labels, probabilities = sample(random, images, classes, signal)
        found = intervals(labels, scores_of(labels, probabilities), classes, seed=repetition)
        for name, value in truth.items():
            hits[name] += found[name][0] <= value <= found[name][1]
    return {"of accuracy": truth["accuracy"]} | {name: hit / repetitions for name, hit in hits.items()}


def test_the_mean_of_all_intervals_holds_what_it_should_in_a_small_simulation() -> None:
    found = covered(100, 3, 2.0, repetitions=60)
    del found["of accuracy"]
    assert np.mean(list(found.values())) > 0.88


# Mistakes to be expected: 35, 4 and less than one among 359 images; 14 among 2,000; 245 among 1,000 of 50 classes.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "classes", "signal"), [(359, 10, 3.0), (359, 10, 4.2), (359, 10, 5.2), (2000, 3, 3.5), (1000, 50, 3.0)]
)
def test_intervals_hold_what_they_should(images: int, classes: int, signal: float) -> None:
    found = covered(images, classes, signal, repetitions=100)
    accuracy = found.pop("of accuracy")
    print(f"{images} images, {classes} classes, accuracy {accuracy:.4f}:", found)
    if classes == 50:  # of 20 images each: there weighted precision itself is higher than of many
        assert found.pop("precision_weighted") > 0.5
    # 100 repetitions of a true 95 % are at most 0.88 in one of 230.
    assert min(found.values()) > 0.88


@pytest.mark.slow
def test_the_interval_of_a_difference_holds_it() -> None:
    random, hits, repetitions = np.random.default_rng(5), {"accuracy": 0, "log_loss": 0}, 150
    for seed in range(repetitions):
        labels, probabilities = sample(random, 359, 5, 3.0)
        noisy = [probabilities * np.exp(random.normal(size=probabilities.shape) / 2) for _ in range(2)]
        first, second = (
            scores_of(labels, (each / each.sum(axis=1, keepdims=True)).astype(np.float32)) for each in noisy
        )
        found = compare(labels, first, second, metrics={}, where="", onnx_sha256="", seed=seed)
        for name, difference in found.differences.items():
            hits[name] += difference.low <= 0 <= difference.high  # both models are equally good
    print({name: hit / repetitions for name, hit in hits.items()})
    assert min(hits.values()) / repetitions > 0.9


def test_a_model_without_mistakes_is_not_beyond_doubt() -> None:
    labels = np.arange(359) % 10
    scores = scores_of(labels, np.eye(10, dtype=np.float32)[labels])
    found = intervals(labels, scores, 10)

    assert figures(labels, scores, 10)["f1_macro"] == 1
    for name in ("accuracy", "recall_weighted", "top_5_accuracy"):
        assert found[name] == pytest.approx((0.98941, 1), abs=1e-5)
    for name in ("balanced_accuracy", "f1_macro", "precision_weighted", "cohen_kappa", "matthews_corrcoef"):
        low, high = found[name]
        assert 0.985 < low < 0.993
        assert high == 1


def test_the_seed_alone_decides() -> None:
    labels, probabilities = sample(np.random.default_rng(0), 200, 4, 2)
    scores = scores_of(labels, probabilities)
    first = intervals(labels, scores, 4)
    assert intervals(labels, scores, 4) == first
    other = intervals(labels, scores, 4, seed=1)
    assert {name for name in first if first[name] != other[name]} >= {"f1_macro", "log_loss", "brier_score"}
    assert first["log_loss"] == pytest.approx(other["log_loss"], rel=0.05)


def test_blocks_of_few_resamples_give_such_intervals_too(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probabilities = sample(np.random.default_rng(0), 200, 4, 2)
    scores = scores_of(labels, probabilities)
    whole = intervals(labels, scores, 4)
    monkeypatch.setattr("components.evaluate.intervals.BLOCK_VALUES", 2**10)
    for name, bounds in intervals(labels, scores, 4).items():
        assert bounds == pytest.approx(whole[name], rel=0.05)


@pytest.mark.parametrize(("images", "predicted"), [(1, 0), (1, 1), (30, 0), (30, 1)])
def test_one_class_alone_has_intervals_that_hold_its_figures(images: int, predicted: int) -> None:
    labels = np.zeros(images, dtype=np.int64)
    probabilities = np.tile(np.eye(2, dtype=np.float32)[predicted], (images, 1))
    scores = scores_of(labels, probabilities)
    found = intervals(labels, scores, 2)
    for name, value in figures(labels, scores, 2).items():
        low, high = found[name]
        assert low <= value <= high
        assert np.isfinite([low, high]).all()
    assert found["recall[1]"] == (0, 1)


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (359, 359), (9990, 10000)])
def test_intervals_of_shares_are_wilsons(right: int, images: int) -> None:
    from scipy.stats import binomtest  # a second, and not for whoever only collects tests

    low, high = wilson(right, images)
    expected = binomtest(right, images).proportion_ci(method="wilson")
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert low <= right / images <= high


def test_a_model_that_is_better_for_many_images_is_better() -> None:
    labels = np.zeros(100, dtype=np.int64)
    right, wrong = (np.tile(np.array(row, dtype=np.float32), (100, 1)) for row in ([0.9, 0.1], [0.1, 0.9]))
    model = scores_of(labels, np.where(np.arange(100)[:, None] < 60, right, wrong))
    baseline = scores_of(labels, np.where(np.arange(100)[:, None] < 40, right, wrong))

    def verdict(first: Scores, second: Scores) -> str:
        return compare(labels, first, second, metrics={}, where="", onnx_sha256="", seed=0).verdict

    assert verdict(model, baseline) == "better"
    assert verdict(baseline, model) == "worse"
    # One image alone would be no reason, nor five: 2 * 0.5 ** 5 is above 0.05.
    for extra, expected in ((1, "not distinguishable"), (5, "not distinguishable"), (6, "better")):
        predicted = baseline.predicted.copy()
        predicted[40 : 40 + extra] = 0
        assert verdict(replace(baseline, predicted=predicted), baseline) == expected
