"""What the Kubernetes half of a compiled file asks for is what Kubernetes' published schemas allow."""

from __future__ import annotations

import re
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped] # publishes no types
import pytest
import yaml

from pipelines.cli import main
from pipelines.compiled import CompiledPipeline, read_compiled
from pipelines.lint.rules import lint
from tests.pipelines.conftest import ROOT
from tests.pipelines.kubernetes_pods import pods

MANIFESTS = ROOT / "pipelines" / "examples" / "kubernetes"
SETTINGS = sorted((ROOT / "pipelines" / "examples" / "settings").glob("kubeflow-*.yaml"))
# The oldest that Kubeflow's releases of the last two years name, and the newest whose schemas are here.
VERSIONS = ("1.29.0", kubernetes_validate.latest_version())


def conforms(pipeline: CompiledPipeline) -> None:
    made = pods(pipeline)
    assert made
    for pod in made.values():
        for version in VERSIONS:
            kubernetes_validate.validate(pod, version, strict=True)
        names = [volume["name"] for volume in pod["spec"]["volumes"]]
        assert len(names) == len(set(names)), "the schemas do not know that names must differ"
        assert {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]} == set(names)


def compiled(directory: Path, *options: str | Path) -> CompiledPipeline:
    file = directory / "pipeline.yaml"
    assert main(["compile", "--target", "kubeflow", "-o", str(file), *map(str, options)]) == 0
    return read_compiled(file)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda path: path.stem)
def test_the_pods_of_every_example_conform(tmp_path: Path, settings: Path) -> None:
    pipeline = compiled(tmp_path, "--settings", settings)

    conforms(pipeline)
    assert [finding for finding in lint(pipeline, None) if finding.severity == "error"] == []


def test_the_pods_of_the_defaults_conform_and_have_what_training_needs(tmp_path: Path) -> None:
    pipeline = compiled(tmp_path)

    conforms(pipeline)
    made = pods(pipeline)
    assert set(made) == {"exec-data-prep", "exec-train", "exec-evaluate", "exec-publish", "exec-exit-step"}
    train = made["exec-train"]["spec"]
    (main_container,) = train["containers"]
    assert main_container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {volume["name"]: volume["emptyDir"]["medium"] for volume in train["volumes"]} == {"shm": "Memory"}
    assert main_container["volumeMounts"] == [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108 - where it must be
    for pod in made.values():  # the image's own user, and nothing that 2.15 would refuse the file for
        assert pod["spec"]["containers"][0]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_claim_and_the_job_that_hands_it_over_conform_and_fit_the_examples(version: str) -> None:
    (claim,) = yaml.safe_load_all((MANIFESTS / "claim.yaml").read_text())
    (job,) = yaml.safe_load_all((MANIFESTS / "claim-owner.yaml").read_text())

    for manifest in (claim, job):
        kubernetes_validate.validate(manifest, version, strict=True)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsUser"] == 0, "nobody else may give a directory away"
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"]}
    (user,) = set(re.findall(r"^USER (.*)$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    assert container["command"][-2:] == [user, container["volumeMounts"][0]["mountPath"]]
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["metadata"]["name"] == "shutterline"
    for file in SETTINGS:
        assert "sub_path" not in file.read_text(), "the job would have to hand over the same directory"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_role_of_the_step_that_has_nodes_train_conforms(version: str) -> None:
    role, binding = yaml.safe_load_all((MANIFESTS.parent / "trainer" / "role.yaml").read_text())

    for manifest in (role, binding):
        kubernetes_validate.validate(manifest, version, strict=True)
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [(subject["kind"], subject["name"]) for subject in binding["subjects"]] == [
        ("ServiceAccount", "pipeline-runner")
    ]
    assert not {"secrets", "*"} & {
        each for rule in role["rules"] for key in ("resources", "verbs") for each in rule[key]
    }


def test_the_schemas_refuse_what_is_wrong(tmp_path: Path) -> None:
    pipeline = compiled(tmp_path)
    wrong = pods(pipeline)["exec-train"]
    wrong["spec"]["containers"][0]["resources"]["limits"] = ["nvidia.com/gpu"]

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)
