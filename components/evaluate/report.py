"""What an evaluation found, and the HTML report of it: tables, the most confident errors, and where all comes from."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from components.evaluate.findings import Findings
from components.shared.artifacts.dataset import DatasetManifest, Images
from components.shared.artifacts.model import ModelManifest
from components.shared.html.page import Cell, fixed, percent, render, training_view

MAX_ERRORS = 24
MAX_PAIRS = 20
# A wider matrix cannot be read; the most confused pairs say it better.
MAX_MATRIX_CLASSES = 60
# A page of more rows takes a browser seconds to open.
MAX_CLASS_ROWS = 2000
# Pixels of a thumbnail's longer side: 24 colour thumbnails of noise, the worst case, are 1.5 MB of report.
_MAX_SIDE = 128


@dataclass(frozen=True)
class ConfidentError:
    """One image that was taken for another class: its position in the split, and what the network gave it."""

    index: int
    image: Images
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class ConfusedPair:
    """A class, the one it was taken for, for how many images, and what part of the true class's images they are."""

    label: int
    predicted: int
    count: int
    share: float


def most_confused(findings: Findings, limit: int = MAX_PAIRS) -> list[ConfusedPair]:
    """The pairs of classes confused most often, by count; equals in class order."""
    wrong, n_classes = findings.labels != findings.predicted, len(findings.classes)
    codes, counts = np.unique(findings.labels[wrong] * n_classes + findings.predicted[wrong], return_counts=True)
    support = findings.per_class.support
    pairs = []
    for index in np.argsort(-counts, kind="stable")[:limit]:
        label, predicted = divmod(int(codes[index]), n_classes)
        pairs.append(ConfusedPair(label, predicted, int(counts[index]), int(counts[index]) / int(support[label])))
    return pairs


def png_data_uri(image: Images) -> str:
    """An image, uint8 of shape (height, width, 1 or 3), as a PNG inside an address; larger ones are made smaller."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def render_report(
    findings: Findings, errors: list[ConfidentError], model: ModelManifest, dataset: DatasetManifest
) -> str:
    """The report as one HTML document, with the images of `errors`; the same for the same arguments."""
    metrics, names, of = findings.metrics, findings.classes, findings.per_class
    return render(
        "evaluate/report.html",
        findings=findings,
        headline=[
            ("accuracy", percent(metrics["accuracy"])),
            ("macro precision", percent(metrics["precision_macro"])),
            ("macro recall", percent(metrics["recall_macro"])),
            ("macro F1", percent(metrics["f1_macro"])),
            ("loss (nats)", fixed(metrics["log_loss"])),
            ("images", f"{findings.images:,}"),
        ],
        classes=[
            (
                name,
                *(Cell(fixed(share), "bar", share) for share in (of.precision[i], of.recall[i], of.f1[i])),
                f"{of.support[i]:,}",
            )
            for i, name in enumerate(names[:MAX_CLASS_ROWS])
        ],
        matrix=_matrix(findings) if len(names) <= MAX_MATRIX_CLASSES else None,
        pairs=[
            (names[pair.label], Cell(names[pair.predicted], "name"), f"{pair.count:,}", percent(pair.share, 1))
            for pair in most_confused(findings)
        ],
        errors=errors,
        png=png_data_uri,
        training=training_view(model.history, model.selection),
        facts=_provenance(findings, model, dataset),
        params=json.dumps(model.provenance.params, indent=2, ensure_ascii=False),
    )


def _matrix(findings: Findings) -> list[list[str]]:
    rows = []
    for i, counts in enumerate(findings.confusion().tolist()):
        of_class = max(1, sum(counts))
        # By the root, so that one image in a hundred is seen at all.
        cells = [
            Cell(f"{count:,}", "right" if i == j else "wrong", math.sqrt(count / of_class))
            if count
            else Cell("0", "none")
            for j, count in enumerate(counts)
        ]
        rows.append([findings.classes[i], *cells])
    return rows


def _provenance(findings: Findings, model: ModelManifest, dataset: DatasetManifest) -> list[tuple[str, str]]:
    origin = model.provenance
    counts = ", ".join(f"{name} {record.count:,}" for name, record in dataset.splits.items())
    height, width, channels = dataset.image.as_tuple()
    training = (
        f"{findings.origin.last_epoch} epochs in {origin.seconds:,.1f} s, {origin.images_per_second:,.0f} images/s"
    )
    return [
        ("evaluated on", findings.origin.device),
        ("evaluation", f"{findings.origin.seconds:.2f} s, {findings.images_per_second:,.0f} images/s"),
        ("evaluated with", _versions(findings.origin.versions)),
        ("seed of the evaluation", str(findings.origin.manual_seed)),
        ("trained on", origin.device),
        ("training", training),
        ("trained with", _versions(origin.versions)),
        ("seed of the training", str(origin.params.get("manual_seed", "–"))),
        ("parameters of the network", f"{model.parameters:,}"),
        ("images", f"{height}×{width} pixels, {'colour' if channels == 3 else 'grayscale'}, from {dataset.source}"),
        ("images in each split", f"{counts}; test split {dataset.test_split}"),
        ("unreadable images set aside", f"{len(dataset.unreadable):,}"),
        ("model trained with this dataset", "yes" if findings.origin.same_dataset else "no, with another"),
        ("SHA-256 of the params", origin.params_sha256),
    ]


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
