"""The model card: what a published model is, how well it does, where it comes from, and how to run it; Markdown."""

from __future__ import annotations

import html
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from markupsafe import Markup

from components.shared.artifacts.dataset import DATASET
from components.shared.artifacts.evaluation import EVALUATION, Evaluation
from components.shared.artifacts.model import MODEL, Model
from components.shared.cropping import central_start
from components.shared.errors import ParamsError
from components.shared.files import sha256_of
from components.shared.html.page import render
from components.shared.params.params import Params
from components.shared.params.parsed import ParamsWarning

MAX_CLASSES = 200
# About the run and its machine, of no use to those who run the model.
_OF_THE_RUN = frozenset(
    "GOOGLE_APPLICATION_CREDENTIALS PUB_SUB_PROJECT PUB_SUB_TOPIC PUB_SUB_SUBSCRIPTION TIMEOUT KAFKA_HOST KAFKA_TOPIC "
    "on_status_error mode gate publish_uri baseline".split()
)
_FEW_IMAGES = 30  # with fewer a share is a guess: 95 % intervals are wider than 0.3
# What makes anything but text within a line, addresses included.
_MARKDOWN = re.compile(r"([\\`*_\[\]|~@]|:(?=//)|(?<=www)\.)")


def model_card(model: Model, evaluation: Evaluation) -> str:
    """The model card of a model and its evaluation."""
    manifest, found = model.manifest, evaluation.manifest
    image, stored = manifest.image, manifest.resized
    rows = sorted(found.per_class, key=lambda row: (row.recall, row.name))[:MAX_CLASSES]
    return str(
        render(
            "publish/model_card.md",
            escaped=escaped,
            image=image,
            stored=stored,
            top=central_start(stored.height, image.height),
            left=central_start(stored.width, image.width),
            fit=manifest.image_fit,
            interpolation=manifest.image_interpolation.upper(),
            background=_color(manifest.background(model.path / MODEL.manifest_file), image.channels),
            mode="RGB" if image.channels == 3 else "L",
            classes=manifest.classes,
            parameters=manifest.parameters,
            layers=", ".join(str(layer.get("class", "")).rpartition(".")[2] for layer in manifest.net_arch),
            found=found,
            metrics=[(name, value, found.intervals.get(name)) for name, value in found.metrics.items()],
            rows=rows,
            limits=list(_limits(model, evaluation)),
            params=Markup(_params(manifest.provenance.params)),  # noqa: S704 - in a block of code
            origin=manifest.provenance,
            selection=manifest.selection,
            digests={
                MODEL.manifest_file: sha256_of(model.path / MODEL.manifest_file),
                **{record.file: record.sha256 for record in (manifest.onnx, manifest.weights) if record is not None},
                f"evaluation/{EVALUATION.manifest_file}": sha256_of(evaluation.path / EVALUATION.manifest_file),
                f"{DATASET.manifest_file} it was trained with": manifest.provenance.dataset_sha256,
                f"{DATASET.manifest_file} it was evaluated on": found.dataset_sha256,
            },
            created_by=manifest.created_by,
        )
    )


def _color(background: tuple[int, int, int], channels: int) -> int | tuple[int, int, int]:
    """A background as Pillow takes it: of grayscale images its ITU-R 601 luma, rounded as Pillow does."""
    red, green, blue = background
    return background if channels == 3 else (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def escaped(text: object) -> Markup:
    """A text in Markdown as it is, on one line."""
    line = " ".join(str(text).encode("utf-8", "backslashreplace").decode().split())
    return Markup(_MARKDOWN.sub(r"\\\1", html.escape(line, quote=False)))  # noqa: S704 - escaped just now


def _params(raw: dict[str, Any]) -> str:
    """The options that made the model, without defaults, as JSON."""
    kept = {key: value for key, value in raw.items() if key not in _OF_THE_RUN}
    with suppress(ParamsError), warnings.catch_warnings():  # of another version: as they are
        warnings.simplefilter("ignore", ParamsWarning)
        return Params.from_dict(kept).to_form()
    return json.dumps(kept, indent=2)


def _limits(model: Model, evaluation: Evaluation) -> Iterator[str]:
    manifest, found = model.manifest, evaluation.manifest
    yield "It answers with one of its classes whatever an image shows; there is no class for anything else."
    yield (
        f"Its figures are of {found.images:,} held-out images of one dataset; images of another kind, camera or time "
        "may be harder."
    )
    if found.optimistic:
        yield (
            f"The epoch was chosen by the same {found.split} images that it is evaluated on, so the figures are a "
            "little optimistic."
        )
    if manifest.provenance.dataset_sha256 != found.dataset_sha256:
        yield "It was evaluated on another dataset than the one it was trained with."
    if few := [row.name for row in found.per_class if row.support < _FEW_IMAGES]:
        shown = ", ".join(few[:10]) + (f" and {len(few) - 10:,} more" if len(few) > 10 else "")
        yield f"Fewer than {_FEW_IMAGES} held-out images, so that its figures say little: {shown}."
    worst = min(found.per_class, key=lambda row: (row.recall if row.support else 2, row.name))
    if worst.support:
        yield f"Lowest recall: {worst.recall:.4f}, of {worst.name}."
    if (error := found.metrics.get("expected_calibration_error")) is not None:
        yield f"Its probabilities are off by {error:.4f} on average (expected calibration error)."
