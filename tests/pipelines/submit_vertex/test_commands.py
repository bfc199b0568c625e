"""The commands against a server in Vertex AI's place."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from google.cloud.aiplatform_v1.types import PipelineState, PipelineTaskDetail

from components.shared.errors import EXIT_BAD_INPUT, EXIT_FAILURE
from pipelines.cli import main
from pipelines.compiled import CompiledPipeline
from tests.peers.gcs import GcsBucket
from tests.peers.vertex_api import LOCATION, PROJECT, VertexApi
from tests.peers.vertex_faults import Break, Refuse
from tests.pipelines.submit.conftest import unresolved
from tests.pipelines.submit_vertex.conftest import DATA


@pytest.fixture
def where(vertex: VertexApi, gcs_bucket: GcsBucket) -> list[str]:
    """The options that say where to."""
    options = {
        "project": PROJECT,
        "location": LOCATION,
        "staging-bucket": gcs_bucket.uri,
        "endpoint": vertex.endpoint,
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_upload_and_submit_may_be_repeated(
    vertex: VertexApi,
    gcs_bucket: GcsBucket,
    compiled: CompiledPipeline,
    where: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    upload = ["upload", str(compiled.file), *where, "--json"]
    submit = ["submit", str(compiled.file), *where, "--data", DATA, "--json"]
    for command in (upload, submit):
        assert main(command) == 0
        first = told(capsys)
        assert main(command) == 0
        again = told(capsys)
        assert [key for key in first if first[key] != again[key]]  # it says that it was there
    assert len(gcs_bucket.names()) == 1
    assert len(vertex.jobs) == 1


@pytest.mark.parametrize(("state", "code"), [("RUNNING", 0), ("SUCCEEDED", 0), ("FAILED", 1)])
def test_a_run_is_looked_at(
    vertex: VertexApi,
    compiled: CompiledPipeline,
    where: list[str],
    capsys: pytest.CaptureFixture[str],
    state: str,
    code: int,
) -> None:
    assert main(["submit", str(compiled.file), *where, "--data", DATA, "--name", "a-run"]) == 0
    job = vertex.jobs["a-run"]
    job.state = getattr(PipelineState, f"PIPELINE_STATE_{state}")
    job.job_detail.task_details = [PipelineTaskDetail(task_id=2, task_name="train", state=state)]
    capsys.readouterr()
    for run in ("a-run", job.name):
        assert main(["submit", "--status", run, *where]) == code
        out, err = capsys.readouterr()
        assert out.startswith(f"a-run {state.lower()}: https://")
        assert f"\n  train  {state.lower()}" in out
        assert err.startswith("error: a-run failed; the platform does not say why; see https://") == bool(code)
    assert main(["submit", "--status", "no-run", *where]) == EXIT_BAD_INPUT
    assert "Vertex AI has no run " in capsys.readouterr().err


def test_another_run_is_started_when_asked_for(
    vertex: VertexApi, compiled: CompiledPipeline, where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    submit = ["submit", str(compiled.file), *where, "--data", DATA]

    assert main(submit) == 0
    assert main([*submit, "--again"]) == 0

    first, second = vertex.jobs
    assert second == f"{first}-2"


@pytest.mark.parametrize("state", ["RUNNING", "FAILED", "CANCELLING"])
def test_an_outage_does_not_hide_that_another_run_is_wanted(
    vertex: VertexApi,
    compiled: CompiledPipeline,
    where: list[str],
    capsys: pytest.CaptureFixture[str],
    state: str,
) -> None:
    submit = ["submit", str(compiled.file), *where, "--data", DATA, "--name", "a-run", "--json"]
    assert main(submit) == 0
    vertex.jobs["a-run"].state = getattr(PipelineState, f"PIPELINE_STATE_{state}")
    vertex.plan(Refuse(503, "UNAVAILABLE", "Later"))
    capsys.readouterr()

    assert main([*submit, "--again"] if state == "RUNNING" else submit) == 0

    run = told(capsys)["run"]
    assert (run["name"], run["existed"]) == ("a-run-2", False)
    assert list(vertex.jobs) == ["a-run", "a-run-2"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Refuse(403, "PERMISSION_DENIED", "Permission denied."), EXIT_BAD_INPUT),
        (Break(), EXIT_FAILURE),
    ],
    ids=["refused", "silent"],
)
def test_what_goes_wrong_is_one_message(
    vertex: VertexApi,
    compiled: CompiledPipeline,
    where: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Refuse | Break,
    code: int,
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "0.5")
    vertex.plan(fault, times=100)
    capsys.readouterr()

    assert main(["submit", str(compiled.file), *where, "--data", DATA]) == code

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert len([line for line in captured.err.splitlines() if line.startswith("error: ")]) == 1


def test_a_name_that_is_lost_on_the_way_is_an_outage(
    vertex: VertexApi,
    compiled: CompiledPipeline,
    where: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit = ["submit", str(compiled.file), *where, "--data", DATA, "--name", "a-run"]
    assert main(submit) == 0
    vertex.jobs["a-run"].state = PipelineState.PIPELINE_STATE_RUNNING
    asked, answered = 0, VertexApi._get

    def lose(api: VertexApi, job: str, *more: Any) -> str:
        nonlocal asked
        asked += 1
        if asked == 2:  # the first look finds the run; from now on it is followed
            vertex.plan(Break(), "GET pipelineJobs")
            unresolved(monkeypatch, socket.EAI_NONAME, times=2)
        elif asked == 3:
            api.jobs[job].state = PipelineState.PIPELINE_STATE_SUCCEEDED
        return answered(api, job, *more)

    monkeypatch.setattr(VertexApi, "_get", lose)
    capsys.readouterr()

    assert main([*submit, "--follow"]) == 0

    err = capsys.readouterr().err
    assert err.count("a-run is asked for again") == 1
    assert "the platform answers again" in err
    assert err.endswith("a-run succeeded\n")
