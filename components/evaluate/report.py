"""What an evaluation found, and the HTML report of it: tables, the most confident errors, and where all comes from."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from components.classifier.inference import Predictions
from components.classifier.metrics import Integers, Metrics, PerClass, confusion_matrix
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
class Findings:
    """Everything an evaluation found; the figures of the last weights are None where they are not finite.

    `same_dataset` says whether the model was trained with the dataset evaluated here.
    """

    classes: list[str]
    predictions: Predictions
    metrics: Metrics
    last_metrics: Metrics | None
    per_class: PerClass
    split: Literal["test"]
    selected_epoch: int
    selected_on: Literal["validation", "test"]
    last_epoch: int
    same_dataset: bool
    device: str
    versions: dict[str, str]
    manual_seed: int
    seconds: float

    @property
    def images(self) -> int:
        """Number of images evaluated."""
        return len(self.predictions.labels)

    @property
    def wrong(self) -> int:
        """Number of images taken for another class than theirs."""
        return int((self.predictions.labels != self.predictions.predicted).sum())

    @property
    def images_per_second(self) -> float:
        """Images predicted in a second of wall time."""
        return self.images / self.seconds

    @property
    def optimistic(self) -> bool:
        """Whether the epoch was chosen by the very images evaluated here."""
        return self.same_dataset and self.selected_on == self.split

    def confusion(self) -> Integers:
        """Counts of shape (classes, classes): row the true class, column the predicted one."""
        return confusion_matrix(self.predictions.labels, self.predictions.predicted, len(self.classes))

    def selection_note(self) -> str:
        """One sentence or two on how far the figures can be trusted, given how the epoch was chosen."""
        chosen = f"The weights are those of epoch {self.selected_epoch}, chosen on the {self.selected_on} split"
        if self.optimistic:
            return (
                f"{chosen} that is evaluated here too, so these figures are a little optimistic. "
                "Set validation_fraction to choose the epoch by images of their own."
            )
        if self.same_dataset:
            return f"{chosen}; the images evaluated here took no part in training or in that choice."
        return (
            f"{chosen} of another dataset than the one evaluated here. The figures are optimistic if the model's own "
            "dataset shares images with this one."
        )


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


def most_confident_errors(predictions: Predictions, limit: int = MAX_ERRORS) -> Integers:
    """Indices of the wrongly predicted images with the most confidence, highest first; equals in stored order."""
    wrong = np.flatnonzero(predictions.labels != predictions.predicted)
    order = np.argsort(-predictions.confidences[wrong], kind="stable")
    return wrong[order[:limit]].astype(np.int64)


def most_confused(predictions: Predictions, limit: int = MAX_PAIRS) -> list[ConfusedPair]:
    """The pairs of classes confused most often, by count; equals in class order."""
    wrong = predictions.labels != predictions.predicted
    flat = predictions.labels[wrong] * predictions.n_classes + predictions.predicted[wrong]
    codes, counts = np.unique(flat, return_counts=True)
    support = np.bincount(predictions.labels, minlength=predictions.n_classes)
    pairs = []
    for index in np.argsort(-counts, kind="stable")[:limit]:
        label, predicted = divmod(int(codes[index]), predictions.n_classes)
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
    weights = []
    for name, found in (
        (f"selected (epoch {findings.selected_epoch})", metrics),
        (f"last (epoch {findings.last_epoch})", findings.last_metrics),
    ):
        shares = map(percent, (found.accuracy, found.precision, found.recall, found.f1)) if found else "––––"
        weights.append((name, fixed(found.loss if found else None), *shares))
    return render(
        "evaluate/report.html",
        findings=findings,
        headline=[
            ("accuracy", percent(metrics.accuracy)),
            ("macro precision", percent(metrics.precision)),
            ("macro recall", percent(metrics.recall)),
            ("macro F1", percent(metrics.f1)),
            ("loss (nats)", fixed(metrics.loss)),
            ("images", f"{findings.images:,}"),
        ],
        weights=weights,
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
            for pair in most_confused(findings.predictions)
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
    training = f"{findings.last_epoch} epochs in {origin.seconds:,.1f} s, {origin.images_per_second:,.0f} images/s"
    return [
        ("evaluated on", findings.device),
        ("evaluation", f"{findings.seconds:.2f} s, {findings.images_per_second:,.0f} images/s"),
        ("evaluated with", _versions(findings.versions)),
        ("seed of the evaluation", str(findings.manual_seed)),
        ("trained on", origin.device),
        ("training", training),
        ("trained with", _versions(origin.versions)),
        ("seed of the training", str(origin.params.get("manual_seed", "–"))),
        ("parameters of the network", f"{model.parameters:,}"),
        ("images", f"{height}×{width} pixels, {'colour' if channels == 3 else 'grayscale'}, from {dataset.source}"),
        ("images in each split", f"{counts}; test split {dataset.test_split}"),
        ("unreadable images set aside", f"{len(dataset.unreadable):,}"),
        ("model trained with this dataset", "yes" if findings.same_dataset else "no, with another"),
        ("SHA-256 of the params", origin.params_sha256),
    ]


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
