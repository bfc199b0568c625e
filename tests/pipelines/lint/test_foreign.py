"""A pipeline of somebody else, with what ours does not have: loops, conditions, pipelines inside, importers, claims."""
# No postponed annotations here: kfp reads the types from them.

from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl, kubernetes

from pipelines.compiled import PlatformName, read_compiled
from pipelines.lint.finding import Finding
from pipelines.lint.rules import lint

IMAGE = "registry.example/work@sha256:" + "b2" * 32


def pipeline_of(*, secret: str, seed: int) -> Any:
    @dsl.component(base_image=IMAGE)  # type: ignore[untyped-decorator] # kfp publishes no types
    def make(name: str, options: dict = {"depth": 3}) -> str:  # type: ignore[type-arg] # noqa: B006 - as kfp wants it
        return name

    @dsl.component(base_image=IMAGE)  # type: ignore[untyped-decorator] # likewise
    def tell(text: str, api_token: str = secret) -> None:
        print(text)

    @dsl.container_component  # type: ignore[untyped-decorator] # likewise
    def keep(checkpoint_dir: str, kept: dsl.Output[dsl.Artifact]):  # type: ignore[no-untyped-def] # kfp wants none
        return dsl.ContainerSpec(image=IMAGE, command=["keep"], args=[checkpoint_dir, kept.path])

    @dsl.pipeline  # type: ignore[untyped-decorator] # likewise
    def inner(name: str, checkpoint_dir: str) -> str:
        made = make(name=name).set_retry(3)
        keep(checkpoint_dir=checkpoint_dir)
        return made.output  # type: ignore[no-any-return] # a channel, while it is compiled

    @dsl.pipeline(name="foreign")  # type: ignore[untyped-decorator] # likewise
    def pipeline(seed: int = seed, checkpoints: str = "/somewhere") -> None:
        nested = inner(name="a", checkpoint_dir=checkpoints)
        with dsl.ParallelFor([{"label": "x"}, {"label": "y"}]) as item:
            make(name=item.label)
        with dsl.If(nested.output == "a"):
            tell(text="done")
        dsl.importer(artifact_uri="gs://bucket/data", artifact_class=dsl.Dataset)
        claim = kubernetes.CreatePVC(pvc_name_suffix="-work", access_modes=["ReadWriteOnce"], size="5Gi")
        made = make(name="b")
        kubernetes.mount_pvc(made, claim.outputs["name"], "/work")
        kubernetes.DeletePVC(pvc_name=claim.outputs["name"]).after(made)

    return pipeline


def findings(tmp_path: Path, target: PlatformName | None, *, secret: str = "", seed: int = 3) -> list[Finding]:
    file = tmp_path / "pipeline.yaml"
    compiler.Compiler().compile(pipeline_of(secret=secret, seed=seed), str(file))
    return lint(read_compiled(file), target)


def test_what_is_right_is_not_found_wrong(tmp_path: Path) -> None:
    found = findings(tmp_path, "kubeflow")

    assert [(finding.rule, finding.where) for finding in found if finding.severity == "error"] == [
        ("checkpoint-place", "root.inputDefinitions.parameters.checkpoints.defaultValue")
    ]
    assert {finding.rule for finding in found if finding.severity == "warning"} == {
        "numbers-in-struct",
        "limits",
        "security",
        "cached-side-effects",
        "retries",
    }


def test_a_secret_and_a_large_number_are_found(tmp_path: Path) -> None:
    found = findings(tmp_path, "kubeflow", secret="hunter2!", seed=2**60)  # noqa: S106 - planted

    errors = {(finding.rule, finding.where) for finding in found if finding.severity == "error"}
    assert errors >= {
        ("secret-value", "components.comp-tell.inputDefinitions.parameters.api_token.defaultValue"),
        ("numbers-in-struct", "root.inputDefinitions.parameters.seed.defaultValue"),
    }
    assert "hunter2!" not in str(found)


def test_a_pipeline_with_claims_is_not_for_vertex(tmp_path: Path) -> None:
    errors = [finding.where for finding in findings(tmp_path, "vertex") if finding.rule == "foreign-platform"]

    assert errors == [
        "deploymentSpec.executors.exec-createpvc.container.image",
        "deploymentSpec.executors.exec-deletepvc.container.image",
        "platforms",
    ]


@pytest.mark.parametrize("target", [None, "vertex"])
def test_what_only_kubernetes_has_is_left_out_elsewhere(tmp_path: Path, target: PlatformName | None) -> None:
    rules = {finding.rule for finding in findings(tmp_path, target)}

    if target == "vertex":
        assert not rules & {"security", "shared-memory", "pod-conflicts", "size"}
    else:
        assert "security" in rules, "a file with a document for Kubernetes is for Kubeflow, if nobody says otherwise"
