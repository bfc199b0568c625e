"""What MLflow gets: names that it takes, numbers as they are, params that fit its table."""

from __future__ import annotations

import math

from components.shared.artifacts.model import EpochRecord
from components.shared.events.data import Progress
from components.shared.tracking.figures import (
    Point,
    is_end_of_epoch,
    points_at_end,
    points_of_epoch,
    points_of_history,
    short_params,
)


def test_an_epoch_gives_the_same_points_from_its_event_and_from_the_models_history() -> None:
    losses, metrics = {"train": 0.5, "test": 0.25}, {"train_accuracy": 0.8, "accuracy": 0.75, "f1": 0.7}
    event = Progress(20, 30, "batches", 2, 3, 100.0, dict(losses), dict(metrics), 0.01)
    record = EpochRecord(
        epoch=2, learning_rate=0.01, train_loss=0.5, train_accuracy=0.8, loss=0.25, accuracy=0.75, f1=0.7,
        images_per_second=100.0,
    )  # fmt: skip
    expected = {
        Point("train/loss", 0.5, 7, 2),
        Point("test/loss", 0.25, 7, 2),
        Point("train/accuracy", 0.8, 7, 2),
        Point("test/accuracy", 0.75, 7, 2),
        Point("test/f1", 0.7, 7, 2),
        Point("learning_rate", 0.01, 7, 2),
        Point("images_per_second", 100.0, 7, 2),
    }
    assert set(points_of_epoch(event, 7)) == expected
    assert set(points_of_history([record], "test", 7)) == expected


def test_only_a_whole_epoch_is_its_end() -> None:
    batches = [Progress(step, 30, "batches", epoch, 3) for step, epoch in ((10, 1), (15, 2), (20, 2), (20, 3))]
    assert [is_end_of_epoch(data) for data in batches] == [True, False, True, False]
    assert not is_end_of_epoch(Progress(30, 30, "images"))


def test_names_are_ones_that_mlflow_takes_and_no_two_become_one() -> None:
    figures = {"recall[cat]": 0.5, "recall[a+b]": 0.6, "recall[a*b]": 0.7, "recall[ü]": 0.8, "x" * 300: 1.0}
    points = list(points_at_end(figures, 7))
    assert [point.name for point in points[:4]] == ["recall/cat", "recall/a_b", "recall/a_b_2", "recall/ü"]
    assert len(points[4].name) <= 250


def test_a_class_is_no_folder_of_a_name() -> None:
    """MLflow refuses a whole batch for one name that is another as a path."""
    classes = [".", "..", "a//b", "lo/", "a]b]", ".x"]
    found = [point.name for point in points_at_end({f"recall[{name}]": 0.5 for name in classes}, 7)]
    assert found == ["recall/_", "recall/__", "recall/a__b", "recall/lo_", "recall/a_b_", "recall/.x"]
    assert list(short_params({"gate": {"recall[a//b]": {"min": 0.5}}})) == ["gate.recall_a__b_.min"]


def test_what_was_not_measured_is_left_out_and_infinity_is_no_number() -> None:
    (point,) = points_at_end({"a": None, "b": math.inf}, 7, 3)
    assert (point.name, point.step, math.isnan(point.value)) == ("b", 3, True)


def test_short_params_are_flat_and_long_ones_left_to_the_file() -> None:
    params = {"a": 1, "b": None, "c": {"d": 0.5, "e": "text"}, "f": [1, 2], "g": {}, "h": ["x" * 600], "i": True}
    assert short_params(params) == {
        "a": "1", "b": "null", "c.d": "0.5", "c.e": "text", "f": "[1, 2]", "g": "{}", "i": "true",
    }  # fmt: skip
