"""The compiled training step on two machines of a custom job, each run as Vertex AI runs it, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.shared.artifacts.model import open_model
from components.shared.events.spool import events_in
from pipelines.compiled import custom_job_pools, read_compiled
from tests.examples import SMALL, write_digits
from tests.pipelines.test_golden import FOLDER
from tests.train.test_launch import free_port

ARTIFACTS = {"model": "system.Model", "metrics": "system.Metrics", "learning_curves": "system.HTML"}


def executor_input(task: Path, dataset: Path, params: dict[str, Any]) -> dict[str, Any]:
    """What Vertex AI hands the step, with local paths for those of a bucket."""

    def artifact(uri: Path, schema: str) -> dict[str, Any]:
        return {"artifacts": [{"name": "", "uri": str(uri), "type": {"schemaTitle": schema}, "metadata": {}}]}

    return {
        "inputs": {
            "parameterValues": {"params": json.dumps(params), "checkpoints": "auto"},
            "artifacts": {"dataset": artifact(dataset, "system.Dataset")},
        },
        "outputs": {
            "artifacts": {name: artifact(task / name, schema) for name, schema in ARTIFACTS.items()},
            "parameters": {name: {"outputFile": str(task / name)} for name in ("model_sha256", "gcp_resources")},
            "outputFile": str(task / "executor_output.json"),
        },
    }


Finished = list[subprocess.CompletedProcess[str]]


def run_on_two_machines(given: dict[str, Any], **more: str) -> Finished:
    """How the containers of the golden file's two pools end, by Vertex AI's variables."""
    container = read_compiled(FOLDER / "vertex-nodes.yaml").executors["exec-train"]["container"]
    port, started = free_port(), []
    for index, pool in enumerate(custom_job_pools(container).values()):
        # As Vertex AI fills it in: JSON, escaped once for the job's own JSON, and so unescaped when that is read.
        args = [word.replace("{{$.json_escape[1]}}", json.dumps(given)) for word in pool["args"]]
        cluster = {"workerpool0": [f"localhost:{port}"], "workerpool1": ["unreachable.invalid:2222"]}
        task = {"type": f"workerpool{index}", "index": 0, "trial": ""}
        variables = {entry["name"]: entry["value"] for entry in pool["env"]} | {
            "CLUSTER_SPEC": json.dumps({"cluster": cluster, "environment": "cloud", "task": task, "job": {}}),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": f"{Path(given['outputs']['outputFile']).parent}-disk-{index}",
        }
        Path(variables["TMPDIR"]).mkdir(parents=True)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([*pool["command"], *args], env=os.environ | variables | more, **pipes))
    outputs = [each.communicate() for each in started]
    return [
        subprocess.CompletedProcess(each.args, each.returncode, *output)
        for each, output in zip(started, outputs, strict=True)
    ]


def states_of(task: Path) -> list[str]:
    """The states that the step's events report, none of them twice."""
    events = list(events_in(task.parent / "events"))
    assert len({(event.source, event.id) for event in events}) == len(events)
    return [event.state for event in events if event.step == "train"]


@pytest.mark.slow
def test_the_first_machine_writes_and_reports_for_all(tmp_path: Path) -> None:
    dataset, task = write_digits(tmp_path / "dataset"), tmp_path / "run-1" / "train_1"

    first, second = run_on_two_machines(executor_input(task, dataset, SMALL))

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert ("Wrote executor output" in first.stdout, "Did not write output" in second.stdout) == (True, True)
    assert second.stderr == "", "whoever reads the job's log reads each line once"
    output = json.loads((task / "executor_output.json").read_text())["artifacts"]
    assert set(output) == set(ARTIFACTS)
    assert output["model"]["artifacts"][0]["metadata"]["framework"] == "pytorch"
    model = open_model(task / "model")
    assert (task / "model_sha256").read_text() == model.manifest.weights.sha256
    states = states_of(task)
    assert (states[0], states[-1], states.count("started"), states.count("succeeded")) == ("started", "succeeded", 1, 1)

    alone = tmp_path / "alone"
    places = ["--dataset", str(dataset), "--model", str(alone), "--params", json.dumps(SMALL), "--processes", "2"]
    one_machine = {"OMP_NUM_THREADS": "1", "SHUTTERLINE_EVENTS": str(tmp_path / "events")}
    subprocess.run([sys.executable, "-m", "components.train", *places], env=os.environ | one_machine, check=True)
    assert open_model(alone).manifest.weights == model.manifest.weights


def test_bad_input_is_one_failure_of_the_step(tmp_path: Path) -> None:
    task = tmp_path / "run-1" / "train_1"

    first, second = run_on_two_machines(executor_input(task, tmp_path, SMALL | {"batch_size": 0}))

    assert (first.returncode, second.returncode) == (2, 2), first.stderr + second.stderr
    assert first.stderr.count("failed: ") == 1
    assert "batch_size" in first.stderr
    assert states_of(task) == ["started", "failed"]
    assert not (task / "executor_output.json").exists()
