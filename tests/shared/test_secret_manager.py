"""References into Secret Manager: what they fetch, and what a person is told where nothing can be fetched."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import DEFAULT_UNIVERSE_DOMAIN

from components.shared import secret_manager
from components.shared.errors import EXIT_BAD_INPUT, StatusRefusedError
from components.shared.events.redaction import REDACTED, redact
from components.shared.events.transport import RetryableError
from components.shared.secret_manager import ENDPOINT_VARIABLE, REFERENCE_FORM, fetch_secret, is_reference
from tests.peers.fixtures import certificates as certificates
from tests.peers.ports import HOST, claim_port
from tests.peers.secret_manager import PROJECT_NUMBER, Fault, SecretManager
from tests.peers.tls import Certificates
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import hurried_google as hurried_google
from tests.shared.events.security_fixtures import private_key, service_account, token_server

pytestmark = pytest.mark.usefixtures("hurried_google")

WHERE = "KAFKA_SASL_PASSWORD_FILE"
PASSWORD = "correct horse, battery=staple"  # noqa: S105 - of nobody
ROOT = Path(__file__).parents[2]


def use(manager: SecretManager, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment name a Secret Manager, and credentials that it accepts."""
    monkeypatch.setenv(ENDPOINT_VARIABLE, manager.endpoint)
    account = service_account(folder / "account.json", token_uri=manager.token_uri)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecretManager]:
    with SecretManager() as running:
        use(running, tmp_path, monkeypatch)
        yield running
    assert running.odd == []


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving up comes after tenths of a second instead of seconds."""
    monkeypatch.setattr(secret_manager, "TIMEOUT_S", 0.4)


def refusal(reference: str, where: str = WHERE) -> str:
    """What is told of a reference that cannot be used: one line, which redaction leaves as it is."""
    with pytest.raises(StatusRefusedError) as caught:
        fetch_secret(where, reference)
    message = str(caught.value)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert "\n" not in message
    assert redact(message) == message
    return message


def silence(reference: str) -> str:
    with pytest.raises(RetryableError) as caught:
        fetch_secret(WHERE, reference)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{WHERE}: {reference}: ")
    return message.removeprefix(f"{WHERE}: {reference}: ")


# What is there


def test_a_secret_is_fetched_by_number_alias_or_latest(manager: SecretManager) -> None:
    first, second = manager.add("kafka", "the-first-one"), manager.add("kafka", "the-second-one")
    manager.secrets["kafka"].aliases["canary-2"] = 1
    latest, alias = manager.reference("kafka", "latest"), manager.reference("kafka", "canary-2")

    assert [fetch_secret(WHERE, each) for each in (first, second, latest, alias)] == [
        b"the-first-one", b"the-second-one", b"the-second-one", b"the-first-one",
    ]  # fmt: skip
    assert manager.read == ["kafka/1", "kafka/2", "kafka/latest", "kafka/canary-2"]


def test_a_project_may_be_a_number(manager: SecretManager) -> None:
    manager.add("kafka", PASSWORD)
    assert fetch_secret(WHERE, f"sm://projects/{PROJECT_NUMBER}/secrets/kafka/versions/1") == PASSWORD.encode()


@pytest.mark.parametrize("data", [b"", b"\x00\xff\xfe", b"x" * 65536, "ä €\n".encode()], ids=repr)
def test_the_bytes_are_those_that_were_put_in(manager: SecretManager, data: bytes) -> None:
    assert fetch_secret(WHERE, manager.add("any", data)) == data


def test_a_version_from_before_there_were_checksums_is_read(manager: SecretManager) -> None:
    assert fetch_secret(WHERE, manager.add("old", PASSWORD, has_checksum=False)) == PASSWORD.encode()


def test_what_was_fetched_is_written_out_nowhere(manager: SecretManager) -> None:
    fetch_secret(WHERE, manager.add("kafka", "hunter22\n"))
    fetch_secret(WHERE, manager.add("key", private_key()))
    (token,) = {line for line in manager.tokens if line.endswith("-1-token")}

    line_of_the_key = private_key().splitlines()[5]

    assert redact(f"hunter22, {line_of_the_key}, {token}") == f"{REDACTED}, {REDACTED}, {REDACTED}"


def test_what_everybody_may_see_is_left_in_texts(manager: SecretManager) -> None:
    fetch_secret("KAFKA_SSL_CAFILE", manager.add("authority", "a line of an authority's"), is_public=True)
    assert redact("a line of an authority's") == "a line of an authority's"


def test_a_private_endpoint_speaks_tls_and_must_be_trusted(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SecretManager(tls=certificates.server_context()) as manager:
        use(manager, tmp_path, monkeypatch)
        reference = manager.add("kafka", PASSWORD)
        monkeypatch.setenv(ENDPOINT_VARIABLE, f"{manager.endpoint}/")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.ca_file))
        assert fetch_secret(WHERE, reference) == PASSWORD.encode()

        with token_server((200, {"access_token": "another-token", "expires_in": 600})) as google:
            service_account(tmp_path / "account.json", token_uri=google.uri)
            monkeypatch.delenv("REQUESTS_CA_BUNDLE")
            message = refusal(reference)
    host = manager.endpoint.removeprefix("https://")
    assert message.startswith(f"{WHERE}: {reference}: the certificate of {host} is not trusted (")
    assert message.endswith("name the authority's file by REQUESTS_CA_BUNDLE")


@pytest.mark.usefixtures("hurried")
def test_without_an_endpoint_it_is_googles_own(manager: SecretManager, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, real = manager.add("kafka", PASSWORD), socket.getaddrinfo

    def lookup(host: str, *rest: Any, **more: Any) -> Any:
        if host == HOST:
            return real(host, *rest, **more)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.delenv(ENDPOINT_VARIABLE)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert silence(reference).startswith(
        f"the name secretmanager.{DEFAULT_UNIVERSE_DOMAIN} cannot be resolved (Temporary failure in name resolution), "
    )


# What is not


@pytest.mark.parametrize(
    "reference",
    [
        "sm://",
        "sm://kafka",
        "sm://vision-project/kafka#1",
        "sm://projects/vision-project/secrets/kafka",
        "sm://projects/vision-project/secrets/kafka/versions/",
        "sm://projects/vision-project/secrets/kafka/versions/0",
        "sm://projects/vision-project/secrets/kafka/versions/1/",
        "sm://projects/vision-project/secrets/kafka/versions/1:access",
        "sm://projects/vision-project/secrets/kafka/versions/1\n",
        "sm://projects/vision-project/secrets/../versions/1",
        "sm://projects/vision-project/secrets/a b/versions/1",
        "sm://projects/vision-project/secrets/a?b/versions/1",
        "sm://projects/vision-project/locations/europe-west1/secrets/kafka/versions/1",
        f"sm://projects/vision-project/secrets/{'x' * 256}/versions/1",
    ],
)
def test_a_malformed_reference_is_told_with_the_form_before_anybody_is_asked(
    manager: SecretManager, reference: str
) -> None:
    assert is_reference(reference)
    message = refusal(reference)
    assert message.endswith(f"refers to no secret; write {REFERENCE_FORM}, VERSION a number, an alias or latest")
    assert manager.read == []


@pytest.mark.parametrize("text", ["", "/run/secrets/password", "sm:/x", "SM://x", "gs://bucket/sm://x"])
def test_a_path_is_no_reference(text: str) -> None:
    assert not is_reference(text)


def test_a_secret_that_is_not_there_is_told(manager: SecretManager) -> None:
    missing = manager.reference("kafak", 1)
    message = refusal(missing)
    assert message == (
        f"{WHERE}: {missing}: there is no such secret or version (Secret [projects/{PROJECT_NUMBER}/secrets/kafak] not "
        "found or has no versions); create it, or check the names"
    )


@pytest.mark.parametrize("version", [2, "canary"])
def test_a_version_that_is_not_there_is_told(manager: SecretManager, version: int | str) -> None:
    manager.add("kafka", PASSWORD)
    message = refusal(manager.reference("kafka", version))
    assert f"there is no such secret or version (Secret Version [projects/{PROJECT_NUMBER}/secrets/kafka" in message


def test_a_secret_that_may_not_be_read_is_told_with_role_and_account(manager: SecretManager) -> None:
    reference = manager.add("kafka", PASSWORD)
    manager.forbidden.add("kafka")
    message = refusal(reference)
    assert message == (
        f"{WHERE}: {reference}: forbidden (Permission 'secretmanager.versions.access' denied for resource "
        "'projects/vision-project/secrets/kafka/versions/1' (or it may not exist)); grant "
        "status@project.iam.gserviceaccount.com roles/secretmanager.secretAccessor on the secret"
    )


@pytest.mark.parametrize("state", ["DISABLED", "DESTROYED"])
def test_a_version_that_was_taken_back_is_told(manager: SecretManager, state: str) -> None:
    manager.add("kafka", PASSWORD, state=state)
    latest = manager.reference("kafka", "latest")
    message = refusal(latest)
    assert message == (
        f"{WHERE}: {latest}: the version cannot be read (Secret Version [projects/{PROJECT_NUMBER}/secrets/kafka/"
        f"versions/1] is in {state} state); enable it if it is disabled, or name another one"
    )


# By what goes wrong with the first answer: what is told.
ONCE_AND_FOR_ALL: dict[Fault, str] = {
    "not enabled": f"the Secret Manager API is not enabled in the project (Secret Manager API has not been used in "
    f"project {PROJECT_NUMBER} before or it is disabled); enable it",
    "foreign": f"what answers is not Secret Manager; check {ENDPOINT_VARIABLE} and the proxy's settings",
    "redirect": f"answers 302 and is not Secret Manager; check {ENDPOINT_VARIABLE}",
    409: "Secret Manager refuses it: 409 (The service is currently unavailable)",
}


@pytest.mark.parametrize("fault", ONCE_AND_FOR_ALL, ids=str)
def test_an_answer_that_will_not_change_is_told_at_once(manager: SecretManager, fault: Fault) -> None:
    reference = manager.add("kafka", PASSWORD)
    manager.faults.append(fault)
    message = refusal(reference)
    assert message.startswith(f"{WHERE}: {reference}: ")
    assert message.endswith(ONCE_AND_FOR_ALL[fault])
    assert "portal-password" not in message
    assert len(manager.read) == 1


@pytest.mark.parametrize(
    "endpoint",
    [
        "secretmanager.example.com", "http://secretmanager.example.com", "ftp://127.0.0.1", "https://", "https://h:0",
        "https://h:99999", "https://[", "https://user:hunter22@h", "https://h?key=hunter22", "http://localhost.evil",
    ],
)  # fmt: skip
def test_an_endpoint_that_a_token_must_not_be_sent_to_is_refused(
    manager: SecretManager, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    reference = manager.add("kafka", PASSWORD)
    monkeypatch.setenv(ENDPOINT_VARIABLE, endpoint)
    message = refusal(reference)
    assert message.startswith(f"{ENDPOINT_VARIABLE}: must be https://HOST[:PORT] (http:// for this machine alone)")
    assert "hunter22" not in message
    assert manager.tokens == set()


# Credentials


@pytest.mark.parametrize("content", [None, "{", '{"type": "service_account"}'], ids=["no file", "not JSON", "half"])
def test_credentials_that_are_none_are_told(manager: SecretManager, tmp_path: Path, content: str | None) -> None:
    account = tmp_path / "account.json"
    account.unlink() if content is None else account.write_text(content)
    reference = manager.add("kafka", PASSWORD)
    message = refusal(reference)
    assert message.startswith(f"{WHERE}: {reference}: no Google credentials: ")
    assert "name a key file by GOOGLE_APPLICATION_CREDENTIALS" in message


def test_credentials_that_are_not_accepted_are_told(manager: SecretManager, tmp_path: Path) -> None:
    reference = manager.add("kafka", PASSWORD)
    with token_server((400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})) as google:
        service_account(tmp_path / "account.json", token_uri=google.uri)
        message = refusal(reference)
    assert f"{reference}: the Google credentials are not accepted: invalid_grant: Invalid JWT Signature; " in message
    assert manager.read == []


def test_a_token_that_the_service_does_not_accept_is_told(manager: SecretManager, tmp_path: Path) -> None:
    reference = manager.add("kafka", PASSWORD)
    with token_server((200, {"access_token": "not-of-this-service", "expires_in": 600})) as google:
        service_account(tmp_path / "account.json", token_uri=google.uri)
        message = refusal(reference)
    assert "the Google credentials are not accepted (Request had invalid authentication credentials);" in message


def test_nobody_else_is_asked(manager: SecretManager, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], socket.getaddrinfo

    def lookup(host: str, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    fetch_secret(WHERE, manager.add("kafka", PASSWORD))
    assert set(asked) == {HOST}


# What passes


@pytest.mark.parametrize("fault", ["cut", "flipped", 429, 500, 503], ids=str)
def test_what_passes_is_waited_for(manager: SecretManager, fault: Fault) -> None:
    reference = manager.add("kafka", PASSWORD)
    manager.faults += [fault, fault]
    assert fetch_secret(WHERE, reference) == PASSWORD.encode()
    assert len(manager.read) == 3


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (503, "Secret Manager answers 503 (The service is currently unavailable), asked "),
        ("flipped", "what Secret Manager sends has another checksum than it says, asked "),
        ("cut", "HOST does not answer, or broke off (ConnectionError), asked "),
        ("silence", "HOST does not answer, or broke off (ReadTimeout), asked "),
    ],
)
def test_what_does_not_pass_is_told_as_something_that_may(manager: SecretManager, fault: Fault, expected: str) -> None:
    reference = manager.add("kafka", PASSWORD)
    manager.faults += [fault] * 1000
    message = silence(reference).replace(manager.endpoint.removeprefix("http://"), "HOST")
    assert message.startswith(expected)
    assert "not what was put in" not in message


@pytest.mark.usefixtures("hurried")
def test_a_service_that_is_not_there_may_come_back(manager: SecretManager, monkeypatch: pytest.MonkeyPatch) -> None:
    port = claim_port()
    monkeypatch.setenv(ENDPOINT_VARIABLE, f"http://{HOST}:{port}")
    assert silence(manager.reference("kafka", 1)).startswith(f"{HOST}:{port} does not answer, or broke off (")


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("answers", [True, False], ids=["in trouble", "not there"])
def test_whoever_gives_tokens_may_come_back_too(manager: SecretManager, tmp_path: Path, answers: bool) -> None:
    reference = manager.add("kafka", PASSWORD)
    with token_server((503, {"error": "temporarily_unavailable"})) as google:
        uri = google.uri if answers else f"http://{HOST}:{claim_port()}/token"
        service_account(tmp_path / "account.json", token_uri=uri)
        assert silence(reference).startswith("no token for the Google credentials for now: ")
    assert manager.read == []


def test_without_the_libraries_it_is_told_what_to_install() -> None:
    program = f"""
import sys
sys.modules["google_crc32c"] = None
from components.shared.secret_manager import fetch_secret
try:
    fetch_secret({WHERE!r}, "sm://projects/p/secrets/n/versions/1")
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        f"StatusRefusedError {WHERE}: sm://projects/p/secrets/n/versions/1: needs google-auth"
    )
    assert "pip install 'shutterline[status,storage]'" in done.stdout
