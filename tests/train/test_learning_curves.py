from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.shared.artifacts.model import EpochRecord, ModelManifest, Selection, open_model
from components.shared.errors import ArtifactError
from components.shared.html.training import MAX_ROWS
from components.train.learning_curves import render_learning_curves, write_learning_curves
from components.train.train import train
from tests.examples import small
from tests.pages import Page, assert_harmless
from tests.train.manifests import SPEED, history_of, manifest_of

CHARTS = ["Loss", "Accuracy", "Learning rate", "Training images a second"]
LIMIT = 300_000


def page_of(manifest: ModelManifest) -> Page:
    page = Page(render_learning_curves(manifest))
    assert_harmless(page)
    assert "://" not in page.source
    return page


def charts(page: Page) -> list[str]:
    return [svg["aria-label"] or "" for svg in page.every("svg") if svg.get("class") != "shares"]


def test_a_model_brings_its_learning_curves(dataset: Path, tmp_path: Path) -> None:
    result = train(dataset=dataset, model=tmp_path / "model", params=small(num_epochs=3))

    model = open_model(tmp_path / "model")
    assert model.manifest.learning_curves is not None
    file = tmp_path / "model" / model.manifest.learning_curves.file
    assert file.name == "learning-curves.html"
    page = Page(file.read_text(encoding="utf-8"))
    assert_harmless(page)
    text = page.text()
    assert f"{100 * result.selection.accuracy:.2f} %" in text
    assert "10 classes, 3 epochs on cpu" in text
    assert small(num_epochs=3).digest()[:12] in text
    file.write_text("other")
    with pytest.raises(ArtifactError, match=r"learning-curves\.html: has 5 bytes"):
        open_model(tmp_path / "model")


def test_four_charts_and_a_row_for_every_epoch() -> None:
    page = page_of(manifest_of(history_of(6)))

    assert [words.partition(" over epochs: ")[0] for words in charts(page)] == CHARTS
    assert "training from 2 to 0.333333; validation split from 2.2 to 0.366667" in charts(page)[0]
    assert page.source.count('class="selected"') == 4
    assert "The upright line marks epoch 4, whose weights were chosen on the validation split." in page.text()
    (table,) = page.every("table")
    assert table["class"] == "figures"
    assert page.source.count("<tr>") == 1 + 6
    assert page.every("details") == []


def test_learning_rates_over_decades_get_a_logarithmic_axis() -> None:
    page = page_of(manifest_of(history_of(8)))

    ticks = re.findall(r'<text class="up"[^>]*>([^<]*)</text>', page.source)
    assert [tick for tick in ticks if tick in ("1e-5", "0.0001", "0.001", "0.01", "0.1")] == [
        "1e-5",
        "0.0001",
        "0.001",
        "0.01",
        "0.1",
    ]
    rates = page.source[page.source.index("Learning rate </figcaption>") :]
    points = re.findall(r"[\d.]+,([\d.]+)", re.findall(r'points="([^"]*)"', rates)[0])
    heights = [float(point) for point in points]
    steps = [second - first for first, second in itertools.pairwise(heights)]
    assert max(steps) - min(steps) <= 0.2 + 1e-9  # places are rounded to a tenth


def test_epochs_that_were_not_evaluated_are_gaps_in_the_table_and_said() -> None:
    page = page_of(manifest_of(history_of(7, eval_every=3)))

    assert "3 of 7 epochs were evaluated." in page.text()
    assert page.source.count("<td>–</td>") == 4 * 5
    evaluated = re.findall(r'<circle class="evaluated"', page.source)
    assert len(evaluated) == 2 * 3


def test_one_epoch_is_a_point_in_each_chart() -> None:
    page = page_of(manifest_of(history_of(1)))

    assert len(charts(page)) == 4
    assert "10 classes, 1 epoch on" in page.text()
    assert len(page.every("circle")) == 6


def test_where_throughput_was_not_measured_its_chart_and_column_are_missing() -> None:
    page = page_of(manifest_of(history_of(3, measured=False)))

    assert len(charts(page)) == 3
    assert "Throughput was not measured epoch by epoch." in page.text()
    assert "images/s" not in [text for tag, text in page.texts if tag == "span"]


@pytest.mark.parametrize("epochs", [31, 1000, 20_000])
def test_long_runs_are_complete_to_the_eye_and_bounded(epochs: int, tmp_path: Path) -> None:
    manifest = manifest_of(history_of(epochs))
    file = tmp_path / "curves.html"
    write_learning_curves(file, manifest)

    assert file.stat().st_size < LIMIT
    page = Page(file.read_text(encoding="utf-8"))
    assert_harmless(page)
    assert len(page.every("details")) == 1
    assert "open" not in page.every("details")[0]
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


def test_the_speed_of_light_is_a_table_and_a_bar() -> None:
    page = page_of(manifest_of(history_of(3), speed=SPEED))
    text = page.text()

    for words in ("123,456 images/s", "130,000 images/s", "95.0 %", "3.2 TFLOP/s", "700 TFLOP/s", "0.5 %", "bf16"):
        assert words in text
    widths = [float(bar["width"] or "") for bar in page.every("rect")]
    assert widths == [50, 700, 100, 80, 20, 10, 40]
    assert [float(bar["x"] or "") for bar in page.every("rect")] == [0, 50, 750, 850, 930, 950, 960]
    assert [text for tag, text in page.texts if tag == "li"] == [
        "data 5.0 %",
        "forward and backward 70.0 %",
        "optimiser 10.0 %",
        "evaluation 8.0 %",
        "checkpoints 2.0 %",
        "status 1.0 %",
        "other 4.0 %",
    ]


def test_bounds_that_were_not_measured_are_dashes() -> None:
    unknown = SPEED.model_copy(
        update=dict.fromkeys(
            [
                "flops_per_second",
                "constant_tensor_samples_per_second",
                "of_constant_tensor",
                "matmul_flops_per_second",
                "of_matmul",
            ]
        )
    )

    page = page_of(manifest_of(history_of(3), speed=unknown))

    assert page.source.count("<td>–</td>") == 2
    assert "None" not in page.text()


def test_a_bound_that_could_not_be_measured_has_its_reason() -> None:
    reason = "not measurable here (ratios 0.62 to 1.31)"
    changes = {"constant_tensor_samples_per_second": None, "of_constant_tensor": None}
    speed = SPEED.model_copy(update={**changes, "why_not": {"of_constant_tensor": reason}})

    page = page_of(manifest_of(history_of(3), speed=speed))

    assert reason in page.text()
    assert "130,000 images/s" not in page.text()


def test_text_from_outside_is_only_ever_text() -> None:
    evil = "</style><script>alert(1)</script>\ud800"
    provenance = manifest_of([]).provenance.model_copy(
        update={"device": evil, "params_sha256": evil, "speed": SPEED.model_copy(update={"data": evil})}
    )

    page = page_of(manifest_of(history_of(2), provenance=provenance))

    assert "<script" not in page.source
    assert page.text().count("alert(1)") == 2


def test_half_a_character_does_not_end_training(tmp_path: Path) -> None:
    provenance = manifest_of([]).provenance.model_copy(update={"device": "\ud800"})
    write_learning_curves(tmp_path / "curves.html", manifest_of(history_of(2), provenance=provenance))
    assert "&#55296;" in (tmp_path / "curves.html").read_text(encoding="utf-8")


def test_the_same_manifest_makes_the_same_page() -> None:
    first, second = (render_learning_curves(manifest_of(history_of(9), speed=SPEED)) for _ in range(2))
    assert first == second


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
        for epoch in range(1, draw(st.integers(0, 50)) + 1)
    ]


@given(histories(), st.integers(1, 60), finite)
@example(history_of(50), 60, 1.7e308)
@settings(max_examples=60, deadline=None)
def test_any_finite_history_makes_a_sound_page(history: list[EpochRecord], selected: int, figure: float) -> None:
    selection = Selection(epoch=selected, split="test", loss=figure, accuracy=figure)

    page = page_of(manifest_of(history, selection=selection))

    assert len(page.source) < LIMIT
    assert page.source.count("<tr>") == (1 + len(history) if history else 0)
    drawn = " ".join(line["points"] or "" for line in page.every("polyline"))
    assert re.fullmatch(r"[0-9., ]*", drawn)  # no nan, no inf
