"""Tokens of Google's credentials for its managed Kafka, from a small server in the place of Google's."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import StatusRefusedError
from components.shared.events.kafka.google_tokens import google_token
from components.shared.events.redaction import redact
from components.shared.events.transport import RetryableError
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import hurried_google as hurried_google
from tests.shared.events.security_fixtures import private_key, service_account, token_server

pytestmark = pytest.mark.usefixtures("hurried_google")

ACCESS_TOKEN = "ya29.c0-AccessToken_of-nobody"  # noqa: S105


def part(text: str) -> bytes:
    """One part of a token, decoded; parts come without padding."""
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the environment says that the credentials are."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    return tmp_path / "account.json"


def test_a_token_has_the_three_parts_that_google_documents(credentials: Path) -> None:
    before = int(time.time())
    with token_server((200, {"access_token": ACCESS_TOKEN, "expires_in": 600})) as google:
        service_account(credentials, token_uri=google.uri)
        header, claims, access_token = google_token().split(".")

    assert json.loads(part(header)) == {"typ": "JWT", "alg": "GOOG_OAUTH2_TOKEN"}
    said = json.loads(part(claims))
    assert said.keys() == {"exp", "iat", "iss", "scope", "sub"}
    assert (said["iss"], said["scope"], said["sub"]) == ("Google", "kafka", "status@project.iam.gserviceaccount.com")
    assert before <= said["iat"] <= time.time()
    # Of the server's ten minutes, not of an hour that somebody thought of.
    assert before + 600 - 5 <= said["exp"] <= time.time() + 600
    assert part(access_token).decode() == ACCESS_TOKEN


def test_the_expiry_is_in_utc_wherever_the_machine_is(credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")  # 14 hours ahead
    time.tzset()
    try:
        with token_server((200, {"access_token": ACCESS_TOKEN, "expires_in": 600})) as google:
            service_account(credentials, token_uri=google.uri)
            said = json.loads(part(google_token().split(".")[1]))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert 0 < said["exp"] - said["iat"] <= 600


def test_neither_token_is_written_out_from_then_on(credentials: Path) -> None:
    assert ACCESS_TOKEN in redact(f"got {ACCESS_TOKEN}")
    with token_server((200, {"access_token": ACCESS_TOKEN, "expires_in": 600})) as google:
        service_account(credentials, token_uri=google.uri)
        token = google_token()
    assert redact(f"got {ACCESS_TOKEN} in {token}.") == "got [redacted] in [redacted]."
    assert token.split(".")[2] not in redact(f"of the parts {token.split('.')[2]} is the secret one")


def test_each_call_asks_again(credentials: Path) -> None:
    answers = [(200, {"access_token": f"ya29.number-{number}", "expires_in": 600}) for number in range(2)]
    with token_server(*answers) as google:
        service_account(credentials, token_uri=google.uri)
        tokens = [part(google_token().split(".")[2]) for _ in range(2)]
    assert tokens == [b"ya29.number-0", b"ya29.number-1"]


def test_credentials_that_are_not_accepted_are_refused(credentials: Path) -> None:
    answer = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    with token_server((400, answer)) as google:
        service_account(credentials, token_uri=google.uri)
        with pytest.raises(StatusRefusedError) as caught:
            google_token()
    assert str(caught.value).startswith(
        "KAFKA_SASL_OAUTH_PROVIDER=google: the Google credentials are not accepted: invalid_grant: Invalid JWT "
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "was not found"),
        ("{", "not a valid json file"),
        ("{}", "does not have a valid type"),
        ('{"type": "service_account"}', "missing fields"),
    ],
    ids=["no file", "not JSON", "no type", "half a service account"],
)
def test_credentials_that_are_none_are_refused(
    credentials: Path, request: pytest.FixtureRequest, content: str | None, expected: str
) -> None:
    if content is not None:
        credentials.write_text(content)
    with pytest.raises(StatusRefusedError) as caught:
        google_token()
    assert str(caught.value).startswith("KAFKA_SASL_OAUTH_PROVIDER=google: no Google credentials: ")
    assert expected in str(caught.value)
    assert str(credentials) in str(caught.value)


def test_a_damaged_key_is_refused_and_not_told(credentials: Path) -> None:
    lines = private_key().splitlines()
    service_account(credentials, private_key="\n".join([*lines[:5], *lines[6:]]))
    with pytest.raises(StatusRefusedError) as caught:
        google_token()
    assert "no Google credentials" in str(caught.value)
    assert not any(line in str(caught.value) for line in lines)


@pytest.mark.parametrize(
    "answer", [(503, {"error": "temporarily_unavailable"}), (500, {"error": "internal_failure"})], ids=["503", "500"]
)
def test_a_server_in_trouble_is_no_refusal(credentials: Path, answer: tuple[int, dict[str, Any]]) -> None:
    with token_server(answer) as google:
        service_account(credentials, token_uri=google.uri)
        with pytest.raises(RetryableError, match="no token for the Google credentials for now"):
            google_token()
        assert google.asked > 1


def test_a_server_that_is_not_there_is_no_refusal(credentials: Path) -> None:
    service_account(credentials)
    with pytest.raises(RetryableError, match="no token for the Google credentials for now"):
        google_token()
