"""Evaluation beside a baseline: a model on the same images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.evaluate.__main__ import main
from components.evaluate.comparison import mcnemar
from components.evaluate.evaluate import evaluate
from components.shared.artifacts.evaluation import open_evaluation
from components.shared.events.data import Mistake
from components.shared.files import sha256_of
from tests.evaluate.conftest import CLASSES, Parts, params_of, parts_in, write_model
from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server
from tests.peers.gcs import GcsBucket


@pytest.fixture
def baseline(parts: Parts) -> Path:
    path = parts.model.with_name("baseline")
    write_model(path, parts.params, seed=2)
    return path


def test_both_models_are_compared_on_the_same_images(parts: Parts, baseline: Path, tmp_path: Path) -> None:
    ours = evaluate(**parts.arguments(params=params_of(baseline=str(baseline)))).findings
    theirs = evaluate(**parts.arguments(model=baseline, evaluation=tmp_path / "other")).findings
    found = ours.comparison

    assert found is not None
    right, other = ours.predicted == ours.labels, theirs.predicted == theirs.labels
    assert (found.only_model, found.only_baseline) == ((right & ~other).sum(), (other & ~right).sum())
    assert found.metrics.items() <= theirs.metrics.items()
    accuracy, loss = found.differences["accuracy"], found.differences["log_loss"]
    assert accuracy.value == pytest.approx(ours.metrics["accuracy"] - theirs.metrics["accuracy"])
    assert loss.value == pytest.approx(ours.metrics["log_loss"] - theirs.metrics["log_loss"])
    assert accuracy.low < accuracy.value < accuracy.high
    assert loss.low < loss.value < loss.high
    written = open_evaluation(parts.evaluation).manifest.comparison
    assert written is not None
    assert written == found
    assert (written.baseline, written.onnx_sha256) == (str(baseline), theirs.origin.onnx_sha256)


def test_a_model_is_not_distinguishable_from_itself(parts: Parts) -> None:
    found = evaluate(**parts.arguments(params=params_of(baseline=str(parts.model)))).findings.comparison

    assert found is not None
    assert (found.only_model, found.only_baseline, found.p_value) == (0, 0, 1)
    assert found.verdict == "not distinguishable"
    accuracy = found.differences["accuracy"]
    assert accuracy.low < accuracy.value == 0 < accuracy.high  # the next image may tell


def test_a_baseline_of_other_classes_is_refused(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    other = parts.model.with_name("other")
    write_model(other, parts.params, classes=CLASSES[::-1])

    assert main(parts.command("--set", f"baseline={other}")) == 2

    message = f"baseline {other}: has the classes of the dataset {parts.dataset} in another order"
    assert message in capsys.readouterr().err
    assert not (parts.evaluation / "evaluation.json").exists()


def test_a_baseline_takes_its_own_part_of_the_same_images(tmp_path: Path) -> None:
    stored = {"stored_height": 12, "stored_width": 11}
    parts, whole = parts_in(tmp_path, **stored), tmp_path / "whole"
    write_model(whole, params_of(image_height=12, image_width=11))

    found = evaluate(**parts.arguments(params=params_of(**stored, baseline=str(whole)))).findings

    sizes = {"image_height": 12, "image_width": 11}
    alone = evaluate(**parts.arguments(model=whole, evaluation=tmp_path / "other", params=params_of(**sizes))).findings
    assert found.comparison is not None
    assert found.comparison.metrics.items() <= alone.metrics.items()


def test_a_baseline_of_another_stored_size_is_refused(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    other = parts.model.with_name("other")
    write_model(other, params_of(stored_height=12, stored_width=11))

    assert main(parts.command("--set", f"baseline={other}")) == 2

    message = f"baseline {other}: takes images of 12×11 pixels with 1 channel(s), of which it takes the middle 8×8, and"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (0, 1), (1, 0), (0, 6), (5, 5), (3, 12), (40, 90), (2000, 2100), (0, 4000)]
)
def test_mcnemars_test_is_the_exact_binomial_one(first: int, second: int) -> None:
    from scipy.stats import binomtest  # a second, and not for whoever only collects tests

    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_the_event_names_the_most_confident_errors(parts: Parts) -> None:
    result = evaluate(**parts.arguments())
    found, mistakes = result.findings, result.event(1.0).mistakes

    assert mistakes is not None
    assert len(mistakes) == 10
    index = int(found.most_confident_errors(1)[0])
    label, predicted = CLASSES[found.labels[index]], CLASSES[found.predicted[index]]
    assert mistakes[0] == Mistake(f"test/=1+{index}.png", label, predicted, found.confidences[index])
    assert np.all(np.diff([mistake.confidence for mistake in mistakes]) <= 0)


def test_the_command_names_the_run(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", "night-7")
    assert main(parts.command()) == 0
    assert json.loads((parts.evaluation / "evaluation.json").read_text())["run"] == "night-7"
    assert evaluate(**parts.arguments()).manifest.run == ""  # by itself again


def test_a_baseline_may_be_in_a_bucket(parts: Parts, baseline: Path, gcs_bucket: GcsBucket) -> None:
    for file in baseline.iterdir():
        gcs_bucket.write(f"models/baseline/{file.name}", file.read_bytes())
    uri = f"{gcs_bucket.uri}/models/baseline"

    assert main(parts.command("--set", f"baseline={uri}")) == 0

    found = open_evaluation(parts.evaluation).manifest.comparison
    assert found is not None
    assert found.baseline == uri
    assert found.onnx_sha256 == sha256_of(baseline / "model.onnx")
