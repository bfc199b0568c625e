"""Every rule for TrainJobs, by files that have what it looks for and files that only seem to."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from pydantic import BaseModel

from pipelines.lint.findings import Finding
from pipelines.lint.train_job_fields import FIELDS
from pipelines.lint.train_job_rules import TRAIN_JOB_RULES, lint_train_jobs
from pipelines.lint.train_job_view import TrainJobFile
from tests.pipelines.conftest import Refused, Shutterline
from tests.pipelines.lint.bases import AWS_KEY
from tests.pipelines.lint.train_job_cases import FOUND, SOUND, Change, changed, runtime, twice


def linted(*changes: Change) -> list[Finding]:
    return lint_train_jobs(TrainJobFile(yaml.safe_dump(changed(*changes))))


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
        job = changed()
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
    wrong = changed(twice, runtime("torch-distributed"))
    file = tmp_path / "jobs.yaml"
    file.write_text(yaml.safe_dump_all([{"apiVersion": "v1", "kind": "ConfigMap", "data": {}}, changed(), wrong]))

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
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(changed()))
    assert shutterline("validate", tmp_path / "job.yaml", "--strict").out.endswith("this TrainJob is sound\n")


@pytest.mark.parametrize("options", [("--set", "batch_size=3"), ("--target", "kubeflow"), ("--elsewhere",)])
def test_options_of_others_are_refused_for_a_train_job(
    options: tuple[str, ...], tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(changed()))

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
