"""Data prep in several shards, as the compiled file has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped] # publishes no types
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.cli import main
from pipelines.compiled import PLATFORMS, PlatformName
from tests.pipelines.settings.compiling import at, compile_file, compiled_with, write_settings

BODY = "comp-exit-handler-1"


@pytest.mark.parametrize("target", PLATFORMS)
def test_a_loop_of_parts_and_a_step_that_joins_them(
    tmp_path: Path, target: PlatformName, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"data-prep": {"shards": 4, "cpu": "3", "cache": True}}
    pipeline = compiled_with(tmp_path, target, settings)

    json_format.ParseDict(pipeline.spec, pipeline_spec_pb2.PipelineSpec())
    tasks = pipeline.spec["components"][BODY]["dag"]["tasks"]
    (loop,) = (name for name in tasks if name.startswith("for-loop"))
    assert json.loads(at(tasks, f"{loop}/parameterIterator/items/raw")) == [0, 1, 2, 3]
    part = at(pipeline.spec["components"], f"comp-{loop}/dag/tasks/data-prep-part")
    assert at(part, "inputs/parameters/shards/runtimeValue/constant") == 4
    joining = tasks["data-prep"]
    assert joining["dependentTasks"] == [loop]
    assert at(joining, "inputs/artifacts/parts/taskOutputArtifact/producerTask") == loop
    assert at(joining, "inputs/parameters/parts_sha256/taskOutputParameter/producerTask") == loop
    assert at(tasks["train"], "inputs/artifacts/dataset/taskOutputArtifact/producerTask") == "data-prep"
    for task, label in ((part, "exec-data-prep-part"), (joining, "exec-data-prep")):
        assert task["cachingOptions"] == {"enableCache": True}
        assert task["retryPolicy"]["maxRetryCount"] == 2
        assert at(pipeline.container(label), "resources/resourceCpuLimit") == "3"
    capsys.readouterr()
    assert main(["validate", str(tmp_path / "pipeline.yaml")]) == 0
    assert "warning: data-prep-part: data prep is cached by the name" in capsys.readouterr().out


def test_one_shard_is_the_pipeline_without(tmp_path: Path) -> None:
    texts = [
        compile_file("kubeflow", write_settings(tmp_path / "settings.yaml", settings), tmp_path / "p.yaml").read_text()
        for settings in ({"target": "kubeflow"}, {"data-prep": {"shards": 1}})
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data-prep": {"shards": 0}}, "data-prep.shards: must be at least 1"),
        ({"train": {"shards": 2}}, "train.shards: unknown key: it belongs to data-prep alone"),
        ({"data-prep": {"shard": 2}}, "data-prep.shard: unknown key; did you mean shards?"),
    ],
)
def test_what_is_refused(tmp_path: Path, settings: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_settings(tmp_path / "settings.yaml", settings)
    assert main(["settings", "--target", "kubeflow", "--settings", str(file)]) == 2
    assert message in capsys.readouterr().err
