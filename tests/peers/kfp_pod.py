"""A component's container on Kubeflow, in this process: artifacts with uris of the store, and files below a mount."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl.executor import Executor
from kfp.dsl.types import artifact_types

from components.shared.events.event import StepEvent
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE
from components.shared.step import RECORDS_VARIABLE

RUN = "b94b712e-6d1f-45cd-9151-bbdcf19d24c6"
_PARAMETERS = ("String", "Boolean")
_TASK = "db9dca03-fd26-460e-bf7a-fc4ac1947b29"
_ROOT = f"minio://mlpipeline/v2/artifacts/shutterline-image-classifier/{RUN}"


@dataclass
class Pod:
    """Runs components one after another as the pods of one run.

    Attributes:
        folder: Everything that they leave.
        made: What each has written as its executor's output, by component.
    """

    folder: Path
    made: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def mount(self) -> Path:
        """Where KFP's launcher keeps artifacts of the store, in a pod ``/minio``."""
        return self.folder / "minio"

    @property
    def events(self) -> list[StepEvent]:
        """What the steps told."""
        return list(events_in(self.folder / "events"))

    def record(self, step: str) -> dict[str, Any]:
        """A step's record."""
        record: dict[str, Any] = json.loads((self.folder / "steps" / f"{step}.json").read_text())
        return record

    def uri(self, step: str, name: str) -> str:
        """The uri of an output artifact."""
        return f"{_ROOT}/{step}/{_TASK}/{name}"

    def path(self, step: str, name: str) -> Path:
        """Where it is in the pod."""
        return self.mount / self.uri(step, name).removeprefix("minio://")

    def run(self, component: Any, *, inputs: dict[str, str] | None = None, **parameters: str) -> dict[str, Any]:
        """Run a component; returns its executor's output.

        Args:
            component: The KFP component.
            inputs: Task that made it, for each input artifact.
            parameters: Values of its parameters.

        Raises:
            SystemExit: As the step.
        """
        declared, output = component.component_spec.outputs or {}, self.folder / f"{component.name}-output.json"

        def artifact(step: str, name: str) -> dict[str, Any]:
            return {"artifacts": [{"name": name, "uri": self.uri(step, name), "metadata": {}}]}

        given = {
            "inputs": {
                "parameterValues": parameters,
                "artifacts": {name: artifact(step, name) for name, step in (inputs or {}).items()},
            },
            "outputs": {
                "parameters": {
                    name: {"outputFile": str(self.folder / "outputs" / name)}
                    for name, one in declared.items()
                    if one.type in _PARAMETERS
                },
                "artifacts": {
                    name: artifact(component.name, name)
                    for name, one in declared.items()
                    if one.type not in _PARAMETERS
                },
                "outputFile": str(output),
            },
        }
        (self.folder / "outputs").mkdir(exist_ok=True)
        Executor(executor_input=given, function_to_execute=component.python_func).execute()
        self.made[component.name] = json.loads(output.read_text())
        return self.made[component.name]

    def metadata(self, component: str, artifact: str) -> dict[str, Any]:
        """The metadata of an output artifact."""
        metadata: dict[str, Any] = self.made[component]["artifacts"][artifact]["artifacts"][0]["metadata"]
        return metadata


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    """The pods of one run on Kubeflow, which share a volume for events and records."""
    pod = Pod(tmp_path)
    monkeypatch.setattr(artifact_types, "_MINIO_LOCAL_MOUNT_PREFIX", f"{pod.mount}/")
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events"))
    monkeypatch.setenv(RECORDS_VARIABLE, str(tmp_path / "steps"))
    return pod
