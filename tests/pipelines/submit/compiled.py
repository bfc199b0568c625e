"""Compiled pipelines that the tests upload."""

from __future__ import annotations

from pathlib import Path

from pipelines.cli import main
from tests.examples import write_params


def write_compiled(directory: Path, target: str = "", settings: str = "", **inputs: str) -> Path:
    """What ``shutterline compile`` makes of small params, and of the text of settings."""
    params, file = write_params(directory / "params.json"), directory / "pipeline.yaml"
    options = [word for name, value in inputs.items() for word in (f"--{name}", value)]
    to = ["--target", target] if target else []
    if settings:
        (directory / "settings.yaml").write_text(settings)
        to += ["--settings", str(directory / "settings.yaml")]
    assert main(["compile", "--params", str(params), "-o", str(file), *to, *options]) == 0
    return file
