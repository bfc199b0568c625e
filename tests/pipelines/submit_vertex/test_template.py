"""The compiled file as Vertex AI's own library reads it."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials

from pipelines.compiled import CompiledPipeline, read_compiled
from tests.peers.vertex_api import LOCATION, PROJECT
from tests.pipelines.submit_vertex.conftest import DATA
from tests.pipelines.test_golden import FOLDER


@pytest.mark.parametrize("nodes", [1, 4])
def test_the_compiled_file_loads_through_the_library_without_a_network(
    compiled: CompiledPipeline, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.cloud import aiplatform  # two seconds, and not for whoever only collects tests

    asked: list[Any] = []
    if nodes > 1:
        compiled = read_compiled(FOLDER / "vertex-nodes.yaml")

    def refuse(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        raise OSError("this test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    job = aiplatform.PipelineJob(
        display_name="a run",
        template_path=str(compiled.file),
        pipeline_root="gs://bucket/runs",
        parameter_values={"data": DATA},
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call] # google-auth has few types
        project=PROJECT,
        location=LOCATION,
    )
    assert job.pipeline_spec == compiled.spec
    assert dict(job.runtime_config.parameter_values) == {"data": DATA}
    assert asked == []
