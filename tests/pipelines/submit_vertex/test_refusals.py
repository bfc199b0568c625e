"""What a submission to Vertex AI is refused for: each with words of its own, and with exit code 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from components.shared.errors import EXIT_BAD_INPUT, InputError, PlatformRefusedError
from pipelines.compiled import CompiledPipeline
from pipelines.submit.platform import RunRequest
from pipelines.submit.vertex import VertexPlatform
from tests.peers.tls import Certificates
from tests.peers.vertex_api import VertexApi
from tests.peers.vertex_faults import Refuse, Say
from tests.peers.vertex_proxy import ConnectProxy
from tests.pipelines.submit_vertex.conftest import Platforms
from tests.shared.events.security_fixtures import TokenServer, service_account
from tests.shared.events.security_fixtures import hurried_google as hurried_google

Run = Callable[..., RunRequest]


def refused(platform: VertexPlatform, request: RunRequest) -> str:
    """What is said to whoever submits, in one line."""
    with pytest.raises(InputError) as caught:
        platform.submit(request)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert "\n" not in str(caught.value)
    return str(caught.value)


def denied(message: str, reason: str = "", **metadata: str) -> Refuse:
    return Refuse(403, "PERMISSION_DENIED", message, reason, metadata)


def invalid(message: str, *violations: tuple[str, str]) -> Refuse:
    return Refuse(400, "INVALID_ARGUMENT", message, violations=violations)


GPUS = "The following quota metrics exceed quota limits: custom_model_training_nvidia_l4_gpus"
UNUSED = "Vertex AI API has not been used in project 1 before or it is disabled."
NO_PROJECT = "Your application is authenticating by using local credentials. The API requires a quota project."
ACCOUNT = "roles/iam.serviceAccountUser on the service account"
ANSWERS: list[tuple[Refuse, tuple[str, ...]]] = [
    (
        denied("Permission 'aiplatform.pipelineJobs.create' denied on resource"),
        ("answers PERMISSION_DENIED: Permission 'aiplatform", "roles/aiplatform.user in the project my-project"),
    ),
    (invalid("You do not have permission to act as service_account: x. (or may not exist)"), (ACCOUNT,)),
    (denied("Permission 'iam.serviceAccounts.actAs' denied"), (ACCOUNT,)),
    (
        denied(UNUSED, "SERVICE_DISABLED", service="vertex.example"),
        ("run `gcloud services enable vertex.example --project my-project`",),
    ),
    (
        denied(NO_PROJECT, "SERVICE_DISABLED", service="vertex.example"),
        ("run `gcloud auth application-default set-quota-project my-project`",),
    ),
    (
        denied("This API method requires billing to be enabled.", "BILLING_DISABLED"),
        ("enable billing for the project my-project",),
    ),
    (Refuse(429, "RESOURCE_EXHAUSTED", GPUS), (GPUS, "wait until other runs end", "another accelerator or location")),
    (
        Refuse(404, "NOT_FOUND", "Location us-central1 was not found."),
        ("Location us-central1 was not found.", "check the project my-project and the location us-central1"),
    ),
    (
        invalid("List of found errors.", ("pipeline_spec", "accelerator count 3 is not supported")),
        ("INVALID_ARGUMENT: List of found errors. (pipeline_spec: accelerator count 3 is not supported)",),
    ),
    (
        Refuse(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
        ("invalid authentication credentials.", "gcloud auth application-default login"),
    ),
    (Refuse(413, "INVALID_ARGUMENT", "Request payload size exceeds the limit."), ("size exceeds the limit",)),
]


@pytest.mark.parametrize(("refusal", "expected"), ANSWERS, ids=[answer.message[:20] for answer, _ in ANSWERS])
def test_what_vertex_ai_refuses_is_shown_with_what_to_do(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, refusal: Refuse, expected: tuple[str, ...]
) -> None:
    # A refused token is renewed by the client, twice.
    times = 3 if refusal.code == 401 else 1
    vertex.plan(refusal, times=times)
    message = refused(platform, a_run())
    assert all(text in message for text in expected), message
    assert vertex.asked == ["GET pipelineJobs", *["POST pipelineJobs"] * times]


def test_a_project_a_location_and_an_account_that_are_others(
    a_platform: Platforms, a_run: Run, credentials: Path
) -> None:
    message = refused(a_platform(project="other-project"), a_run())
    assert "Permission denied on resource project other-project" in message
    assert "check that there is a project other-project that these credentials may use" in message
    assert "Expect location us-central1" in refused(a_platform(location="europe-west4"), a_run())
    service_account(credentials, client_email="stranger@project.iam.gserviceaccount.com")
    assert "roles/aiplatform.user" in refused(a_platform(), a_run())


@pytest.mark.parametrize(
    "answer",
    [
        Say(200, b"<html>log in</html>"),
        Say(404, b"<html>not here</html>"),
        Say(403, b"<html>no</html>"),
        Say(400, b'"what?"', "application/json"),
        Say(400, b'{"error": "invalid_request"}', "application/json"),
        Say(200, b'"fine"', "application/json"),
    ],
    ids=lambda answer: f"{answer.code} {answer.body.decode()}",
)
def test_an_endpoint_that_is_somebody_else_is_refused(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, answer: Say
) -> None:
    vertex.plan(answer)
    message = refused(platform, a_run())
    assert f"{vertex.endpoint} is no endpoint of Google's, or a proxy answers for it" in message
    assert "html" not in message


def test_a_certificate_of_a_stranger_is_refused(
    platform: VertexPlatform, a_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Certificates(tmp_path / "others").ca_file))
    message = refused(platform, a_run())
    assert "is not trusted" in message
    assert "REQUESTS_CA_BUNDLE" in message


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_it_goes_through_a_proxy(
    a_platform: Platforms, vertex: VertexApi, a_run: Run, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with ConnectProxy(vertex.port) as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        # A name that only the proxy knows; the certificate is for this one, too.
        a_platform(endpoint=f"localhost:{vertex.port}").submit(a_run())
    assert proxy.targets == [f"localhost:{vertex.port}"]
    assert list(vertex.jobs) == ["a-run"]


def test_without_credentials_it_is_told_how_to_get_some(
    platform: VertexPlatform, a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    message = refused(platform, a_run())
    assert message.startswith("no Google credentials: ")
    assert "gcloud auth application-default login" in message


@pytest.mark.parametrize(
    "content", [None, "{", "{}", '{"type": "service_account"}', "[]", "\xff", '{"type": "external_account"}', "folder"]
)
def test_a_key_file_that_is_none(platform: VertexPlatform, a_run: Run, credentials: Path, content: str | None) -> None:
    credentials.unlink()
    if content == "folder":
        credentials.mkdir()
    elif content is not None:
        credentials.write_text(content, encoding="latin-1")
    message = refused(platform, a_run())
    assert message.startswith("no Google credentials: ")
    assert str(credentials) in message


@pytest.mark.usefixtures("hurried_google")
def test_credentials_that_are_taken_back_are_refused(
    platform: VertexPlatform, a_run: Run, credentials: Path, certificates: Certificates, tmp_path: Path
) -> None:
    answer = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
    with TokenServer((400, answer)) as google:
        subject = tmp_path / "subject"
        subject.write_text("a-subject-token")
        account = {
            "type": "external_account",
            "audience": "//iam.example/pool",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": google.uri,
            "credential_source": {"file": str(subject)},
        }
        credentials.write_text(json.dumps(account))
        message = refused(platform, a_run())
    assert message.startswith("the Google credentials are not accepted: ")
    assert "Token has been expired or revoked." in message
    assert "a-subject-token" not in message


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("project", "My_Project", "--project 'My_Project': must be a project's id"),
        ("project", "p/../q", "--project 'p/../q': must be"),
        ("location", "us-central1/x", "--location 'us-central1/x': must be a region"),
        ("staging_bucket", "bucket", "--staging-bucket 'bucket': must be gs://bucket or gs://bucket/prefix"),
        ("staging_bucket", "s3://bucket/x", "--staging-bucket 's3://bucket/x': must be gs://bucket"),
        ("staging_bucket", "gs://", "--staging-bucket gs://: it names no bucket"),
        ("service_account", "trainer", "--service-account 'trainer': must be name@project.iam"),
        ("network", "default", "--network 'default': must be projects/NUMBER/global/networks/NAME"),
        ("experiment", "My Experiment", "--experiment 'My Experiment': must be small letters"),
        ("endpoint", "http://somewhere", "--endpoint 'http://somewhere': must be a host, or host:port"),
        ("endpoint", "user:secret@host", "--endpoint '…@host': must be a host"),
    ],
)
def test_an_option_that_cannot_be_right_is_refused_at_once(
    a_platform: Platforms, option: str, value: str, expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        a_platform(**{option: value})
    assert str(caught.value).startswith(expected)


def test_a_file_and_names_that_are_none_for_vertex_ai(platform: VertexPlatform, compiled: CompiledPipeline) -> None:
    with pytest.raises(PlatformRefusedError, match="has 2 documents, and Vertex AI reads files with one; compile it"):
        platform.plan(replace(compiled, documents=2), "classifier", "1.0")
    for part in ("a/b", "..", "."):
        for option, names in (("--name", (part, "1.0")), ("--version-name", ("classifier", part))):
            with pytest.raises(PlatformRefusedError, match=rf"{option} .* cannot be part of a bucket's key"):
                platform.plan(compiled, *names)
    compiled.spec["pipelineInfo"]["name"] = "An Image Classifier"
    with pytest.raises(PlatformRefusedError, match="the pipeline's name 'An Image Classifier' is none for Vertex AI"):
        platform.plan(compiled, "classifier", "1.0")
