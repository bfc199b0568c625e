"""``quality.html``: the data quality report as one page, with pictures of what was found and of every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from components.data_prep.quality.columns import Columns
from components.data_prep.quality.model import MAX_EXAMPLES, Example, Finding, ImageRef, QualityReport
from components.shared.artifacts.dataset import Images
from components.shared.html.charts import column_chart
from components.shared.html.page import Cell, named, percent, render
from components.shared.html.pictures import SMALL_SIDE, data_uri

MAX_SHEETS, MAX_ON_SHEET = 100, 12
# A page of more rows takes a browser seconds to open.
MAX_CLASS_ROWS = 1000
# Bytes of the pictures of findings, and of the sheets: pixels of noise would take more.
_FINDINGS_BUDGET, _SHEETS_BUDGET = 1_000_000, 2_000_000
_SIDE, _SIDE_ON_SHEET, _GAP = 96, 48, 2
_MAX_FILE_NAME = 120
_CONTENTS = (("findings", "Findings"), ("classes", "Classes"), ("images", "Images"), ("sheets", "Contact sheets"))
HEADINGS = {
    "leakage": "Leakage: training images that are held out, too",
    "near_leakage": "Leakage: near duplicates of training images that are held out",
    "label_conflict": "The same image in several classes",
    "near_label_conflict": "Near duplicates in different classes",
    "duplicates": "Exact duplicates",
    "near_duplicates": "Near duplicates",
    "constant": "Images of one colour",
    "nearly_constant": "Images of nearly one colour",
    "tiny": "Tiny images",
    "enlarged": "Enlarged images",
    "unreadable": "Unreadable images",
    "left_out": "Files that are not read",
    "missing_classes": "Classes missing from a split",
    "small_classes": "Small classes",
    "imbalance": "Imbalance",
    "similar_class_names": "Class names that are alike",
}


@dataclass(frozen=True)
class _Shown:
    """An image of an example; the pixels may have been left out."""

    ref: ImageRef
    source: str


def render_page(report: QualityReport, columns: Columns) -> str:
    """The page of a report, below 5 MB; the same for the same images."""
    sheets, cut = _sheets(report, columns)
    rows = _class_rows(report)
    names = [*report.splits]
    problems = sum(finding.severity == "problem" for finding in report.findings)
    return render(
        "data_prep/quality/page.html",
        report=report,
        problems=problems,
        headings=HEADINGS,
        contents=_CONTENTS,
        headline=[(f"{name} images", f"{split.count:,}", split.origin) for name, split in report.splits.items()],
        findings=_findings(report.findings, columns),
        class_head=["class", *names, "share of training"],
        class_rows=rows[:MAX_CLASS_ROWS],
        classes_cut=max(0, len(rows) - MAX_CLASS_ROWS),
        chart=column_chart(
            "Training images of each class",
            f"Training images of each of {len(report.classes):,} classes in their order",
            [*zip(map(named, report.classes), report.splits["train"].class_counts, strict=True)],
        ),
        sizes=_sizes(report),
        size_rows=[
            (f"{each.width}×{each.height}", f"{each.count:,}", _share(each.count, columns))
            for each in report.sizes.most_common
        ],
        kind_rows=[(named(kind), f"{count:,}", _share(count, columns)) for kind, count in report.kinds.items()],
        sheets=sheets,
        sheets_cut=cut,
        on_sheet=MAX_ON_SHEET,
        max_examples=MAX_EXAMPLES,
        max_file_name=_MAX_FILE_NAME,
        small=max(report.image.height, report.image.width) <= SMALL_SIDE,
    )


def _share(count: int, columns: Columns) -> Cell:
    return Cell(percent(count / len(columns)), "bar", count / len(columns))


def _class_rows(report: QualityReport) -> list[list[str]]:
    train = report.splits["train"]
    return [
        [
            named(name),
            *(f"{split.class_counts[label]:,}" for split in report.splits.values()),
            Cell(percent(train.class_counts[label] / train.count), "bar", train.class_counts[label] / train.count),
        ]
        for label, name in enumerate(report.classes)
    ]


def _sizes(report: QualityReport) -> list[tuple[str, str]]:
    sizes = report.sizes
    spreads = {"width": (sizes.width, 0), "height": (sizes.height, 0), "width / height": (sizes.aspect_ratio, 2)}
    texts = {
        name: f"{each.min:,.{digits}f} to {each.max:,.{digits}f}, median {each.median:,.{digits}f}"
        for name, (each, digits) in spreads.items()
    }
    stored = f"{report.image.width}×{report.image.height}, {'color' if report.image.channels == 3 else 'grey'}"
    return [*texts.items(), ("different sizes", f"{sizes.different:,}"), ("stored as", stored)]


def _findings(findings: Sequence[Finding], columns: Columns) -> list[dict[str, Any]]:
    """What the page shows of each finding: examples with pictures while the budget lasts."""
    left, shown = _FINDINGS_BUDGET, []
    for finding in findings:
        examples = []
        for example in finding.examples:
            pictures = []
            for ref in example.images:
                image = columns.rows(np.array([columns.starts[ref.split] + ref.index]))[0]
                source = data_uri(image, _SIDE)
                left -= len(source)
                pictures.append(_Shown(ref, source if left >= 0 else ""))
            examples.append({"pictures": pictures, "text": named(example.text, _MAX_FILE_NAME)})
        shown.append({"finding": finding, "examples": examples, "has_pictures": _has_pictures(finding.examples)})
    return shown


def _has_pictures(examples: Sequence[Example]) -> bool:
    return any(example.images for example in examples)


def _sheets(report: QualityReport, columns: Columns) -> tuple[list[dict[str, Any]], int]:
    """The sheets of the first classes, and how many classes have none."""
    training = columns.labels[columns.splits["train"]]
    order = np.argsort(training, kind="stable")
    stops = np.cumsum(report.splits["train"].class_counts)
    left, sheets = _SHEETS_BUDGET, []
    for label, name in enumerate(report.classes[:MAX_SHEETS]):
        members = order[stops[label] - report.splits["train"].class_counts[label] : stops[label]]
        if not len(members):
            continue
        # Evenly from all of the class, in stored order.
        chosen = np.unique(np.linspace(0, len(members) - 1, min(MAX_ON_SHEET, len(members))).round().astype(np.int64))
        sheet = _sheet(columns.rows(members[chosen]))
        source = data_uri(sheet, sheet.shape[1])
        left -= len(source)
        if left < 0:
            break
        count = len(chosen)
        sheets.append({"name": name, "count": count, "of": len(members), "source": source, "sheet": sheet.shape})
    shown = sum(count > 0 for count in report.splits["train"].class_counts) - len(sheets)
    return sheets, shown


def _sheet(images: Images) -> Images:
    """Images side by side, none of them larger than a few pixels."""
    tiles = []
    for image in images:
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        picture.thumbnail((_SIDE_ON_SHEET, _SIDE_ON_SHEET))
        tile = np.asarray(picture).reshape(picture.height, picture.width, image.shape[2])
        tiles += [tile, np.full((tile.shape[0], _GAP, tile.shape[2]), 255, dtype=np.uint8)]
    return np.concatenate(tiles[:-1], axis=1)
