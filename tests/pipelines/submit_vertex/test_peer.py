"""The server in Vertex AI's place is as strict as the API's reference, and Google's own client understands it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import requests
from google.api_core.exceptions import Conflict, NotFound
from google.cloud.aiplatform_v1.services.pipeline_service import PipelineServiceClient
from google.cloud.aiplatform_v1.types import PipelineJob

from pipelines.submit.platform import RunRequest
from pipelines.submit.vertex import VertexPlatform
from tests.peers.vertex_api import LOCATION, PROJECT, VertexApi

Run = Callable[..., RunRequest]
PARENT = f"projects/{PROJECT}/locations/{LOCATION}"


@pytest.fixture
def good(platform: VertexPlatform, vertex: VertexApi, a_run: Run) -> dict[str, Any]:
    """The body of a request that is right."""
    platform.submit(a_run())
    vertex.jobs.clear()
    return vertex.requests[-1].body


@pytest.fixture
def send(vertex: VertexApi, monkeypatch: pytest.MonkeyPatch) -> Callable[..., requests.Response]:
    """Ask it for a job, whoever asks."""
    monkeypatch.setattr(vertex, "_check_token", lambda header: None)

    def post(body: Any, job_id: str = "a-run", **query: str) -> requests.Response:
        url = f"https://{vertex.endpoint}/v1/{PARENT}/pipelineJobs"
        options = {"pipelineJobId": job_id, "$alt": "json;enum-encoding=int"} | query
        return requests.post(url, json=body, params=options, timeout=30)

    return post


SPOILED: dict[str, Callable[[Any], object]] = {
    "an unknown field": lambda body: body.update(colour="red"),
    "an unknown field of the pipeline": lambda body: body["pipelineSpec"]["root"].update(colour="red"),
    "a state": lambda body: body.update(state=3),
    "no place": lambda body: body["runtimeConfig"].pop("gcsOutputDirectory"),
    "an unknown value": lambda body: body["runtimeConfig"]["parameterValues"].update(epochs="3"),
    "a value of another type": lambda body: body["runtimeConfig"]["parameterValues"].update(data=3),
    "a missing value": lambda body: body["runtimeConfig"]["parameterValues"].pop("data"),
    "a bad label": lambda body: body["labels"].update(Team="vision"),
    "a long name": lambda body: body.update(displayName="x" * 129),
}


def test_a_request_that_is_not_is_refused(
    vertex: VertexApi, send: Callable[..., requests.Response], good: dict[str, Any]
) -> None:
    for name, spoil in SPOILED.items():
        spoil(body := copy.deepcopy(good))
        answer = send(body)
        assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT"), name
    assert vertex.jobs == {}


def test_googles_own_client_understands_its_answers(vertex: VertexApi, good: dict[str, Any]) -> None:
    job = PipelineJob(
        display_name="by hand",
        pipeline_spec=good["pipelineSpec"],
        runtime_config={"gcs_output_directory": "gs://bucket/runs", "parameter_values": {"data": "gs://x"}},
    )
    with PipelineServiceClient(transport="rest", client_options={"api_endpoint": vertex.endpoint}) as client:
        made = client.create_pipeline_job(parent=PARENT, pipeline_job=job, pipeline_job_id="by-hand")
        assert client.get_pipeline_job(name=made.name).display_name == "by hand"
        with pytest.raises(Conflict, match="already exists"):
            client.create_pipeline_job(parent=PARENT, pipeline_job=job, pipeline_job_id="by-hand")
        with pytest.raises(NotFound, match="does not exist"):
            client.get_pipeline_job(name=f"{PARENT}/pipelineJobs/no-run")
