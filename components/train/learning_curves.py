"""The learning curves as HTML: one file that shows how a model was trained, without scripts and without requests."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from components.shared.artifacts.model import TIME_SHARES, ModelManifest, Speed
from components.shared.html.page import fixed, percent, rate, render, write_page
from components.shared.html.training import training_view
from components.train.speed import speed_rows, time_shares

# A longer table is closed until somebody asks for it.
_OPEN_ROWS = 30


def write_learning_curves(file: Path, manifest: ModelManifest) -> None:
    """Write the learning curves of a model; an older file is replaced.

    The page is below 300 kB however many epochs there are: lines and rows beyond what can be seen are thinned out.
    """
    write_page(file, render_learning_curves(manifest))


def render_learning_curves(manifest: ModelManifest) -> str:
    """The learning curves as one HTML document; the same for the same manifest."""
    selection, origin, history = manifest.selection, manifest.provenance, manifest.history
    return render(
        "train/learning_curves.html",
        model=manifest,
        history=history,
        params_id=origin.params_sha256[:12],  # by which people tell runs apart
        headline=[
            (f"accuracy, {selection.split} split", percent(selection.accuracy)),
            ("loss (nats)", fixed(selection.loss)),
            (f"chosen epoch of {len(history):,}", f"{selection.epoch:,}"),
            ("images/s", rate(origin.images_per_second)),
            ("seconds", f"{origin.seconds:,.1f}"),
            ("parameters", f"{manifest.parameters:,}"),
        ],
        evaluated=sum(record.loss is not None for record in history),
        training=training_view(history, selection),
        open_rows=_OPEN_ROWS,
        speed=origin.speed,
        rates=speed_rows(origin.speed) if origin.speed else [],
        bars=_time_bars(origin.speed) if origin.speed else [],
    )


class _Bar(NamedTuple):
    """A part of the wall time, in a picture 1000 units wide."""

    name: str
    share: float
    kind: str
    start: float
    width: float


def _time_bars(speed: Speed) -> list[_Bar]:
    start, bars = 0.0, []
    for index, (name, share) in enumerate(time_shares(speed)):
        width = 1000 * min(max(share, 0.0), 1.0)
        bars.append(_Bar(name, share, f"share-{min(index, len(TIME_SHARES) - 1)}", start, width))
        start += width
    return bars
