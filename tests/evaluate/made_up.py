"""Made-up evaluations, for the report: findings, images, and the manifests of a model and a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from components.evaluate.analyse import analyse
from components.evaluate.findings import Findings, Origin
from components.evaluate.report import render_report
from components.shared.artifacts.artifact import FileRecord, ImageShape, Normalisation
from components.shared.artifacts.dataset import (
    DatasetManifest,
    Images,
    LeftOut,
    ShardRecord,
    SplitName,
    SplitRecord,
    UnreadableImage,
)
from components.shared.artifacts.evaluation import ComparisonRecord, DifferenceRecord
from components.shared.artifacts.gate import GateResult, ThresholdResult
from components.shared.artifacts.model import ModelManifest
from components.shared.artifacts.names import ImageName
from tests.train.manifests import history_of, manifest_of

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
ORIGIN = Origin(
    run="2026-11-28T11-40-02",
    started=NOON,
    ended=NOON,
    seconds=2.0,
    device="cpu (2 threads)",
    provider="CPUExecutionProvider",
    threads=2,
    versions={"shutterline": "0.9.0", "python": "3.11", "onnxruntime": "1.32", "numpy": "2.4"},
    manual_seed=0,
    selected_epoch=4,
    selected_on="validation",
    last_epoch=12,
    was_chosen=True,
    same_dataset=True,
    model_sha256="a1" * 32,
    onnx_sha256="b2" * 32,
    dataset_sha256="c3" * 32,
)
GATE = GateResult(
    passed=False,
    thresholds=[
        ThresholdResult(metric="accuracy", wanted="at least 0.85", got=0.8912, interval=[0.87, 0.91], passed=True),
        ThresholdResult(metric="recall[class 2]", wanted="at least 0.97", got=0.91, passed=False),
        ThresholdResult(
            metric="vs_baseline",
            wanted="not worse than the baseline",
            got=0.0125,
            interval=[-0.002, 0.027],
            passed=True,
            reason="not distinguishable",
        ),
    ],
)
COMPARISON = ComparisonRecord(
    baseline="gs://models/2026-10/model",
    onnx_sha256="d4" * 32,
    metrics={"accuracy": 0.8787, "log_loss": 0.42},
    differences={
        "accuracy": DifferenceRecord(value=0.0125, interval=[-0.002, 0.027]),
        "log_loss": DifferenceRecord(value=-0.05, interval=[-0.08, -0.02]),
    },
    only_model=41,
    only_baseline=28,
    p_value=0.148,
    verdict="not distinguishable",
)


def noise(shape: tuple[int, int, int]) -> Any:
    """An image of noise for each index: the worst that is to be compressed."""
    return lambda index: np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)


def picture(shape: tuple[int, int, int]) -> Any:
    """An image for each index with a few soft shapes in it."""
    height, width, channels = shape
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]

    def image_of(index: int) -> Images:
        random = np.random.default_rng(index)
        image = np.full(shape, random.uniform(20, 120, channels))
        for _ in range(4):
            (down, along), radius = random.uniform(0.1, 0.9, 2), random.uniform(0.1, 0.4)
            blob = np.exp(-((y - down) ** 2 + (x - along) ** 2) / radius**2 * 3)
            image += blob[:, :, None] * random.uniform(-60, 160, channels)
        return image.clip(0, 255).astype(np.uint8)

    return image_of


def found(labels: list[int], predicted: list[int], classes: list[str]) -> Findings:
    """The findings of images of these classes, each taken for a class with half the confidence there is."""
    probabilities = np.full((len(labels), len(classes)), 0.5 / (len(classes) - 1), dtype=np.float32)
    probabilities[np.arange(len(labels)), predicted] = 0.5
    return analyse(classes, np.array(labels, dtype=np.int64), probabilities, ORIGIN)


@dataclass(frozen=True)
class MadeUp:
    """An evaluation with all that its report needs."""

    findings: Findings
    image_of: Any
    model: ModelManifest
    dataset: DatasetManifest

    def report(self) -> str:
        return render_report(self.findings, self.image_of, self.model, self.dataset)


def made_up(
    classes: list[str],
    images: int,
    *,
    shape: tuple[int, int, int] = (28, 28, 1),
    spread: float = 2.0,
    image_of: Any = None,
    names: list[str] | None = None,
    sizes: Any = lambda index: (28, 28),
    epochs: int = 12,
    params: dict[str, Any] | None = None,
    **changes: Any,
) -> MadeUp:
    """An evaluation of as many images, whose logits are noise of a spread; classes next to each other are confused."""
    random, count = np.random.default_rng(0), len(classes)
    labels = random.integers(0, count, images)
    logits = random.normal(0, spread, (images, count))
    logits[np.arange(images), labels] += 6
    logits[np.arange(images), (labels + 1) % count] += 2
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32)
    files = names or [f"test/{classes[label]}/IMG_{index:06d}.jpg" for index, label in enumerate(labels)]
    of_names = [ImageName(file, *sizes(index)) for index, file in enumerate(files)]
    fields = {"gate": None, "intervals": {}, "comparison": None, "origin": ORIGIN} | changes
    base = analyse(classes, labels, probabilities, fields["origin"], names=of_names)
    intervals = {name: (value - 0.01, value + 0.01) for name, value in base.metrics.items()}
    findings = Findings(**{**base.__dict__, **fields, "intervals": fields["intervals"] or intervals})
    record = FileRecord(file="test/labels.npy", bytes=1, sha256="0" * 64)
    shard = ShardRecord(file="test/images-00000.npy", bytes=1, sha256="e5" * 32, count=1)
    counts: dict[SplitName, Any] = {"train": random.integers(50, 900, count), "test": findings.per_class.support}
    image = ImageShape(height=shape[0], width=shape[1], channels=shape[2])
    dataset = DatasetManifest.model_construct(
        created_by="shutterline 0.9.0",
        source="folders of classes",
        classes=classes,
        image=image,
        normalisation=Normalisation(mean=[0.5] * shape[2], std=[0.25] * shape[2]),
        splits={
            name: SplitRecord.model_construct(
                count=int(each.sum()), class_counts=each.tolist(), images=[shard] * 5, labels=record, names=None
            )
            for name, each in counts.items()
        },
        test_split="held out",
        manual_seed=0,
        unreadable=[UnreadableImage(file="a.png", reason="empty")] * 3,
        noted={"transparent": 12},
        left_out=LeftOut(files={".txt": 4}),
    )
    model = manifest_of(history_of(epochs)).model_copy(update={"classes": classes, "image": image})
    if params is not None:
        provenance = model.provenance.model_copy(update={"params": params})
        model = model.model_copy(update={"provenance": provenance})
    return MadeUp(findings, image_of or picture(shape), model, dataset)
