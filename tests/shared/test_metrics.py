"""The figures are scikit-learn's, to the last digit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.shared.metrics import Integers, confusion_matrix, metrics_of, per_class

Case = tuple[int, Integers, Integers]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Number of classes, labels and predictions; each of the two drawn from some of the classes only."""
    n_classes = draw(st.integers(2, 12))
    count = draw(st.integers(1, 80))
    columns = []
    for _ in range(2):
        present = draw(st.lists(st.integers(0, n_classes - 1), min_size=1, unique=True))
        columns.append(draw(st.lists(st.sampled_from(present), min_size=count, max_size=count)))
    return n_classes, np.array(columns[0], dtype=np.int64), np.array(columns[1], dtype=np.int64)


def integers(*values: int) -> Integers:
    return np.array(values, dtype=np.int64)


@given(cases())
@example((4, integers(0, 1, 1, 3), integers(0, 1, 3, 3)))  # a class is absent
@example((3, integers(0, 1, 2, 2), integers(0, 1, 1, 0)))  # one is never predicted
@example((3, integers(0, 1, 2), integers(1, 2, 0)))  # all are wrong
@example((2, integers(1), integers(1)))
@settings(max_examples=60, deadline=None)
def test_figures_are_scikit_learns(case: Case) -> None:
    # A second, and not for whoever only collects tests.
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support
    from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

    n_classes, labels, predicted = case
    metrics = metrics_of(labels, predicted, np.ones(len(labels)), n_classes)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    assert metrics.as_dict() == {
        "loss": 1.0,
        "accuracy": accuracy_score(labels, predicted),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }
    figures = per_class(labels, predicted, n_classes)
    expected = precision_recall_fscore_support(labels, predicted, labels=range(n_classes), zero_division=0)
    for found, wanted in zip((figures.precision, figures.recall, figures.f1, figures.support), expected, strict=True):
        assert found.tolist() == wanted.tolist()
    assert figures.times_predicted.tolist() == np.bincount(predicted, minlength=n_classes).tolist()
    confusion = confusion_matrix(labels, predicted, n_classes)
    assert confusion.dtype == np.int64
    assert confusion.tolist() == sklearn_confusion_matrix(labels, predicted, labels=range(n_classes)).tolist()


def test_large_numbers_of_images_and_classes_are_scikit_learns() -> None:
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    # Long sums are where the order of operations would show.
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 997, (2, 60_000))
    metrics = metrics_of(labels, predicted, random.random(60_000), 1000)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)

    assert (metrics.precision, metrics.recall, metrics.f1) == (precision, recall, f1)
    assert metrics.accuracy == accuracy_score(labels, predicted)


def test_many_classes_take_no_matrix_of_them() -> None:
    # A million classes squared would be 8 TB.
    metrics = metrics_of(integers(0, 999_999), integers(0, 5), np.array([1.0, 2.0]), 1_000_000)
    assert (metrics.accuracy, metrics.loss) == (0.5, 1.5)
    assert metrics.recall == pytest.approx(1 / 3)  # classes 0, 5 and 999,999 occur


def test_no_images_have_no_metrics() -> None:
    with pytest.raises(ValueError, match="no images"):
        metrics_of(integers(), integers(), np.array([]), 3)
