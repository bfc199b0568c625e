"""The compiled file as Vertex AI's own library reads it: nothing is asked of any network, nothing is printed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform

from pipelines.compiled import CompiledPipeline
from pipelines.submit.platform import RunRequest
from pipelines.submit.vertex import VertexPlatform
from tests.peers.vertex_api import LOCATION, PROJECT, VertexApi
from tests.pipelines.submit_vertex.conftest import DATA

Run = Callable[..., RunRequest]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of any network but this machine's own; it fails."""
    asked: list[Any] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def only_here(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] != "127.0.0.1":
            asked.append(address)
            raise OSError("this test has no network")
        connect(self, address)

    def resolve_only_here(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != "127.0.0.1":
            asked.append(host)
            raise socket.gaierror(socket.EAI_AGAIN, "this test has no network")
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.setattr(socket, "getaddrinfo", resolve_only_here)
    return asked


def test_the_compiled_file_loads_through_the_library_without_a_network(
    compiled: CompiledPipeline, no_network: list[Any]
) -> None:
    job = aiplatform.PipelineJob(
        display_name="a run",
        template_path=str(compiled.file),
        pipeline_root="gs://bucket/runs",
        parameter_values={"data": DATA},
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call] # google-auth has few types
        project=PROJECT,
        location=LOCATION,
    )
    assert job.pipeline_spec["pipelineInfo"]["name"] == compiled.name
    assert dict(job.runtime_config.parameter_values) == {"data": DATA}
    assert no_network == []


def test_submitting_asks_nobody_but_the_endpoint_and_the_store(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, no_network: list[Any]
) -> None:
    platform.submit(a_run())
    assert list(vertex.jobs) == ["a-run"]
    assert no_network == []
    with pytest.raises(OSError, match="no network"):  # it would have been seen
        socket.create_connection(("192.0.2.1", 443), timeout=1)
    assert no_network == ["192.0.2.1"]
