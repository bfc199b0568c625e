"""The settings as tables for pipelines/README.md, made of the classes that read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

from pipelines.settings.common import EVERY_STEP, STEP_FIELDS, Retry
from pipelines.settings.kubeflow import (
    Gpu,
    KubeflowDataPrep,
    KubeflowSettings,
    KubeflowStep,
    KubeflowTrain,
    SecretFiles,
    SecretKey,
    Security,
    Toleration,
    Volume,
)
from pipelines.settings.vertex import Accelerator, VertexDataPrep, VertexSettings, VertexStep, VertexTrain

STEPS = {EVERY_STEP, *STEP_FIELDS}
NESTED: dict[str, type[BaseModel]] = {
    "retry": Retry,
    "gpu": Gpu,
    "tolerations": Toleration,
    "secret_env": SecretKey,
    "secret_files": SecretFiles,
    "volumes": Volume,
    "security": Security,
    "accelerator": Accelerator,
}


def tables() -> Mapping[str, list[str]]:
    """The rows of each table by its name."""
    return {
        "kubeflow": _rows(KubeflowSettings),
        "kubeflow steps": _rows(KubeflowStep),
        "kubeflow data-prep": _rows(KubeflowDataPrep, KubeflowStep),
        "kubeflow train": _rows(KubeflowTrain, KubeflowStep),
        "vertex": _rows(VertexSettings),
        "vertex steps": _rows(VertexStep),
        "vertex data-prep": _rows(VertexDataPrep, VertexStep),
        "vertex train": _rows(VertexTrain, VertexStep),
    }


def _rows(model: type[BaseModel], but: type[BaseModel] | None = None) -> list[str]:
    """The rows of a model's keys, without those of another."""
    rows = ["| key | meaning |", "|---|---|"]
    others = {key for key, _ in _keys(but)} if but else set()
    for key, field in _keys(model):
        if key in STEPS | others:
            continue
        rows.append(f"| `{key}` | {field.description} |")
        if nested := NESTED.get(key):
            assert _reads(field.annotation, nested), f"{key} is not read by {nested.__name__}"
            many = {"tolerations": "[]", "secret_files": "[]", "volumes": "[]", "secret_env": ".NAME"}.get(key, "")
            rows += [f"| `{key}{many}.{inner}` | {found.description} |" for inner, found in _keys(nested)]
    return rows


def _keys(model: type[BaseModel]) -> list[tuple[str, Any]]:
    return [(field.alias or name, field) for name, field in model.model_fields.items()]


def _reads(annotation: Any, model: type[BaseModel]) -> bool:
    return annotation is model or any(_reads(part, model) for part in get_args(annotation))
