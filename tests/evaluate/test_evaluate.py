from __future__ import annotations

import csv
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from components.evaluate import evaluate as module
from components.evaluate.evaluate import EvaluateResult, evaluate
from components.shared.artifacts.artifact import WRITING_MARKER
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.evaluation import EVALUATION, open_evaluation
from components.shared.artifacts.model import EpochRecord, Selection
from components.shared.errors import ArtifactError
from components.shared.files import sha256_of
from components.shared.limits import usable_cpus
from tests.evaluate.conftest import CLASSES, Parts, params_of, write_dataset, write_model

Reals = npt.NDArray[np.float64]


def logits_of(model: Path, images: npt.NDArray[np.uint8]) -> Reals:
    weights = {each.name: numpy_helper.to_array(each) for each in onnx.load(model / "model.onnx").graph.initializer}
    return np.asarray(images.reshape(len(images), -1) / 255 @ weights["weights"].astype(np.float64).T)


def softmax(logits: Reals) -> Reals:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def rows_of(evaluation: Path) -> list[dict[str, str]]:
    with (evaluation / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def without_times(manifest: Any) -> dict[str, Any]:
    data: dict[str, Any] = manifest.model_dump(mode="json")
    times = ("started", "ended", "seconds", "images_per_second", "report")
    return {key: value for key, value in data.items() if key not in times}


def test_figures_are_scikit_learns_of_logits_computed_elsewhere(evaluated: tuple[Parts, EvaluateResult]) -> None:
    from sklearn.metrics import (  # a second, and not for whoever only collects tests
        accuracy_score,
        confusion_matrix,
        f1_score,
        log_loss,
        precision_recall_fscore_support,
        precision_score,
        recall_score,
    )

    parts, result = evaluated
    test = open_dataset(parts.dataset).splits["test"]
    probabilities = softmax(logits_of(parts.model, test.images()))
    labels, predicted = test.labels, probabilities.argmax(axis=1)

    metrics = result.findings.metrics
    assert metrics["accuracy"] == accuracy_score(labels, predicted)
    assert metrics["precision_macro"] == precision_score(labels, predicted, average="macro", zero_division=0)
    assert metrics["recall_macro"] == recall_score(labels, predicted, average="macro", zero_division=0)
    assert metrics["f1_macro"] == f1_score(labels, predicted, average="macro", zero_division=0)
    assert metrics["log_loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)  # float32 layers
    assert result.findings.confusion().dtype == np.int64
    assert result.findings.confusion().tolist() == confusion_matrix(labels, predicted).tolist()

    manifest = open_evaluation(parts.evaluation).manifest
    figures = precision_recall_fscore_support(labels, predicted, labels=range(3), zero_division=0)
    rows = [[row.precision, row.recall, row.f1, row.support] for row in manifest.per_class]
    assert rows == np.array(figures).T.tolist()
    assert [row.name for row in manifest.per_class] == manifest.classes == CLASSES


def test_manifest_says_what_was_evaluated(parts: Parts) -> None:
    result = evaluate(**parts.arguments(params=params_of(manual_seed=7)))
    manifest = open_evaluation(parts.evaluation).manifest

    assert manifest == result.manifest
    assert manifest.metrics == result.findings.metrics
    assert manifest.confusion == result.findings.confusion().tolist()
    assert (manifest.split, manifest.images, manifest.manual_seed) == ("test", 50, 7)
    assert (manifest.selected_epoch, manifest.selected_on, manifest.optimistic) == (2, "test", True)
    assert manifest.model_sha256 == sha256_of(parts.model / "model.json")
    assert manifest.dataset_sha256 == sha256_of(parts.dataset / "dataset.json")
    assert manifest.seconds > 0
    assert manifest.images_per_second == pytest.approx(50 / manifest.seconds)
    assert manifest.device.startswith("cpu")
    assert (manifest.provider, manifest.threads) == ("CPUExecutionProvider", usable_cpus())
    assert manifest.onnx_sha256 == sha256_of(parts.model / "model.onnx")
    started, ended = (datetime.fromisoformat(text) for text in (manifest.started, manifest.ended))
    assert started <= ended <= datetime.now(UTC)
    assert started.utcoffset() == timedelta(0)
    assert manifest.intervals == {
        name: list(bounds) for name, bounds in result.findings.intervals.items() if name in manifest.metrics
    }
    assert manifest.per_class[1].recall_interval == list(result.findings.intervals["recall[dog]"])
    assert sum(one.images for one in manifest.reliability) == 50
    assert manifest.comparison is None
    assert {"onnxruntime", "numpy", "python", "shutterline"} == manifest.versions.keys()
    assert {path.name for path in parts.evaluation.iterdir()} == {
        "evaluation.json",
        "predictions.csv",
        "report.html",
    }


def test_predictions_name_every_image(evaluated: tuple[Parts, EvaluateResult]) -> None:
    parts, result = evaluated
    test = open_dataset(parts.dataset).splits["test"]
    rows = rows_of(parts.evaluation)

    assert list(rows[0]) == ["index", "file", "label", "predicted", "confidence", "loss"]
    assert [row["file"] for row in rows] == [f"test/=1+{index}.png" for index in range(50)]
    assert [int(row["index"]) for row in rows] == list(range(50))
    assert [row["label"] for row in rows] == [CLASSES[label] for label in test.labels]
    predicted = [CLASSES.index(row["predicted"]) for row in rows]
    assert predicted == result.findings.predicted.tolist()
    # The text loses no digit, so the figures follow from the file.
    assert float(np.mean([float(row["loss"]) for row in rows])) == result.findings.metrics["log_loss"]
    assert [float(row["confidence"]) for row in rows] == result.findings.confidences.tolist()


FORMULAS = {
    **{name: f"'{name}" for name in ("=1+1", "+1", "-1", "@SUM(A1)", "\uff1d1", "'quoted", '="a",b')},
    "a;=HYPERLINK(1)": "a;'=HYPERLINK(1)",
    "=1;-1;b": "'=1;'-1;b",
    'a;"=1+1"': """a;'"=1+1\"""",
}


def test_no_class_is_a_formula_in_a_spreadsheet(tmp_path: Path) -> None:
    shown = FORMULAS | {"1-1": "1-1", "a=b": "a=b"}
    classes, params = list(shown), params_of(n_classes=len(shown))
    write_dataset(tmp_path / "dataset", classes=classes)
    write_model(tmp_path / "model", params, dataset=tmp_path / "dataset", classes=classes)
    parts = Parts(tmp_path / "model", tmp_path / "dataset", tmp_path / "evaluation", params)

    findings = evaluate(**parts.arguments()).findings

    rows = rows_of(parts.evaluation)
    cells = list(shown.values())
    assert [row["label"] for row in rows] == [cells[label] for label in findings.labels]
    assert [row["predicted"] for row in rows] == [cells[label] for label in findings.predicted]
    assert [float(row["loss"]) for row in rows] == findings.losses.tolist()
    assert open_evaluation(parts.evaluation).manifest.classes == classes


def test_report_is_json_data(evaluated: tuple[Parts, EvaluateResult]) -> None:
    parts, result = evaluated
    report = result.report()

    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["metrics"] == result.findings.metrics
    assert report["evaluation"] == str(parts.evaluation)
    assert Path(report["report_file"]) == result.report_file == parts.evaluation / "report.html"
    assert Path(report["predictions_file"]).is_file()


def test_the_logs_batches_change_no_bit(evaluated: tuple[Parts, EvaluateResult], tmp_path: Path) -> None:
    parts, first = evaluated
    for size in (1, 7, 50):
        params = params_of(eval_batch_size=size, eval_metric_compute_freq="batch")
        other = evaluate(**parts.arguments(params=params, evaluation=tmp_path / f"of-{size}"))
        assert without_times(other.manifest) == without_times(first.manifest)


def test_probabilities_that_are_large_are_in_a_file_without_a_name(
    evaluated: tuple[Parts, EvaluateResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, first = evaluated
    monkeypatch.setattr("components.evaluate.inference.MAX_BYTES_IN_MEMORY", 0)
    other = evaluate(**parts.arguments(evaluation=tmp_path / "mapped"))

    assert isinstance(other.findings.probabilities, np.memmap)
    assert np.array_equal(other.findings.probabilities, first.findings.probabilities)
    assert without_times(other.manifest) == without_times(first.manifest)
    assert {path.name for path in (tmp_path / "mapped").iterdir()} == {path.name for path in parts.evaluation.iterdir()}


def test_shards_are_read_one_after_another(
    evaluated: tuple[Parts, EvaluateResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, first = evaluated
    monkeypatch.setattr("components.shared.artifacts.row_files.SHARD_BYTES", 64 * 7)
    write_dataset(tmp_path / "dataset")
    assert len(open_dataset(tmp_path / "dataset").splits["test"].shards) == 8
    other = evaluate(**parts.arguments(dataset=tmp_path / "dataset", evaluation=tmp_path / "evaluation"))

    assert other.findings.metrics == first.findings.metrics
    assert np.array_equal(other.findings.probabilities, first.findings.probabilities)


def test_a_dataset_without_names_names_images_by_their_position(parts: Parts) -> None:
    write_dataset(parts.dataset, named=False)
    result = evaluate(**parts.arguments())
    assert [row["file"] for row in rows_of(parts.evaluation)] == [f"test/{index}" for index in range(50)]
    mistakes = result.event(1.0).mistakes
    assert mistakes is not None
    assert mistakes[0].file == f"test/{result.findings.most_confident_errors(1)[0]}"


def test_same_inputs_make_the_same_evaluation(parts: Parts, tmp_path: Path) -> None:
    first, second = (evaluate(**parts.arguments(evaluation=tmp_path / name)) for name in ("first", "second"))
    assert without_times(first.manifest) == without_times(second.manifest)
    assert first.manifest.predictions == second.manifest.predictions


def test_colour_images(tmp_path: Path) -> None:
    params = params_of(is_image_color=True)
    write_dataset(tmp_path / "dataset", shape=(8, 8, 3))
    write_model(tmp_path / "model", params)
    result = evaluate(
        model=tmp_path / "model", dataset=tmp_path / "dataset", evaluation=tmp_path / "evaluation", params=params
    )
    assert result.findings.confusion().sum() == 50


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "shutterline.evaluate"]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    # Another test may have run a step, after which our lines no longer reach the root logger.
    monkeypatch.setattr(logging.getLogger("shutterline"), "propagate", True)
    caplog.set_level(logging.INFO, logger="shutterline")
    return caplog


def test_batches_are_logged_one_line_each_up_to_a_limit(
    parts: Parts, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.metrics import f1_score

    monkeypatch.setattr("components.shared.metrics.MAX_LINES", 10)
    params = params_of(eval_metric_compute_freq="batch", eval_batch_size=20)
    findings = evaluate(**parts.arguments(params=params)).findings

    lines = [line for line in lines_of(log) if line.startswith("batch ")]
    assert len(lines) == 3
    for line, start in zip(lines, (0, 20, 40), strict=True):
        batch = slice(start, start + 20)
        expected = f1_score(findings.labels[batch], findings.predicted[batch], average="macro", zero_division=0)
        assert f"loss {findings.losses[batch].mean():.4f}" in line
        assert f"f1 {expected:.4f}" in line

    log.clear()
    evaluate(**parts.arguments(params=params_of(eval_metric_compute_freq="batch", eval_batch_size=1)))
    assert len([line for line in lines_of(log) if line.startswith("batch ")]) == 10
    assert "… and 40 more batches" in lines_of(log)

    log.clear()
    evaluate(**parts.arguments())
    lines = lines_of(log)
    assert not [line for line in lines if line.startswith("batch ")]
    assert [line for line in lines if line.startswith("test: accuracy ")]


@pytest.mark.parametrize(
    ("split", "same_dataset", "evaluated", "optimistic", "said"),
    [
        ("test", True, (2, 3), True, "these figures are a little optimistic"),
        ("test", True, (2,), False, "the only one that training evaluated; the images evaluated here chose nothing"),
        ("validation", True, (2, 3), False, "took no part in training or in that choice"),
        ("test", False, (2, 3), False, "test split of another dataset than the one evaluated here"),
        ("validation", False, (2, 3), False, "validation split of another dataset than the one evaluated here"),
    ],
)
def test_says_how_the_epoch_was_chosen(
    parts: Parts,
    log: pytest.LogCaptureFixture,
    split: Any,
    same_dataset: bool,
    evaluated: tuple[int, ...],
    optimistic: bool,
    said: str,
) -> None:
    selection = Selection(epoch=2, split=split, loss=0.9, accuracy=0.5)
    history = [
        EpochRecord(
            epoch=epoch, learning_rate=0.1, train_loss=1, train_accuracy=0.5, loss=1 if epoch in evaluated else None
        )
        for epoch in (1, 2, 3)
    ]
    dataset = parts.dataset if same_dataset else None
    write_model(parts.model, parts.params, dataset=dataset, selection=selection, history=history)
    result = evaluate(**parts.arguments())

    assert result.manifest.optimistic is optimistic
    assert result.manifest.selected_on == split
    assert any(said in line for line in lines_of(log))
    assert said in result.report_file.read_text(encoding="utf-8")


def test_a_foreign_directory_is_refused_and_left_alone(parts: Parts) -> None:
    parts.evaluation.mkdir()
    (parts.evaluation / "thesis.txt").write_text("the only copy")
    with pytest.raises(ArtifactError, match="is not empty and holds no evaluation to replace"):
        evaluate(**parts.arguments())

    assert [path.name for path in parts.evaluation.iterdir()] == ["thesis.txt"]
    assert (parts.evaluation / "thesis.txt").read_text() == "the only copy"


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_model_and_dataset_are_not_written_over(parts: Parts, kind: str) -> None:
    directory = parts.model if kind == "model" else parts.dataset
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match="is not empty"):
        evaluate(**parts.arguments(evaluation=directory))

    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_an_interrupted_evaluation_leaves_nothing_that_opens_and_a_refused_one_the_earlier(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(**parts.arguments())

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "render_report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(**parts.arguments())

    assert list(parts.evaluation.iterdir()) == []
    (parts.evaluation / WRITING_MARKER).touch()  # as a killed process leaves it
    monkeypatch.undo()
    again = evaluate(**parts.arguments())
    with pytest.raises(ArtifactError, match="there is no such model directory"):
        evaluate(**parts.arguments(model=parts.model / "misspelt"))
    assert open_evaluation(parts.evaluation).manifest == again.manifest


def test_an_evaluation_at_odds_with_itself_is_refused(parts: Parts) -> None:
    evaluate(**parts.arguments())
    file = parts.evaluation / EVALUATION.manifest_file
    document = json.loads(file.read_text())
    rows = [row | {"support": row["support"] + 1} for row in document["per_class"]]
    moved = [[row[1], row[0], *row[2:]] for row in document["confusion"][::-1]]
    changes: list[dict[str, object]] = [
        {"confusion": [[1]]},
        {"confusion": moved},
        {"per_class": []},
        {"per_class": rows},
        {"metrics": {}},
        {"images": 51},
        {"images": "50"},
        {"classes": ["cat", "cat", "eel"]},
        {"classes": ["cat", "dog", ""]},
    ]
    for change in changes:
        file.write_text(json.dumps({**document, **change}))
        with pytest.raises(ArtifactError, match="the file is damaged"):
            open_evaluation(parts.evaluation)


def test_an_evaluation_of_an_earlier_version_is_to_be_made_again(parts: Parts) -> None:
    evaluate(**parts.arguments())
    file = parts.evaluation / EVALUATION.manifest_file
    file.write_text(json.dumps(json.loads(file.read_text()) | {"last_weights": {"epoch": 3, "metrics": None}}))
    with pytest.raises(ArtifactError, match=r"is of version 0\.8 or earlier; evaluate the model again$"):
        open_evaluation(parts.evaluation)
    evaluate(**parts.arguments())  # takes its place


def test_a_matrix_of_very_many_classes_is_left_to_predictions(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.evaluate.manifest.MAX_CONFUSION_CLASSES", 2)
    result = evaluate(**parts.arguments())
    assert open_evaluation(parts.evaluation).manifest.confusion is None
    assert result.findings.confusion().shape == (3, 3)


def test_most_confident_errors_come_first(evaluated: tuple[Parts, EvaluateResult]) -> None:
    findings = evaluated[1].findings
    wrong = [index for index in range(50) if findings.labels[index] != findings.predicted[index]]
    expected = sorted(wrong, key=lambda index: (-findings.confidences[index], index))[:5]
    assert findings.most_confident_errors(5).tolist() == expected
