"""Transforms that make training images other than held-out ones are refused by every command, before it begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.train.__main__ import main as train
from pipelines.cli import main
from tests.configs import Entry, digits_config, transform
from tests.pipelines.conftest import Capsys, Environment

UNSCALED = [transform("ToDtype", dtype="torch.float32")]
NORMALISED = [
    transform("ToImage"),
    transform("ToDtype", dtype="torch.float32", scale=True),
    transform("Normalize", mean=[0.1307], std=[0.3081]),
]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            UNSCALED,
            "params.json: additional_transforms[0]: torchvision.transforms.v2.ToDtype gives values up to 255 as "
            "float32 where 0..1 is read; set scale: true in the kwargs of ToDtype",
        ),
        (
            NORMALISED,
            "params.json: additional_transforms[2].class: torchvision.transforms.v2.Normalize cannot be used as a "
            "transform: it would go for training images alone; set normalise_images, normalise_mean and normalise_std, "
            "which go for the images of every split",
        ),
    ],
    ids=["ToDtype", "Normalize"],
)
@pytest.mark.parametrize("command", ["validate", "run", "compile", "train"])
def test_every_command_refuses_alike(
    tmp_path: Path, capsys: Capsys, monkeypatch: Environment, entries: list[Entry], message: str, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.json").write_text(json.dumps(digits_config(additional_transforms=entries)))
    arguments = {
        "validate": ["params.json"],
        "run": ["--params", "params.json", "--out", "out"],
        "compile": ["--params", "params.json", "-o", "pipeline.yaml"],
        "train": ["--params", "params.json", "--dataset", "dataset", "--model", "model"],
    }[command]

    code = train(arguments) if command == "train" else main([command, *arguments])

    printed = capsys.readouterr()
    # The step checks what it has read, and reports it by its events.
    expected = message.removeprefix("params.json: ") if command == "train" else message
    assert (code, printed.out) == (2, "")
    assert expected in printed.err
    assert "Traceback" not in printed.err
    assert {path.name for path in tmp_path.iterdir()} - {"events"} == {"params.json"}


def test_validate_shows_what_has_no_effect(tmp_path: Path, capsys: Capsys) -> None:
    entries = [transform("RandomGrayscale"), transform("RandomErasing")]
    (tmp_path / "params.json").write_text(json.dumps(digits_config(additional_transforms=entries)))

    assert main(["validate", str(tmp_path / "params.json")]) == 0

    printed = capsys.readouterr()
    expected = "additional_transforms[0]: torchvision.transforms.v2.RandomGrayscale has no effect"
    assert expected in printed.out + printed.err
