"""A run's place in an experiment."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

import pytest
from google.cloud.aiplatform_v1.types import Context, PipelineState

from components.shared.errors import PlatformRefusedError, PlatformUnavailableError
from pipelines.submit.platform import RunRequest
from pipelines.submit.vertex.platform import VertexPlatform
from tests.peers.vertex_api import LOCATION, NUMBER, VertexApi
from tests.peers.vertex_faults import Break, LoseAnswer, Refuse
from tests.pipelines.submit_vertex.conftest import Platforms

Run = Callable[..., RunRequest]
RUN = f"projects/{NUMBER}/locations/{LOCATION}/metadataStores/default/contexts/a-run"


@pytest.fixture
def platform(a_platform: Platforms) -> VertexPlatform:
    return a_platform(experiment="digits")


def test_an_experiment_is_made_and_has_the_run(platform: VertexPlatform, vertex: VertexApi, a_run: Run) -> None:
    vertex.contexts_late = 1

    platform.submit(a_run())

    assert vertex.children == {"digits": [RUN]}
    made = vertex.contexts["digits"]
    assert (made.schema_title, made.schema_version, dict(made.metadata)) == (
        "system.Experiment",
        "0.0.1",
        {"experiment_deleted": False},
    )


def test_a_dry_run_shows_what_makes_it_and_puts_the_run_in(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run
) -> None:
    make, _, _, put = platform.submit_requests(a_run())
    assert vertex.requests == []

    platform.submit(a_run())

    made, into = (each for each in vertex.requests if each.what == "POST contexts")
    for shown, sent in ((make, made), (put, into)):
        address = urlsplit(shown["url"])
        assert (shown["method"], address.path) == (sent.method, sent.path)
        assert dict(parse_qsl(address.query)).items() <= sent.query.items()
    assert make["body"] == made.body
    assert put["body"].keys() == into.body.keys()


def test_an_experiment_that_is_there_is_taken(platform: VertexPlatform, vertex: VertexApi, a_run: Run) -> None:
    platform.submit(a_run(name="first"))
    platform.submit(a_run(name="second"))

    assert vertex.asked.count("POST contexts") == 3  # made once, and two runs put into it
    assert [child.rpartition("/")[2] for child in vertex.children["digits"]] == ["first", "second"]


def test_repeating_puts_a_run_in_once(platform: VertexPlatform, vertex: VertexApi, a_run: Run) -> None:
    platform.submit(a_run())

    assert platform.submit(a_run()).existed
    assert vertex.children == {"digits": [RUN]}


def test_a_project_without_a_store_gets_one(platform: VertexPlatform, vertex: VertexApi, a_run: Run) -> None:
    vertex.stores.clear()

    platform.submit(a_run())

    assert vertex.stores == {"default"}
    assert vertex.children == {"digits": [RUN]}


@pytest.mark.parametrize("fault", [LoseAnswer(), Break(), Refuse(503, "UNAVAILABLE", "Later")], ids=str)
@pytest.mark.parametrize("what", ["GET contexts", "POST contexts"])
def test_an_outage_is_outlived(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, fault: LoseAnswer | Break | Refuse, what: str
) -> None:
    vertex.plan(fault, what)

    platform.submit(a_run())

    assert vertex.children == {"digits": [RUN]}
    assert list(vertex.contexts) == ["digits"]


def test_what_is_no_experiment_is_refused_before_the_run(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run
) -> None:
    vertex.contexts["digits"] = Context(name=f"{RUN}-x", schema_title="system.Pipeline")

    with pytest.raises(PlatformRefusedError, match=r"--experiment digits: is a system\.Pipeline of that project"):
        platform.submit(a_run())
    assert vertex.jobs == {}


def test_a_run_whose_context_does_not_come_was_started_nevertheless(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    vertex.contexts_late = 1000
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "1.5")

    with pytest.raises(PlatformUnavailableError, match="The run was started, and is not in the experiment digits"):
        platform.submit(a_run())
    assert list(vertex.jobs) == ["a-run"]

    vertex.contexts_late = 0
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "20")
    assert platform.submit(a_run()).existed
    assert vertex.children == {"digits": [RUN]}


GONE = Refuse(404, "NOT_FOUND", "The Context digits does not exist.")
TAKEN = Refuse(409, "ALREADY_EXISTS", "It is there.")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (GONE, "it was deleted meanwhile; repeat the same command, which makes it anew"),
        (TAKEN, "answers ALREADY_EXISTS: It is there."),
        (Refuse(403, "PERMISSION_DENIED", "No."), "answers PERMISSION_DENIED: No.; grant these credentials"),
        (Refuse(429, "RESOURCE_EXHAUSTED", "60 per minute", "RATE_LIMIT_EXCEEDED"), "ask for a higher quota"),
    ],
    ids=lambda value: str(getattr(value, "code", "")),
)
def test_a_run_that_its_experiment_does_not_take_was_started_nevertheless(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch, fault: Refuse, told: str
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "2")
    vertex.plan(fault, "POST contexts", times=100, skip=1)

    with pytest.raises(PlatformRefusedError) as caught:
        platform.submit(a_run())

    assert str(caught.value).startswith("The run was started, and is not in the experiment digits: ")
    assert told in str(caught.value)
    assert f"/pipelines/runs/a-run?project={NUMBER}" in str(caught.value)
    assert list(vertex.jobs) == ["a-run"]


def test_a_run_is_told_of_where_nobody_answers_for_its_experiment(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "2")
    vertex.plan(Refuse(429, "RESOURCE_EXHAUSTED", "Slower"), "GET pipelineJobs", times=100, skip=1)

    with pytest.raises(PlatformRefusedError, match="The run was started") as caught:
        platform.submit(a_run())
    assert f"/pipelines/runs/a-run?project={NUMBER}" in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "what", "told"),
    [
        (GONE, "POST metadataStores", "answers NOT_FOUND: The Context digits does not exist."),
        (TAKEN, "GET contexts", "answers ALREADY_EXISTS: It is there."),
        (TAKEN, "GET pipelineJobs", "answers ALREADY_EXISTS: It is there."),
    ],
    ids=["no place for a store", "an experiment", "a run"],
)
def test_an_answer_that_makes_no_sense_is_a_refusal(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, fault: Refuse, what: str, told: str
) -> None:
    vertex.stores.clear()
    vertex.plan(fault, what)

    with pytest.raises(PlatformRefusedError) as caught:
        platform.submit(a_run())

    assert told in str(caught.value)
    assert vertex.jobs == {}


def test_a_run_that_ended_without_a_context_is_in_no_experiment(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, a_platform: Platforms
) -> None:
    a_platform().submit(a_run())
    vertex.jobs["a-run"].state = PipelineState.PIPELINE_STATE_FAILED
    vertex.contexts_late = 1000

    assert platform.submit(a_run()).state == "failed"
    assert vertex.children == {}
