"""Settings that must be refused, each with exit code 2 and a message that says where, what is allowed, what to do."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.compiled import PlatformName
from tests.conftest import BAD_INPUT
from tests.pipelines.settings.compiling import write_settings

Settings = dict[str, Any] | str
_HERE = "claim: shared, path: /shared"
# By platform the path in the message, what else it says, and the settings.
_TABLES = {
    "kubeflow": r"""
train.memory | such as 16Gi | {train: {memory: 19000000K}}
train.env.A | a character that no file | {train: {env: {A: "\ud800"}}}
train.volumes[0] | must be a mapping | {train: {volumes: [null]}}
train.colour | unknown key | {train: {colour: null}}
train.volumes | shared is mounted 2 times | {train: {volumes: [HERE, {claim: shared, path: /b}]}}
train.secret_files | tls is mounted 2 times | {train: {secret_files: [TLS, {secret: tls, path: /b}]}}
train: | must be a mapping; its keys are cpu, memory | {train: gpu}
evaluation: | did you mean evaluate? | {evaluation: {}}
train.gpu.memory | allowed are count, resou | {train: {gpu: {memory: 3}}}
train.volumes[0].clam | did you mean claim? | {train: {volumes: [{HERE_AND clam: x}]}}
train.secret_env.A.kee | did you mean key? | {train: {secret_env: {A: {secret: s, key: k, kee: x}}}}
train.accelerator | it belongs to Vertex AI | {train: {accelerator: {type: NVIDIA_L4}}}
events | must not have {{ in it | {events: 's3://a/{{x}}'}
train.env.SHUTTERLINE_CLAIMS | is set by the platform or by compile | {train: {env: {SHUTTERLINE_CLAIMS: '{}'}}}
target | compile with --target vertex | {target: vertex}
train.cpu | such as 4, 0.5 or 500m | {train: {cpu: 0}}
train.cpu | got the text 'four' | {train: {cpu: four}}
train.memory | whole number with a unit | {train: {memory: 16}}
train.cache | must be true or false | {train: {cache: 'yes'}}
train.retry.pause_s | is required | {train: {retry: {pause_s: null}}}
train.retry.factor | whole number | {train: {retry: {factor: 1.5}}}
train.gpu.resource | nvidia.com/gpu | {train: {gpu: {resource: T4}}}
train.labels.-a | at most 63 letters | {train: {labels: {-a: b}}}
train.labels.a | a value is at most 63 letters | {train: {labels: {a: b c}}}
train.labels.a | put it in quotes | {train: {labels: {a: true}}}
train.annotations.A_/b | DNS name | {train: {annotations: {A_/b: c}}}
train.env.A-B | no name of an environment variable | {train: {env: {A-B: c}}}
train.env.SHUTTERLINE_TARGET | set by | {train: {env: {SHUTTERLINE_TARGET: x}}}
train.env.A | put it in quotes | {train: {env: {A: 1}}}
train.nodes | at least 1 | {train: {nodes: 0}}
train.nodes | at most 1,000 | {train: {nodes: 1001}}
evaluate.nodes | it belongs to train alone | {evaluate: {nodes: 2}}
every-step.runtime | it belongs to train alone | {every-step: {runtime: shutterline}}
nodes: | it belongs to train alone | {nodes: 2}
train.runtime | needs nodes, such as nodes: 2 | {train: {runtime: shutterline}}
train.runtime | must be the name of a TrainingRuntime | {train: {nodes: 2, runtime: Runtime/x}}
train.env.PET_NNODES | is set by Trainer | {train: {nodes: 2, env: {PET_NNODES: '2'}}}
train.secret_env.RANK | is set by Trainer | {train: {nodes: 2, secret_env: {RANK: {secret: s, key: k}}}}
checkpoints | no volume of train holds /c; add it to train.volumes | {checkpoints: /c, train: {nodes: 2}}
train.pull_secrets[0] | Kubernetes name | {train: {pull_secrets: [My_Secret]}}
train.secret_env.A.key | letters, digits and -_. | {train: {secret_env: {A: {secret: s, key: a/b}}}}
train.secret_env.A.key | is required | {train: {secret_env: {A: {secret: s}}}}
train.secret_env.A | only one can be meant | {train: {env: {A: b}, secret_env: {A: {secret: s, key: k}}}}
train.volumes[0].claim | at most 63 small letters, digits and hyph | {train: {volumes: [{claim: my.claim, path: /a}]}}
train.volumes[0].path | must be an absolute path | {train: {volumes: [{claim: shared, path: shared}]}}
secret_files[0].path | hide | {train: {secret_files: [{secret: tls, path: /}]}}
volumes[0].path | without .. | {train: {volumes: [{claim: shared, path: /a/..}]}}
train.volumes[0].sub_path | without .. | {train: {volumes: [{HERE_AND sub_path: ../a}]}}
train.volumes | /shared is mounted at twice | {train: {volumes: [HERE], secret_files: [{secret: tls, path: /shared/}]}}
train.volumes | /dev/shm is mounted at twice | {train: {shm: 1Gi, volumes: [{claim: fast, path: /dev/shm}]}}
train.volumes | is called like another volume | {train: {volumes: [HERE], secret_files: [{secret: shared, path: /a}]}}
train.cpu_request | more than cpu | {train: {cpu: 2, cpu_request: 3}}
train.shm | less than memory | {train: {memory: 2Gi, shm: 2Gi}}
events | no volume of data-prep, train, evaluate, publish, exit holds /e; add it to every-step.volumes | {events: /e}
events | no volume of data-prep, evaluate, publish, exit holds /shared/e; add | {events: /shared/e, train: WITH}
events | no volume of exit holds /shared/e; add it to exit. | {events: /shared/e, every-step: WITH, exit: {volumes: ~}}
exit.env.SHUTTERLINE_EVENTS | only one can be meant | {events: gs://abc/b, exit: {env: {SHUTTERLINE_EVENTS: /x}}}
checkpoints | no volume of train holds /shared2/c; add it to train.volumes | {checkpoints: /shared2/c, train: WITH}
checkpoints | is no bucket's name | {checkpoints: 'gs://A'}
train.tolerations[0].key | is required with the operator Equal | {train: {tolerations: [{operator: Equal}]}}
train.tolerations[0].value | needs the operator Equal | {train: {tolerations: [{key: a, value: b}]}}
train.tolerations[0].seconds | needs the effect NoExecute | {train: {tolerations: [{key: a, seconds: 3}]}}
train.tolerations[0].effect | "NoSchedule", "PreferNoSchedule" or "NoEx | {train: {tolerations: [{effect: Never}]}}
train.tolerations[0].value | such as "true" | {train: {tolerations: [{key: a, operator: Equal, value: true}]}}
train.tolerations | must be a list | {train: {tolerations: {key: a}}}
train.pull_policy | "IfNotPresent" | {train: {pull_policy: Sometimes}}
""",
    "vertex": r"""
train.env.A | no environment can hold | {train: {env: {A: "a\0b"}}}
evaluate.cpu | at most 96 | {evaluate: {cpu: 97}}
train.runtime | it belongs to Kubeflow Pipelines | {train: {runtime: shutterline}}
train.shm | it belongs to Kubeflow Pipelines | {train: {shm: 1Gi}}
events | a path ends with its machine | {events: /e}
train.env.SHUTTERLINE_EVENTS | only one can be meant | {train: {env: {SHUTTERLINE_EVENTS: 'gs://a/b'}}}
target | compile with --target kubeflow | {target: kubeflow}
checkpoints | a path ends with its machine | {checkpoints: /c}
train.accelerator.type | must be one of NVIDIA_TESLA_T4 | {train: {accelerator: {type: T4, count: 1}}}
train.accelerator.type | is required | {train: {accelerator: {count: 1}}}
train.accelerator | with 1, 2, 4, 8, not with 3 | {train: {accelerator: {type: NVIDIA_H100_80GB, count: 3}}}
train.accelerator | and 312 GB of memory; asked are 4 processors and 400G | {train: {accelerator: T4, memory: 400G}}
data-prep.memory | a step without accelerator has at most 96 processors and 624 GB | {data-prep: {memory: 1T}}
train.retry.window_s | at most 3600 on Vertex AI | {train: {retry: {window_s: 7200}}}
train.nodes | at least 1 | {train: {nodes: 0}}
every-step.nodes | unknown key | {every-step: {nodes: 2}}
train.env.RANK | is each node's own | {train: {nodes: 2, env: {RANK: '0'}}}
train.nodes | no machine type with 1 NVIDIA_TESLA_T4 has cpu 40, mem | {train: {nodes: 2, accelerator: T4, cpu: 40}}
""",
}
_WORDS = {
    "HERE_AND": f"{_HERE},",
    "WITH": f"{{volumes: [{{{_HERE}}}]}}",
    "HERE": f"{{{_HERE}}}",
    "TLS": "{secret: tls, path: /etc/tls}",
    "accelerator: T4": "accelerator: {type: NVIDIA_TESLA_T4}",
}
_ROWS = [(target, *line.split(" | ")) for target, table in _TABLES.items() for line in table.strip().splitlines()]
BAD = [
    (target, functools.reduce(lambda text, word: text.replace(word, _WORDS[word]), _WORDS, settings), path, expected)
    for target, path, expected, settings in _ROWS
] + [
    ("kubeflow", "train: {cpu: 1", "", "is not YAML"),
    ("kubeflow", "", "", "is empty"),
    ("kubeflow", "- cpu: 1", "", "must hold one mapping of settings"),
    ("kubeflow", "train: {}\ntrain: {}", "", "stands twice"),
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
