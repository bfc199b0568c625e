"""The HTML report of an evaluation: what decides on top, then figures, images, and where all comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from components.evaluate.confusion import (
    MAX_MATRIX_CLASSES,
    ConfusedPair,
    confusion_of,
    most_confused,
    most_often_taken_for,
    natural_order,
)
from components.evaluate.curves import Curves
from components.evaluate.data_highlights import data_highlights
from components.evaluate.figures import HEADLINE, difference_text, figure_name, figure_text, interval_text
from components.evaluate.findings import Findings
from components.evaluate.pictures import MAX_FILE_NAME, SMALL_SIDE, ImageOf, Pictures, pictures_of
from components.shared.artifacts.dataset import DatasetManifest
from components.shared.artifacts.model import ModelManifest
from components.shared.html.charts import Series, unit_chart
from components.shared.html.page import Cell, fixed, named, percent, render, training_view

_MIN_PAIRS, MAX_PAIRS = 10, 20
# A page of more rows takes a browser seconds to open.
MAX_CLASS_ROWS = 2000
# Pairs of which images are shown, as long as they fit the budget of pictures.
_MAX_OPENED = 400
_WORST_CLASSES = 3
_MAX_THRESHOLDS = 100
_MAX_SHARDS = 3
# Style of a matrix of up to as many classes.
_SIZES = ((12, "roomy"), (14, "even"), (36, "dense"), (MAX_MATRIX_CLASSES, "fine"))
# Share of a class's images in another that is drawn in full colour.
_FULL_SHARE = 0.05
# Params have no bound; a page has.
_MAX_PARAMS = 100_000
_CONTENTS = (
    ("confusion", "Confusion"),
    ("curves", "Curves"),
    ("classes", "Classes"),
    ("errors", "Most confident errors"),
    ("hits", "Least confident hits"),
    ("data", "Data"),
    ("training", "Training"),
    ("provenance", "Provenance"),
)


def render_report(findings: Findings, image_of: ImageOf, model: ModelManifest, dataset: DatasetManifest) -> str:
    """The report as one HTML document below 5 MB; the same for the same arguments.

    Args:
        findings: What the evaluation found.
        image_of: An image of the split, uint8 of shape (height, width, channels), by its position.
        model: The model that was evaluated.
        dataset: The dataset whose split it was evaluated on.
    """
    confused = most_confused(findings, _MAX_OPENED)
    matrix = confusion_of(findings, confused)
    shown = set(matrix.classes)
    listed = min(MAX_PAIRS, max(_MIN_PAIRS, round(0.75 * len(matrix.classes))))  # as high as the matrix beside them
    opened = [pair for at, pair in enumerate(confused) if at < listed or {pair.label, pair.predicted} <= shown]
    pictures = pictures_of(findings, image_of, opened)
    popovers = _popovers(findings, opened, pictures)
    ids = {popover["pair"]: popover["id"] for popover in popovers}
    height, width, _ = dataset.image.as_tuple()
    return render(
        "evaluate/report.html",
        script="evaluate/report.js",
        findings=findings,
        identity=_identity(findings),
        contents=_CONTENTS,
        decision=_decision(findings),
        comparison=_comparison(findings),
        headline=[_figure(findings, name) for name in HEADLINE if name in findings.metrics],
        figures=[_figure(findings, name) for name in findings.metrics if name not in HEADLINE],
        matrix=_matrix(findings, matrix.classes, matrix.counts, ids),
        pairs=[_pair_row(findings, pair, ids) for pair in confused[:listed]],
        popovers=popovers,
        curves=_curves(findings),
        reliability=_reliability_rows(findings),
        class_table=_class_table(findings, dataset),
        pictures=pictures,
        max_file_name=MAX_FILE_NAME,
        small=max(height, width) <= SMALL_SIDE,
        data=data_highlights(findings, dataset),
        training=training_view(model.history, model.selection),
        provenance=_provenance(findings, model, dataset),
        params=json.dumps(model.provenance.params, indent=2, ensure_ascii=False)[:_MAX_PARAMS],
    )


_CONTENTS_IDS = dict(
    zip(_CONTENTS, "confusion curves classes errors hits data training provenance".split(), strict=True)
)


def _identity(findings: Findings) -> dict[str, Any]:
    origin = findings.origin
    return {
        "run": named(origin.run),
        "facts": [
            f"{origin.ended:%Y-%m-%d %H:%M} UTC",
            f"model {origin.model_sha256[:12]}",
            f"dataset {origin.dataset_sha256[:12]}",
        ],
    }


def _figure(findings: Findings, name: str) -> tuple[str, str, str]:
    interval = findings.intervals.get(name)
    return figure_name(name), figure_text(name, findings.metrics[name]), interval_text(name, interval)


def _decision(findings: Findings) -> dict[str, Any]:
    gate = findings.gate
    if gate is None:
        text = "A gate in the params, such as {accuracy: {min: 0.97}}, decides whether a model is good enough."
        return {"kind": "open", "heading": "No gate was set", "text": text, "thresholds": []}
    missed, count = len(gate.failed), len(gate.thresholds)
    rows = []
    # A gate may have a threshold for each class: what is not reached comes first then, and not all are shown.
    ranked = sorted(gate.thresholds, key=lambda one: one.passed) if count > _MAX_THRESHOLDS else gate.thresholds
    for one in ranked[:_MAX_THRESHOLDS]:
        verdict = "✓ passed" if one.passed else "✗ not passed"
        result = f"{verdict}: {one.reason}" if one.reason else verdict
        kind = "name ok" if one.passed else "name missed"
        bounds = " – ".join(map(fixed, one.interval or ()))
        rows.append((named(one.metric), Cell(result, kind), one.got_text, one.wanted, bounds or "–"))
    return {
        "kind": "passed" if gate.passed else "failed",
        "heading": "✓ The model passes the gate" if gate.passed else "✗ The model does not pass the gate",
        "text": f"{missed:,} of {count:,} thresholds not reached."
        if missed
        else f"All {count:,} thresholds are reached.",
        "thresholds": rows,
        "left_out": f", {len(rows)} of {count:,}; evaluation.json has all" if len(rows) < count else "",
    }


def _comparison(findings: Findings) -> dict[str, Any] | None:
    comparison = findings.comparison
    if comparison is None:
        return None
    rows = []
    for name, difference in comparison.differences.items():
        change, low, high = (
            difference_text(name, each) for each in (difference.value, difference.low, difference.high)
        )
        of_both = (figure_text(name, figures[name]) for figures in (findings.metrics, comparison.metrics))
        rows.append((figure_name(name), change, f"{low.removesuffix(' points')} to {high}", *of_both))
    return {
        "rows": rows,
        "text": (
            f"{comparison.verdict.capitalize()} on accuracy: the model alone is right for "
            f"{comparison.only_model:,} images, the baseline alone for {comparison.only_baseline:,} "
            f"(McNemar, p = {comparison.p_value:.2g})."
        ),
        "baseline": named(comparison.baseline, 200),
    }


def _pair_text(findings: Findings, pair: ConfusedPair) -> str:
    return f"{named(findings.classes[pair.label])} taken for {named(findings.classes[pair.predicted])}"


def _pair_row(findings: Findings, pair: ConfusedPair, ids: dict[tuple[int, int], str]) -> tuple[str, ...]:
    classes, opens = findings.classes, ids.get((pair.label, pair.predicted), "")
    count = Cell(f"{pair.count:,}", opens=opens, label=f"{pair.count:,} images: {_pair_text(findings, pair)}")
    return named(classes[pair.label]), Cell(named(classes[pair.predicted]), "name"), count, percent(pair.share, 1)


def _popovers(findings: Findings, pairs: Sequence[ConfusedPair], pictures: Pictures) -> list[dict[str, Any]]:
    popovers = []
    for pair in pairs:
        both = pair.label, pair.predicted
        if of_pair := pictures.of_pairs.get(both):
            first = f"; the {len(of_pair)} most confident" if len(of_pair) < pair.count else ""
            count = f"{pair.count:,} image{'s' if pair.count > 1 else ''}"
            popovers.append(
                {
                    "id": f"pair-{pair.label}-{pair.predicted}",
                    "pair": both,
                    "label": named(findings.classes[pair.label]),
                    "predicted": named(findings.classes[pair.predicted]),
                    "text": f"{count}, {percent(pair.share, 1)} of the class{first}.",
                    "pictures": of_pair,
                }
            )
    return popovers


def _matrix(findings: Findings, classes: list[int], counts: Any, ids: dict[tuple[int, int], str]) -> dict[str, Any]:
    names = [named(findings.classes[index], 40) for index in classes]
    is_part = len(classes) < len(findings.classes)
    shares = counts / np.maximum(1, findings.per_class.support[classes])[:, None]
    wrong = shares * ~np.eye(len(classes), dtype=bool)
    # Errors have a scale of their own, or those of a good model could not be told apart.
    scale = np.where(wrong > 0, max(_FULL_SHARE, wrong.max()), 1)
    rows = []
    for row, label in enumerate(classes):
        cells = []
        for column, predicted in enumerate(classes):
            count = int(counts[row, column])
            # By the root, so that one image in a hundred is seen at all.
            share, kind = math.sqrt(shares[row, column] / scale[row, column]), "right" if row == column else "wrong"
            opens = ids.get((label, predicted), "")
            label_text = f"{count:,}: {names[row]} taken for {names[column]}" if opens else ""
            cells.append(Cell(f"{count:,}", kind, share, opens, label_text) if count else Cell(""))
        rows.append([names[row], *cells])
    of = f"The {len(classes)} most confused of {len(findings.classes):,} classes" if is_part else "Confusion matrix"
    # So that a desktop shows all columns at once.
    size = next(kind for most, kind in _SIZES if len(classes) <= most)
    return {
        "caption": f"{of}: true classes down, predicted ones across",
        "kind": f"matrix {size}{' upright' if max(map(len, names), default=0) <= 3 else ''}",
        "head": ["true ↓ predicted →", *names],
        "rows": rows,
    }


def _reliability_rows(findings: Findings) -> list[tuple[str, ...]]:
    of = findings.reliability
    return [
        (
            f"{of.edges[at]:.2f} – {of.edges[at + 1]:.2f}",
            f"{of.counts[at]:,}",
            percent(float(of.confidence[at])),
            percent(float(of.accuracy[at])),
        )
        for at in np.flatnonzero(of.counts).tolist()
    ]


def _curves(findings: Findings) -> list[Any]:
    of = findings.reliability
    filled = np.flatnonzero(of.counts)
    points = list(zip(of.confidence[filled].tolist(), of.accuracy[filled].tolist(), strict=True))
    error = findings.metrics["expected_calibration_error"]
    charts = [
        unit_chart(
            "Reliability",
            f"Accuracy by confidence; the expected calibration error is {percent(error)}",
            ("confidence; columns: number of images", "accuracy"),
            [Series("perfect", "ideal", [(0, 0), (1, 1)], False), Series("model", "macro", points)],
            of.counts.tolist(),
        )
    ]
    for title, area, curves, axes in (
        ("ROC", "AUC", findings.roc, ("false positive rate", "true positive rate")),
        ("Precision and recall", "average precision", findings.precision_recall, ("recall", "precision")),
    ):
        if lines := _lines(findings, curves):
            ideal = [Series("chance", "ideal", [(0, 0), (1, 1)], False)] if title == "ROC" else []
            label = f"{title}, {area}: {'; '.join(line.name for line in lines)}"
            charts.append(unit_chart(title, label, axes, [*lines, *ideal]))
    return charts


def _lines(findings: Findings, curves: Curves) -> list[Series]:
    """The mean over the classes, and the classes of the smallest areas."""
    if curves.macro is None or curves.area is None:
        return []

    def points(curve: Any) -> list[tuple[float, float]]:
        return list(zip(curve.x.tolist(), curve.y.tolist(), strict=True))

    lines = []
    has_one = np.flatnonzero(np.isfinite(curves.areas))
    if len(has_one) > 2:  # of two classes the curves are one another's mirror
        worst = has_one[np.argsort(curves.areas[has_one], kind="stable")][:_WORST_CLASSES].tolist()
        for place, index in enumerate(worst, start=1):
            name = f"{named(findings.classes[index], 24)} {curves.areas[index]:.4f}"
            lines.append(Series(name, f"worst-{place}", points(curves.classes[index]), False))
    return [Series(f"mean of classes {curves.area:.4f}", "macro", points(curves.macro), False), *lines]


def _class_table(findings: Findings, dataset: DatasetManifest) -> dict[str, Any]:
    of, classes = findings.per_class, findings.classes
    order = natural_order(classes)
    if len(order) > MAX_CLASS_ROWS:
        kept = set(np.argsort(of.f1, kind="stable")[:MAX_CLASS_ROWS].tolist())
        order = [index for index in order if index in kept]
    train = dataset.splits["train"].class_counts if "train" in dataset.splits else [0] * len(classes)
    taken_for = {
        label: f"{named(classes[predicted], 40)} ({count:,})"
        for label, (predicted, count) in most_often_taken_for(findings).items()
    }
    rows = []
    for index in order:
        shares = (Cell(fixed(share), "bar", share) for share in (of.precision[index], of.recall[index], of.f1[index]))
        area = float(findings.roc.areas[index])
        rows.append(
            (
                named(classes[index]),
                f"{of.support[index]:,}",
                f"{train[index]:,}",
                *shares,
                fixed(area if math.isfinite(area) else None),
                Cell(taken_for.get(index, "–"), "name"),
            )
        )
    head = (
        "class",
        "images",
        "in training",
        "precision",
        "recall",
        "F1",
        "ROC AUC",
        Cell("most often taken for", "name"),
    )
    return {
        "caption": f"Every class: images of the {findings.split} and the train split, and its figures",
        "head": head,
        "rows": rows,
        "left_out": len(classes) - len(order),
    }


def _provenance(
    findings: Findings, model: ModelManifest, dataset: DatasetManifest
) -> list[tuple[str, list[tuple[str, str]]]]:
    made, origin = model.provenance, findings.origin
    evaluation = [
        ("run", named(origin.run) or "–"),
        ("from", f"{origin.started:%Y-%m-%d %H:%M:%S} UTC"),
        ("to", f"{origin.ended:%Y-%m-%d %H:%M:%S} UTC"),
        ("on", origin.device),
        ("predicting", f"{origin.seconds:,.2f} s, {findings.images_per_second:,.0f} images/s"),
        ("with", _versions(origin.versions)),
        ("seed of the intervals", str(origin.manual_seed)),
        ("model.json, SHA-256", Cell(origin.model_sha256, "code")),
        ("model.onnx, SHA-256", Cell(origin.onnx_sha256 or "–", "code")),
        ("dataset.json, SHA-256", Cell(origin.dataset_sha256, "code")),
        *_image_digests(findings, dataset),
    ]
    training = [
        ("on", made.device),
        ("training", f"{origin.last_epoch} epochs in {made.seconds:,.1f} s, {made.images_per_second:,.0f} images/s"),
        ("with", _versions(made.versions)),
        ("seed", str(made.params.get("manual_seed", "–"))),
        ("parameters of the network", f"{model.parameters:,}"),
        ("with this dataset", "yes" if origin.same_dataset else "no, with another"),
        ("params, SHA-256", Cell(made.params_sha256, "code")),
        ("dataset.json, SHA-256", Cell(made.dataset_sha256, "code")),
        ("made by", f"{model.created_by}; the dataset by {dataset.created_by}"),
    ]
    return [("Evaluation", evaluation), ("Training", training)]


def _image_digests(findings: Findings, dataset: DatasetManifest) -> list[tuple[str, str]]:
    """Of the images that were evaluated, file by file; of more than a few files dataset.json has the rest."""
    shards = dataset.splits[findings.split].images
    digests: list[tuple[str, str]] = [
        (f"{named(shard.file)}, SHA-256", Cell(shard.sha256, "code")) for shard in shards[:_MAX_SHARDS]
    ]
    more = len(shards) - len(digests)
    return [*digests, ("more files of images", f"{more:,} in dataset.json")] if more else digests


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
