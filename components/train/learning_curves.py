"""The learning curves as HTML: one file that shows how a model was trained, without scripts and without requests."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from components.shared.artifacts.model import TIME_SHARES, ModelManifest, Speed
from components.shared.html.markup import (
    definitions,
    details,
    escaped,
    fixed,
    paragraph,
    percent,
    rate,
    section,
    table,
)
from components.shared.html.page import html_document, write_page
from components.shared.html.training import epochs_table, training_charts
from components.train.speed import speed_rows, time_shares

# A longer table is closed until somebody asks for it.
_OPEN_ROWS = 30


def write_learning_curves(file: Path, manifest: ModelManifest) -> None:
    """Write the learning curves of a model.

    The page is below 300 kB however many epochs there are: lines and rows beyond what can be seen are thinned out.

    Args:
        file: The HTML file; an older one is replaced.
        manifest: The model's manifest; whether it names such a file already does not matter.
    """
    write_page(file, render_learning_curves(manifest))


def render_learning_curves(manifest: ModelManifest) -> str:
    """The learning curves as one HTML document; the same for the same manifest."""
    style = (files("components.train") / "learning_curves.css").read_text(encoding="utf-8")
    parts = [_headline(manifest), _curves(manifest), _speed(manifest.provenance.speed), _epochs(manifest)]
    title = f"Learning curves: params {_short(manifest)}"
    return html_document(title, "\n".join(part for part in parts if part), style)


def _short(manifest: ModelManifest) -> str:
    """The first digits of the params' digest, by which people tell runs apart."""
    return manifest.provenance.params_sha256[:12]


def _headline(manifest: ModelManifest) -> str:
    selection, origin = manifest.selection, manifest.provenance
    epochs = len(manifest.history)
    figures = [
        (f"accuracy, {selection.split} split", percent(selection.accuracy)),
        ("loss (nats)", fixed(selection.loss)),
        (f"chosen epoch of {epochs:,}", f"{selection.epoch:,}"),
        ("images/s", rate(origin.images_per_second)),
        ("seconds", f"{origin.seconds:,.1f}"),
        ("parameters", f"{manifest.parameters:,}"),
    ]
    summary = (
        f"{len(manifest.classes):,} classes, {epochs:,} {'epoch' if epochs == 1 else 'epochs'} on {origin.device}; "
        f"params {_short(manifest)}."
    )
    return (
        f"<header>\n<h1>Learning curves</h1>\n{paragraph(summary, 'summary')}\n</header>\n"
        f"{definitions(figures, 'headline')}"
    )


def _curves(manifest: ModelManifest) -> str:
    history, selection = manifest.history, manifest.selection
    if not history:
        return section("Curves", "curves", paragraph("The model says nothing of its training."))
    said = f"The upright line marks epoch {selection.epoch}, whose weights were chosen on the {selection.split} split."
    evaluated = sum(record.loss is not None for record in history)
    if evaluated < len(history):
        said += f" {evaluated:,} of {len(history):,} epochs were evaluated."
    if all(record.images_per_second is None for record in history):
        said += " Throughput was not measured epoch by epoch."
    return section("Curves", "curves", paragraph(said), training_charts(history, selection))


def _epochs(manifest: ModelManifest) -> str:
    history = manifest.history
    if not history:
        return ""
    numbers = epochs_table(history, manifest.selection)
    if len(history) > _OPEN_ROWS:
        numbers = details(f"{len(history):,} epochs as numbers", numbers)
    return section("Epochs", "epochs", numbers)


def _speed(speed: Speed | None) -> str:
    """The speed-of-light report."""
    if speed is None:
        return ""
    return section(
        "Speed of light",
        "speed",
        paragraph(
            "How near training came to what the same network, and this device, can do at best: medians of rounds that "
            "measure both by turns."
        ),
        table("Rates, and what part of each bound training reached", ("", "rate", "reached"), speed_rows(speed)),
        _time(speed),
    )


def _time(speed: Speed) -> str:
    """What the wall time went to, as one bar and as its key."""
    start, bars, keys, spoken = 0.0, [], [], []
    for index, (name, share) in enumerate(time_shares(speed)):
        kind = f"share-{min(index, len(TIME_SHARES) - 1)}"
        width = 1000 * min(max(share, 0.0), 1.0)
        bars.append(f'<rect class="{kind}" x="{start:.1f}" y="0" width="{width:.1f}" height="24"/>')
        keys.append(f'<li class="{kind}">{escaped(name)} {percent(share, 1)}</li>')
        spoken.append(f"{name} {percent(share, 1)}")
        start += width
    words = f"Parts of the wall time: {', '.join(spoken)}"
    return (
        f'<figure>\n<svg class="shares" viewBox="0 0 1000 24" preserveAspectRatio="none" role="img" '
        f'aria-label="{escaped(words)}">\n{"".join(bars)}\n</svg>\n'
        f'<figcaption>\n<ol class="shares">\n{"".join(keys)}\n</ol>\n</figcaption>\n</figure>'
        if bars
        else ""
    )
