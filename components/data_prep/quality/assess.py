"""The data quality report: what is found in a dataset before its manifest is written."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from components.data_prep.layouts.source import alike
from components.data_prep.quality.columns import Columns
from components.data_prep.quality.duplicate_findings import duplicate_findings
from components.data_prep.quality.duplicates import Duplicates, find_duplicates
from components.data_prep.quality.model import (
    MAX_EXAMPLES,
    Example,
    Finding,
    FindingKind,
    QualityReport,
    SizeCount,
    Sizes,
    SplitQuality,
    Spread,
)
from components.shared.artifacts.artifact import ImageShape
from components.shared.artifacts.dataset import SplitName
from components.shared.decoding.rendering import Rendering
from components.shared.events.data import Severity

# An image that is enlarged so many times a side shows next to nothing of what its pixels suggest.
_TINY = 4
# A class of less training images is hardly learned, and neither is one that is so many times smaller than another.
SMALL_CLASS, IMBALANCE = 10, 10
_MOST_SIZES = 10
_ORDER: tuple[Severity, ...] = ("problem", "warning", "note")

_Mask = npt.NDArray[np.bool_]


def assess(columns: Columns, rendering: Rendering) -> QualityReport:
    """What there is to know of a dataset's images; the same images give the same report.

    Args:
        columns: All images.
        rendering: How they were made to be of one shape.
    """
    source, (height, width, channels) = columns.assembled.source, rendering.shape
    classes = source.classes
    splits = {
        name: SplitQuality(
            count=part.stop - part.start,
            class_counts=np.bincount(columns.labels[part], minlength=len(classes)).tolist(),
            origin="given" if columns.assembled.placed[name].source == name else "held out",
        )
        for name, part in columns.splits.items()
    }
    found = find_duplicates(columns.digests, columns.hashes, columns.constant, columns.rows, rendering.shape)
    findings = list(_findings(columns, found, splits, rendering))
    findings.sort(key=lambda finding: _ORDER.index(finding.severity))
    return QualityReport(
        source=source.name,
        classes=list(classes),
        image=ImageShape.model_validate({"height": height, "width": width, "channels": channels}),
        splits=splits,
        sizes=_sizes(columns),
        kinds=dict(sorted(columns.kinds.items(), key=lambda each: (-each[1], each[0]))),
        unreadable=sum(len(facts.unreadable) for facts in columns.assembled.facts.values()),
        left_out=source.left_out,
        findings=findings,
        compared_with_some=found.crowded,
    )


def _findings(
    columns: Columns, found: Duplicates, splits: dict[SplitName, SplitQuality], rendering: Rendering
) -> Iterator[Finding]:
    yield from duplicate_findings(columns, found)
    yield from _image_findings(columns, rendering)
    yield from _class_findings(columns, splits)
    yield from _unread_findings(columns)


def _image_findings(columns: Columns, rendering: Rendering) -> Iterator[Finding]:
    height, width, _ = rendering.shape
    factors = np.array([width, height]) / np.maximum(columns.sizes, 1)
    factor = factors.min(axis=1) if rendering.fit == "pad" else factors.max(axis=1)
    stored = f"{width}×{height}"

    def of_images(kind: FindingKind, severity: Severity, mask: _Mask, text: str, advice: str) -> Iterator[Finding]:
        examples = [
            Example(images=[columns.ref(index)], text="×".join(map(str, columns.sizes[index].tolist())))
            for index in np.flatnonzero(mask)[:MAX_EXAMPLES].tolist()
        ]
        return columns.finding(kind, severity, mask, text, advice, examples)

    text, advice = "Images are of one colour: every stored pixel is the same.", "Remove them, unless that is a class."
    yield from of_images("constant", "warning", columns.constant, text, advice)
    text = "Images are nearly of one colour: what they show varies by less than two grey values."
    yield from of_images("nearly_constant", "warning", ~columns.constant & (columns.hashes == 0), text, advice)
    text = f"Images are so small that a side is enlarged {_TINY} times or more, to {stored}."
    advice = "Look for larger originals; what was thumbnails or icons, remove."
    yield from of_images("tiny", "warning", factor >= _TINY, text, advice)
    text, advice = (
        f"Images are smaller than the stored {stored} and were enlarged.",
        "Nothing to do, unless larger originals exist.",
    )
    yield from of_images("enlarged", "note", (factor > 1) & (factor < _TINY), text, advice)


def _class_findings(columns: Columns, splits: dict[SplitName, SplitQuality]) -> Iterator[Finding]:
    classes = columns.assembled.source.classes
    missing = {
        name: [label for label, count in zip(classes, split.class_counts, strict=True) if not count]
        for name, split in splits.items()
    }
    if lacking := {label for labels in missing.values() for label in labels}:
        texts = [f"{label}: no image in {name}" for name, labels in missing.items() for label in labels]
        yield _of_classes(
            "missing_classes", "warning", len(lacking), "Classes have no image in a split.",
            "Add some: without them nothing is known of how well the class is recognised.", texts,
        )  # fmt: skip
    counts = dict(zip(classes, splits["train"].class_counts, strict=True))
    by_count = sorted(counts, key=lambda name: counts[name])
    if small := [name for name in by_count if 0 < counts[name] < SMALL_CLASS]:
        yield _of_classes(
            "small_classes", "warning", len(small), f"Classes have less than {SMALL_CLASS} training images.",
            "Add images, or join the class with another.", [f"{name}: {counts[name]:,}" for name in small],
        )  # fmt: skip
    least, most = counts[by_count[0]], counts[by_count[-1]]
    if most >= IMBALANCE * max(least, 1):
        short = [name for name in by_count if counts[name] * IMBALANCE <= most]
        yield _of_classes(
            "imbalance", "warning", len(short),
            f"The largest class has {most:,} training images, {by_count[-1]}; these have a {IMBALANCE}th or less.",
            "Add images of them; look at figures of single classes, as accuracy hides them.",
            [f"{name}: {counts[name]:,}" for name in short],
        )  # fmt: skip
    if similar := alike(classes):
        yield _of_classes(
            "similar_class_names", "problem", len(similar), "Class names differ from another in case or spaces alone.",
            "Rename them, or join their folders where they are one class.", similar,
        )  # fmt: skip


def _of_classes(
    kind: FindingKind, severity: Severity, count: int, text: str, advice: str, examples: list[str]
) -> Finding:
    shown = [Example(text=example) for example in examples[:MAX_EXAMPLES]]
    return Finding(kind=kind, severity=severity, count=count, of="classes", text=text, advice=advice, examples=shown)


def _unread_findings(columns: Columns) -> Iterator[Finding]:
    facts = columns.assembled.facts.values()
    unreadable = [image for of_split in facts for _, image in sorted(of_split.unreadable.items())]
    if unreadable:
        yield Finding(
            kind="unreadable", severity="warning", count=len(unreadable), of="images",
            text="Images cannot be read and are left out.", advice="Mend or remove them.",
            examples=[Example(text=f"{image.file}: {image.reason}") for image in unreadable[:MAX_EXAMPLES]],
        )  # fmt: skip
    left_out = columns.assembled.source.left_out
    files = left_out.files | left_out.images
    if count := sum(files.values()) + left_out.files_in_folders:
        yield Finding(
            kind="left_out", severity="note", count=count, of="files", text="Files of the data are not read.",
            advice="Nothing to do, unless there are images to learn from among them.",
            examples=[Example(text=f"{name}: {each:,}") for name, each in [*left_out.by_name().items()][:MAX_EXAMPLES]],
        )  # fmt: skip


def _sizes(columns: Columns) -> Sizes:
    width, height = columns.sizes[:, 0], columns.sizes[:, 1]
    different, counts = np.unique(width.astype(np.int64) << 32 | height, return_counts=True)
    common = np.argsort(-counts, kind="stable")[:_MOST_SIZES]
    return Sizes(
        width=_spread(width),
        height=_spread(height),
        aspect_ratio=_spread(width / np.maximum(height, 1)),
        different=len(different),
        most_common=[
            SizeCount(width=int(different[at]) >> 32, height=int(different[at]) & (1 << 32) - 1, count=int(counts[at]))
            for at in common.tolist()
        ],
    )


def _spread(values: npt.NDArray[np.int32] | npt.NDArray[np.float64]) -> Spread:
    return Spread(min=float(values.min()), median=float(np.median(values)), max=float(values.max()))
