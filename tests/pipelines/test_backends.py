"""Which releases of Kubeflow Pipelines take what is compiled: by the fields of their own protobuf definitions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.compiled import CompiledPipeline
from pipelines.lint.rules import lint
from pipelines.settings.kubeflow import FIELD_OF, FIRST_RELEASE
from tests.pipelines.conftest import Capsys
from tests.pipelines.settings.compiling import compiled_with
from tests.pipelines.settings.test_fields import KUBEFLOW, everything_said

OLDEST = "2.15.0"
Field = tuple[str, str, str]  # package, message, field


def fields_of(release: dict[str, dict[str, list[str]]]) -> set[Field]:
    return {
        (package, message, field)
        for package, messages in release.items()
        for message, fields in messages.items()
        for field in fields
    }


def known_by_release() -> dict[str, set[Field]]:
    table = json.loads(Path(__file__).with_name("kfp_fields.json").read_text())
    fields = fields_of(table[OLDEST])
    known = {OLDEST: fields}
    for release in list(table)[2:]:  # behind the source and the oldest
        fields = (fields | fields_of(table[release]["added"])) - fields_of(table[release]["removed"])
        known[release] = fields
    return known


KNOWN = known_by_release()


def used(value: Any, message: Any) -> Iterator[Field]:
    """Every field that a message of protobuf has, written as JSON."""
    if message.file.package == "google.protobuf":
        return
    names = {name: field for field in message.fields for name in (field.name, field.json_name)}
    for key, item in value.items():
        field = names[key]
        yield (message.file.package, message.full_name.partition(".")[2], field.name)
        if (inner := field.message_type) is None:
            continue
        if inner.GetOptions().map_entry:
            inner, item = inner.fields_by_name["value"].message_type, list(item.values())
        for entry in (item if isinstance(item, list) else [item]) if inner else []:
            yield from used(entry, inner)


def fields_in(pipeline: CompiledPipeline) -> set[Field]:
    """The fields of both documents."""
    found = {*used(pipeline.spec, pipeline_spec_pb2.PipelineSpec.DESCRIPTOR)}
    for executor in pipeline.executors.values():
        found |= {*used(executor, pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec.DESCRIPTOR)}
    found |= {*used({"platforms": pipeline.platforms}, pipeline_spec_pb2.PlatformSpec.DESCRIPTOR)}
    kubernetes = pipeline.platforms.get("kubernetes", {"deploymentSpec": {"executors": {}}})
    for settings in kubernetes["deploymentSpec"]["executors"].values():
        found |= {*used(settings, kubernetes_executor_config_pb2.KubernetesExecutorConfig.DESCRIPTOR)}
    return found


def unknown(pipeline: CompiledPipeline) -> dict[str, set[str]]:
    return {release: {field for _, _, field in fields_in(pipeline) - known} for release, known in KNOWN.items()}


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_default_file_has_nothing_that_a_release_does_not_know(tmp_path: Path, device: str) -> None:
    pipeline = compiled_with(tmp_path, "kubeflow", {"target": "kubeflow"}, "--set", f"device={device}")

    assert len(fields_in(pipeline)) > 50
    assert unknown(pipeline) == {"2.15.0": set(), "2.16.0": set(), "2.16.1": set(), "2.17.0": set()}


NEWER = {key: FIRST_RELEASE[field] for key, field in FIELD_OF.items()}


@pytest.mark.slow
def test_every_other_setting_is_known_to_the_oldest(tmp_path: Path) -> None:
    rows = {key: row for key, row in KUBEFLOW.items() if not key.startswith(tuple(NEWER))}
    said = everything_said(rows)
    said["volumes"] = [{**volume, "sub_path": None} for volume in said["volumes"]]

    pipeline = compiled_with(tmp_path, "kubeflow", {"every-step": said, "train": {"timeout_s": None}})

    assert not any(unknown(pipeline).values())
    assert [finding for finding in lint(pipeline, None) if finding.rule == "backend"] == []


@pytest.mark.parametrize(("key", "release"), NEWER.items())
def test_a_setting_that_needs_more_says_so(tmp_path: Path, capsys: Capsys, key: str, release: str) -> None:
    said = next(row[0] for name, row in KUBEFLOW.items() if name.startswith(key))

    pipeline = compiled_with(tmp_path, "kubeflow", {"train": said})

    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"warning: {key}: ")]
    assert lines == [f"warning: {key}: Kubeflow Pipelines before {release} refuses a pipeline compiled with this"]
    found = [finding.message for finding in lint(pipeline, None) if finding.rule == "backend"]
    assert len(found) == 1
    assert f"Kubeflow Pipelines before {release} knows no " in found[0]
    refusing = [name for name, fields in unknown(pipeline).items() if fields]
    assert refusing == [name for name in KNOWN if name < release]


def test_the_table_of_releases_is_what_the_definitions_say() -> None:
    for field, release in FIRST_RELEASE.items():
        name = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", field)
        assert min(one for one, known in KNOWN.items() if name in {field for _, _, field in known}) == release


def test_the_definitions_of_the_newest_are_those_that_are_installed() -> None:
    found = set()
    for module in (pipeline_spec_pb2, kubernetes_executor_config_pb2):
        stack = [*module.DESCRIPTOR.message_types_by_name.values()]
        while stack:
            message = stack.pop()
            stack += message.nested_types
            if not message.GetOptions().map_entry:
                name = message.full_name.partition(".")[2]
                found |= {(message.file.package, name, field.name) for field in message.fields}

    assert found == KNOWN["2.17.0"]
