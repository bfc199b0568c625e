"""Prediction by command: ``python -m components.predict``, ``shutterline predict``, the KFP component."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.predict.__main__ import main
from components.predict.component import predict as component
from components.predict.predict import predict
from components.shared.events.data import Progress, Succeeded
from components.shared.events.spool import events_in
from pipelines.cli import main as shutterline
from tests.examples import small
from tests.onnx_models import onnx_model, write_onnx_directory
from tests.peers.kfp_pod import Pod, pod
from tests.shared.decoding.pictures import random_pixels, save

__all__ = ["pod"]

Captured = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images, one that is damaged, and a text."""
    for index in range(3):
        save(tmp_path / "photos" / f"x{index}" / f"{index}.png", random_pixels(20, 15, 3, seed=index))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"x")
    (tmp_path / "photos" / "notes.txt").write_bytes(b"x")
    return tmp_path / "photos"


def _of_module(model: Path, photos: Path, *more: str) -> int:
    return main(["--model", str(model), "--images", str(photos), *more])


def _of_command(model: Path, photos: Path, *more: str) -> int:
    return shutterline(["predict", str(model), str(photos), *more])


both = pytest.mark.parametrize("run", [_of_module, _of_command])
Run = Callable[..., int]


@both
def test_csv_has_a_row_for_each_file(run: Run, model: Path, photos: Path, capsys: Captured) -> None:
    assert run(model, photos) == 0

    printed = capsys.readouterr()
    header, *rows = csv.reader(io.StringIO(printed.out))
    assert header == ["file", "class", "probability", "class_2", "probability_2", "class_3", "probability_3", "error"]
    expected = [
        [
            each.file,
            *(str(value) for pair in each.classes for value in pair),
            *[""] * (6 * bool(each.error)),
            each.error,
        ]
        for each in predict(model, photos)
    ]
    assert rows == expected
    assert [row[0] for row in rows] == [
        f"{photos}/{name}" for name in ("broken.jpg", "x0/0.png", "x1/1.png", "x2/2.png")
    ]
    assert "predict   not images: 1 .txt\n" in printed.err
    assert f"WARNING 1 of 4 files were not read; the first is {photos}/broken.jpg: is not an image" in printed.err
    assert "predict   images predicted: 3, " in printed.err


@both
def test_json_lines(run: Run, model: Path, photos: Path, capsys: Captured) -> None:
    assert run(model, photos, "--format", "jsonl", "--top-k", "1") == 0

    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert documents == [
        {"file": each.file, "error": each.error}
        if each.error
        else {
            "file": each.file,
            "classes": [{"class": name, "probability": probability} for name, probability in each.classes],
        }
        for each in predict(model, photos, top_k=1)
    ]


@both
def test_a_table(run: Run, model: Path, photos: Path, capsys: Captured) -> None:
    assert run(model, photos, "--format", "table", "--top-k", "2") == 0

    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "class", "probability"]
    assert lines[0].split("  ")[-1] == "no prediction: is not an image in a known format"
    for line, each in zip(lines[1:], list(predict(model, photos, top_k=2))[1:], strict=True):
        shown = [text for name, share in each.classes for text in (name, f"{100 * share:.2f}", "%")]
        assert line.split() == [each.file, *shown]


@both
def test_a_file_is_whole_or_as_it_was(run: Run, model: Path, photos: Path, tmp_path: Path, capsys: Captured) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("earlier")
    assert run(model, photos / "broken.jpg", "--output", str(output)) == 2
    assert output.read_text() == "earlier"
    assert {file.name for file in tmp_path.iterdir()} == {"out.jsonl", "photos"}

    assert run(model, photos, "--output", str(output)) == 0
    assert len(output.read_text().splitlines()) == 4
    assert capsys.readouterr().out == ""

    for place, message in (
        (tmp_path, "is not a file; name one for the predictions"),
        (Path("/dev/null"), "is not a file; name one for the predictions"),
        (photos / "broken.jpg", "is named as an image is; name a file for the predictions"),
        (tmp_path / "none" / "out.csv", "cannot be written: No such file or directory"),
    ):
        assert run(model, photos, "--output", str(place)) == 2
        assert f"{place}: {message}" in capsys.readouterr().err
    assert (photos / "broken.jpg").read_bytes() == b"x"


@both
def test_with_json_one_document_is_printed(
    run: Run, model: Path, photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    output = tmp_path / "out.csv"
    assert run(model, photos, "--json", "--output", str(output)) == 0
    document = json.loads(capsys.readouterr().out)
    report = document.get("report", document)
    assert {key: report[key] for key in ("predictions", "images", "unreadable", "left_out", "classes")} == {
        "predictions": str(output),
        "images": 3,
        "unreadable": 1,
        "left_out": {".txt": 1},
        "classes": ["cat", "dog", "eel", "fox"],
    }
    assert report["images_per_second"] > 0
    assert "cpu" in report["device"]

    for more in (["--json"], ["--json", "--output", str(output), "--top-k", "0"]):
        try:
            code = run(model, photos, *more)
        except SystemExit as end:
            code = int(str(end.code))
        assert code == 2
        assert json.loads(capsys.readouterr().out)["status"] == "failed"


@both
def test_bad_input_ends_with_one_message_and_exit_code_2(run: Run, model: Path, photos: Path, capsys: Captured) -> None:
    for place, images, message in (
        (model.parent / "none", photos, "none: there is no such model directory"),
        (model, photos / "broken.jpg", "broken.jpg: is not an image in a known format"),
        (model, photos / "none", f"{photos}/none: there is no such file or folder"),
        (photos, photos, f"{photos}: is not a complete model: model.json, which is written last, is missing"),
        (model, photos / "notes.txt", "is not an image in a known format"),
    ):
        assert run(place, images) == 2
        printed = capsys.readouterr()
        (error,) = [line for line in printed.err.splitlines() if "rror" in line or "ERROR" in line]
        assert message in error
        assert "Traceback" not in printed.err


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "x.xlsx"], "x.xlsx: no format has this ending; name a .csv or .jsonl file, or set --format"),
        (["--output", "x.json"], "x.json: no format has this ending; name a .csv or .jsonl file, or set --format"),
        (["--device", "gpu"], 'device: must be "auto", "cpu", "cuda" or "cuda:N", got gpu'),
    ],
)
def test_what_would_be_guessed_is_refused(
    run: Run, model: Path, photos: Path, capsys: Captured, options: list[str], message: str
) -> None:
    assert run(model, photos, *options) == 2
    assert message in capsys.readouterr().err
    assert not Path(options[1]).exists()


@both
def test_a_gpu_that_this_build_cannot_use_is_logged(run: Run, model: Path, photos: Path, capsys: Captured) -> None:
    assert run(model, photos, "--device", "cuda") == 0
    assert 'device: "cuda": this ONNX Runtime is built for the CPU alone, and runs there' in capsys.readouterr().err


@both
def test_what_is_guessed_or_lost_is_logged(run: Run, model: Path, tmp_path: Path, capsys: Captured) -> None:
    save(tmp_path / "photos" / "alpha.png", np.zeros((5, 5, 4), np.uint8))
    save(tmp_path / "photos" / "dark.png", np.full((5, 5), 4000, np.uint16))

    assert run(model, tmp_path / "photos") == 0

    logged = capsys.readouterr().err
    assert "WARNING 1 image(s) are wholly transparent: nothing but white (alpha_background) is left of them" in logged
    assert "WARNING 1 image(s) have 16-bit grey values below 4,096 alone and become nearly black" in logged


def test_names_that_a_spreadsheet_would_run_are_guarded(tmp_path: Path, capsys: Captured) -> None:
    names = ["=1+1", "@x", "plain"]
    content = onnx_model(names, (4, 4, 3)).SerializeToString()
    write_onnx_directory(tmp_path / "model", content, classes=names, shape=(4, 4, 3))
    os.chdir(tmp_path)
    save(tmp_path / "=2+2.png", random_pixels(4, 4, 3))

    assert shutterline(["predict", "model", "=2+2.png"]) == 0

    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["file"] == "'=2+2.png"
    assert {row["class"], row["class_2"], row["class_3"]} == {"'=1+1", "'@x", "plain"}


@both
def test_files_may_be_a_list_on_standard_input(
    run: Run, model: Path, photos: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{photos}/x2/2.png", f"{photos}/x0/0.png", f"{photos}/broken.jpg"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{name}\n" for name in [*names, ""])))

    assert run(model, Path("-")) == 0

    assert [row["file"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == names


@both
def test_a_line_of_standard_input_that_is_no_location_ends_nothing(
    run: Run, model: Path, photos: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["https://me:Pas5word@host/x.png", "a\0b.png", f"{photos}/x0/0.png"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))

    assert run(model, Path("-")) == 0

    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row["file"] for row in rows] == ["https://…@host/x.png", "a\\x00b.png", lines[2]]
    assert ["https:// is not known here" in rows[0]["error"], "control character" in rows[1]["error"]] == [True, True]
    assert rows[2]["class"]
    assert "Pas5word" not in printed.out + printed.err


def _on_terminal(command: Sequence[str], **options: Any) -> tuple[str, bytes]:
    """What a command writes to standard output and to a terminal that is its standard error."""
    leader, follower = pty.openpty()
    with subprocess.Popen(command, stderr=follower, text=True, cwd=ROOT, **options) as process:
        os.close(follower)
        written = b""
        try:
            while piece := os.read(leader, 1 << 16):
                written += piece
        except OSError:  # how a pty ends
            pass
        out = process.stdout.read() if process.stdout else ""
        assert process.wait() == 0, written
    os.close(leader)
    return out, written


def test_a_terminal_shows_a_bar_where_the_rows_go_elsewhere(model: Path, photos: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "predict", str(model), str(photos)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}

    out, shown = _on_terminal(command, stdout=subprocess.PIPE, env=environment)

    assert len(out.splitlines()) == 5
    assert b"4/4" in shown
    assert b"images/s" in shown


def test_params_are_for_status_alone(
    model: Path, photos: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_EVENTS", str(tmp_path / "events"))
    output = tmp_path / "out" / "predictions.csv"
    output.parent.mkdir()

    assert _of_module(model, photos, "--output", str(output)) == 0
    assert not (tmp_path / "events").exists()
    assert _of_module(model, photos, "--output", str(output), "--params", small().to_json()) == 0

    events = list(events_in(tmp_path / "events"))
    assert [event.state for event in events] == ["started", "progress", "succeeded"]
    assert {event.step for event in events} == {"predict"}
    assert isinstance(progress := events[1].data, Progress)
    assert (progress.step, progress.steps, progress.unit) == (4, 4, "images")
    assert isinstance(done := events[2].data, Succeeded)
    assert done.metrics["images"] == 3
    assert done.artifacts == {"predictions": str(output)}
    assert done.left_out == {".txt": 1, "unreadable images": 1}

    assert _of_module(model, photos / "broken.jpg", "--params", small().to_json()) == 2
    assert [event.state for event in events_in(tmp_path / "events")][-3:] == ["started", "progress", "failed"]
    with pytest.raises(SystemExit, match="2"):
        _of_module(model, photos, "--set", "device=cpu")
    assert "--set changes params, and there are none; add --params" in capsys.readouterr().err


@pytest.mark.parametrize("params", ["", small().to_json()])
def test_the_kfp_component(pod: Pod, model: Path, photos: Path, params: str) -> None:
    made = pod.path("train", "model")
    made.parent.mkdir(parents=True)
    made.symlink_to(model)
    pod.path("predict", "predictions").parent.mkdir(parents=True)

    given: dict[str, Any] = {"data": str(photos), "top_k": 2, "format": "jsonl"}
    pod.run(component, inputs={"model": "train"}, **given | ({"params": params} if params else {}))

    rows = [json.loads(line) for line in pod.path("predict", "predictions").read_text().splitlines()]
    assert [row["file"].removeprefix(f"{photos}/") for row in rows] == [
        "broken.jpg",
        "x0/0.png",
        "x1/1.png",
        "x2/2.png",
    ]
    assert [len(row.get("classes", ())) for row in rows] == [0, 2, 2, 2]
    metadata = pod.metadata("predict", "predictions")
    assert (metadata["images"], metadata["unreadable"]) == (3, 1)
    assert metadata["predictions"] == pod.uri("predict", "predictions")
    assert [event.state for event in pod.events] == (["started", "progress", "succeeded"] if params else [])


def test_the_component_refuses_a_format_that_is_none(pod: Pod, model: Path, photos: Path) -> None:
    made = pod.path("train", "model")
    made.parent.mkdir(parents=True)
    made.symlink_to(model)
    with pytest.raises(SystemExit, match="2"):
        pod.run(component, inputs={"model": "train"}, data=str(photos), format="xlsx")
    assert pod.record("predict")["error"]["message"] == "format: must be csv, jsonl or table, got xlsx"
