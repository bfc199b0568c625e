from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.evaluate.confusion import confusion_of, most_confused, most_often_taken_for
from components.evaluate.evaluate import EvaluateResult, evaluate
from components.evaluate.pictures import MAX_ERRORS, MAX_HITS, MAX_PER_PAIR
from components.shared.artifacts.artifact import ImageShape
from components.shared.artifacts.gate import GateResult, ThresholdResult
from components.shared.artifacts.model import EpochRecord
from components.shared.html.pictures import data_uri
from components.shared.text import natural_key
from tests.evaluate.conftest import CLASSES, Parts, params_of, write_dataset, write_model
from tests.evaluate.made_up import COMPARISON, GATE, ORIGIN, MadeUp, found, made_up, noise
from tests.pages import Page, assert_harmless

LIMIT = 5_000_000


def page_of(made: MadeUp) -> Page:
    page = Page(made.report())
    assert_harmless(page)
    return page


def table(page: Page, caption: str) -> str:
    """The source of the table of a caption."""
    tables: list[str] = re.findall(r"<table.*?</table>", page.source, re.DOTALL)
    return next(each for each in tables if f"<caption><span>{caption}" in each)


def test_the_report_of_an_evaluation(evaluated: tuple[Parts, EvaluateResult]) -> None:
    parts, result = evaluated
    page = Page((parts.evaluation / "report.html").read_text(encoding="utf-8"))

    assert_harmless(page)
    assert "://" not in page.source
    assert page.source.startswith('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">')
    assert [meta["content"] for meta in page.every("meta") if meta.get("name") == "viewport"]
    text, origin = page.text(), result.findings.origin
    for name in ("accuracy", "balanced_accuracy", "f1_macro"):
        assert f"{100 * result.findings.metrics[name]:.2f} %" in text
    assert "these figures are a little optimistic" in text
    assert f"{origin.ended:%Y-%m-%d %H:%M} UTC · model {origin.model_sha256[:12]}" in text
    for digest in (origin.model_sha256, origin.dataset_sha256, params_of().digest()):
        assert digest in text
    assert '"eval_batch_size": 512' in text


def test_tables_and_pictures_are_marked_up_for_everyone() -> None:
    page = page_of(made_up(CLASSES, 200, spread=4, gate=GATE, comparison=COMPARISON))

    # Gate, baseline, matrix, pairs, reliability, classes, epochs.
    assert len(page.every("table")) == len(page.every("caption")) == 7
    assert {header.get("scope") for header in page.every("th")} == {"col", "row"}
    assert all(image.get("alt") for image in page.every("img"))
    assert all(chart.get("role") == "img" and chart.get("aria-label") for chart in page.every("svg"))
    headings = [attributes["id"] for attributes in page.every("h2")]
    assert headings == ["decision", *(attributes["aria-labelledby"] for attributes in page.every("section"))]
    assert [link["href"] for link in page.every("a")] == [f"#{heading}" for heading in headings[1:]]


def test_what_decides_is_on_top() -> None:
    page = page_of(made_up(CLASSES, 100, gate=GATE, comparison=COMPARISON))
    text = page.text()

    start = text.index("The model does not pass the gate")
    assert start < text.index("1 of 3 thresholds not reached.") < text.index("balanced accuracy")
    rows = re.findall(r"<tr>(.*?)</tr>", table(page, "Thresholds of the gate"), re.DOTALL)[1:]
    assert [re.sub(r"<[^>]*>", "|", row).strip("|").split("||") for row in rows] == [
        ["accuracy", "✓ passed", "0.8912", "at least 0.85", "0.8700 – 0.9100"],
        ["recall[class 2]", "✗ not passed", "0.9100", "at least 0.97", "–"],
        ["vs_|baseline", "✓ passed: not distinguishable", "0.0125", "not worse than the baseline", "-0.0020 – 0.0270"],
    ]
    assert "+1.25 points" in table(page, "Beside the baseline")
    assert "alone is right for 41 images, the baseline alone for 28 (McNemar, p = 0.15)" in text
    assert "gs://models/2026-10/model" in text
    assert "No gate was set" in page_of(made_up(CLASSES, 100)).text()


def test_a_gate_with_a_threshold_for_each_class_shows_what_is_not_reached() -> None:
    passed = [ThresholdResult(metric=f"recall[{i}]", wanted="at least 0", got=0.5, passed=True) for i in range(300)]
    failed = ThresholdResult(metric="recall[x]", wanted="at least 0.6", got=0.59999, passed=False)
    made = made_up(CLASSES, 50, gate=GateResult(passed=False, thresholds=[*passed, failed]))
    caption = "Thresholds of the gate, 100 of 301; evaluation.json has all"
    rows = table(page_of(made), caption).split("<tr>")[2:]
    assert len(rows) == 100
    assert "recall[x]" in rows[0]
    assert "0.59999" in rows[0]


EVIL = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "猫 – Катце & 'ñ'"]


def test_names_from_data_are_only_ever_text(tmp_path: Path) -> None:
    params = params_of(optim_kwargs={"note": "</pre><script>alert(2)</script>"})
    write_dataset(tmp_path / "dataset", classes=EVIL)
    write_model(tmp_path / "model", params, classes=EVIL)
    evaluate(model=tmp_path / "model", dataset=tmp_path / "dataset", evaluation=tmp_path / "e", params=params)
    page = Page((tmp_path / "e" / "report.html").read_text(encoding="utf-8"))

    assert_harmless(page)
    for text in (*EVIL, "</pre><script>alert(2)</script>"):
        assert text in page.text()


def test_names_that_cannot_be_seen_are_escaped_and_long_ones_cut() -> None:
    classes = ["two\nlines", "\u202eback", "می\u200cخواهم", "x" * 500]
    text = page_of(made_up(classes, 40, names=[f"{name}/{i}" for i, name in enumerate(classes * 10)], spread=4)).text()
    for name in ("two\\nlines", "\\u202eback", "می\u200cخواهم", f"{'x' * 39}…{'x' * 39}"):
        assert name in text
    assert "x" * 60 not in text


@pytest.mark.parametrize(
    "ordered",
    [
        ["1", "2", "10", "11"],
        ["class 2", "Class 10", "class 11"],
        ["02", "2", "a"],
        ["a1b2", "a1b10", "a2b1"],
        ["9" * 5000, "1" + "0" * 5000],
        ["", "x"],
    ],
    ids=["numbers", "capitals", "zeros", "several", "long", "empty"],
)
def test_classes_are_in_natural_order(ordered: list[str]) -> None:
    backwards = ordered[::-1]
    assert sorted(backwards, key=natural_key) == ordered


def test_tables_have_the_classes_in_natural_order() -> None:
    page = page_of(made_up(["10", "9", "1"], 60))
    for caption in ("Confusion matrix", "Every class"):
        assert re.findall(r'<th scope="row">(\d+)</th>', table(page, caption)) == ["1", "9", "10"]


def test_most_confused_pairs_by_count_then_class() -> None:
    findings = found([0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0, 2, 2], CLASSES)

    assert [(pair.label, pair.predicted, pair.count, pair.share) for pair in most_confused(findings, 20)] == [
        (0, 1, 2, 2 / 3),
        (1, 2, 2, 1.0),
        (2, 0, 1, 1 / 3),
    ]
    assert len(most_confused(findings, 2)) == 2
    assert most_often_taken_for(findings) == {0: (1, 2), 1: (2, 2), 2: (0, 1)}


def test_the_matrix_counts_all_images_of_up_to_sixty_classes() -> None:
    findings = made_up([str(number) for number in range(60)], 2000, spread=3).findings
    matrix = confusion_of(findings, [])
    assert matrix.classes == list(range(60))
    assert np.array_equal(matrix.counts, findings.confusion())


def test_of_more_classes_the_matrix_has_those_confused_most() -> None:
    findings = made_up([str(number) for number in range(61)], 2000, spread=3).findings
    pairs = most_confused(findings, 100)
    matrix = confusion_of(findings, pairs)
    assert len(matrix.classes) == 20
    assert {pairs[0].label, pairs[0].predicted} <= set(matrix.classes)
    assert np.array_equal(matrix.counts, findings.confusion()[np.ix_(matrix.classes, matrix.classes)])
    caption = "The 20 most confused of 61 classes: true classes down, predicted ones across"
    assert table(page_of(made_up([str(number) for number in range(61)], 2000, spread=3)), caption)


def test_without_mistakes_it_says_so() -> None:
    page = page_of(made_up(CLASSES, 30, spread=0))
    assert "100.00 %" in page.text()
    assert "There is no error to show." in page.text()
    assert "No image was taken for another class." in page.text()
    assert len(page.every("img")) == MAX_HITS


def test_without_a_hit_it_says_so_too() -> None:
    made = made_up(CLASSES, 3)
    findings = replace(made.findings, predicted=(made.findings.labels + 1) % 3)
    assert "No image was classified rightly." in page_of(replace(made, findings=findings)).text()


def test_every_cell_that_opens_has_its_most_confident_images() -> None:
    made = made_up(CLASSES, 400, spread=4)
    page, of = page_of(made), made.findings

    popovers = page.source.split("<div popover ")[1:]
    ids = re.findall(r'<div popover id="([^"]*)"', page.source)
    opens = [str(button["popovertarget"]) for button in page.every("button") if button["class"] == "opens"]
    assert len(ids) == 6
    assert sorted(opens) == sorted([*ids, *ids])  # from the matrix and from the pairs beside it
    for popover, identity in zip(popovers, ids, strict=True):
        label, predicted = map(int, identity.split("-")[1:])
        wrong = [i for i in of.most_confident_errors(400) if (of.labels[i], of.predicted[i]) == (label, predicted)]
        assert re.findall(r'alt="([^"]*)"', popover)[:MAX_PER_PAIR] == [of.name_of(i) for i in wrong[:MAX_PER_PAIR]]
        assert f'{CLASSES[label]}</bdi> <span class="taken">taken for <bdi>{CLASSES[predicted]}</bdi>' in popover


def test_pictures_show_what_the_model_takes_of_stored_images() -> None:
    made = made_up(CLASSES, 40, spread=4)
    sizes = {"image": ImageShape(height=20, width=22, channels=1), "stored_image": made.dataset.image}
    cropped = replace(made, model=made.model.model_copy(update=sizes))
    page, of = page_of(cropped), cropped.findings

    wrong = np.flatnonzero(of.labels != of.predicted)
    surest = int(wrong[np.argmax(of.confidences[wrong])])
    source = re.findall(r'src="([^"]*)"', page.source.partition('id="errors"')[2])[0]
    assert np.array_equal(np.asarray(decoded(source)), made.image_of(surest)[4:24, 3:25, 0])
    assert "28 × 28 pixels, grayscale" in page.source
    assert "the middle 22 × 20" in page.source
    assert "the middle" not in page_of(made).source


def test_errors_and_hits_are_shown_with_their_files() -> None:
    made = made_up(CLASSES, 400, spread=4)
    page, of = page_of(made), made.findings
    sections = re.findall(r"<section.*?</section>", page.source, re.DOTALL)
    errors, hits = (next(each for each in sections if f'id="{name}"' in each) for name in ("errors", "hits"))

    wrong, right = (np.flatnonzero((of.labels != of.predicted) == is_wrong) for is_wrong in (True, False))
    surest, doubtful = wrong[np.argmax(of.confidences[wrong])], right[np.argmin(of.confidences[right])]
    assert errors.count("<img") == MAX_ERRORS
    assert re.findall(r'alt="([^"]*)"', errors)[0] == of.name_of(surest)
    assert f"{100 * of.confidences[surest]:.2f} % confident" in errors
    assert hits.count("<img") == MAX_HITS
    assert re.findall(r'alt="([^"]*)"', hits)[0] == of.name_of(doubtful)
    source = re.findall(r'src="([^"]*)"', errors)[0]
    assert np.array_equal(np.asarray(decoded(source)), made.image_of(int(surest))[:, :, 0])


def decoded(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2])))


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_are_the_images(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 64, channels), dtype=np.uint8)
    shown = decoded(data_uri(image))
    assert shown.mode == ("L" if channels == 1 else "RGB")
    assert np.array_equal(np.asarray(shown).reshape(image.shape), image)


@pytest.mark.parametrize(("shape", "size"), [((600, 300, 3), (64, 128)), ((1, 4000, 1), (128, 1))])
def test_pictures_of_large_images_are_small(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    assert decoded(data_uri(np.zeros(shape, dtype=np.uint8))).size == size


def test_the_data_stands_out() -> None:
    sizes = {0: (8, 40), 1: (4000, 3000)}
    made = made_up(CLASSES, 50, sizes=lambda index: sizes.get(index, (30, 30)))
    text = page_of(made).text()
    counts = made.dataset.splits["train"].class_counts
    for fact in (
        "8 × 40 to 4,000 × 3,000 pixels",
        "30 × 30 (48 of 50)",
        "1 of 50 images were enlarged",
        "unreadable, set aside 3",
        "left out .txt 4",
        "changed by data prep transparent 12",
        f"{max(counts):,} of “{CLASSES[int(np.argmax(counts))]}” to {min(counts):,} of “",
    ):
        assert fact in text
    assert "28 × 28 pixels, all alike" in page_of(made_up(CLASSES, 50)).text()
    made = made_up(CLASSES, 50, sizes=lambda index: (30 + index, 30))
    train = made.dataset.splits["train"].model_copy(update={"class_counts": [49] * len(CLASSES)})
    alike = made.dataset.model_copy(update={"splits": made.dataset.splits | {"train": train}})
    text = page_of(replace(made, dataset=alike)).text()
    assert "images of a class, train split 49 of each" in text
    assert "most common size none; no two are alike" in text


def test_images_without_names_are_numbered() -> None:
    made = made_up(CLASSES, 50, spread=4)
    page = page_of(replace(made, findings=replace(made.findings, names=None)))
    assert re.fullmatch(r"test/\d+", page.every("img")[0]["alt"] or "")
    assert "original size" not in page.text()


@pytest.mark.parametrize("history", [[], [0.5], [None], [0.5, None, 0.25, float("inf"), float("nan")], [0.5] * 500])
def test_training_curves(history: list[float | None]) -> None:
    epochs = [
        EpochRecord(epoch=epoch, learning_rate=0.1, train_loss=1.0, train_accuracy=0.5, loss=loss)
        for epoch, loss in enumerate(history, start=1)
    ]
    made = made_up(CLASSES, 50)
    page = page_of(replace(made, model=made.model.model_copy(update={"history": epochs})))

    assert len(page.every("svg")) == 4 + (3 if history else 0)
    places = " ".join(line["points"] or "" for line in page.every("polyline"))
    assert re.fullmatch(r"[0-9., ]*", places)  # no nan, no inf


def test_a_class_has_the_same_line_in_both_charts_of_curves() -> None:
    keys = re.findall(r'class="key worst-(\d)">(\w+) [\d.]+<', made_up(CLASSES, 60, spread=6).report())

    assert keys[:3] != keys[3:]  # the worst by one are not in that order by the other
    assert sorted(keys[:3]) == sorted(keys[3:])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_curves_of_few_classes(count: int) -> None:
    page = page_of(made_up(CLASSES[:count], 60))
    labels = [str(chart["aria-label"]) for chart in page.every("svg")]
    assert any("expected calibration error" in label for label in labels)
    assert any(label.startswith("ROC") for label in labels) is (count > 1)
    # Of two classes the curves are one another's mirror.
    assert any("cat" in label for label in labels if label.startswith("ROC")) is (count > 2)


def test_half_a_character_in_params_does_not_end_an_evaluation(parts: Parts) -> None:
    file = parts.model / "model.json"
    file.write_text(file.read_text().replace('"optim_kwargs": {}', '"optim_kwargs": {"note": "\\ud800"}'))
    evaluate(**parts.arguments())
    assert "&#55296;" in (parts.evaluation / "report.html").read_text(encoding="utf-8")


def test_same_findings_make_the_same_page() -> None:
    assert made_up(CLASSES, 100, spread=4).report() == made_up(CLASSES, 100, spread=4).report()


def test_a_page_without_a_run_is_of_no_run() -> None:
    assert "<h1>Evaluation</h1>" in page_of(made_up(CLASSES, 20, origin=replace(ORIGIN, run=""))).source


def test_with_many_classes_and_long_names_it_stays_below_its_limit() -> None:
    thresholds = [ThresholdResult(metric='"' * 200, wanted="at least 1", got=0.5, passed=False)] * 2000
    made = made_up(
        [str(index) + '"' * 300 for index in range(2000)],
        4000,
        shape=(96, 96, 3),
        image_of=noise((96, 96, 3)),
        spread=2.2,
        names=['"' * 300] * 4000,
        epochs=3000,
        params={"note": '"' * 500_000},
        gate=GateResult(passed=False, thresholds=thresholds),
    )
    report = made.report()
    assert len(report.encode()) < LIMIT
    assert report.count('<th scope="row">') > 3000


WORST: dict[str, Any] = {
    "few classes, much noise": {"classes": [f"c{i}" for i in range(60)], "images": 6000, "shape": (200, 200, 3)},
    "many small images": {"classes": [f"c{i}" for i in range(60)], "images": 6000, "shape": (64, 64, 3)},
}


@pytest.mark.parametrize("name", WORST)
def test_pictures_of_noise_keep_to_their_budget(name: str) -> None:
    files = ['"' * 200 + str(index) for index in range(6000)]
    made = made_up(**WORST[name], spread=8, names=files, image_of=noise(WORST[name]["shape"]))
    report = made.report()
    assert len(report.encode()) < LIMIT / 2
    assert report.count("<img") > 60
