"""The HTML report: one file that shows an evaluation to people, without scripts and without requests.

Everything that comes from data (class names, paths, params) is escaped by :mod:`components.shared.html.markup`, and the
page's content security policy forbids whatever could still try to run or to load.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from components.evaluate.confident_errors import Mistake, png_data_uri
from components.evaluate.findings import Findings
from components.evaluate.tables import (
    MAX_MATRIX_CLASSES,
    class_table,
    confusion_table,
    pairs_table,
    weights_table,
)
from components.shared.artifacts.dataset import DatasetManifest
from components.shared.artifacts.model import ModelManifest
from components.shared.html.markup import definitions, details, escaped, fixed, paragraph, percent, section
from components.shared.html.page import html_document
from components.shared.html.training import epochs_table, training_charts


def render_report(
    findings: Findings, mistakes: Sequence[Mistake], model: ModelManifest, dataset: DatasetManifest
) -> str:
    """The report as one HTML document; the same for the same arguments.

    Args:
        findings: What the evaluation found.
        mistakes: The images to show, surest first.
        model: Manifest of the evaluated model.
        dataset: Manifest of the dataset it was evaluated on.
    """
    body = "\n".join(
        [
            _headline(findings),
            section("How far to trust these figures", "trust", _note(findings), weights_table(findings)),
            section("Classes", "classes", class_table(findings)),
            _confusion(findings),
            _mistakes(findings, mistakes),
            _training(model),
            _provenance(findings, model, dataset),
        ]
    )
    return html_document(f"Evaluation: accuracy {percent(findings.metrics.accuracy)}", body)


def _headline(findings: Findings) -> str:
    metrics = findings.metrics
    wrong = "no image" if not findings.wrong else f"{findings.wrong:,} of {findings.images:,}"
    figures = [
        ("accuracy", percent(metrics.accuracy)),
        ("macro precision", percent(metrics.precision)),
        ("macro recall", percent(metrics.recall)),
        ("macro F1", percent(metrics.f1)),
        ("loss (nats)", fixed(metrics.loss)),
        ("images", f"{findings.images:,}"),
    ]
    return (
        "<header>\n<h1>Evaluation</h1>\n"
        + paragraph(
            f"{len(findings.classes):,} classes, {findings.images:,} images of the {findings.split} split; "
            f"{wrong} taken for another class.",
            "summary",
        )
        + "\n</header>\n"
        + definitions(figures, "headline")
    )


def _note(findings: Findings) -> str:
    return paragraph(findings.selection_note(), "note caution" if findings.optimistic else "note")


def _confusion(findings: Findings) -> str:
    if len(findings.classes) <= MAX_MATRIX_CLASSES:
        matrix = confusion_table(findings)
    else:
        matrix = paragraph(f"A matrix of {len(findings.classes):,} classes cannot be read; the pairs say it better.")
    return section("Confusion", "confusion", matrix, pairs_table(findings))


def _mistakes(findings: Findings, mistakes: Sequence[Mistake]) -> str:
    if not mistakes:
        return section("Surest mistakes", "mistakes", paragraph("There is no mistake to show."))
    names = findings.classes
    items = []
    for mistake in mistakes:
        true, predicted = names[mistake.label], names[mistake.predicted]
        words = f"image {mistake.index}: {true}, taken for {predicted}"
        items.append(
            f'<li><figure><img alt="{escaped(words)}" src="{png_data_uri(mistake.image)}">\n'
            f'<figcaption><span class="true">{escaped(true)}</span> '
            f'<span class="predicted">{escaped(predicted)}</span> '
            f'<span class="sure">{percent(mistake.confidence, 1)} sure</span> '
            f'<span class="sure">image {mistake.index}</span></figcaption></figure></li>'
        )
    shown = f"The {len(mistakes)} of {findings.wrong:,} wrong predictions that the model was surest of."
    return section(
        "Surest mistakes",
        "mistakes",
        paragraph(f"{shown} Each with its true class, the class it was taken for, and its place in the split."),
        '<ol class="mistakes">\n' + "\n".join(items) + "\n</ol>",
    )


def _training(model: ModelManifest) -> str:
    history, selection = model.history, model.selection
    if not history:
        return section("Training", "training", paragraph("The model says nothing of its training."))

    return section(
        "Training",
        "training",
        paragraph(f"The upright line marks epoch {selection.epoch}, whose weights were selected."),
        training_charts(history, selection),
        details("Every epoch as numbers", epochs_table(history, selection)),
    )


def _provenance(findings: Findings, model: ModelManifest, dataset: DatasetManifest) -> str:
    origin = model.provenance
    counts = ", ".join(f"{name} {record.count:,}" for name, record in dataset.splits.items())
    height, width, channels = dataset.image.as_tuple()
    facts = [
        ("evaluated on", findings.device),
        ("evaluation", f"{findings.seconds:.2f} s, {findings.images_per_second:,.0f} images/s"),
        ("evaluated with", _versions(findings.versions)),
        ("seed of the evaluation", str(findings.manual_seed)),
        ("trained on", origin.device),
        (
            "training",
            f"{findings.last_epoch} epochs in {origin.seconds:,.1f} s, {origin.images_per_second:,.0f} images/s",
        ),
        ("trained with", _versions(origin.versions)),
        ("seed of the training", str(origin.params.get("manual_seed", "–"))),
        ("parameters of the network", f"{model.parameters:,}"),
        ("images", f"{height}×{width} pixels, {'colour' if channels == 3 else 'grayscale'}, from {dataset.source}"),
        ("images in each split", f"{counts}; test split {dataset.test_split}"),
        ("unreadable images set aside", f"{len(dataset.unreadable):,}"),
        ("model trained with this dataset", "yes" if findings.same_dataset else "no, with another"),
        ("SHA-256 of the params", origin.params_sha256),
    ]
    params = json.dumps(origin.params, indent=2, ensure_ascii=False)
    return section(
        "Provenance",
        "provenance",
        definitions(facts, "facts"),
        details("Params of the training run", f"<pre>{escaped(params)}</pre>"),
    )


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
