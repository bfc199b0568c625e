"""Rules by what several nodes get, which stands in a compiled file as one JSON text."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.compiled import CompiledPipeline, parse_compiled
from pipelines.lint.rules import lint
from tests.pipelines.lint.bases import DIGEST, Document
from tests.pipelines.test_golden import FOLDER

FILE = FOLDER / "kubeflow-nodes.yaml"
AWS_KEY = "AKIA" + "QWERTY12UIOP34AS"


@functools.cache
def _text() -> str:
    return FILE.read_text()


def pipeline(checkpoints: str = "auto", **said: Any) -> CompiledPipeline:
    """The example of two nodes, of which each gets something else; None takes away."""
    found = parse_compiled(_text(), Path("pipeline.yaml"))
    nodes: Document = found.spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]["train"]["inputs"]["parameters"]
    constant = nodes["nodes"]["runtimeValue"]
    given = json.loads(constant["constant"]) | said
    constant["constant"] = json.dumps({key: value for key, value in given.items() if value is not None})
    found.spec["root"]["inputDefinitions"]["parameters"]["checkpoints"]["defaultValue"] = checkpoints
    return found


@pytest.mark.parametrize(
    ("rule", "severity", "message", "said"),
    [
        ("unpinned-image", "error", "the container has no image", {"image": ""}),
        ("unpinned-image", "warning", "registry.example/train:1.0", {"image": "registry.example/train:1.0"}),
        ("local-image", "error", "localhost:5000/train", {"image": f"localhost:5000/train@{DIGEST}"}),
        ("secret-value", "error", "AWS", {"env": {"SOMETHING": AWS_KEY}}),
        ("secret-value", "error", "KAFKA_SASL_PASSWORD", {"env": {"KAFKA_SASL_PASSWORD": "hunter2!"}}),
        ("nodes", "error", "nodes: nodes: ", {"nodes": "many"}),
        ("nodes", "error", "nodes: env.PET_NNODES: is set by Trainer", {"env": {"PET_NNODES": "2"}}),
        ("nodes", "error", "nodes: color: unknown key", {"color": "red"}),
        (
            "nodes",
            "warning",
            "tries bad input again",
            {"runtime": {"kind": "ClusterTrainingRuntime", "name": "torch-distributed"}},
        ),
        ("limits", "warning", "the nodes that train have no limit: memory", {"memory": None}),
        ("shared-memory", "warning", "64 MiB of /dev/shm", {"shm": None}),
        ("retries", "warning", "its time limit", {"timeout_s": 3600}),
        ("checkpoint-location", "warning", "where no other run finds them", {"checkpoints": ""}),
        ("checkpoint-location", "error", "checkpoints at /shared die with the machine", {"checkpoints": "/shared"}),
    ],
)
def test_it_is_found(rule: str, severity: str, message: str, said: dict[str, Any]) -> None:
    found = [finding for finding in lint(pipeline(**said), None) if finding.rule == rule]
    assert [finding.severity for finding in found] == [severity]
    assert message in found[0].message
    if rule != "checkpoint-location":
        assert found[0].steps == ("train",)
    assert "hunter2!" not in str(found[0])
    assert AWS_KEY not in str(found[0])


@pytest.mark.parametrize(
    "said",
    [
        {},
        # Names of secrets are none.
        {"secret_env": {"KAFKA_SASL_PASSWORD": {"secretName": "kafka-login", "secretKey": "password"}}},
        {"gpu": {"count": 0}, "shm": None},
        # A node's pod hears SIGTERM itself, and saves.
        {"node_selector": {"cloud.google.com/gke-spot": "true"}},
    ],
)
def test_what_is_sound_is_found_sound(said: dict[str, Any]) -> None:
    assert lint(pipeline(**said), None) == []


@pytest.mark.parametrize("odd", [None, 5, "", "[", "[]", "5", '{"gpu": 5}', '{"image": [1]}'])
def test_whatever_stands_there_is_an_error_and_no_crash(odd: object) -> None:
    found = pipeline()
    tasks = found.spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    tasks["train"]["inputs"]["parameters"]["nodes"] = {"runtimeValue": {"constant": odd}}
    errors = [finding.rule for finding in lint(found, None) if finding.severity == "error"]
    # What can be read as JSON has an image, or none.
    assert errors in (["nodes"], ["unpinned-image", "nodes"])
