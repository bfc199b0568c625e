"""Manifests of models that nobody trained, with any history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from components.shared.artifacts.artifact import FileRecord, ImageShape
from components.shared.artifacts.model import EpochRecord, ModelManifest, Provenance, Selection, Speed
from tests.examples import small

SPEED = Speed(
    samples_per_second=123_456.0,
    constant_tensor_samples_per_second=130_000.0,
    of_constant_tensor=0.9497,
    of_constant_tensor_range=[0.93, 0.98],
    rounds=5,
    precision="bf16",
    compiled=False,
    data="resident",
    shares={
        "data": 0.05,
        "forward_backward": 0.7,
        "optimiser": 0.1,
        "captured_step": 0.0,
        "compiling": 0.03,
        "evaluation": 0.05,
        "checkpoints": 0.02,
        "status": 0.01,
        "other": 0.04,
    },
    processes=1,
)


def history_of(epochs: int, *, eval_every: int = 1, measured: bool = True) -> list[EpochRecord]:
    def record(epoch: int) -> EpochRecord:
        evaluated = {"loss": 2.2 / epoch, "accuracy": 1 - 1.2 / (epoch + 1), "precision": 0.5, "recall": 0.5, "f1": 0.5}
        return EpochRecord(
            epoch=epoch,
            learning_rate=0.1 * 10 ** (-4 * epoch / epochs),
            train_loss=2 / epoch,
            train_accuracy=1 - 1 / (epoch + 1),
            images_per_second=120_000 + 5_000 * math.sin(7 * epoch) if measured else None,
            **(evaluated if epoch % eval_every == 0 or epoch == epochs else {}),
        )

    return [record(epoch) for epoch in range(1, epochs + 1)]


def manifest_of(history: Sequence[EpochRecord], *, speed: Speed | None = None, **changes: Any) -> ModelManifest:
    params = small()
    weights = FileRecord(file="model.safetensors", bytes=1, sha256="0" * 64)
    fields: dict[str, Any] = {
        "created_by": "tests",
        "classes": [str(digit) for digit in range(10)],
        "image": ImageShape(height=8, width=8, channels=1),
        "normalisation": None,
        "net_arch": [],
        "parameters": 406_218,
        "weights": weights,
        "selection": Selection(epoch=max(1, len(history) * 2 // 3), split="validation", loss=0.05, accuracy=0.987),
        "history": list(history),
        "provenance": Provenance(
            params=params.to_dict(),
            params_sha256=params.digest(),
            dataset_sha256="0" * 64,
            device="cuda:0 (NVIDIA L4)",
            versions={},
            seconds=12.34,
            images_per_second=123_456.0,
            speed=speed,
        ),
    }
    return ModelManifest(**{**fields, **changes})
