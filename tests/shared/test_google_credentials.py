"""Files of Google credentials that google-auth itself does not expect: refused in words by all who use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from components.shared.errors import EXIT_BAD_INPUT, InputError
from components.shared.events.google_login import google_token
from components.shared.events.pubsub.client import open_channel
from components.shared.secret_manager import fetch_secret
from components.shared.storage.location import Location
from components.shared.storage.store import connect
from components.shared.storage.transfer import Transfer
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment

BUCKET = Location("gs", "bucket", "key")
USERS: dict[str, Callable[[Path], object]] = {
    "bucket": lambda file: connect(BUCKET, Transfer()),
    "secret": lambda file: fetch_secret("VARIABLE", "sm://projects/p/secrets/s/versions/latest"),
    "Kafka": lambda file: google_token(),
    "Pub/Sub": lambda file: open_channel(None),
    "Pub/Sub by params": lambda file: open_channel(str(file)),
}
CONTENTS = {
    "a folder": b"",
    "list": b"[]",
    "text": b'"text"',
    "no UTF-8": b"\xff\xfe{}",
    "too deep": b"[" * 100_000,
    "inside": b'{"type": "impersonated_service_account", "source_credentials": []}',
    "inside, too": b'{"type": "external_account", "credential_source": []}',
}


def refused(user: str, file: Path) -> str:
    with pytest.raises(InputError) as caught:
        USERS[user](file)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the environment names."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    return tmp_path / "key.json"


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_of_another_shape_is_refused(named: Path, user: str, content: str) -> None:
    if content == "a folder":
        named.mkdir()
    else:
        named.write_bytes(CONTENTS[content])
    assert str(named) in refused(user, named)
