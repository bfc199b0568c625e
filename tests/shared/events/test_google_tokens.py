"""Tokens of Google's credentials for its managed Kafka, from a small server in the place of Google's."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events.google_login import google_token
from components.shared.events.redaction import redact
from tests.shared.events.security_fixtures import BUSY, REVOKED, TokenServer, private_key, service_account
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import google_account as google_account
from tests.shared.events.security_fixtures import hurried_google as hurried_google

pytestmark = pytest.mark.usefixtures("hurried_google")

PREFIX = "KAFKA_SASL_OAUTH_PROVIDER=google: "


def part(text: str) -> bytes:
    """One part of a token, decoded; parts come without padding."""
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati"])  # 14 hours ahead
def test_a_token_has_the_three_parts_that_google_documents(
    google_account: TokenServer, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    before = int(time.time())
    header, claims, access_token = google_token().split(".")
    monkeypatch.undo()
    time.tzset()
    assert json.loads(part(header)) == {"typ": "JWT", "alg": "GOOG_OAUTH2_TOKEN"}
    found = json.loads(part(claims))
    issued, expires = found.pop("iat"), found.pop("exp")
    assert found == {"iss": "Google", "scope": "kafka", "sub": "status@project.iam.gserviceaccount.com"}
    assert before <= issued <= time.time()
    assert before + 600 - 5 <= expires <= time.time() + 600, "of the server's ten minutes"
    assert part(access_token) == b"ya29.of-nobody"


def test_each_call_asks_again_and_no_token_is_written_out(google_account: TokenServer) -> None:
    google_account.answers = [(200, {"access_token": f"ya29.number-{n}", "expires_in": 600}) for n in range(2)]
    assert "ya29.number-0" in redact("got ya29.number-0")
    tokens = [google_token() for _ in range(2)]
    assert [part(token.split(".")[2]) for token in tokens] == [b"ya29.number-0", b"ya29.number-1"]
    assert redact(f"got ya29.number-0 in {tokens[0]}.") == "got [redacted] in [redacted]."
    assert tokens[0].split(".")[2] not in redact(f"of the parts {tokens[0].split('.')[2]} is the secret one")


def test_credentials_that_are_not_accepted_are_refused(google_account: TokenServer) -> None:
    google_account.answers = [REVOKED]
    with pytest.raises(StatusRefusedError) as caught:
        google_token()
    expected = f"{PREFIX}the Google credentials are not accepted: invalid_grant: Invalid JWT Signature; give the job or"
    assert str(caught.value).startswith(expected)


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
    google_account: TokenServer, tmp_path: Path, content: str | None, expected: str
) -> None:
    file = tmp_path / "account.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(StatusRefusedError) as caught:
        google_token()
    assert str(caught.value).startswith(f"{PREFIX}no Google credentials: ")
    assert expected in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_damaged_key_is_refused_and_not_shown(google_account: TokenServer, tmp_path: Path) -> None:
    lines = private_key().splitlines()
    service_account(tmp_path / "account.json", private_key="\n".join([*lines[:5], *lines[6:]]))
    with pytest.raises(StatusRefusedError, match="no Google credentials") as caught:
        google_token()
    assert not any(line in str(caught.value) for line in lines)


@pytest.mark.parametrize("answers", [True, False], ids=["in trouble", "not there"])
def test_a_server_in_trouble_is_no_refusal(google_account: TokenServer, tmp_path: Path, answers: bool) -> None:
    google_account.answers = [BUSY]
    if not answers:
        service_account(tmp_path / "account.json")
    with pytest.raises(RetryableError, match="no token for the Google credentials for now"):
        google_token()
    assert google_account.asked == 0 or answers
