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
)
from components.evaluate.curve_charts import curve_charts, reliability_rows
from components.evaluate.data_highlights import data_highlights
from components.evaluate.decision import comparison_of, decision_of
from components.evaluate.figures import HEADLINE, figure_name, figure_text, interval_text
from components.evaluate.findings import Findings
from components.evaluate.pictures import MAX_FILE_NAME, ImageOf, Pictures, pictures_of
from components.shared.artifacts.dataset import DatasetManifest
from components.shared.artifacts.model import ModelManifest
from components.shared.cropping import central_crop
from components.shared.html.page import Cell, fixed, named, percent, render, training_view
from components.shared.html.pictures import SMALL_SIDE
from components.shared.text import natural_key

_MIN_PAIRS, MAX_PAIRS = 10, 20
# A page of more rows takes a browser seconds to open.
MAX_CLASS_ROWS = 2000
# Pairs of which images are shown, as long as they fit the budget of pictures.
_MAX_OPENED = 400
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
        image_of: A stored image of the split, uint8 of shape (height, width, channels), by its position; what of it
            the model takes is shown.
        model: The model that was evaluated.
        dataset: The dataset whose split it was evaluated on.
    """
    confused = most_confused(findings, _MAX_OPENED)
    matrix = confusion_of(findings, confused)
    shown = set(matrix.classes)
    listed = min(MAX_PAIRS, max(_MIN_PAIRS, round(0.75 * len(matrix.classes))))  # as high as the matrix beside them
    opened = [pair for at, pair in enumerate(confused) if at < listed or {pair.label, pair.predicted} <= shown]
    taken = model.image.as_tuple()
    pictures = pictures_of(findings, lambda index: central_crop(image_of(index), taken), opened)
    popovers = _popovers(findings, opened, pictures)
    ids = {popover["pair"]: popover["id"] for popover in popovers}
    return render(
        "evaluate/report.html",
        script="evaluate/report.js",
        findings=findings,
        identity=_identity(findings),
        contents=_CONTENTS,
        decision=decision_of(findings),
        comparison=comparison_of(findings),
        headline=[_figure(findings, name) for name in HEADLINE if name in findings.metrics],
        figures=[_figure(findings, name) for name in findings.metrics if name not in HEADLINE],
        matrix=_matrix(findings, matrix.classes, matrix.counts, ids),
        pairs=[_pair_row(findings, pair, ids) for pair in confused[:listed]],
        popovers=popovers,
        curves=curve_charts(findings),
        reliability=reliability_rows(findings),
        class_table=_class_table(findings, dataset),
        pictures=pictures,
        max_file_name=MAX_FILE_NAME,
        small=max(taken[:2]) <= SMALL_SIDE,
        data=data_highlights(findings, dataset, model.image),
        training=training_view(model.history, model.selection),
        provenance=_provenance(findings, model, dataset),
        params=json.dumps(model.provenance.params, indent=2, ensure_ascii=False)[:_MAX_PARAMS],
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


def _class_table(findings: Findings, dataset: DatasetManifest) -> dict[str, Any]:
    of, classes = findings.per_class, findings.classes
    order = sorted(range(len(classes)), key=lambda index: natural_key(classes[index]))
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
