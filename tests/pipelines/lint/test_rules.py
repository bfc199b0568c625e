"""Every rule, by files that have what it looks for and files that only seem to."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.compiled import PLATFORMS, PlatformName, read_compiled
from pipelines.lint.rules import RULES, lint
from tests.pipelines.lint.bases import DIGEST, Change, Pipeline, claim, default, env, findings, image, params, pod, task

# Rule, platform, severity, step that is named ("": the whole), what is changed.
Case = tuple[str, PlatformName, str, str, tuple[Change, ...]]
SHM = {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "2Gi"}  # noqa: S108 - a mount
SPOT = pod(nodeSelector={"labels": {"cloud.google.com/gke-spot": "true"}})
SECRET = {"secretName": "google", "mountPath": "/etc/google"}
KEY = env("GOOGLE_APPLICATION_CREDENTIALS", "/etc/google/key.json")


def without_limits(pipeline: Pipeline) -> None:
    pipeline.container("train")["resources"] = {"accelerator": {"resourceType": "NVIDIA_L4", "resourceCount": "1"}}


def compiled_for_the_other(pipeline: Pipeline) -> None:
    pipeline.container("train")["env"][0]["value"] = "vertex"


def shared_volume(pipeline: Pipeline) -> None:
    """A volume of the step that publishes."""
    pipeline.pod("publish").update(pvcMount=[claim("shared", "/shared")])


FOUND: list[Case] = [
    ("unpinned-image", "vertex", "error", "train", (image("registry.example/train"),)),
    ("unpinned-image", "vertex", "error", "train", (image("registry.example:5000/t"),)),
    ("unpinned-image", "vertex", "error", "train", (image("registry.example/train:latest"),)),
    ("unpinned-image", "vertex", "warning", "train", (image("registry.example/train:1.0"),)),
    ("unpinned-image", "vertex", "error", "train", (image("r.example/t@sha256:a1"),)),
    ("unpinned-image", "vertex", "error", "train", (image("r.example/a b:1"),)),
    ("unpinned-image", "vertex", "error", "train", (image(""),)),
    ("local-image", "vertex", "error", "train", (image(f"localhost:5000/t@{DIGEST}"),)),
    ("local-image", "vertex", "warning", "train", (image(f"shutterline/train@{DIGEST}"),)),
    ("foreign-platform", "vertex", "error", "", (pod(imagePullPolicy="Always"),)),
    ("foreign-platform", "kubeflow", "error", "train", (compiled_for_the_other,)),
    ("backend", "kubeflow", "warning", "train", (pod(securityContext={"runAsUser": "1"}),)),
    ("backend", "kubeflow", "warning", "train", (pod(pvcMount=[claim("data", "/data", subPath="x")]),)),
    ("params", "vertex", "error", "", (params(batch_siz=3),)),
    ("params", "vertex", "error", "", (default("params", "params.json"),)),
    ("params", "vertex", "error", "", (default("params", {"batch_size": 3}),)),
    ("limits", "kubeflow", "warning", "train", (without_limits,)),
    ("shared-memory", "kubeflow", "warning", "train", (pod(emptyDirMounts=[]),)),
    ("cached-side-effects", "vertex", "warning", "exit-step", (task("exit-step", "cachingOptions", enableCache=True),)),
    ("cached-side-effects", "vertex", "warning", "data-prep", (task("data-prep", "cachingOptions", enableCache=True),)),
    ("retries", "vertex", "warning", "train", (task("train", "retryPolicy", backoffDuration="0s"),)),
    (
        "retries",
        "vertex",
        "warning",
        "exit-step",
        (task("exit-step", "retryPolicy", maxRetryCount=1, backoffDuration="5s"),),
    ),
    ("retries", "kubeflow", "warning", "train", (task("train", "retryPolicy", backoffMaxDuration="3600s"),)),
    ("retries", "kubeflow", "warning", "train", (pod(activeDeadlineSeconds=60),)),
    ("checkpoint-location", "kubeflow", "warning", "", (default("checkpoints", ""),)),
    ("checkpoint-location", "kubeflow", "error", "", (default("checkpoints", "/shared/x"),)),
    ("checkpoint-location", "vertex", "error", "", (default("checkpoints", "/shared/x"),)),
    ("checkpoint-location", "kubeflow", "warning", "train", (SPOT,)),
    ("checkpoint-location", "kubeflow", "warning", "train", (SPOT, params(checkpoint_minutes=None))),
    ("data-location", "kubeflow", "error", "", (default("data", "/data"),)),
    ("data-location", "vertex", "error", "", (default("data", "/data"),)),
    ("model-location", "kubeflow", "error", "", (params(publish_uri="/models"),)),
    ("model-location", "vertex", "error", "", (params(publish_uri="models"),)),
    ("model-location", "vertex", "error", "", (params(baseline="/models/1"),)),
    ("cached-side-effects", "vertex", "warning", "publish", (task("publish", "cachingOptions", enableCache=True),)),
    ("credentials-file", "kubeflow", "error", "train", (KEY,)),
    ("credentials-file", "vertex", "error", "train", (KEY,)),
    ("credentials-file", "vertex", "error", "train", (env("KAFKA_SASL_PASSWORD_FILE", "/run/password"),)),
    ("credentials-file", "kubeflow", "error", "train", (env("KAFKA_SSL_CAFILE", "/run/ca.pem"),)),
]
SOUND: list[tuple[str, PlatformName, tuple[Change, ...]]] = [
    ("unpinned-image", "vertex", (image("{{$.inputs.parameters['image']}}"),)),
    ("local-image", "vertex", (image(f"python@{DIGEST}"),)),
    ("local-image", "vertex", (image(f"docker.io/library/python@{DIGEST}"),)),
    ("foreign-platform", "kubeflow", (env("OTHER", "vertex"),)),
    ("backend", "kubeflow", (pod(pvcMount=[claim("data", "/data")]),)),
    ("params", "vertex", (params(batch_size=3),)),
    ("limits", "kubeflow", ()),
    ("shared-memory", "kubeflow", (pod(emptyDirMounts=[SHM]),)),
    ("cached-side-effects", "vertex", (task("train", "cachingOptions", enableCache=True),)),
    ("retries", "vertex", (task("train", "retryPolicy", backoffMaxDuration="3600s"),)),
    ("retries", "kubeflow", (task("train", "retryPolicy", maxRetryCount=0, backoffDuration="0s"),)),
    (
        "checkpoint-location",
        "kubeflow",
        (default("checkpoints", "/shared/x"), pod(pvcMount=[claim("shared", "/shared")])),
    ),
    ("checkpoint-location", "vertex", (default("checkpoints", "/gcs/bucket/x"),)),
    ("checkpoint-location", "kubeflow", (default("checkpoints", "s3://bucket/x"),)),
    ("checkpoint-location", "kubeflow", (SPOT, params(checkpoint_minutes=2))),
    ("checkpoint-location", "kubeflow", (pod(nodeSelector={"labels": {"team": "spotty"}}),)),
    ("data-location", "vertex", (default("data", "/gcs/bucket/data"),)),
    ("data-location", "kubeflow", (default("data", "gs://bucket/data"),)),
    ("model-location", "kubeflow", (params(publish_uri="s3://bucket/models", baseline="gs://bucket/models/1"),)),
    ("model-location", "vertex", (params(publish_uri="/gcs/bucket/models"),)),
    ("model-location", "kubeflow", (params(publish_uri="/shared/m"), shared_volume)),
    ("credentials-file", "kubeflow", (KEY, pod(secretAsVolume=[SECRET]))),
    ("credentials-file", "vertex", (env("KAFKA_SASL_PASSWORD_FILE", "sm://projects/p/secrets/s/versions/1"),)),
    ("credentials-file", "kubeflow", (env("KAFKA_SSL_CAFILE", "/etc/ssl/certs/ca-certificates.crt"),)),
    ("credentials-file", "kubeflow", (env("DATA_FILE", "/data/x"),)),
]


def test_every_rule_has_a_file_that_has_it_and_one_that_has_not() -> None:
    rules = {rule.id for rule in RULES} - {"secret-value", "nodes"}  # in test_secrets and test_nodes
    assert {case[0] for case in FOUND} == rules == {case[0] for case in SOUND}


@pytest.mark.parametrize("target", PLATFORMS)
def test_what_compile_writes_is_sound(target: PlatformName) -> None:
    assert findings(target) == []


@pytest.mark.parametrize(("rule", "target", "severity", "step", "changes"), FOUND)
def test_it_is_found(rule: str, target: PlatformName, severity: str, step: str, changes: tuple[Change, ...]) -> None:
    (found,) = [finding for finding in findings(target, *changes, asked=target) if finding.rule == rule]
    assert (found.severity, found.steps) == (severity, (step,) if step else ())
    assert str(found).startswith(f"{severity}: {step or found.where[0]}: {found.message}; {found.advice}")
    assert "\n" not in str(found)


@pytest.mark.parametrize(("rule", "target", "changes"), SOUND)
def test_it_is_not_found_where_it_is_not(rule: str, target: PlatformName, changes: tuple[Change, ...]) -> None:
    assert [finding for finding in findings(target, *changes) if finding.rule == rule] == []


def test_credentials_that_the_params_name_are_found_in_every_step_without_them() -> None:
    credentials = params(GOOGLE_APPLICATION_CREDENTIALS="/etc/google/key.json")
    (found,) = findings("kubeflow", credentials, pod(secretAsVolume=[SECRET]))
    assert (found.rule, found.steps) == ("credentials-file", ("data-prep", "evaluate", "exit-step", "publish"))


def test_steps_with_the_same_finding_are_one_line() -> None:
    def tagged(pipeline: Pipeline) -> None:
        for step in ("data-prep", "train", "evaluate"):
            pipeline.container(step)["image"] = f"registry.example/{step}:1.0"

    (found,) = findings("vertex", tagged)
    assert found.steps == ("data-prep", "evaluate", "train")
    assert found.message == (
        "the image has a tag, which may be moved, and no digest: registry.example/data-prep:1.0, "
        "registry.example/evaluate:1.0, registry.example/train:1.0"
    )


def test_errors_come_first_and_the_target_that_is_asked_for_goes_before_the_files_own() -> None:
    found = findings("kubeflow", image("registry.example/train:1.0"), asked="vertex")
    assert [finding.severity for finding in found] == ["error", "error", "warning"]
    assert {finding.rule for finding in found} == {"foreign-platform", "unpinned-image"}


def test_an_image_that_names_a_login_is_not_shown_with_it() -> None:
    found = findings("vertex", image("user:hunter2!@registry.example/train:1.0"))
    assert [finding.message for finding in found] == ["no name of an image: …@registry.example/train:1.0"]


@pytest.mark.parametrize("target", PLATFORMS)
def test_a_pipeline_of_others_is_looked_at_for_secrets_and_images_alone(tmp_path: Path, target: PlatformName) -> None:
    container = {"image": "registry.example/work:1.0", "env": [{"name": "DB_PASSWORD", "value": "hunter2!"}]}
    spec = {
        "pipelineInfo": {"name": "foreign"},
        "deploymentSpec": {"executors": {"exec-work": {"container": container}}},
        "root": {"inputDefinitions": {"parameters": {"params": {"defaultValue": 5}}}},
    }
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(spec))
    found = lint(read_compiled(file), target)
    assert [(finding.rule, finding.steps) for finding in found] == [
        ("secret-value", ("work",)),
        ("unpinned-image", ("work",)),
    ]


@pytest.mark.parametrize("odd", [None, 5, "x", [], {}, [5], {"a": 5}])
def test_whatever_stands_in_a_part_is_no_crash(odd: object) -> None:
    def changed(pipeline: Pipeline) -> None:
        for key in ("env", "args", "command", "resources", "image"):
            pipeline.container("train")[key] = odd
        for key in ("cachingOptions", "retryPolicy", "componentRef"):
            pipeline.task("evaluate")[key] = odd
        for key in ("pvcMount", "emptyDirMounts", "nodeSelector", "tolerations"):
            pipeline.pod("evaluate")[key] = odd
        pipeline.spec["components"]["comp-odd"] = odd
        pipeline.input("data")["defaultValue"] = odd

    for asked in (*PLATFORMS, None):
        for finding in findings("kubeflow", changed, asked=asked):
            assert str(finding).isprintable()
