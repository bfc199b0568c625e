"""What stands out in the data: balance of classes, original sizes of images, and what was changed or left out."""

from __future__ import annotations

from typing import Any

import numpy as np

from components.evaluate.findings import Findings
from components.shared.artifacts.artifact import ImageShape
from components.shared.artifacts.dataset import DatasetManifest
from components.shared.html.charts import column_chart
from components.shared.html.page import named


def data_highlights(findings: Findings, dataset: DatasetManifest, taken: ImageShape) -> dict[str, Any]:
    """Facts as pairs of name and text, and a chart of the classes' training images; `taken` is what the model takes."""
    height, width, channels = dataset.image.as_tuple()
    counts = ", ".join(f"{name} {record.count:,}" for name, record in dataset.splits.items())
    facts = [
        ("source", named(dataset.source, 200)),
        ("images of each split", f"{counts}; test split {dataset.test_split}"),
        ("stored as", f"{width} × {height} pixels, {'colour' if channels == 3 else 'grayscale'}"),
        *([("evaluated of each", f"the middle {taken.width} × {taken.height}")] if taken != dataset.image else []),
        *_sizes(findings, width, height),
    ]
    split = "train" if "train" in dataset.splits else findings.split
    of_classes = dataset.splits[split].class_counts
    most, least = int(np.argmax(of_classes)), int(np.argmin(of_classes))
    extremes = [f"{of_classes[index]:,} of “{named(dataset.classes[index])}”" for index in (most, least)]
    of_class = " to ".join(extremes) if of_classes[most] != of_classes[least] else f"{of_classes[most]:,} of each"
    facts += [
        (f"images of a class, {split} split", of_class),
        ("unreadable, set aside", f"{len(dataset.unreadable):,}"),
        ("left out", _counts(dataset.left_out.by_name())),
        ("changed by data prep", _counts(dataset.noted)),
    ]
    return {
        "facts": facts,
        "chart": column_chart(
            f"Images of each class, {split} split, largest first",
            f"{len(of_classes):,} classes from {' to '.join(extremes)} images",
            sorted(zip(map(named, dataset.classes), of_classes, strict=True), key=lambda each: -each[1]),
        ),
    }


def _sizes(findings: Findings, width: int, height: int) -> list[tuple[str, str]]:
    """Original sizes of the evaluated images, where the dataset has them; `width` and `height` are what it stores."""
    if not findings.names:
        return []
    sizes = np.array([(name.width, name.height) for name in findings.names])
    kinds, first, of_kind = np.unique(sizes[:, 0] << 32 | sizes[:, 1], return_index=True, return_counts=True)
    if len(kinds) == 1:
        return [("original size", f"{sizes[0, 0]:,} × {sizes[0, 1]:,} pixels, all alike")]
    areas = sizes.prod(axis=1)
    named_sizes = [sizes[index] for index in (int(areas.argmin()), int(areas.argmax()))]
    smaller = int((sizes < (width, height)).any(axis=1).sum())
    common = sizes[first[of_kind.argmax()]]
    most_common = f"{common[0]:,} × {common[1]:,} ({int(of_kind.max()):,} of {len(sizes):,})"
    return [
        ("original sizes", " to ".join(f"{size[0]:,} × {size[1]:,}" for size in named_sizes) + " pixels"),
        ("most common size", most_common if of_kind.max() > 1 else "none; no two are alike"),
        ("smaller than stored", f"{smaller:,} of {len(sizes):,} images were enlarged" if smaller else "none"),
    ]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{named(name)} {count:,}" for name, count in counts.items()) or "nothing"
