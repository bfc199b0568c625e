"""References into Secret Manager: what they fetch, and the message where nothing can be fetched."""

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
from components.shared.errors import EXIT_BAD_INPUT, RetryableError, StatusRefusedError
from components.shared.events.redaction import REDACTED, redact
from components.shared.secret_manager import ENDPOINT_VARIABLE, REFERENCE_FORM, fetch_secret, is_reference
from tests.peers.fixtures import certificates as certificates
from tests.peers.ports import HOST, claim_port
from tests.peers.secret_manager import PROJECT_NUMBER, Fault, SecretManager
from tests.peers.tls import Certificates
from tests.pipelines.conftest import ROOT
from tests.shared.events.security_fixtures import BUSY, REVOKED, TokenServer, private_key, service_account
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import hurried_google as hurried_google

pytestmark = pytest.mark.usefixtures("hurried_google")

WHERE = "KAFKA_SASL_PASSWORD_FILE"
PASSWORD = "correct horse, battery=staple"  # noqa: S105 - of nobody


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


def refusal(reference: str) -> str:
    """What is wrong with a reference: one line, which redaction leaves as it is."""
    with pytest.raises(StatusRefusedError) as caught:
        fetch_secret(WHERE, reference)
    message = str(caught.value)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert "\n" not in message
    assert redact(message) == message
    return message.removeprefix(f"{WHERE}: {reference}: ")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_manager, "TIMEOUT_S", 0.4)


def silence(reference: str) -> str:
    with pytest.raises(RetryableError) as caught:
        fetch_secret(WHERE, reference)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{WHERE}: {reference}: ")
    return message.removeprefix(f"{WHERE}: {reference}: ")


def test_a_secret_is_fetched_by_number_alias_or_latest(manager: SecretManager) -> None:
    first, second = manager.add("kafka", "the-first-one"), manager.add("kafka", "the-second-one")
    manager.secrets["kafka"].aliases["canary-2"] = 1
    latest, alias = manager.reference("kafka", "latest"), manager.reference("kafka", "canary-2")
    by_number = f"sm://projects/{PROJECT_NUMBER}/secrets/kafka/versions/1"

    found = [fetch_secret(WHERE, each) for each in (first, second, latest, alias, by_number)]
    assert found == [b"the-first-one", b"the-second-one", b"the-second-one", b"the-first-one", b"the-first-one"]
    assert manager.read == ["kafka/1", "kafka/2", "kafka/latest", "kafka/canary-2", "kafka/1"]


@pytest.mark.parametrize("has_checksum", [True, False])
@pytest.mark.parametrize("data", [b"", b"\x00\xff\xfe", b"x" * 65536, "ä €\n".encode()], ids=repr)
def test_the_bytes_are_those_that_were_put_in(manager: SecretManager, data: bytes, has_checksum: bool) -> None:
    assert fetch_secret(WHERE, manager.add("any", data, has_checksum=has_checksum)) == data


def test_secrets_are_written_out_nowhere_and_public_texts_are(manager: SecretManager) -> None:
    fetch_secret(WHERE, manager.add("kafka", "hunter22\n"))
    fetch_secret(WHERE, manager.add("key", private_key()))
    fetch_secret("KAFKA_SSL_CAFILE", manager.add("authority", "a line of an authority's"), is_public=True)
    token, *_ = manager.tokens
    line_of_the_key = private_key().splitlines()[5]
    texts = f"hunter22, {line_of_the_key}, {token}, a line of an authority's"
    assert redact(texts) == f"{REDACTED}, {REDACTED}, {REDACTED}, a line of an authority's"


def test_a_private_endpoint_has_tls_and_must_be_trusted(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        SecretManager(tls=certificates.server_context()) as manager,
        TokenServer((200, {"access_token": "another-token", "expires_in": 600})) as google,
    ):
        use(manager, tmp_path, monkeypatch)
        reference = manager.add("kafka", PASSWORD)
        monkeypatch.setenv(ENDPOINT_VARIABLE, f"{manager.endpoint}/")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.ca_file))
        assert fetch_secret(WHERE, reference) == PASSWORD.encode()
        service_account(tmp_path / "account.json", token_uri=google.uri)
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        message = refusal(reference)
    assert message.startswith(f"the certificate of {manager.endpoint.removeprefix('https://')} is not trusted (")
    assert message.endswith("name the authority's file by REQUESTS_CA_BUNDLE")


def test_without_an_endpoint_it_is_googles_own_and_nobody_else_is_asked(
    manager: SecretManager, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    reference, real, asked = manager.add("kafka", PASSWORD), socket.getaddrinfo, set()

    def lookup(host: str, *rest: Any, **more: Any) -> Any:
        asked.add(host)
        if host == HOST:
            return real(host, *rest, **more)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    fetch_secret(WHERE, reference)
    assert asked == {HOST}
    monkeypatch.delenv(ENDPOINT_VARIABLE)
    assert silence(reference).startswith(
        f"the name secretmanager.{DEFAULT_UNIVERSE_DOMAIN} cannot be resolved (Temporary failure in name resolution), "
    )


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
def test_a_malformed_reference_is_refused_with_the_form_before_anybody_is_asked(
    manager: SecretManager, reference: str
) -> None:
    assert is_reference(reference)
    message = refusal(reference)
    assert message.endswith(f"refers to no secret; write {REFERENCE_FORM}, VERSION a number, an alias or latest")
    assert manager.read == []


@pytest.mark.parametrize("text", ["", "/run/secrets/password", "sm:/x", "SM://x", "gs://bucket/sm://x"])
def test_a_path_is_no_reference(text: str) -> None:
    assert not is_reference(text)


SECRET = f"projects/{PROJECT_NUMBER}/secrets/"
REFUSALS: dict[str, tuple[str, int | str, str]] = {
    "no such secret": ("kafak", 1, f"there is no such secret or version (Secret [{SECRET}kafak] not found or has no "
                       "versions); create it, or check the names"),
    "no such number": ("kafka", 9, f"there is no such secret or version (Secret Version [{SECRET}kafka/versions/9] not "
                       "found); create it, or check the names"),
    "no such alias": ("kafka", "canary", f"there is no such secret or version (Secret Version [{SECRET}kafka/versions/"
                      "canary] not found); create it, or check the names"),
    "forbidden": ("locked", 1, "forbidden (Permission 'secretmanager.versions.access' denied for resource "
                  "'projects/vision-project/secrets/locked/versions/1' (or it may not exist)); grant "
                  "status@project.iam.gserviceaccount.com roles/secretmanager.secretAccessor on the secret"),
    "DISABLED": ("kafka", 2, f"the version cannot be read (Secret Version [{SECRET}kafka/versions/2] is in DISABLED "
                 "state); enable it if it is disabled, or name another one"),
    "DESTROYED": ("kafka", "latest", f"the version cannot be read (Secret Version [{SECRET}kafka/versions/3] is in "
                  "DESTROYED state); enable it if it is disabled, or name another one"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_version_that_cannot_be_read_is_refused_with_what_to_do(manager: SecretManager, kind: str) -> None:
    for state in ("ENABLED", "DISABLED", "DESTROYED"):
        manager.add("kafka", PASSWORD, state=state)
    manager.add("locked", PASSWORD)
    manager.forbidden.add("locked")
    name, version, message = REFUSALS[kind]
    assert refusal(manager.reference(name, version)) == message


# By what goes wrong with the first answer: the message's end.
ONCE_AND_FOR_ALL: dict[Fault, str] = {
    "not enabled": f"the Secret Manager API is not enabled in the project (Secret Manager API has not been used in "
    f"project {PROJECT_NUMBER} before or it is disabled); enable it",
    "foreign": f"what answers is not Secret Manager; check {ENDPOINT_VARIABLE} and the proxy's settings",
    "redirect": f"answers 302 and is not Secret Manager; check {ENDPOINT_VARIABLE}",
    409: "Secret Manager refuses it: 409 (The service is currently unavailable)",
}


@pytest.mark.parametrize("fault", ONCE_AND_FOR_ALL, ids=str)
def test_an_answer_that_will_not_change_is_refused_at_once(manager: SecretManager, fault: Fault) -> None:
    reference = manager.add("kafka", PASSWORD)
    manager.faults.append(fault)
    message = refusal(reference)
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


@pytest.mark.parametrize("content", [None, "{", '{"type": "service_account"}'], ids=["no file", "not JSON", "half"])
def test_credentials_that_are_none_are_refused(manager: SecretManager, tmp_path: Path, content: str | None) -> None:
    account = tmp_path / "account.json"
    account.unlink() if content is None else account.write_text(content)
    message = refusal(manager.add("kafka", PASSWORD))
    assert message.startswith("no Google credentials: ")
    assert "name a key file by GOOGLE_APPLICATION_CREDENTIALS" in message


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (REVOKED, ": invalid_grant: Invalid JWT Signature; "),
        ((200, {"access_token": "not-of-it", "expires_in": 600}), " (Request had invalid authentication credentials);"),
    ],
    ids=["by whoever gives tokens", "by the service"],
)
def test_credentials_that_are_not_accepted_are_refused(
    manager: SecretManager, tmp_path: Path, answer: tuple[int, dict[str, Any]], reason: str
) -> None:
    with TokenServer(answer) as google:
        service_account(tmp_path / "account.json", token_uri=google.uri)
        assert refusal(manager.add("kafka", PASSWORD)).startswith(f"the Google credentials are not accepted{reason}")


@pytest.mark.parametrize("fault", ["cut", "flipped", 429, 500, 503], ids=str)
def test_what_passes_is_waited_for(manager: SecretManager, fault: Fault) -> None:
    reference = manager.add("kafka", PASSWORD)
    manager.faults += [fault, fault]
    assert fetch_secret(WHERE, reference) == PASSWORD.encode()
    assert len(manager.read) == 3


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (503, "Secret Manager answers 503 (The service is currently unavailable), asked "),
        ("flipped", "what Secret Manager sends has another checksum than it says, asked "),
        ("cut", "HOST does not answer, or broke off (ConnectionError), asked "),
        ("silence", "HOST does not answer, or broke off (ReadTimeout), asked "),
    ],
)
def test_what_does_not_pass_may_do_so_later(
    manager: SecretManager, impatient: None, fault: Fault, expected: str
) -> None:
    reference = manager.add("kafka", PASSWORD)
    manager.faults += [fault] * 1000
    message = silence(reference).replace(manager.endpoint.removeprefix("http://"), "HOST")
    assert message.startswith(expected)
    assert "not what was put in" not in message


@pytest.mark.parametrize("kind", ["service not there", "tokens not now", "tokens from nobody"])
def test_a_server_that_is_not_there_may_come_back(
    manager: SecretManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None, kind: str
) -> None:
    nobody = f"http://{HOST}:{claim_port()}"
    expected = "no token for the Google credentials for now: "
    with TokenServer(BUSY) as google:
        if kind == "service not there":
            monkeypatch.setenv(ENDPOINT_VARIABLE, nobody)
            expected = f"{nobody.removeprefix('http://')} does not answer, or broke off ("
        else:
            uri = google.uri if kind == "tokens not now" else f"{nobody}/token"
            service_account(tmp_path / "account.json", token_uri=uri)
        assert silence(manager.add("kafka", PASSWORD)).startswith(expected)
    assert manager.read == []


def test_without_the_libraries_the_extra_is_named() -> None:
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
    assert done.stdout == (
        f"StatusRefusedError {WHERE}: sm://projects/p/secrets/n/versions/1: needs google-auth and google-crc32c; "
        "pip install 'shutterline[status,storage]'\n"
    )
