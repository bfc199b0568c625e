"""Settings that must be refused, each with exit code 2 and a message that says where, what is allowed, what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.compiled import PlatformName
from pipelines.settings.kubeflow import SHM_PATH
from tests.conftest import BAD_INPUT
from tests.pipelines.settings.compiling import write_settings

Settings = dict[str, Any] | str


def train(**said: Any) -> Settings:
    return {"train": said}


def accelerator(kind: str, count: int = 1, **said: Any) -> Settings:
    return train(accelerator={"type": kind, "count": count}, **said)


_HERE, _FILES = {"claim": "shared", "path": "/shared"}, {"secret": "tls", "path": "/etc/tls"}

# By platform: the settings, the path in the message, and what else it says.
BAD: list[tuple[PlatformName, Settings, str, str]] = [
    ("kubeflow", "train: {cpu: 1", "", "is not YAML"),
    ("kubeflow", "", "", "is empty"),
    ("kubeflow", "- cpu: 1", "", "must hold one mapping of settings"),
    ("kubeflow", train(memory="19000000K"), "train.memory", "such as 16Gi"),
    ("kubeflow", 'train: {env: {A: "\\ud800"}}', "train.env.A", "a character that no file"),
    ("vertex", 'train: {env: {A: "a\\0b"}}', "train.env.A", "no environment can hold"),
    ("kubeflow", train(volumes=[None]), "train.volumes[0]", "must be a mapping"),
    ("kubeflow", train(colour=None), "train.colour", "unknown key"),
    ("kubeflow", train(volumes=[_HERE, _HERE | {"path": "/b"}]), "train.volumes", "shared is mounted 2 times"),
    ("kubeflow", train(secret_files=[_FILES, _FILES | {"path": "/b"}]), "train.secret_files", "tls is mounted 2 times"),
    ("vertex", {"evaluate": {"cpu": 97}}, "evaluate.cpu", "at most 96"),
    ("kubeflow", "train: {}\ntrain: {}", "", "stands twice"),
    ("kubeflow", "train: gpu", "train: ", "must be a mapping; its keys are cpu, memory"),
    ("kubeflow", {"evaluation": {}}, "evaluation: ", "did you mean evaluate?"),
    ("kubeflow", train(gpu={"memory": 3}), "train.gpu.memory", "allowed are count, resou"),
    ("kubeflow", train(volumes=[_HERE | {"clam": "x"}]), "train.volumes[0].clam", "did you mean claim?"),
    (
        "kubeflow",
        train(secret_env={"A": {"secret": "s", "key": "k", "kee": "x"}}),
        "train.secret_env.A.kee",
        "did you mean key?",
    ),
    ("kubeflow", train(accelerator={"type": "NVIDIA_L4"}), "train.accelerator", "it belongs to Vertex AI"),
    ("vertex", train(shm="1Gi"), "train.shm", "it belongs to Kubeflow Pipelines"),
    ("vertex", {"events": "/e"}, "events", "a path ends with its machine"),
    (
        "vertex",
        {"train": {"env": {"SHUTTERLINE_EVENTS": "gs://a/b"}}},
        "train.env.SHUTTERLINE_EVENTS",
        "only one can be meant",
    ),
    ("kubeflow", {"events": "s3://a/{{x}}"}, "events", "must not have {{ in it"),
    (
        "kubeflow",
        train(env={"SHUTTERLINE_CLAIMS": "{}"}),
        "train.env.SHUTTERLINE_CLAIMS",
        "is set by the platform or by compile",
    ),
    ("vertex", {"target": "kubeflow"}, "target", "compile with --target kubeflow"),
    ("kubeflow", {"target": "vertex"}, "target", "compile with --target vertex"),
    ("kubeflow", train(cpu=0), "train.cpu", "such as 4, 0.5 or 500m"),
    ("kubeflow", train(cpu="four"), "train.cpu", "got the text 'four'"),
    ("kubeflow", train(memory=16), "train.memory", "whole number with a unit"),
    ("kubeflow", train(cache="yes"), "train.cache", "must be true or false"),
    ("kubeflow", train(retry={"pause_s": None}), "train.retry.pause_s", "is required"),
    ("kubeflow", train(retry={"factor": 1.5}), "train.retry.factor", "whole number"),
    ("kubeflow", train(gpu={"resource": "T4"}), "train.gpu.resource", "nvidia.com/gpu"),
    ("kubeflow", train(labels={"-a": "b"}), "train.labels.-a", "at most 63 letters"),
    ("kubeflow", train(labels={"a": "b c"}), "train.labels.a", "a value is at most 63 letters"),
    ("kubeflow", train(labels={"a": True}), "train.labels.a", "put it in quotes"),
    ("kubeflow", train(annotations={"A_/b": "c"}), "train.annotations.A_/b", "DNS name"),
    ("kubeflow", train(env={"A-B": "c"}), "train.env.A-B", "no name of an environment variable"),
    ("kubeflow", train(env={"SHUTTERLINE_TARGET": "x"}), "train.env.SHUTTERLINE_TARGET", "set by"),
    ("kubeflow", train(env={"A": 1}), "train.env.A", "put it in quotes"),
    ("kubeflow", train(pull_secrets=["My_Secret"]), "train.pull_secrets[0]", "Kubernetes name"),
    (
        "kubeflow",
        train(secret_env={"A": {"secret": "s", "key": "a/b"}}),
        "train.secret_env.A.key",
        "letters, digits and -_.",
    ),
    ("kubeflow", train(secret_env={"A": {"secret": "s"}}), "train.secret_env.A.key", "is required"),
    (
        "kubeflow",
        train(env={"A": "b"}, secret_env={"A": {"secret": "s", "key": "k"}}),
        "train.secret_env.A",
        "only one can be meant",
    ),
    (
        "kubeflow",
        train(volumes=[{"claim": "my.claim", "path": "/a"}]),
        "train.volumes[0].claim",
        "at most 63 small letters, digits and hyphens",
    ),
    ("kubeflow", train(volumes=[_HERE | {"path": "shared"}]), "train.volumes[0].path", "must be an absolute path"),
    ("kubeflow", train(secret_files=[_FILES | {"path": "/"}]), "secret_files[0].path", "hide"),
    ("kubeflow", train(volumes=[_HERE | {"path": "/a/.."}]), "volumes[0].path", "without .."),
    ("kubeflow", train(volumes=[_HERE | {"sub_path": "../a"}]), "train.volumes[0].sub_path", "without .."),
    (
        "kubeflow",
        train(volumes=[_HERE], secret_files=[_FILES | {"path": "/shared/"}]),
        "train.volumes",
        "/shared is mounted at twice",
    ),
    (
        "kubeflow",
        train(shm="1Gi", volumes=[{"claim": "fast", "path": SHM_PATH}]),
        "train.volumes",
        f"{SHM_PATH} is mounted at twice",
    ),
    (
        "kubeflow",
        train(volumes=[_HERE], secret_files=[_FILES | {"secret": "shared"}]),
        "train.volumes",
        "is called like another volume of the pod",
    ),
    ("kubeflow", train(cpu=2, cpu_request=3), "train.cpu_request", "more than cpu"),
    ("kubeflow", train(memory="2Gi", shm="2Gi"), "train.shm", "less than memory"),
    (
        "kubeflow",
        {"events": "/e"},
        "events",
        "no volume of data-prep, train, evaluate, exit holds /e; add it to every-step.volumes",
    ),
    (
        "kubeflow",
        {"events": "/shared/e", "train": {"volumes": [_HERE]}},
        "events",
        "no volume of data-prep, evaluate, exit holds /shared/e; add it to every-step.volumes",
    ),
    (
        "kubeflow",
        {"events": "/shared/e", "every-step": {"volumes": [_HERE]}, "exit": {"volumes": None}},
        "events",
        "no volume of exit holds /shared/e; add it to exit.volumes",
    ),
    (
        "kubeflow",
        {"events": "/shared/e", "every-step": {"volumes": [_HERE], "env": {"SHUTTERLINE_EVENTS": "/x"}}},
        "train.env.SHUTTERLINE_EVENTS",
        "only one can be meant",
    ),
    (
        "kubeflow",
        {"checkpoints": "/shared2/c", "train": {"volumes": [_HERE]}},
        "checkpoints",
        "no volume of train holds /shared2/c; add it to train.volumes",
    ),
    ("kubeflow", {"checkpoints": "gs://A"}, "checkpoints", "is no bucket's name"),
    ("vertex", {"checkpoints": "/c"}, "checkpoints", "a path ends with its machine"),
    (
        "kubeflow",
        train(tolerations=[{"operator": "Equal"}]),
        "train.tolerations[0].key",
        "is required with the operator Equal",
    ),
    (
        "kubeflow",
        train(tolerations=[{"key": "a", "value": "b"}]),
        "train.tolerations[0].value",
        "needs the operator Equal",
    ),
    (
        "kubeflow",
        train(tolerations=[{"key": "a", "seconds": 3}]),
        "train.tolerations[0].seconds",
        "needs the effect NoExecute",
    ),
    (
        "kubeflow",
        train(tolerations=[{"effect": "Never"}]),
        "train.tolerations[0].effect",
        '"NoSchedule", "PreferNoSchedule" or "NoExecute"',
    ),
    (
        "kubeflow",
        train(tolerations=[{"key": "a", "operator": "Equal", "value": True}]),
        "train.tolerations[0].value",
        'such as "true"',
    ),
    ("kubeflow", train(tolerations={"key": "a"}), "train.tolerations", "must be a list"),
    ("kubeflow", train(pull_policy="Sometimes"), "train.pull_policy", '"IfNotPresent"'),
    ("vertex", accelerator("T4"), "train.accelerator.type", "must be one of NVIDIA_TESLA_T4"),
    ("vertex", train(accelerator={"count": 1}), "train.accelerator.type", "is required"),
    ("vertex", accelerator("NVIDIA_H100_80GB", 3), "train.accelerator", "with 1, 2, 4, 8, not with 3"),
    (
        "vertex",
        accelerator("NVIDIA_TESLA_T4", memory="400G"),
        "train.accelerator",
        "at most 48 processors and 312 GB of memory; asked are 4 processors and 400G of memory",
    ),
    (
        "vertex",
        {"data-prep": {"memory": "1T"}},
        "data-prep.memory",
        "a step without accelerator has at most 96 processors and 624 GB",
    ),
    ("vertex", train(retry={"window_s": 7200}), "train.retry.window_s", "at most 3600 on Vertex AI"),
]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one message of a command that must end with exit code 2."""
    assert main(list(arguments)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err
    assert told.err.startswith("error: ")
    assert told.err.count("error: ") == 1
    return told.err.removeprefix("error: ").strip()


@pytest.mark.parametrize(("target", "settings", "path", "expected"), BAD, ids=[f"{row[2]} {row[3]}" for row in BAD])
def test_bad_settings_end_with_one_message(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    target: PlatformName,
    settings: Settings,
    path: str,
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_settings(Path("settings.yaml"), settings)

    message = refused(capsys, "settings", "--target", target, "--settings", "settings.yaml")

    assert message.startswith("settings.yaml")
    (line,) = (line for line in message.splitlines() if expected in line and path in line)
    record_property(BAD_INPUT, (f"settings: {path}", line.strip()))


def test_compile_refuses_them_alike_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_settings(tmp_path / "settings.yaml", {"train": {"cpu": "four"}, "exit": {"zone": "a"}})
    output = tmp_path / "pipeline.yaml"

    message = refused(capsys, "compile", "--target", "vertex", "--settings", str(file), "-o", str(output))

    assert "has 2 problems" in message, "all problems are told at once"
    assert "train.cpu" in message
    assert "exit.zone" in message
    assert not output.exists()


@pytest.mark.parametrize(
    ("target", "said"),
    [("kubeflow", {"gpu": {"count": 0}}), ("kubeflow", {"gpu": None}), ("vertex", {"accelerator": None})],
)
def test_a_run_on_the_gpu_needs_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, said: dict[str, Any]
) -> None:
    file = write_settings(tmp_path / "settings.yaml", {"train": said})
    arguments = ["settings", "--target", target, "--settings", str(file), "--set", "device=cuda"]

    assert "train: has no accelerator, but the params ask for device cuda" in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("name", "expected"), [("none.yaml", "there is no such file"), ("settings.toml", ".json, .yaml or .yml")]
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, expected: str
) -> None:
    message = refused(capsys, "settings", "--target", "vertex", "--settings", os.fspath(tmp_path / name))

    assert expected in message
    assert name in message
