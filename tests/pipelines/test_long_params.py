"""Params that are too long for an argument of a step, as a pipeline hands them over."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.shared.params.params import Params
from pipelines.cli import main
from pipelines.params_files import MAX_ARGUMENT
from tests.examples import DIGITS, SMALL
from tests.pipelines.conftest import Capsys

IDENTITY = {"class": "torch.nn.Identity", "kwargs": {}}


def long_params(layers: int) -> dict[str, Any]:
    return SMALL | {"net_arch": [*SMALL["net_arch"], *[IDENTITY] * layers]}


def as_argument(params: dict[str, Any]) -> int:
    checked = Params.from_dict(params)
    return max(len(json.dumps(checked.to_json())), len(json.dumps(checked.to_form())))


def longest() -> int:
    """How many layers of Identity are as long as an argument may be."""
    start, two = as_argument(long_params(1)), as_argument(long_params(2))
    return 1 + (MAX_ARGUMENT - start) // (two - start)


@pytest.mark.parametrize("command", ["validate", "run", "compile", "submit"])
def test_params_that_no_step_could_be_handed_are_refused_alike(command: str, tmp_path: Path, capsys: Capsys) -> None:
    file, pipeline = tmp_path / "params.json", tmp_path / "pipeline.yaml"
    if command == "submit":
        file.write_text(json.dumps(SMALL))
        assert main(["compile", "--params", str(file), "-o", str(pipeline)]) == 0
    file.write_text(json.dumps(long_params(longest() + 1)))
    words = {
        "validate": [str(file)],
        "run": ["--params", str(file), "--data", str(DIGITS), "--out", str(tmp_path / "run")],
        "compile": ["--params", str(file), "-o", str(pipeline)],
        "submit": [str(pipeline), "--params", str(file), "--target", "kubeflow", "--host", "http://x", "--dry-run"],
    }
    capsys.readouterr()

    assert main([command, *words[command]]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {file}: take {as_argument(long_params(longest() + 1)):,} bytes as an argument")
    assert f"at most {MAX_ARGUMENT:,} reach it; write many layers" in line
    assert not (tmp_path / "run").exists()
    assert pipeline.exists() == (command == "submit")


def test_params_of_just_that_length_are_sound(tmp_path: Path, capsys: Capsys) -> None:
    file = tmp_path / "params.json"
    file.write_text(json.dumps(long_params(longest())))
    assert main(["validate", str(file)]) == 0
    assert capsys.readouterr().out.endswith("these params are sound\n")


def test_the_limit_leaves_room_for_where_artifacts_are() -> None:
    subprocess.run(["/bin/true", "x" * (MAX_ARGUMENT + 24 * 1024)], check=True)
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["/bin/true", "x" * 131_072], check=True)
