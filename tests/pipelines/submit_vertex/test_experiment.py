"""A run's place in an experiment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.cloud.aiplatform_v1.types import Context, PipelineState

from components.shared.errors import PlatformRefusedError, PlatformUnavailableError
from pipelines.submit.platform import RunRequest
from pipelines.submit.vertex import VertexPlatform
from tests.peers.vertex_api import LOCATION, NUMBER, VertexApi
from tests.peers.vertex_faults import Fault, LoseAnswer, Refuse
from tests.pipelines.submit_vertex.conftest import Platforms

Run = Callable[..., RunRequest]
RUN = f"projects/{NUMBER}/locations/{LOCATION}/metadataStores/default/contexts/a-run"
DENIED = Refuse(403, "PERMISSION_DENIED", "No.")


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
    kind = (made.schema_title, made.schema_version, dict(made.metadata))
    assert kind == ("system.Experiment", "0.0.1", {"experiment_deleted": False})


@pytest.mark.parametrize("fault", [LoseAnswer(), Refuse(503, "UNAVAILABLE", "Later")], ids=str)
@pytest.mark.parametrize("what", ["GET contexts", "POST contexts"])
def test_an_outage_is_outlived(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, fault: Fault, what: str
) -> None:
    vertex.plan(fault, what)
    platform.submit(a_run())
    assert vertex.children == {"digits": [RUN]}
    assert list(vertex.contexts) == ["digits"]


def test_what_is_no_experiment_is_refused_before_the_run(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run
) -> None:
    vertex.plan(DENIED, "GET contexts")
    with pytest.raises(PlatformRefusedError, match=r"No\.; grant these"):
        platform.submit(a_run())
    vertex.contexts["digits"] = Context(name=f"{RUN}-x", schema_title="system.Pipeline")
    with pytest.raises(PlatformRefusedError, match=r"--experiment digits: is a system\.Pipeline of that project"):
        platform.submit(a_run())
    assert vertex.jobs == {}


def test_a_run_that_its_experiment_does_not_take_was_started_nevertheless(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = r"^the run was started, and is not in the experiment digits: .*{}.*/pipelines/runs/a-run\?project="
    vertex.contexts_late = 9999
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "1")
    with pytest.raises(PlatformUnavailableError, match=started.format("has no context yet")):
        platform.submit(a_run())
    vertex.contexts_late = 0
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "20")
    vertex.plan(DENIED, "POST contexts")
    with pytest.raises(PlatformRefusedError, match=started.format("answers PERMISSION_DENIED: No.; grant these")):
        platform.submit(a_run())
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
