from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from components.evaluate.analyse import analyse
from components.evaluate.evaluate import EvaluateResult, evaluate
from components.evaluate.findings import Findings, Origin
from components.evaluate.report import (
    MAX_ERRORS,
    MAX_PAIRS,
    ConfidentError,
    most_confused,
    png_data_uri,
    render_report,
)
from components.shared.artifacts.artifact import read_manifest
from components.shared.artifacts.dataset import DATASET, UnreadableImage
from components.shared.artifacts.model import MODEL, EpochRecord
from tests.evaluate.conftest import CLASSES, Parts, params_of, write_dataset, write_model
from tests.pages import Page, assert_harmless

ORIGIN = Origin(
    run="night-7",
    started=datetime(2026, 11, 28, 21, 0, tzinfo=UTC),
    ended=datetime(2026, 11, 28, 21, 1, tzinfo=UTC),
    seconds=0.5,
    device="cpu (1 threads)",
    provider="CPUExecutionProvider",
    threads=1,
    versions={"onnxruntime": "1"},
    manual_seed=0,
    selected_epoch=2,
    selected_on="test",
    last_epoch=3,
    same_dataset=True,
    model_sha256="a" * 64,
    onnx_sha256="b" * 64,
    dataset_sha256="c" * 64,
)


def findings_of(labels: npt.ArrayLike, predicted: npt.ArrayLike, classes: list[str]) -> Findings:
    """Findings of predictions that are all 75 % sure."""
    true, taken = np.array(labels, dtype=np.int64), np.array(predicted, dtype=np.int64)
    probabilities = np.full((len(true), len(classes)), 0.25 / (len(classes) - 1), dtype=np.float32)
    probabilities[np.arange(len(true)), taken] = 0.75
    return analyse(classes, true, probabilities, ORIGIN)


@pytest.fixture
def manifests(evaluated: tuple[Parts, EvaluateResult]) -> dict[str, Any]:
    parts, _ = evaluated
    return {"model": read_manifest(parts.model, MODEL), "dataset": read_manifest(parts.dataset, DATASET)}


def page_of(evaluation: Path) -> Page:
    return Page((evaluation / "report.html").read_text(encoding="utf-8"))


def test_report_is_sound_and_harmless(evaluated: tuple[Parts, EvaluateResult]) -> None:
    parts, result = evaluated
    page = page_of(parts.evaluation)

    assert_harmless(page)
    assert "://" not in page.source
    assert page.source.startswith('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">')
    assert [meta["content"] for meta in page.every("meta") if meta.get("name") == "viewport"]
    assert "prefers-color-scheme: dark" in page.source
    text = page.text()
    metrics = result.findings.metrics
    for share in (metrics[name] for name in ("accuracy", "precision_macro", "recall_macro", "f1_macro")):
        assert f"{100 * share:.2f} %" in text
    assert f"{metrics['log_loss']:.4f}" in text
    assert "these figures are a little optimistic" in text


def test_tables_are_marked_up_for_everyone(evaluated: tuple[Parts, EvaluateResult]) -> None:
    parts, _ = evaluated
    page = page_of(parts.evaluation)

    # Classes, matrix, pairs, epochs.
    assert len(page.every("table")) == len(page.every("caption")) == 4
    assert {header.get("scope") for header in page.every("th")} == {"col", "row"}
    assert all(image.get("alt") for image in page.every("img"))
    assert all(chart.get("role") == "img" and chart.get("aria-label") for chart in page.every("svg"))
    headings = [attributes["id"] for attributes in page.every("h2")]
    assert headings == [attributes["aria-labelledby"] for attributes in page.every("section")]
    assert len(set(headings)) == len(headings)


EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "猫 – Катце & 'ñ'",
]


def test_names_from_data_are_only_ever_text(tmp_path: Path) -> None:
    params = params_of(optim_kwargs={"note": "</pre><script>alert(2)</script>"})
    write_dataset(tmp_path / "dataset", classes=EVIL)
    write_model(tmp_path / "model", params, classes=EVIL)
    evaluate(model=tmp_path / "model", dataset=tmp_path / "dataset", evaluation=tmp_path / "e", params=params)
    page = page_of(tmp_path / "e")

    assert_harmless(page)
    assert "<script" not in page.source
    assert "<img src=x" not in page.source
    text = page.text()
    for name in EVIL:
        assert name in text
    assert "</pre><script>alert(2)</script>" in text


def test_provenance_is_shown(manifests: dict[str, Any]) -> None:
    dataset = manifests["dataset"].model_copy(
        update={"unreadable": [UnreadableImage(file="<a>.png", reason="empty")] * 1234}
    )
    text = Page(render_report(findings_of([0], [1], CLASSES), [], manifests["model"], dataset)).text()

    assert "train 50, test 50" in text
    assert "1,234" in text
    assert "cpu (2 threads)" in text  # where it was trained
    assert "cpu (1 threads)" in text  # where it was evaluated
    assert params_of().digest() in text
    assert '"eval_batch_size": 512' in text


def test_most_confused_pairs_by_count_then_class() -> None:
    labels = [0, 0, 0, 1, 1, 2, 2, 2]
    predicted = [0, 1, 1, 2, 2, 0, 2, 2]
    pairs = most_confused(findings_of(labels, predicted, CLASSES))

    assert [(pair.label, pair.predicted, pair.count, pair.share) for pair in pairs] == [
        (0, 1, 2, 2 / 3),
        (1, 2, 2, 1.0),
        (2, 0, 1, 1 / 3),
    ]


def test_without_mistakes_it_says_so(manifests: dict[str, Any]) -> None:
    page = Page(render_report(findings_of([0, 1, 2], [0, 1, 2], CLASSES), [], **manifests))
    assert "100.00 %" in page.text()
    assert "There is no error to show." in page.text()
    assert "No image was taken for another class." in page.text()
    assert page.every("img") == []


@pytest.mark.parametrize(("count", "matrix"), [(60, True), (61, False)])
def test_many_classes_show_pairs_and_no_matrix(manifests: dict[str, Any], count: int, matrix: bool) -> None:
    labels = np.arange(count)
    page = Page(render_report(findings_of(labels, np.roll(labels, 1), [f"c{i}" for i in labels]), [], **manifests))
    assert any(table.get("class") == "matrix" for table in page.every("table")) is matrix
    pairs = page.source[page.source.index('<table class="pairs">') :].partition("</table>")[0]
    assert pairs.count("<tr>") == 1 + MAX_PAIRS


def test_classes_beyond_a_page_are_counted(manifests: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.evaluate.report.MAX_CLASS_ROWS", 2)
    text = Page(render_report(findings_of([0, 1], [0, 2], CLASSES), [], **manifests)).text()
    assert "1 more classes are in evaluation.json." in text


def test_matrix_cells_are_coloured_by_their_share(manifests: dict[str, Any]) -> None:
    page = Page(render_report(findings_of([0, 0, 0, 0], [0, 1, 1, 1], CLASSES), [], **manifests))
    cells = [cell for cell in page.every("td") if cell.get("class") in ("right", "wrong", "none")]
    assert [(cell["class"], cell.get("style")) for cell in cells[:3]] == [
        ("right", "--share:0.500"),
        ("wrong", "--share:0.866"),
        ("none", None),
    ]
    assert len(cells) == 9


def test_most_confident_errors_are_shown(evaluated: tuple[Parts, EvaluateResult]) -> None:
    parts, result = evaluated
    page = page_of(parts.evaluation)
    findings = result.findings

    assert findings.wrong > MAX_ERRORS
    assert len(page.every("img")) == MAX_ERRORS
    surest = findings.most_confident_errors(1)[0]
    words = f"image {surest}: {CLASSES[findings.labels[surest]]}, taken for {CLASSES[findings.predicted[surest]]}"
    assert page.every("img")[0]["alt"] == words


def decoded(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2])))


@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_are_the_images(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 9, channels), dtype=np.uint8)
    shown = decoded(png_data_uri(image))
    assert shown.mode == ("L" if channels == 1 else "RGB")
    assert np.array_equal(np.asarray(shown).reshape(image.shape), image)


@pytest.mark.parametrize(("shape", "size"), [((600, 300, 3), (64, 128)), ((1, 4000, 1), (128, 1))])
def test_thumbnails_of_large_images_are_small(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    assert decoded(png_data_uri(np.zeros(shape, dtype=np.uint8))).size == size


def history(*losses: float | None) -> list[EpochRecord]:
    return [
        EpochRecord(epoch=epoch, learning_rate=0.1, train_loss=1.0, train_accuracy=0.5, loss=loss)
        for epoch, loss in enumerate(losses, start=1)
    ]


@pytest.mark.parametrize(
    ("epochs", "charts"),
    [
        ([], 0),
        (history(0.5), 3),
        (history(None), 3),
        (history(0.5, None, 0.25, float("inf"), float("nan")), 3),
        (history(*[0.5] * 500), 3),
    ],
    ids=["none", "one", "not evaluated", "gaps", "many"],
)
def test_training_curves(manifests: dict[str, Any], epochs: list[EpochRecord], charts: int) -> None:
    model = manifests["model"].model_copy(update={"history": epochs})
    page = Page(render_report(findings_of([0], [1], CLASSES), [], model, manifests["dataset"]))

    assert_harmless(page)
    assert len(page.every("svg")) == charts
    places = " ".join(line["points"] or "" for line in page.every("polyline"))
    assert re.fullmatch(r"[0-9., ]*", places)  # no nan, no inf


def test_half_a_character_in_params_does_not_end_an_evaluation(parts: Parts) -> None:
    file = parts.model / "model.json"
    file.write_text(file.read_text().replace('"optim_kwargs": {}', '"optim_kwargs": {"note": "\\ud800"}'))
    evaluate(**parts.arguments())
    assert "&#55296;" in (parts.evaluation / "report.html").read_text(encoding="utf-8")


def test_same_findings_make_the_same_page(manifests: dict[str, Any]) -> None:
    findings = findings_of([0, 1, 2, 2], [0, 2, 1, 0], CLASSES)
    mistake = ConfidentError(1, np.zeros((8, 8, 1), dtype=np.uint8), 1, 2, 0.75)
    first = render_report(findings, [mistake], **manifests)
    assert render_report(replace(findings), [mistake], **manifests) == first
