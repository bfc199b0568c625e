"""Secrets planted where a submission could pick them up: none is sent, shown or logged."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from google.auth import jwt

from components.shared.errors import InputError
from pipelines.submit.platform import RunRequest
from pipelines.submit.vertex import VertexPlatform
from tests.peers.vertex_api import VertexApi
from tests.peers.vertex_faults import Refuse
from tests.shared.events.security_fixtures import private_key

Run = Callable[..., RunRequest]
PLANTED = {
    "KAFKA_SASL_PASSWORD": "kafka-password-7391",
    "SHUTTERLINE_KFP_TOKEN": "kfp-token-7391",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-7391",
}


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every token that google-auth makes."""
    made: list[str] = []
    encode = jwt.encode

    def remembered(*arguments: object, **options: object) -> bytes:
        token: bytes = encode(*arguments, **options)  # type: ignore[no-untyped-call] # google-auth has few types
        made.append(token.decode())
        return token

    monkeypatch.setattr(jwt, "encode", remembered)
    return made


def test_no_secret_leaves_or_is_told(
    platform: VertexPlatform,
    vertex: VertexApi,
    a_run: Run,
    tokens: list[str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.DEBUG)
    dry = platform.plan(a_run().pipeline, "classifier", "1.0")
    submitted = platform.submit(a_run())
    platform.progress(submitted.id, 30)
    assert tokens
    captured = capfd.readouterr()
    shown = [str(dry), str(submitted), captured.out, captured.err, caplog.text]
    sent = [str((asked.path, asked.query, asked.body)) for asked in vertex.requests]
    secrets = [*PLANTED.values(), *tokens, *private_key().splitlines()[1:-1]]
    assert not [secret for secret in secrets for text in shown + sent if secret in text]


def test_a_server_that_quotes_secrets_is_not_quoted(
    platform: VertexPlatform, vertex: VertexApi, a_run: Run, tokens: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.submit(a_run(name="first"))
    token = tokens[-1]
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "kafka-password-7391")
    vertex.plan(Refuse(400, "INVALID_ARGUMENT", f"What are {token} and kafka-password-7391 to you?"))
    with pytest.raises(InputError) as caught:
        platform.submit(a_run())
    assert "What are [redacted] and [redacted] to you?" in str(caught.value)
    assert tokens[-1] == token  # the one that was sent
