"""A run's place in an experiment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.cloud.aiplatform_v1.types import Context, PipelineState

from components.shared.errors import PlatformRefusedError, PlatformUnavailableError
from pipelines.submit.platform import RunRequest
from pipelines.submit.vertex import VertexPlatform
from tests.peers.vertex_api import LOCATION, NUMBER, VertexApi
from tests.peers.vertex_faults import Break, LoseAnswer, Refuse
from tests.pipelines.submit_vertex.conftest import Platforms

Run = Callable[..., RunRequest]
RUN = f"projects/{NUMBER}/locations/{LOCATION}/metadataStores/default/contexts/a-run"


@pytest.fixture
def platform(a_platform: Platforms) -> VertexPlatform:
    return a_platform(experiment="digits")


def test_an_experiment_is_made_once_and_has_each_run_once(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run
) -> None:
    vertex.contexts_late = 1
    platform.submit(a_run())
    platform.submit(a_run(name="second"))
    assert platform.submit(a_run()).existed
    assert vertex.children == {"digits": [RUN, RUN.replace("a-run", "second")]}
    assert vertex.asked.count("POST contexts") == 4
    made = vertex.contexts["digits"]
    assert (made.schema_title, made.schema_version, dict(made.metadata)) == (
        "system.Experiment",
        "0.0.1",
        {"experiment_deleted": False},
    )


@pytest.mark.parametrize("fault", [LoseAnswer(), Break(), Refuse(503, "UNAVAILABLE", "Later")], ids=str)
@pytest.mark.parametrize("what", ["GET contexts", "POST contexts"])
def test_an_outage_is_outlived(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, fault: LoseAnswer | Break | Refuse, what: str
) -> None:
    vertex.plan(fault, what)
    platform.submit(a_run())
    assert vertex.children == {"digits": [RUN]}
    assert list(vertex.contexts) == ["digits"]


@pytest.mark.parametrize("schema", ["system.Pipeline", None])
def test_what_is_no_experiment_is_refused_before_the_run(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, schema: str | None
) -> None:
    if schema:
        vertex.contexts["digits"] = Context(name=f"{RUN}-x", schema_title=schema)
    else:
        vertex.plan(Refuse(403, "PERMISSION_DENIED", "No."), "GET contexts")
    with pytest.raises(PlatformRefusedError) as caught:
        platform.submit(a_run())
    expected = f"--experiment digits: is a {schema} of that project and no experiment" if schema else "No.; grant these"
    assert expected in str(caught.value)
    assert vertex.jobs == {}


def test_a_run_that_its_experiment_does_not_take_was_started_nevertheless(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    vertex.contexts_late = 9999
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "1")
    with pytest.raises(PlatformUnavailableError) as late:
        platform.submit(a_run())
    vertex.contexts_late = 0
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "20")
    vertex.plan(Refuse(403, "PERMISSION_DENIED", "No."), "POST contexts")
    with pytest.raises(PlatformRefusedError) as refused:
        platform.submit(a_run())
    for caught in (refused, late):
        assert str(caught.value).startswith("the run was started, and is not in the experiment digits: ")
        assert f"/pipelines/runs/a-run?project={NUMBER}" in str(caught.value)
    assert "answers PERMISSION_DENIED: No.; grant these credentials" in str(refused.value)
    assert "has no context yet" in str(late.value)
    assert list(vertex.jobs) == ["a-run"]
    assert platform.submit(a_run()).existed
    assert vertex.children == {"digits": [RUN]}


def test_a_run_that_ended_without_a_context_is_in_no_experiment(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, a_platform: Platforms
) -> None:
    a_platform().submit(a_run())
    vertex.jobs["a-run"].state = PipelineState.PIPELINE_STATE_FAILED
    vertex.contexts_late = 1000
    assert platform.submit(a_run()).state == "failed"
    assert vertex.children == {}
