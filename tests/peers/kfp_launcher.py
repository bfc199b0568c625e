"""What KFP's launcher refuses of a step that has succeeded, checked on the executor's output.

kfp's local runners and its executor accept all of it. The rules are those of kubeflow/pipelines 2.17.0:

- ``backend/src/v2/component/launcher_v2.go``: `getExecutorOutputFile` reads the executor's output with protojson, which
  knows neither NaN nor Infinity, no unknown field and no half of a surrogate pair; then no output of the step is kept.
  `collectOutputParameters` fails where the file of a declared parameter is missing. `uploadOutputArtifacts` only warns
  where an artifact's file is missing; here that is refused, too, since nobody can open such an artifact.
- ``backend/src/v2/metadata/converter.go``: `StructValueToMLMDValue` has no null.
- ``backend/src/v2/objectstore/object_store.go``: `UploadBlob` takes a link to a directory for a file, which cannot be
  read; at a link that leads nowhere it stops, and what follows is not uploaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from kfp.dsl.executor import Executor
from kfp.dsl.types.artifact_types import Artifact

_FIELDS = {"parameterValues", "artifacts"}
_ARTIFACT_FIELDS = {"name", "uri", "metadata", "type", "custom_path", "customPath"}


class LauncherRefusedError(AssertionError):
    """KFP's launcher would have failed the step, or lost some of its outputs."""


def check_executor_output(executor_input: Mapping[str, Any], outputs: str) -> None:
    """Check what a step's executor has written.

    Args:
        executor_input: What the executor was given.
        outputs: Content of the file of its output, JSON.

    Raises:
        LauncherRefusedError: The launcher does not take it; with every reason.
    """
    try:
        document = json.loads(outputs, parse_constant=_not_json)
    except ValueError as error:
        raise LauncherRefusedError(f"failed to unmarshall ExecutorOutput: {error}") from error
    if found := [*_unreadable(document, ""), *_of_fields(document), *_missing(executor_input, document)]:
        raise LauncherRefusedError("; ".join(found))


def _not_json(token: str) -> NoReturn:
    raise ValueError(f"{token} is no JSON")


def _unreadable(value: Any, where: str) -> Iterator[str]:
    """What protojson cannot read, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _unreadable(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unreadable(inner, f"{where}[{index}]")
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        yield f"{where}: half of a surrogate pair"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where}: a number that no double holds"


def _of_fields(document: dict[str, Any]) -> Iterator[str]:
    for name in document.keys() - _FIELDS:
        yield f"unknown field {name}"
    for name, artifact in _artifacts(document):
        for field in artifact.keys() - _ARTIFACT_FIELDS:
            yield f"{name}: unknown field {field}"
        for key, value in artifact.get("metadata", {}).items():
            if value is None:
                yield f"{name}.metadata.{key}: unknown/unsupported value type *structpb.Value_NullValue"


def _artifacts(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, listed in document.get("artifacts", {}).items():
        for artifact in listed.get("artifacts", []):
            yield name, artifact


def _missing(executor_input: Mapping[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """Declared outputs that are not there, or not as the launcher can upload them."""
    declared, written = executor_input.get("outputs", {}), dict(_artifacts(document))
    for name, parameter in declared.get("parameters", {}).items():
        if name not in document.get("parameterValues", {}) and not Path(parameter["outputFile"]).is_file():
            yield f"output parameter {name}: there is no {parameter['outputFile']}"
    for name, given in _artifacts(declared):
        if name == "executor-logs":  # the launcher's own
            continue
        path = Path(Artifact(uri=written.get(name, {}).get("uri") or given["uri"]).path)
        if not path.exists():
            yield f"output artifact {name}: there is no {path}"
        for link in path.rglob("*") if path.is_dir() else ():
            if link.is_symlink() and not link.is_file():
                yield f"output artifact {name}: {link} is a link to a directory, or to nothing"


def check_executors() -> None:
    """From here on check what every in-process executor of kfp writes, as :func:`check_executor_output` does."""
    execute = Executor.execute
    if execute.__module__ == __name__:
        return

    def checked(self: Executor) -> str | None:
        written: str | None = execute(self)
        if written is not None:
            check_executor_output(self.executor_input, Path(written).read_text(encoding="utf-8"))
        return written

    Executor.execute = checked


def check_local_runs(folder: Path) -> int:
    """Check every step that a local runner of kfp has run below a directory, in this process or another.

    Such a runner keeps a step's outputs in ``RUN/TASK/``, by their names, beside ``executor_output.json``, which only
    a step that succeeded leaves.

    Returns:
        How many steps there were.

    Raises:
        LauncherRefusedError: As :func:`check_executor_output`.
    """
    found = sorted(folder.rglob("executor_output.json"))
    declared = _declared() if found else {}
    for file in found:
        task, (parameters, artifacts) = file.parent, declared.get(file.parent.name, ((), ()))
        given = {
            "parameters": {name: {"outputFile": str(task / name)} for name in parameters},
            "artifacts": {name: {"artifacts": [{"uri": str(task / name)}]} for name in artifacts},
        }
        check_executor_output({"outputs": given}, file.read_text(encoding="utf-8"))
    return len(found)


def _declared() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Names of the parameters and of the artifacts that each component declares as outputs, by its task's name."""
    from components.data_prep.component import data_prep
    from components.evaluate.component import evaluate
    from components.exit_step.component import exit_step
    from components.publish.component import publish
    from components.train.component import train

    found = {}
    for component in (data_prep, train, evaluate, publish, exit_step):
        outputs = component.component_spec.outputs or {}
        is_parameter = {name: output.type in ("String", "Boolean") for name, output in outputs.items()}
        found[component.name] = (
            tuple(name for name, parameter in is_parameter.items() if parameter),
            tuple(name for name, parameter in is_parameter.items() if not parameter),
        )
    return found
