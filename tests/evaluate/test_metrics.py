"""The figures are scikit-learn's, whatever the model gives."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.evaluate.analyse import analyse
from components.evaluate.curves import MAX_VERTICES, curves_of
from components.evaluate.findings import Findings
from components.evaluate.metrics import Probabilities
from components.shared.metrics import Integers
from tests.evaluate.made_up import ORIGIN

Case = tuple[Integers, Probabilities]


def findings_of(case: Case) -> Findings:
    labels, probabilities = case
    classes = [f"class {index}" for index in range(probabilities.shape[1])]
    return analyse(classes, labels, probabilities, ORIGIN)


def case(labels: list[int], rows: list[list[float]]) -> Case:
    return np.array(labels, dtype=np.int64), np.array(rows, dtype=np.float32)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Labels of some of the classes, and probabilities that are smooth, full of ties, or exactly 0 and 1."""
    n_classes, count = draw(st.integers(2, 9)), draw(st.integers(1, 50))
    present = draw(st.lists(st.integers(0, n_classes - 1), min_size=1, unique=True))
    labels = np.array(draw(st.lists(st.sampled_from(present), min_size=count, max_size=count)), dtype=np.int64)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    match draw(st.sampled_from(["smooth", "tied", "certain", "equal"])):
        case "smooth":
            logits = random.normal(size=(count, n_classes)) * draw(st.sampled_from([0.1, 2, 50]))
            logits[np.arange(count), labels] += draw(st.sampled_from([0, 3]))
        case "tied":
            logits = random.integers(0, 3, (count, n_classes)).astype(np.float64)
        case "certain":
            logits = np.full((count, n_classes), -np.inf)
            logits[np.arange(count), random.integers(0, n_classes, count)] = 0
        case _:
            logits = np.zeros((count, n_classes))
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return labels, (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def expected_of(labels: Integers, probabilities: Probabilities, predicted: Integers) -> dict[str, float]:
    """All figures by scikit-learn; NaN where it has none."""
    from sklearn import metrics as sklearn  # a second, and not for whoever only collects tests

    n_classes = probabilities.shape[1]
    classes = range(n_classes)
    found: dict[str, float] = {
        "accuracy": sklearn.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn.balanced_accuracy_score(labels, predicted),
        "log_loss": sklearn.log_loss(labels, y_proba=probabilities, labels=classes),
        "brier_score": sklearn.brier_score_loss(labels, probabilities, labels=classes),
        "cohen_kappa": sklearn.cohen_kappa_score(labels, predicted),
        "matthews_corrcoef": sklearn.matthews_corrcoef(labels, predicted),
    }
    for average in ("macro", "weighted"):
        figures = sklearn.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
        found |= {
            f"{name}_{average}": value for name, value in zip(("precision", "recall", "f1"), figures, strict=False)
        }
    if n_classes > 5:
        found["top_5_accuracy"] = sklearn.top_k_accuracy_score(labels, probabilities, k=5, labels=classes)
    occur = [index for index in classes if (labels == index).any()]
    several = [index for index in occur if (labels != index).any()]
    for name, score, of in (
        ("roc_auc_ovr", sklearn.roc_auc_score, several),
        ("average_precision", sklearn.average_precision_score, occur),
    ):
        found[name] = np.mean([score(labels == index, probabilities[:, index]) for index in of]) if of else np.nan
    return {name: float(value) for name, value in found.items()}


@given(cases())
@example(case([0], [[1, 0]]))  # one image, right and certain
@example(case([0], [[0, 1]]))  # wrong and certain
@example(case([1, 1, 1], [[0.5, 0.5, 0], [0, 0.5, 0.5], [1, 0, 0]]))  # one class occurs
@example(case([0, 1, 2], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]))  # all are wrong
@example(case([0, 1, 2, 2], [[0.25, 0.5, 0.25]] * 4))  # one class is ever predicted
@example(case([0, 0, 1], [[0, 0, 0, 0, 0, 0, 1]] * 3))  # six probabilities are equal
@settings(max_examples=75, deadline=None)
def test_figures_are_scikit_learns(given_case: Case) -> None:
    from sklearn.calibration import calibration_curve

    labels, probabilities = given_case
    found = findings_of(given_case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of figures that are not defined
        expected = expected_of(labels, probabilities, probabilities.argmax(axis=1))
    expected = {name: value for name, value in expected.items() if np.isfinite(value)}
    ours = dict(found.metrics)
    # Both in float32 there.
    for name in ("log_loss", "brier_score"):
        assert ours.pop(name) == pytest.approx(expected.pop(name), rel=2e-6, abs=2e-7), name
    error = ours.pop("expected_calibration_error")
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)

    right = (found.predicted == labels).astype(int)
    accuracy, confidence = calibration_curve(right, found.confidences, n_bins=15)
    filled = found.reliability.counts > 0
    assert found.reliability.accuracy[filled].tolist() == pytest.approx(accuracy.tolist())
    assert found.reliability.confidence[filled].tolist() == pytest.approx(confidence.tolist())
    shares = found.reliability.counts[filled] / len(labels)
    assert error == pytest.approx(np.sum(shares * np.abs(accuracy - confidence)))

    assert set(found.intervals) >= {name for name in ours if name not in ("roc_auc_ovr", "average_precision")}
    for name, (low, high) in found.intervals.items():
        assert low <= found.figures()[name] <= high, name


@given(cases())
@settings(max_examples=60, deadline=None)
def test_curves_go_through_scikit_learns_points(given_case: Case) -> None:
    from sklearn import metrics as sklearn

    labels, probabilities = given_case
    found = findings_of(given_case)
    for index, (roc, both) in enumerate(zip(found.roc.classes, found.precision_recall.classes, strict=True)):
        own, scores = labels == index, probabilities[:, index]
        assert (both is None) == (not own.any())
        assert (roc is None) == bool(own.all() or not own.any())
        if both is not None:
            taken = scores >= both.thresholds[:, None]
            assert both.x.tolist() == ((taken & own).sum(axis=1) / own.sum()).tolist()
            precision, recall, _ = sklearn.precision_recall_curve(own, scores)
            points = set(zip(recall.tolist(), precision.tolist(), strict=True))
            assert set(zip(both.x.tolist(), both.y.tolist(), strict=True)) <= points | {(0.0, 0.0), (0.0, 1.0)}
        if roc is not None:
            taken = scores >= roc.thresholds[:, None]
            assert roc.x.tolist() == ((taken & ~own).sum(axis=1) / (~own).sum()).tolist()
            assert roc.y.tolist() == ((taken & own).sum(axis=1) / own.sum()).tolist()
            assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
            assert np.trapezoid(roc.y, roc.x) == pytest.approx(found.roc.areas[index])


def large_case() -> Case:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 5000)
    of_first = 1 / (1 + np.exp(random.normal(size=5000) + labels))
    return labels, np.stack([of_first, 1 - of_first], axis=1).astype(np.float32)


def test_curves_of_many_images_are_thinned_and_their_areas_are_not() -> None:
    from sklearn import metrics as sklearn

    labels, probabilities = large_case()
    roc, _ = curves_of(labels, probabilities)
    curve = roc.classes[1]
    assert curve is not None
    assert len(curve.x) <= MAX_VERTICES
    assert roc.areas[1] == pytest.approx(sklearn.roc_auc_score(labels, probabilities[:, 1]), rel=1e-12)
    fpr, tpr, _ = sklearn.roc_curve(labels, probabilities[:, 1])
    assert np.abs(np.interp(fpr, curve.x, curve.y) - tpr).max() < 0.02  # two parts of 201
    assert roc.macro is not None
    assert np.trapezoid(roc.macro.y, roc.macro.x) == pytest.approx(roc.area, abs=1e-3)


def test_macro_areas_are_scikit_learns_where_all_classes_occur() -> None:
    from sklearn import metrics as sklearn

    random = np.random.default_rng(1)
    labels = random.permutation(np.arange(600) % 6)
    logits = random.normal(size=(600, 6))
    logits[np.arange(600), labels] += 1
    exponents = np.exp(logits)
    probabilities = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
    found = findings_of((labels, probabilities)).metrics

    assert found["roc_auc_ovr"] == pytest.approx(sklearn.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert found["average_precision"] == pytest.approx(sklearn.average_precision_score(labels, probabilities))


def test_a_probability_of_0_costs_what_float32_tells_apart() -> None:
    found = findings_of(case([0, 1], [[0, 1], [0, 1]]))
    assert found.losses.tolist() == [-np.log(2.0**-23), -np.log(1 - 2.0**-23)]


def test_classes_that_do_not_occur_are_left_out_and_counted() -> None:
    found = findings_of(case([0, 0, 2], [[0.5, 0.25, 0.25, 0], [0.5, 0.25, 0.25, 0], [0, 0.5, 0.5, 0]]))
    assert (found.roc.left_out, found.precision_recall.left_out) == (2, 2)
    assert np.isnan(found.roc.areas).tolist() == [False, True, False, True]


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_blocks_of_classes_change_no_area(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    labels, probabilities = large_case()
    expected = [each.areas.tolist() for each in curves_of(labels, probabilities)]
    monkeypatch.setattr("components.evaluate.curves.BLOCK_VALUES", block)
    assert [each.areas.tolist() for each in curves_of(labels, probabilities)] == expected


def test_many_classes_of_few_images_take_no_table_of_them() -> None:
    from sklearn import metrics as sklearn

    random: Any = np.random.default_rng(2)
    labels = random.integers(0, 5000, 40)
    probabilities: npt.NDArray[np.float32] = random.random((40, 5000), dtype=np.float32)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = findings_of((labels, probabilities))
    assert found.metrics["accuracy"] == sklearn.accuracy_score(labels, probabilities.argmax(axis=1))
    assert found.roc.left_out == 5000 - len(set(labels.tolist()))
