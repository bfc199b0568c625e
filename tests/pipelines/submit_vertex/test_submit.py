"""Runs on Vertex AI, submitted to a server that knows the API's messages and rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from google.cloud.aiplatform_v1.types import PipelineState

from components.shared.errors import InputError, PlatformRefusedError, PlatformUnavailableError
from pipelines.compiled import CompiledPipeline, read_compiled
from pipelines.submit.names import version_name
from pipelines.submit.platform import RunRequest, Submitted
from pipelines.submit.vertex.platform import VertexPlatform
from tests.peers.gcs import GcsBucket
from tests.peers.http_faults import LoseAnswer as LoseStoreAnswer
from tests.peers.http_faults import Refuse as RefuseStore
from tests.peers.vertex_api import LOCATION, NUMBER, PROJECT, VertexApi
from tests.peers.vertex_faults import Break, Fault, LoseAnswer, Refuse, Say
from tests.pipelines.submit_vertex.conftest import DATA, Platforms

Run = Callable[..., RunRequest]
A_RUN = f"projects/{NUMBER}/locations/{LOCATION}/pipelineJobs/a-run"


def test_a_submitted_run_is_a_job_of_what_was_compiled(
    platform: VertexPlatform, vertex: VertexApi, gcs_bucket: GcsBucket, compiled: CompiledPipeline, a_run: Run
) -> None:
    submitted = platform.submit(a_run(labels={"team": "vision"}))

    console = f"/vertex-ai/locations/{LOCATION}/pipelines/runs/a-run?project={NUMBER}"
    assert submitted.url.endswith(console)
    assert submitted == Submitted(A_RUN, "a-run", "pending", submitted.url, existed=False)
    assert vertex.asked == ["GET pipelineJobs", "POST pipelineJobs"]
    asked = vertex.requests[-1]
    assert asked.query["pipelineJobId"] == "a-run"
    assert asked.body["pipelineSpec"] == compiled.spec
    assert asked.body["runtimeConfig"] == {
        "gcsOutputDirectory": f"{gcs_bucket.uri}/staging/runs",
        "parameterValues": {"data": DATA},
    }
    assert asked.body["labels"].pop("shutterline-request")
    assert asked.body["labels"] == {"team": "vision"}
    assert asked.body["displayName"] == "a-run"
    assert not {"serviceAccount", "network", "state", "name"} & set(asked.body)


def test_a_run_may_have_an_account_and_a_network(a_platform: Platforms, vertex: VertexApi, a_run: Run) -> None:
    account, network = "trainer@my-project.iam.gserviceaccount.com", f"projects/{NUMBER}/global/networks/vpc"

    a_platform(service_account=account, network=network).submit(a_run())

    assert vertex.jobs["a-run"].service_account == account
    assert vertex.jobs["a-run"].network == network


@pytest.mark.parametrize("caching", [None, True, False])
def test_caching_is_as_asked_or_as_the_file_says(
    platform: VertexPlatform, vertex: VertexApi, compiled: CompiledPipeline, a_run: Run, caching: bool | None
) -> None:
    platform.submit(a_run(caching=caching))

    def caches(spec: Any) -> dict[str, bool]:
        dags = [spec["root"], *spec["components"].values()]
        tasks = {name: task for dag in dags for name, task in dag.get("dag", {}).get("tasks", {}).items()}
        return {name: task.get("cachingOptions", {}).get("enableCache", False) for name, task in tasks.items()}

    found = caches(vertex.requests[-1].body["pipelineSpec"])
    assert len(found) > 3
    assert found == (caches(compiled.spec) if caching is None else dict.fromkeys(found, caching))


def test_submitting_again_finds_the_run(platform: VertexPlatform, vertex: VertexApi, a_run: Run) -> None:
    first = platform.submit(a_run())
    vertex.jobs["a-run"].state = PipelineState.PIPELINE_STATE_RUNNING

    again = platform.submit(a_run())

    assert again == Submitted(first.id, "a-run", "running", first.url, existed=True)
    assert vertex.asked == ["GET pipelineJobs", "POST pipelineJobs", "GET pipelineJobs"]
    assert list(vertex.jobs) == ["a-run"]


@pytest.mark.parametrize(
    "change", [{"values": {"data": "gs://others/"}}, {"caching": False}], ids=["values", "caching"]
)
def test_a_name_that_another_run_has_is_refused(platform: VertexPlatform, a_run: Run, change: dict[str, Any]) -> None:
    platform.submit(a_run())

    with pytest.raises(PlatformRefusedError, match="--name a-run: another run has that name"):
        platform.submit(a_run(**change))


OUTAGES: list[Fault] = [
    Refuse(503, "UNAVAILABLE", "The service is currently unavailable."),
    Refuse(500, "INTERNAL", "Internal error encountered."),
    Say(408, b"<html>late</html>"),
    LoseAnswer(),
    Break(),
]


@pytest.mark.parametrize("fault", OUTAGES, ids=lambda fault: f"{type(fault).__name__} {getattr(fault, 'code', '')}")
@pytest.mark.parametrize("what", ["GET pipelineJobs", "POST pipelineJobs"])
def test_an_older_run_is_not_taken_for_the_one_asked_for_in_an_outage(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, fault: Fault, what: str
) -> None:
    platform.submit(a_run())
    vertex.jobs["a-run"].state = PipelineState.PIPELINE_STATE_FAILED
    vertex.plan(fault, what)

    with pytest.raises(PlatformRefusedError, match="another run has that name"):
        platform.submit(a_run(values={"data": "gs://others/"}))
    vertex.plan(fault, what)
    assert platform.submit(a_run()).existed

    assert list(vertex.jobs) == ["a-run"]


def test_another_run_that_takes_the_name_in_an_outage_is_refused(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run
) -> None:
    platform.submit(a_run(values={"data": "gs://others/"}))
    vertex.plan(Refuse(404, "NOT_FOUND", "Not yet."), "GET pipelineJobs")
    vertex.plan(Refuse(503, "UNAVAILABLE", "Later"))

    with pytest.raises(PlatformRefusedError, match="another run has that name"):
        platform.submit(a_run())


@pytest.mark.parametrize(
    "change",
    [
        {"service_account": "other@my-project.iam.gserviceaccount.com"},
        {"service_account": None},
        {"network": f"projects/{NUMBER}/global/networks/vpc"},
        {"staging_bucket": "elsewhere"},
    ],
    ids=str,
)
def test_a_name_that_a_run_as_somebody_else_has_is_refused(
    a_platform: Platforms, vertex: VertexApi, gcs_bucket: GcsBucket, a_run: Run, change: dict[str, Any]
) -> None:
    if "staging_bucket" in change:
        change = {"staging_bucket": f"{gcs_bucket.uri}/{change['staging_bucket']}"}
    asked = {"service_account": "trainer@my-project.iam.gserviceaccount.com"}
    a_platform(**asked).submit(a_run())
    assert a_platform(**asked).submit(a_run()).existed

    with pytest.raises(PlatformRefusedError, match=r"another run has that name.* account, network or staging bucket"):
        a_platform(**(asked | change)).submit(a_run())


def test_a_run_that_is_being_cancelled_counts_as_cancelled(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run
) -> None:
    first = platform.submit(a_run())
    vertex.jobs["a-run"].state = PipelineState.PIPELINE_STATE_CANCELLING

    assert platform.submit(a_run()) == Submitted(first.id, "a-run", "cancelled", first.url, existed=True)
    assert platform.progress(first.id).state == "running"


def test_a_run_that_was_made_elsewhere_keeps_its_name(platform: VertexPlatform, vertex: VertexApi, a_run: Run) -> None:
    platform.submit(a_run())
    del vertex.jobs["a-run"].labels["shutterline-request"]

    with pytest.raises(PlatformRefusedError, match="another run has that name"):
        platform.submit(a_run())


@pytest.mark.parametrize("fault", [LoseAnswer(), Refuse(504, "DEADLINE_EXCEEDED", "Deadline exceeded.")], ids=str)
def test_an_answer_that_was_lost_makes_no_second_run(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, fault: Fault
) -> None:
    vertex.plan(fault)

    submitted = platform.submit(a_run())

    assert not submitted.existed
    assert list(vertex.jobs) == ["a-run"]
    asked = ["GET pipelineJobs", "POST pipelineJobs", "GET pipelineJobs"]
    # After a 504 nothing is there, and it is asked for again.
    assert vertex.asked == (asked if fault == LoseAnswer() else [*asked, "POST pipelineJobs"])


def test_an_answer_that_is_lost_with_the_question_after_it(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run
) -> None:
    vertex.plan(LoseAnswer())
    vertex.plan(Break(), "GET pipelineJobs", skip=1)
    vertex.plan(Refuse(503, "UNAVAILABLE", "The service is currently unavailable."), "GET pipelineJobs", skip=1)

    submitted = platform.submit(a_run())

    assert not submitted.existed
    assert vertex.asked == ["GET pipelineJobs", "POST pipelineJobs", *["GET pipelineJobs"] * 3]


def test_a_run_that_shows_only_at_the_second_request_is_the_one_asked_for(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run
) -> None:
    vertex.plan(LoseAnswer())
    vertex.plan(Refuse(404, "NOT_FOUND", "Not yet."), "GET pipelineJobs", skip=1)

    submitted = platform.submit(a_run())

    assert not submitted.existed
    assert vertex.asked == [*["GET pipelineJobs", "POST pipelineJobs"] * 2, "GET pipelineJobs"]
    assert list(vertex.jobs) == ["a-run"]


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).", "RATE_LIMIT_EXCEEDED"),
        Refuse(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Job requests' and limit 'per minute'"),
        Refuse(429, "RESOURCE_EXHAUSTED", "Too many requests"),
        Refuse(503, "UNAVAILABLE", "The service is currently unavailable."),
        Refuse(500, "INTERNAL", "Internal error encountered."),
        Refuse(502, "", "Bad gateway"),
        Refuse(409, "ABORTED", "The operation was aborted."),
        Break(),
    ],
    ids=lambda fault: f"{getattr(fault, 'code', 'broken')} {getattr(fault, 'message', '')[:20]}",
)
def test_what_passes_is_asked_for_again(platform: VertexPlatform, vertex: VertexApi, a_run: Run, fault: Fault) -> None:
    vertex.plan(fault)

    submitted = platform.submit(a_run())

    assert not submitted.existed
    assert list(vertex.jobs) == ["a-run"]
    assert vertex.asked.count("POST pipelineJobs") == 2


def test_retry_after_is_heeded(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    vertex.plan(Refuse(429, "RESOURCE_EXHAUSTED", "Too many requests", retry_after=3))
    vertex.plan(Refuse(503, "UNAVAILABLE", "Later", retry_after=86400))
    pauses: list[float] = []
    monkeypatch.setattr("pipelines.submit.patience.time.sleep", pauses.append)
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "100")

    platform.submit(a_run())

    assert pauses == [3, 30]


@pytest.mark.parametrize(
    ("text", "heeded"),
    [
        ("²", False),
        ("-5", False),
        ("Wed, 21 Oct 2026 07:28:00 GMT", False),
        ("", False),
        ("1e9", False),
        ("9" * 999, True),
    ],
)
def test_a_retry_after_of_any_kind_is_outlived(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch, text: str, heeded: bool
) -> None:
    vertex.plan(Refuse(503, "UNAVAILABLE", "Later", retry_after=text))
    pauses: list[float] = []
    monkeypatch.setattr("pipelines.submit.patience.time.sleep", pauses.append)
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "100")

    platform.submit(a_run())

    assert (pauses == [30]) == heeded
    assert list(vertex.jobs) == ["a-run"]


def test_patience_ends_and_says_what_may_have_happened(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "0.5")
    vertex.plan(LoseAnswer())
    vertex.plan(Break(), "GET pipelineJobs", times=100, skip=1)

    with pytest.raises(PlatformUnavailableError) as caught:
        platform.submit(a_run())

    assert f"{vertex.endpoint} does not answer, or broke off" in str(caught.value)
    assert "SHUTTERLINE_SUBMIT_TIMEOUT" in str(caught.value)
    assert "may have been started: repeat the same command" in str(caught.value)


def test_a_look_that_is_not_answered_has_started_nothing(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "0.5")
    vertex.plan(Break(), "GET pipelineJobs", times=100)

    with pytest.raises(PlatformUnavailableError) as caught:
        platform.submit(a_run())

    assert "may have been started" not in str(caught.value)
    assert vertex.jobs == {}


def test_a_limit_of_requests_that_lasts_is_a_refusal(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "0.5")
    vertex.plan(Refuse(429, "RESOURCE_EXHAUSTED", "Quota exceeded: 60 per minute", "RATE_LIMIT_EXCEEDED"), times=100)

    with pytest.raises(PlatformRefusedError, match=r"60 per minute.*ask for a higher quota"):
        platform.submit(a_run())

    assert vertex.jobs == {}


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan"])
def test_a_timeout_that_is_none(
    platform: VertexPlatform, a_run: Run, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", text)

    with pytest.raises(InputError, match="SHUTTERLINE_SUBMIT_TIMEOUT: must be a number of seconds above 0"):
        platform.submit(a_run())


def test_a_staging_bucket_that_is_not_there_is_refused_and_not_made(
    a_platform: Platforms, vertex: VertexApi, gcs_bucket: GcsBucket, a_run: Run
) -> None:
    with pytest.raises(PlatformRefusedError, match="there is no bucket no-such-bucket; create it"):
        a_platform(staging_bucket="gs://no-such-bucket/staging").submit(a_run())

    assert vertex.requests == []
    assert {exchange.operation for exchange in gcs_bucket.faults.exchanges} == {"other"}
    assert [exchange.bytes_in for exchange in gcs_bucket.faults.exchanges] == [0]


def test_a_staging_bucket_that_only_the_run_may_see_is_taken(
    platform: VertexPlatform, vertex: VertexApi, gcs_bucket: GcsBucket, a_run: Run
) -> None:
    gcs_bucket.faults.inject(RefuseStore(403), "other", times=1)

    platform.submit(a_run())

    assert list(vertex.jobs) == ["a-run"]


@pytest.mark.parametrize("effect", [RefuseStore(503), RefuseStore(429), LoseStoreAnswer()], ids=str)
def test_a_staging_bucket_is_asked_for_again(
    platform: VertexPlatform, vertex: VertexApi, gcs_bucket: GcsBucket, a_run: Run, effect: Any
) -> None:
    fault = gcs_bucket.faults.inject(effect, "other", times=1)

    platform.submit(a_run())

    assert fault.happened == 1
    assert list(vertex.jobs) == ["a-run"]


def test_values_are_of_their_inputs_types(
    platform: VertexPlatform, vertex: VertexApi, compiled: CompiledPipeline, a_run: Run
) -> None:
    kinds = ("NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", "LIST", "STRUCT")
    parameters = compiled.spec["root"]["inputDefinitions"]["parameters"]
    parameters.update({kind.lower(): {"parameterType": kind, "isOptional": True} for kind in kinds})
    compiled.file.write_text(yaml.safe_dump(compiled.spec))
    texts = {"number_integer": "7", "number_double": "0.5", "boolean": "true", "list": "[1]", "struct": '{"a": 1}'}

    platform.submit(a_run(pipeline=read_compiled(compiled.file), values={"data": DATA, **texts}))

    assert vertex.requests[-1].body["runtimeConfig"]["parameterValues"] == {
        "data": DATA,
        "number_integer": 7,
        "number_double": 0.5,
        "boolean": True,
        "list": [1],
        "struct": {"a": 1},
    }


def test_a_dry_run_shows_what_is_sent_and_sends_nothing(
    a_platform: Platforms,
    vertex: VertexApi,
    gcs_bucket: GcsBucket,
    compiled: CompiledPipeline,
    a_run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    platform = a_platform(service_account="trainer@my-project.iam.gserviceaccount.com")
    with monkeypatch.context() as without:
        without.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        shown = platform.submit_requests(a_run(labels={"team": "vision"}, caching=False))
    assert vertex.requests == []
    assert gcs_bucket.faults.exchanges == []

    platform.submit(a_run(labels={"team": "vision"}, caching=False))

    asked = vertex.requests[-1]
    url = f"https://{vertex.endpoint}/v1/projects/{PROJECT}/locations/{LOCATION}/pipelineJobs?pipelineJobId=a-run"
    assert shown[1:] == [{"method": "POST", "url": url, "body": asked.body}]
    assert shown[:1] == platform.upload_requests(compiled, compiled.name, version_name(compiled))
    assert asked.method == "POST"
    assert url.endswith(f"{asked.path}?pipelineJobId={asked.query['pipelineJobId']}")
