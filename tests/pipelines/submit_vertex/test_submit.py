"""Versions and runs on Vertex AI, submitted to a server that knows the API's messages and rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud.aiplatform_v1.types import PipelineState, PipelineTaskDetail

from components.shared.errors import InputError, PlatformRefusedError, PlatformUnavailableError
from pipelines.cli import main
from pipelines.compiled import CompiledPipeline, read_compiled
from pipelines.submit.commands import submit_run
from pipelines.submit.inputs import version_name
from pipelines.submit.platform import RunRequest, Submitted, Uploaded
from pipelines.submit.vertex import VertexPlatform
from tests.peers.gcs import GcsBucket
from tests.peers.http_faults import LoseAnswer as LoseStoreAnswer
from tests.peers.http_faults import Refuse as RefuseStore
from tests.peers.vertex_api import LOCATION, NUMBER, PROJECT, VertexApi
from tests.peers.vertex_faults import Break, Fault, LoseAnswer, Refuse, Say
from tests.pipelines.submit_vertex.conftest import DATA, Platforms

Run = Callable[..., RunRequest]
Told = pytest.CaptureFixture[str]
A_RUN = f"projects/{NUMBER}/locations/{LOCATION}/pipelineJobs/a-run"
KEY = "staging/pipelines/classifier/1.0/pipeline.yaml"
LATER = Refuse(503, "UNAVAILABLE", "The service is currently unavailable.")


@pytest.fixture
def where(vertex: VertexApi, gcs_bucket: GcsBucket) -> list[str]:
    """The options that say where to."""
    return [
        *("--project", PROJECT, "--location", LOCATION),
        *("--staging-bucket", gcs_bucket.uri, "--endpoint", vertex.endpoint),
    ]


@pytest.fixture
def submit(compiled: CompiledPipeline, where: list[str], capsys: Told) -> Callable[..., int]:
    """``shutterline submit``."""
    capsys.readouterr()
    return lambda *options: main(["submit", str(compiled.file), *where, "--data", DATA, *options])


def test_a_version_lies_at_its_place_and_is_not_written_again(
    platform: VertexPlatform, gcs_bucket: GcsBucket, compiled: CompiledPipeline
) -> None:
    uploaded = platform.upload(compiled, "classifier", "1.0")
    assert uploaded == Uploaded("classifier", "1.0", f"{gcs_bucket.uri}/{KEY}", existed=False)
    assert yaml.safe_load(gcs_bucket.objects()[KEY]) == compiled.spec
    there = yaml.safe_dump(compiled.spec, default_flow_style=True).encode()
    gcs_bucket.write(KEY, there)
    assert platform.upload(compiled, "classifier", "1.0").existed
    assert gcs_bucket.objects() == {KEY: there}


@pytest.mark.parametrize(
    ("there", "expected"),
    [("sdkVersion", "with the digest "), (b"no pipeline", "that is no compiled pipeline")],
    ids=["another pipeline", "something else"],
)
def test_a_version_with_other_content_is_refused_and_stays(
    platform: VertexPlatform, gcs_bucket: GcsBucket, compiled: CompiledPipeline, there: Any, expected: str
) -> None:
    content = there if isinstance(there, bytes) else yaml.safe_dump(compiled.spec | {there: "kfp-0"}).encode()
    gcs_bucket.write(KEY, content)
    with pytest.raises(PlatformRefusedError) as caught:
        platform.upload(compiled, "classifier", "1.0")
    assert f"{gcs_bucket.uri}/{KEY}: something else is there, {expected}" in str(caught.value)
    assert compiled.digest[:12] in str(caught.value)
    assert "--version-name" in str(caught.value)
    assert gcs_bucket.read(KEY) == content


@pytest.mark.parametrize("effect", [LoseStoreAnswer(), RefuseStore(429), RefuseStore(503)], ids=str)
def test_an_upload_that_fails_for_now_is_made_once(
    platform: VertexPlatform, gcs_bucket: GcsBucket, compiled: CompiledPipeline, effect: Any
) -> None:
    fault = gcs_bucket.faults.inject(effect, "write", times=1)
    platform.upload(compiled, "classifier", "1.0")
    assert fault.happened == 1
    assert list(gcs_bucket.objects()) == [KEY]


def test_a_bucket_that_is_not_there_not_to_be_written_or_away(
    a_platform: Platforms,
    vertex: VertexApi,
    gcs_bucket: GcsBucket,
    compiled: CompiledPipeline,
    a_run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = a_platform(staging_bucket="gs://no-such-bucket/staging")
    for work in (lambda: missing.upload(compiled, "classifier", "1.0"), lambda: missing.submit(a_run())):
        with pytest.raises(PlatformRefusedError, match="there is no bucket no-such-bucket; create it"):
            work()
    gcs_bucket.faults.inject(RefuseStore(403), "write")
    with pytest.raises(PlatformRefusedError, match=r"forbidden: grant these credentials the role roles/storage"):
        a_platform().upload(compiled, "classifier", "1.0")
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "0.3")
    gcs_bucket.faults.inject(RefuseStore(503), "write", times=None)
    with pytest.raises(PlatformUnavailableError, match=r"answers 503.*SHUTTERLINE_SUBMIT_TIMEOUT"):
        a_platform().submit(a_run())
    assert vertex.requests == []


def test_a_run_is_started_where_only_its_account_may_write(
    platform: VertexPlatform, vertex: VertexApi, gcs_bucket: GcsBucket, a_run: Run, capsys: Told
) -> None:
    gcs_bucket.faults.inject(RefuseStore(403), "write", times=None)
    capsys.readouterr()
    submit_run(platform, a_run(), again=False)
    submit_run(platform, a_run(), again=True)
    out, err = capsys.readouterr()
    assert err.startswith("warning: not uploaded, and started all the same: --staging-bucket gs://")
    assert (out, err.count("\n")) == ("", 1)
    assert gcs_bucket.objects() == {}
    assert list(vertex.jobs) == ["a-run", "a-run-2"]


def test_a_submitted_run_is_a_job_of_what_was_compiled_and_uploads_it(
    platform: VertexPlatform, vertex: VertexApi, gcs_bucket: GcsBucket, compiled: CompiledPipeline, a_run: Run
) -> None:
    compiled.file.write_text("something else")  # what was checked is sent, whatever became of the file
    submitted = platform.submit(a_run())
    url = "https://console.cloud.google.com/vertex-ai/locations/us-central1/pipelines/runs/a-run?project=123456789"
    assert submitted == Submitted(A_RUN, "a-run", "pending", url, existed=False)
    assert vertex.asked == ["GET pipelineJobs", "POST pipelineJobs"]
    asked = vertex.requests[-1]
    assert asked.query["pipelineJobId"] == "a-run"
    assert asked.body["pipelineSpec"] == compiled.spec
    assert asked.body["runtimeConfig"] == {
        "gcsOutputDirectory": f"{gcs_bucket.uri}/staging/runs",
        "parameterValues": {"data": DATA},
    }
    assert list(asked.body["labels"]) == ["shutterline-request"]
    assert asked.body["displayName"] == "a-run"
    assert not {"serviceAccount", "network", "state", "name"} & set(asked.body)
    key = f"staging/pipelines/{compiled.name}/{version_name(compiled)}/pipeline.yaml"
    assert {name: yaml.safe_load(data) for name, data in gcs_bucket.objects().items()} == {key: compiled.spec}


def test_text_of_any_language_survives(
    platform: VertexPlatform, vertex: VertexApi, compiled: CompiledPipeline, a_run: Run
) -> None:
    text = "größer 数字 🙂"
    compiled.spec["pipelineInfo"]["description"] = text
    compiled.file.write_text(yaml.safe_dump(compiled.spec, allow_unicode=True), encoding="utf-8")
    platform.submit(a_run(pipeline=read_compiled(compiled.file), values={"data": text}))
    body = vertex.requests[-1].body
    assert body["pipelineSpec"]["pipelineInfo"]["description"] == text
    assert body["runtimeConfig"]["parameterValues"]["data"] == text


def test_a_run_may_have_an_account_and_a_network_and_do_without_the_cache(
    a_platform: Platforms, vertex: VertexApi, compiled: CompiledPipeline, a_run: Run
) -> None:
    account, network = "trainer@my-project.iam.gserviceaccount.com", f"projects/{NUMBER}/global/networks/vpc"
    a_platform(service_account=account, network=network).submit(a_run(use_cache=False))
    assert (vertex.jobs["a-run"].service_account, vertex.jobs["a-run"].network) == (account, network)
    spec = vertex.requests[-1].body["pipelineSpec"]
    tasks = [
        task
        for dag in (spec["root"], *spec["components"].values())
        for task in dag.get("dag", {}).get("tasks", {}).values()
    ]
    assert len(tasks) > 3
    assert not any(task.get("cachingOptions", {}).get("enableCache") for task in tasks)


def test_submitting_again_finds_the_run(platform: VertexPlatform, vertex: VertexApi, a_run: Run) -> None:
    first = platform.submit(a_run())
    vertex.jobs["a-run"].state = PipelineState.PIPELINE_STATE_RUNNING
    assert platform.submit(a_run()) == Submitted(first.id, "a-run", "running", first.url, existed=True)
    vertex.jobs["a-run"].state = PipelineState.PIPELINE_STATE_CANCELLING  # counts as cancelled
    assert platform.submit(a_run()) == Submitted(first.id, "a-run", "cancelled", first.url, existed=True)
    assert platform.progress(first.id, 30).state == "running"
    assert vertex.asked.count("POST pipelineJobs") == 1


@pytest.mark.parametrize("change", [{"values": {"data": "gs://others/"}}, {"use_cache": False}], ids=str)
def test_a_name_that_another_request_has_is_refused(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, change: dict[str, Any]
) -> None:
    platform.submit(a_run())
    with pytest.raises(PlatformRefusedError, match="--name a-run: another run has that name"):
        platform.submit(a_run(**change))
    del vertex.jobs["a-run"].labels["shutterline-request"]  # made elsewhere
    with pytest.raises(PlatformRefusedError, match="another run has that name"):
        platform.submit(a_run())


@pytest.mark.parametrize(
    "change",
    [
        {"service_account": "other@my-project.iam.gserviceaccount.com"},
        {"service_account": None},
        {"network": f"projects/{NUMBER}/global/networks/vpc"},
        {"staging_bucket": "gs://BUCKET/elsewhere"},
    ],
    ids=str,
)
def test_a_name_that_a_run_elsewhere_or_of_another_account_has_is_refused(
    a_platform: Platforms, gcs_bucket: GcsBucket, a_run: Run, change: dict[str, Any]
) -> None:
    asked = {"service_account": "trainer@my-project.iam.gserviceaccount.com"}
    a_platform(**asked).submit(a_run())
    assert a_platform(**asked).submit(a_run()).existed
    change = {key: value and value.replace("gs://BUCKET", gcs_bucket.uri) for key, value in change.items()}
    with pytest.raises(PlatformRefusedError, match="--name a-run: another run has that name"):
        a_platform(**asked | change).submit(a_run())


def test_somebody_else_who_starts_it_first_is_no_error(platform: VertexPlatform, vertex: VertexApi, a_run: Run) -> None:
    platform.submit(a_run())
    vertex.plan(Refuse(404, "NOT_FOUND", "Not yet."), "GET pipelineJobs")
    assert platform.submit(a_run()).name == "a-run"
    vertex.plan(Refuse(404, "NOT_FOUND", "Not yet."), "GET pipelineJobs")
    with pytest.raises(PlatformRefusedError, match="another run has that name"):
        platform.submit(a_run(values={"data": "gs://others/"}))
    assert list(vertex.jobs) == ["a-run"]


LOST = [
    LoseAnswer(),
    Break(),
    LATER,
    Refuse(504, "DEADLINE_EXCEEDED", "Deadline exceeded."),
    Refuse(500, "INTERNAL", "No"),
    Say(503, b"<html>later</html>"),
]


@pytest.mark.parametrize("fault", LOST, ids=str)
def test_what_may_have_been_started_is_started_once(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, fault: Fault
) -> None:
    vertex.plan(fault)
    assert not platform.submit(a_run()).existed
    assert list(vertex.jobs) == ["a-run"]


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).", "RATE_LIMIT_EXCEEDED"),
        Refuse(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Job requests' and limit 'per minute'"),
        Refuse(429, "RESOURCE_EXHAUSTED", "Too many requests"),
        Refuse(409, "ABORTED", "The operation was aborted."),
    ],
    ids=lambda fault: f"{fault.code} {fault.message[:20]}",
)
def test_what_was_not_started_is_asked_for_again(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, fault: Fault
) -> None:
    vertex.plan(fault)
    for outage in (LATER, Break(), Say(408, b"<html>late</html>")):
        vertex.plan(outage, "GET pipelineJobs")
    assert not platform.submit(a_run()).existed
    assert vertex.asked == ["GET pipelineJobs"] * 4 + ["POST pipelineJobs"] * 2


@pytest.mark.parametrize(
    ("text", "pause"), [("3", 3), ("86400", 30), ("9" * 999, 30), ("²", 0), ("-5", 0), ("Wed, 21 Oct 2026", 0)]
)
def test_retry_after_is_heeded_within_reason(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch, text: str, pause: int
) -> None:
    vertex.plan(Refuse(503, "UNAVAILABLE", "Later", retry_after=text), "GET pipelineJobs")
    pauses: list[float] = []
    monkeypatch.setattr("components.shared.retry.time.sleep", pauses.append)
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "100")
    platform.submit(a_run())
    assert [round(each) for each in pauses] == [pause]


def test_what_lasts_ends_with_what_to_do(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "0.3")
    vertex.plan(Refuse(429, "RESOURCE_EXHAUSTED", "Quota exceeded: 60 per minute", "RATE_LIMIT_EXCEEDED"), times=999)
    with pytest.raises(PlatformUnavailableError, match=r"60 per minute.* gave up after 0.3 s"):
        platform.submit(a_run())
    vertex.plan(Break(), "GET pipelineJobs", times=9999)
    with pytest.raises(PlatformUnavailableError, match=rf"{vertex.endpoint} does not answer: .* gave up after 0.3 s"):
        platform.submit(a_run())
    assert vertex.jobs == {}
    for text in ("0", "soon", "inf"):
        monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", text)
        with pytest.raises(InputError, match="SHUTTERLINE_SUBMIT_TIMEOUT: must be a number of seconds above 0"):
            platform.submit(a_run())


def test_upload_and_submit_may_be_repeated(
    vertex: VertexApi, gcs_bucket: GcsBucket, compiled: CompiledPipeline, where: list[str], submit: Any, capsys: Told
) -> None:
    for command in (lambda: main(["upload", str(compiled.file), *where, "--json"]), lambda: submit("--json")):
        assert command() == 0
        first = json.loads(capsys.readouterr().out)
        assert command() == 0
        assert json.loads(capsys.readouterr().out) != first  # it says that it was there
    assert len(gcs_bucket.names()) == len(vertex.jobs) == 1
    assert submit("--again") == 0
    first, second = vertex.jobs
    assert second == f"{first}-2"


@pytest.mark.parametrize(("state", "code"), [("RUNNING", 0), ("SUCCEEDED", 0), ("FAILED", 1)])
def test_a_run_is_looked_at(
    vertex: VertexApi, where: list[str], submit: Any, capsys: Told, state: str, code: int
) -> None:
    assert submit("--name", "a-run") == 0
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
    assert main(["submit", "--status", "no-run", *where]) == 2
    assert "Vertex AI has no run " in capsys.readouterr().err


def test_a_dry_run_needs_no_credentials_and_sends_nothing(
    vertex: VertexApi, gcs_bucket: GcsBucket, submit: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    assert submit("--dry-run") == 0
    assert (vertex.requests, gcs_bucket.faults.exchanges) == ([], [])
