"""Every rule for TrainJobs, by files that have what it looks for and files that only seem to."""

from __future__ import annotations

import copy
import json
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from pydantic import BaseModel

from components.shared.kubeflow.train_job import NodeSpec, train_job
from pipelines.lint.findings import Finding
from pipelines.lint.train_job_fields import FIELDS
from pipelines.lint.train_job_rules import TRAIN_JOB_RULES, lint_train_jobs
from pipelines.lint.train_job_view import TrainJobFile
from tests.examples import SMALL
from tests.pipelines.conftest import Refused, Shutterline
from tests.pipelines.lint.bases import AWS_KEY, DIGEST

Document = dict[str, Any]
Change = Callable[[Document], object]

_SPEC = NodeSpec.model_validate(
    {
        "image": f"registry.example.com/shutterline/train@{DIGEST}",
        "nodes": 2,
        "cpu": "8",
        "memory": "32Gi",
        "gpu": {"count": 2},
        "shm": "8Gi",
        "secret_env": {"KAFKA_SASL_PASSWORD": {"secret": "kafka", "key": "password"}},
        "secret_files": [{"secret": "google", "path": "/secrets/google"}],
        "env": {"GOOGLE_APPLICATION_CREDENTIALS": "/secrets/google/key.json"},
        "volumes": [{"claim": "shared", "path": "/shared"}],
    }
)
_ARGUMENTS = ("--dataset=gs://bucket/dataset", "--model=gs://bucket/model", f"--params={json.dumps(SMALL)}")
_SOUND = train_job("shutterline-", _SPEC, [*_ARGUMENTS, "--processes=auto"], generate_name=True)


def linted(*changes: Change) -> list[Finding]:
    job = copy.deepcopy(_SOUND)
    for change in changes:
        change(job)
    return lint_train_jobs(TrainJobFile(yaml.safe_dump(job)))


def trainer(**values: Any) -> Change:
    return lambda job: job["spec"]["trainer"].update(values)


def spec(**values: Any) -> Change:
    return lambda job: job["spec"].update(values)


def metadata(**values: Any) -> Change:
    return lambda job: job.update(metadata=values)


def pod(**values: Any) -> Change:
    return lambda job: _pod(job).update(values)


def container(**values: Any) -> Change:
    return lambda job: _pod(job)["containers"][0].update(values)


def _pod(job: Document) -> Document:
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    found: Document = replicated["template"]["spec"]["template"]["spec"]
    return found


def option(name: str, value: str | None) -> Change:
    """Another value of an option; None: not given."""

    def change(job: Document) -> None:
        args = [arg for arg in job["spec"]["trainer"]["args"] if not arg.startswith(f"--{name}=")]
        job["spec"]["trainer"]["args"] = args if value is None else [*args, f"--{name}={value}"]

    return change


def variable(name: str, **entry: Any) -> Change:
    def change(job: Document) -> None:
        env = job["spec"]["trainer"]["env"]
        env[:] = [each for each in env if each["name"] != name] + ([{"name": name, **entry}] if entry else [])

    return change


def runtime(name: str, kind: str = "ClusterTrainingRuntime") -> Change:
    return lambda job: job["spec"]["runtimeRef"].update(kind=kind, name=name)


def params(**changes: Any) -> Change:
    return option("params", json.dumps({**SMALL, **changes}))


def twice(job: Document) -> None:
    job["spec"]["trainer"]["env"] *= 2


def foreign(job: Document) -> None:
    job["spec"]["trainer"] |= {"command": ["python", "train.py"], "args": []}


NO_GPU = trainer(resourcesPerNode={"limits": {"cpu": 2, "memory": "4Gi"}})
SECRETS = {"name": "shutterline-secret-0", "mountPath": "/secrets"}
EMPTY = [{"name": "shutterline-claim-0", "emptyDir": {}}]

FOUND: list[tuple[str, str, tuple[Change, ...]]] = [
    ("secret-value", "error", (variable("KAFKA_SASL_PASSWORD", value="hunter2!"),)),
    ("secret-value", "error", (variable("X", value=AWS_KEY),)),
    ("secret-value", "error", (option("password", "hunter2!"),)),
    ("unpinned-image", "warning", (trainer(image="registry.example.com/train:1.0"),)),
    ("unpinned-image", "error", (trainer(image="registry.example.com/train"),)),
    ("local-image", "warning", (trainer(image=f"shutterline/train@{DIGEST}"),)),
    ("fields", "error", (spec(podTemplateOverrides=[]),)),
    ("fields", "error", (spec(failurePolicy={"maxRestarts": 3}),)),
    ("fields", "error", (container(resources={}),)),
    ("fields", "error", (container(imagePullPolicy="Always"),)),
    ("fields", "error", (pod(restartPolicy="Never"),)),
    ("fields", "error", (variable("EPOCHS", value=3),)),
    ("fields", "error", (trainer(numNodes="2"),)),
    ("fields", "error", (pod(nodeSelector={"spot": True}),)),
    ("fields", "error", (lambda job: job.update(apiVersion="trainer.kubeflow.org/v2"),)),
    ("names", "error", (metadata(),)),
    ("names", "error", (metadata(name="Night_7"),)),
    ("names", "error", (metadata(name="n" * 49),)),
    ("names", "error", (metadata(generateName="n" * 44),)),
    ("names", "error", (runtime("x", "Runtime"),)),
    ("patches", "error", (lambda job: job["spec"]["runtimePatches"][0].update(manager="shutterline"),)),
    ("patches", "error", (container(env=[{"name": "A", "value": "1"}]),)),
    ("patches", "error", (twice,)),
    ("reserved-variable", "error", (variable("PET_NNODES", value="3"),)),
    ("reserved-variable", "error", (variable("RANK", value="0"),)),
    ("arguments", "error", (option("model", None),)),
    ("arguments", "error", (option("dataset", "dataset"),)),
    ("params", "error", (params(batch_siz=3),)),
    ("params", "error", (option("params", '{"batch_size": 3'),)),
    ("params", "error", (option("params", "/params/params.json"),)),
    ("params", "error", (params(device="cuda"), NO_GPU)),
    ("limits", "warning", (trainer(resourcesPerNode={"limits": {"cpu": 2}}),)),
    ("shared-memory", "warning", (container(volumeMounts=[SECRETS]),)),
    ("idle-gpus", "warning", (option("processes", None),)),
    ("restarts", "warning", (runtime("torch-distributed"),)),
    ("restarts", "warning", (lambda job: job["spec"].update(runtimeRef={"name": "torch-distributed"}),)),
    ("run-id", "warning", (variable("SHUTTERLINE_RUN_ID"),)),
    ("run-id", "warning", (variable("SHUTTERLINE_RUN_ID", value="night-7"),)),
    ("checkpoint-location", "error", (option("checkpoints", "/checkpoints"),)),
    ("checkpoint-location", "error", (option("checkpoints", "/shared/x"), pod(volumes=EMPTY))),
    ("data-location", "error", (option("dataset", "/data"),)),
    ("data-location", "error", (params(initial_weights="/weights.safetensors"),)),
    ("model-location", "error", (option("model", "/model"),)),
    ("model-location", "error", (option("model", "/secrets/google/model"),)),
    ("model-location", "warning", (option("model", "/model"), runtime("of-the-team", "TrainingRuntime"))),
    ("credentials-file", "error", (variable("KAFKA_SSL_CAFILE", value="/run/ca.pem"),)),
]  # fmt: skip

SOUND: list[tuple[Change, ...]] = [
    (),
    (metadata(name="n" * 48),),
    (metadata(name="night-7"), variable("SHUTTERLINE_RUN_ID", value="night-7")),
    (params(device="cuda"),),
    (params(device="cpu"), NO_GPU, option("processes", None)),
    (option("params", "/shared/params.json"),),
    (option("dataset", "/shared/dataset"), option("model", "/shared/model"), option("checkpoints", "/shared/x")),
    (option("dataset", "/secrets/google/dataset"),),
    (params(publish_uri="gs://bucket/a$$(b)"),),
    (lambda job: job["spec"]["trainer"]["args"].append("--set=batch_size=16"),),
    (runtime("of-the-team"), variable("KAFKA_SSL_CAFILE", value="/etc/ssl/ca.pem")),
    (trainer(command=["python", "-m", "components.train", "--dataset", "gs://b/dataset"]), option("dataset", None)),
    (lambda job: job["spec"]["trainer"].pop("command"),),
    (foreign, variable("SHUTTERLINE_RUN_ID"), NO_GPU),
    (lambda job: job["spec"]["trainer"].pop("image"),),
    (spec(suspend=True, managedBy="kueue.x-k8s.io/multikueue"),),
]


@pytest.mark.parametrize(("rule", "severity", "changes"), FOUND)
def test_a_rule_finds_what_it_looks_for_and_no_other_does(
    rule: str, severity: str, changes: tuple[Change, ...]
) -> None:
    findings = linted(*changes)

    assert {(finding.rule, finding.severity) for finding in findings} == {(rule, severity)}, findings
    assert all(finding.where and finding.advice for finding in findings)
    assert "hunter2!" not in str(findings)
    assert AWS_KEY not in str(findings)


def test_every_rule_is_tried() -> None:
    assert [rule.id for rule in TRAIN_JOB_RULES] == list(dict.fromkeys(rule for rule, _, _ in FOUND))


@pytest.mark.parametrize("changes", SOUND, ids=range(len(SOUND)))
def test_what_only_seems_wrong_is_not_found(changes: tuple[Change, ...]) -> None:
    assert linted(*changes) == []


def test_a_set_change_counts_with_the_params() -> None:
    (finding,) = linted(lambda job: job["spec"]["trainer"]["args"].append("--set=batch_size=0"))

    assert (finding.rule, finding.where) == ("params", ("spec.trainer.args[2]",))
    assert "batch_size" in finding.message


@pytest.mark.parametrize("place", ["metadata", "spec", *sorted(FIELDS["spec"]), *sorted(FIELDS["spec"]["trainer"])])
def test_no_shape_of_a_manifest_is_too_much(place: str) -> None:
    values: tuple[Any, ...] = (None, 3, "x", [], {}, [None], [[]], {"a": None})
    for value in values:
        job = copy.deepcopy(_SOUND)
        holder = next((part for part in (job, job["spec"]) if place in part), job["spec"]["trainer"])
        holder[place] = value

        assert all(str(finding) for finding in lint_train_jobs(TrainJobFile(yaml.safe_dump(job))))


def _fields(annotation: Any, fields: Any, where: str = "") -> Iterator[tuple[str, set[str], set[str]]]:
    """Where our table and Trainer's models go down together: the path, our fields and theirs."""
    if isinstance(fields, list):
        fields = fields[0]
    for inner in (annotation, *typing.get_args(annotation)):
        if inner is not annotation and not isinstance(inner, type):
            yield from _fields(inner, fields, where)
        elif (
            isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(fields, dict) and "*" not in fields
        ):
            models = {field.alias or name: field.annotation for name, field in inner.model_fields.items()}
            yield where, set(fields), set(models)
            for name, entry in fields.items():
                yield from _fields(models.get(name), entry, f"{where}.{name}")


def test_the_fields_are_those_of_trainers_own_models() -> None:
    seen = {where: (ours, theirs) for where, ours, theirs in _fields(TrainerV1alpha1TrainJob, FIELDS)}

    for where, (ours, theirs) in seen.items():
        # Of metadata the CRD has labels and annotations alone, where the models have all.
        assert ours == (theirs if not where.endswith("metadata") else {"labels", "annotations"}), where
    assert ".spec.trainer.env" in seen
    assert sum(where.endswith(".containers") for where in seen) == 1


def test_validate_tells_a_train_job_from_params_and_reads_all_of_a_file(
    shutterline: Shutterline, tmp_path: Path
) -> None:
    wrong = copy.deepcopy(_SOUND)
    twice(wrong)
    runtime("torch-distributed")(wrong)
    file = tmp_path / "jobs.yaml"
    file.write_text(yaml.safe_dump_all([{"apiVersion": "v1", "kind": "ConfigMap", "data": {}}, _SOUND, wrong]))

    done = shutterline("validate", file)

    assert (done.code, done.err) == (2, "")
    first, second, verdict = done.out.splitlines()
    assert first.startswith(
        "error: documents[2].spec.trainer.env: the API server takes no list with the same name twice"
    )
    assert second.startswith("warning: documents[2].spec.runtimeRef: Trainer's own runtime tries bad input again")
    assert verdict == f"{file}: 1 error and 1 warning"
    document = shutterline("validate", file, "--json").document
    assert [finding.pop("rule") for finding in document.pop("findings")] == ["patches", "restarts"]
    assert document == {"status": "failed", "train_job": str(file), "errors": 1, "warnings": 1}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(_SOUND))
    assert shutterline("validate", tmp_path / "job.yaml", "--strict").out.endswith("this TrainJob is sound\n")


@pytest.mark.parametrize("options", [("--set", "batch_size=3"), ("--target", "kubeflow"), ("--elsewhere",)])
def test_options_of_others_are_refused_for_a_train_job(
    options: tuple[str, ...], tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(_SOUND))

    assert "is a TrainJob, and --set, --target and --elsewhere are not for it" in refused(
        "validate", tmp_path / "job.yaml", *options
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob\nspec: [", "is not YAML"),
        ("# TrainJob\napiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainingRuntime\n", "has no TrainJob"),
        ("apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob\nkind: TrainJob\n", "stands twice"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(text: str, message: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "job.yaml").write_text(text)

    assert message in refused("validate", tmp_path / "job.yaml")
