"""A path of weights that is not there is refused before anything starts, where training is on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cli import main
from tests.configs import digits_config
from tests.pipelines.conftest import Capsys, Environment


@pytest.fixture
def config(tmp_path: Path, monkeypatch: Environment) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("params.json").write_text(json.dumps(digits_config(initial_weights="nothere.pth")))
    return tmp_path


@pytest.mark.parametrize("command", ["validate", "run"])
def test_weights_that_are_not_there_are_refused_before_anything_starts(
    config: Path, capsys: Capsys, command: str
) -> None:
    code = main([command, *{"validate": ["params.json"], "run": ["--params", "params.json", "--out", "out"]}[command]])
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert (
        "params.json: initial_weights: nothere.pth: there is no such file or model directory on this machine"
        in printed.err
    )
    assert [path.name for path in config.iterdir()] == ["params.json"]


def test_weights_of_another_machine_need_not_be_here(config: Path, capsys: Capsys) -> None:
    assert main(["validate", "params.json", "--elsewhere"]) == 0
    assert main(["compile", "--params", "params.json", "-o", "pipeline.yaml"]) == 0
    Path("params.json").write_text(json.dumps(digits_config(initial_weights="gs://bucket/weights.pth")))
    assert main(["validate", "params.json"]) == 0
    Path("nothere.pth").touch()
    Path("params.json").write_text(json.dumps(digits_config(initial_weights="nothere.pth")))
    assert main(["validate", "params.json"]) == 0
