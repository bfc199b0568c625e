"""Settings written to a file, and the pipeline compiled with them as a user compiles it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from pipelines.cli import main
from pipelines.compiled import CompiledPipeline, PlatformName, read_compiled
from pipelines.params_files import EXAMPLE_PARAMS

EXAMPLES = EXAMPLE_PARAMS.parent / "settings"


def example_files() -> list[Path]:
    """The settings among the examples."""
    return sorted(EXAMPLES.glob("*.yaml"))


def platform_of(example: Path) -> PlatformName:
    """The platform an example is for, which its name begins with."""
    return "vertex" if example.name.startswith("vertex-") else "kubeflow"


def write_settings(file: Path, settings: Any) -> Path:
    """Write settings as YAML; a text as it is."""
    file.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings, sort_keys=False))
    return file


def compile_file(target: PlatformName, settings: Path, output: Path, *options: str) -> Path:
    """Compile with a settings file, which must be sound."""
    arguments = ["compile", "--target", target, "--settings", str(settings), "-o", str(output), *options]
    assert main(arguments) == 0
    return output


def compiled_with(tmp_path: Path, target: PlatformName, settings: Any, *options: str) -> CompiledPipeline:
    """Compile with settings, which must be sound, and read the file back."""
    file = write_settings(tmp_path / "settings.yaml", settings)
    return read_compiled(compile_file(target, file, tmp_path / "pipeline.yaml", *options))


def places_of(pipeline: CompiledPipeline, step: str) -> dict[str, Any]:
    """All that a compiled file says of a step: its ``container``, its ``task``, its pod (``kubernetes``)."""
    label, task = ("exec-exit-step", "exit-step") if step == "exit" else (f"exec-{step}", step)
    tasks = dict(pipeline.spec["root"]["dag"]["tasks"])
    for group in ("comp-exit-handler-1", "comp-condition-2"):
        tasks |= pipeline.spec["components"][group]["dag"]["tasks"]
    pods = pipeline.platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    return {
        "container": pipeline.container(label),
        "environment": pipeline.environment(label),
        "task": tasks[task],
        "kubernetes": pods.get(label, {}),
    }


def at(document: Any, way: str) -> Any:
    """What lies at a way such as ``kubernetes/tolerations/0/key``; None: nothing."""
    for part in way.split("/"):
        if isinstance(document, list):
            document = document[int(part)] if int(part) < len(document) else None
        else:
            document = document.get(part.replace("|", "/")) if isinstance(document, dict) else None
    return document


def printed(target: PlatformName, capsys: Any, *options: str | Path) -> dict[str, Any]:
    """What `shutterline settings` prints, as JSON."""
    capsys.readouterr()
    assert main(["settings", "--target", target, "--json", *map(str, options)]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document
