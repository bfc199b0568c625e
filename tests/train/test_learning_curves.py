"""The learning curves as an HTML page."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.shared.artifacts.model import TIME_SHARES, EpochRecord, ModelManifest, Selection, open_model
from components.shared.errors import ArtifactError
from components.shared.html.page import MAX_ROWS, write_page
from components.train.curves import render_learning_curves
from tests.examples import small
from tests.pages import Page, assert_harmless
from tests.train.manifests import SPEED, history_of, manifest_of

CHARTS = ["Loss", "Accuracy", "Learning rate", "Training images a second"]
LIMIT = 300_000


def page_of(manifest: ModelManifest) -> Page:
    page = Page(render_learning_curves(manifest))
    assert_harmless(page)
    assert "://" not in page.source
    assert len(page.source) < LIMIT
    return page


def charts(page: Page) -> list[str]:
    return [svg["aria-label"] or "" for svg in page.every("svg")]


def test_a_model_brings_its_learning_curves(finished_copy: Path) -> None:
    model = open_model(finished_copy / "model")
    assert model.manifest.learning_curves is not None
    file = model.path / model.manifest.learning_curves.file
    assert file.name == "learning-curves.html"
    page = Page(file.read_text(encoding="utf-8"))
    assert_harmless(page)
    for text in (f"{model.manifest.selection.accuracy:.2%}".replace("%", " %"), "10 classes, 2 epochs on cpu"):
        assert text in page.text()
    assert small().digest()[:12] in page.text()
    file.write_text("other")
    with pytest.raises(ArtifactError, match=r"learning-curves\.html: has 5 bytes"):
        open_model(model.path)


def test_four_charts_and_a_row_for_every_epoch() -> None:
    page = page_of(manifest_of(history_of(6)))

    assert [label.partition(" over epochs: ")[0] for label in charts(page)] == CHARTS
    assert "training from 2 to 0.333333; validation split from 2.2 to 0.366667" in charts(page)[0]
    assert page.source.count('class="selected"') == 4
    assert "The upright line marks epoch 4, whose weights were chosen on the validation split." in page.text()
    (table,) = page.every("table")
    assert table["class"] == "wide"
    assert page.source.count("<tr>") == 1 + 6
    assert page.every("details") == []


def test_learning_rates_over_decades_get_a_logarithmic_axis() -> None:
    page = page_of(manifest_of(history_of(8)))

    ticks = re.findall(r'<text class="up"[^>]*>([^<]*)</text>', page.source)
    decades = ["1e-5", "0.0001", "0.001", "0.01", "0.1"]
    assert [tick for tick in ticks if tick in decades] == decades
    rates = page.source[page.source.index("Learning rate</figcaption>") :]
    points = re.findall(r"[\d.]+,([\d.]+)", re.findall(r'points="([^"]*)"', rates)[0])
    steps = [float(second) - float(first) for first, second in itertools.pairwise(points)]
    assert max(steps) - min(steps) <= 0.2 + 1e-9  # places are rounded to a tenth


@pytest.mark.parametrize(
    ("manifest", "texts", "absent", "counts"),
    [
        (
            manifest_of(history_of(7, eval_every=3)),
            ["3 of 7 epochs were evaluated."],
            [],
            {"<td>–</td>": 4 * 5, '<circle class="evaluated"': 2 * 3, "<svg": 4},
        ),
        (manifest_of(history_of(1)), ["10 classes, 1 epoch on"], [], {"<svg": 4, "<circle": 6}),
        (
            manifest_of(history_of(3, measured=False)),
            ["Throughput was not measured epoch by epoch."],
            ["<span>images/s</span>"],
            {"<svg": 3},
        ),
        (manifest_of([]), ["The model has no record of its training."], ["Epochs"], {"<svg": 0, "<table": 0}),
    ],
    ids=["some not evaluated", "one epoch", "throughput not measured", "no history"],
)
def test_what_a_history_lacks_is_said(
    manifest: ModelManifest, texts: list[str], absent: list[str], counts: dict[str, int]
) -> None:
    page = page_of(manifest)

    assert all(text in page.text() for text in texts)
    assert not any(text in page.source for text in absent)
    assert {text: page.source.count(text) for text in counts} == counts


@pytest.mark.parametrize("epochs", [31, 1000, 20_000])
def test_long_runs_are_complete_to_the_eye_and_bounded(epochs: int) -> None:
    manifest = manifest_of(history_of(epochs))
    page = page_of(manifest)

    assert [details.get("open") for details in page.every("details")] == [None]
    rows = page.source.count("<tr>") - 1
    assert rows == epochs if epochs <= MAX_ROWS else rows <= MAX_ROWS + 2
    assert f'<th scope="row">{manifest.selection.epoch}</th>' in page.source
    assert f'<th scope="row">{epochs}</th>' in page.source
    said = re.search(r"([\d,]+) epochs between these are in model.json", page.text())
    assert (int(said[1].replace(",", "")) if said else 0) == epochs - rows


def test_a_spike_of_one_epoch_in_a_long_run_is_seen() -> None:
    history = [record.model_copy(update={"train_loss": 1.0, "loss": 1.0}) for record in history_of(5000)]
    history[3210] = history[3210].model_copy(update={"train_loss": 9.0})

    page = page_of(manifest_of(history))

    loss = next(line for line in page.every("polyline") if line["class"] == "trained")
    heights = [float(point.partition(",")[2]) for point in (loss["points"] or "").split()]
    assert len(heights) < 1000
    assert sum(height == min(heights) for height in heights) == 1
    assert max(heights) - min(heights) > 100


def test_the_speed_is_two_facts_and_a_bar() -> None:
    page = page_of(manifest_of(history_of(3), speed=SPEED))

    for text in ("123,456 images/s (bf16, not compiled", "95.0 % (93.0 % to 98.0 % in 5 rounds) of 130,000 images/s"):
        assert text in page.text()
    taken = {name: share for name, share in SPEED.shares.items() if share}
    shares = list(taken.values())
    assert [bar["style"] for bar in page.every("span") if "style" in bar] == [
        f"--share:{share:.3f}" for share in shares
    ]
    names = [name.replace("_", " and ") for name in TIME_SHARES if name in taken]
    expected = [f"{name} {100 * share:.1f} %" for name, share in zip(names, shares, strict=True)]
    assert [text for tag, text in page.texts if tag == "li"] == expected


@pytest.mark.parametrize("reason", ["", "not measurable here (ratios 0.62 to 1.31)"])
def test_a_bound_that_was_not_measured_has_its_reason_or_a_dash(reason: str) -> None:
    changes: dict[str, Any] = dict.fromkeys(["constant_tensor_samples_per_second", "of_constant_tensor"])
    speed = SPEED.model_copy(update=changes | {"why_not": {"of_constant_tensor": reason} if reason else {}})

    page = page_of(manifest_of(history_of(3), speed=speed))

    assert f"<dd>{reason or '–'}</dd>" in page.source
    assert "130,000 images/s" not in page.text()


def test_text_from_outside_is_only_ever_text(tmp_path: Path) -> None:
    evil = "</style><script>alert(1)</script>\ud800"
    provenance = manifest_of([]).provenance.model_copy(
        update={"device": evil, "params_sha256": evil, "speed": SPEED.model_copy(update={"data": evil})}
    )
    manifest = manifest_of(history_of(2), provenance=provenance)

    page = page_of(manifest)

    assert "<script" not in page.source
    assert page.text().count("alert(1)") == 2
    assert render_learning_curves(manifest) == page.source
    write_page(tmp_path / "curves.html", page.source)
    assert "&#55296;" in (tmp_path / "curves.html").read_text(encoding="utf-8")


finite = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.none() | finite


@st.composite
def histories(draw: st.DrawFn) -> list[EpochRecord]:
    return [
        EpochRecord(
            epoch=epoch,
            learning_rate=draw(finite),
            train_loss=draw(finite),
            train_accuracy=draw(finite),
            loss=draw(maybe),
            accuracy=draw(maybe),
            images_per_second=draw(maybe),
        )
        for epoch in range(1, draw(st.integers(0, 30)) + 1)
    ]


@given(histories(), st.integers(1, 60), finite)
@example(history_of(50), 60, 1.7e308)
@settings(max_examples=40, deadline=None)
def test_any_finite_history_makes_a_sound_page(history: list[EpochRecord], selected: int, figure: float) -> None:
    selection = Selection(epoch=selected, split="test", loss=figure, accuracy=figure)

    page = page_of(manifest_of(history, selection=selection))

    assert page.source.count("<tr>") == (1 + len(history) if history else 0)
    drawn = " ".join(line["points"] or "" for line in page.every("polyline"))
    assert re.fullmatch(r"[0-9., ]*", drawn)  # no nan, no inf
