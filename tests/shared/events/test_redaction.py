"""Secrets are taken out of every text, and texts without any stay as they are."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from components.shared.events.data import (
    KINDS,
    TEXT_LIMIT,
    Cancelled,
    Checkpoint,
    DataFinding,
    Error,
    Failed,
    PipelineEnded,
    PipelineStarted,
    Progress,
    StepOutcome,
    StepStarted,
    Succeeded,
)
from components.shared.events.event import EventSource, encode
from components.shared.events.redaction import REDACTED, Redactor, redact, redact_message, register_secret
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import private_key

# The environment and the registered secrets of one example stay for the next ones, as they do in a process.
together = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://status:hunter2@db:5432/x", "postgres://[redacted]@db:5432/x"),
        ("redis://:hunter2@cache/0", "redis://[redacted]@cache/0"),
        ("https://u:p@ss@w0rd@host/p?q=1", "https://[redacted]@host/p?q=1"),
        ("Authorization: Bearer eyJhbGciOi.J9.abc-_~+/=", "Authorization: Bearer [redacted]"),
        ("authorization: bearer eyJhbGciOiJ9", "authorization: bearer [redacted]"),
        ("Authorization: Basic YWxpY2U6aHVudGVyMg==", "Authorization: Basic [redacted]"),
        ("password=hunter2", "password=[redacted]"),
        ("sasl.password = hunter2;", "sasl.password = [redacted];"),
        ("Password: hunter2, user: alice", "Password: [redacted], user: alice"),
        (
            "{'sasl_plain_password': 'hunter2', 'user': 'alice'}",
            "{'sasl_plain_password': '[redacted]', 'user': 'alice'}",
        ),
        ('{"refresh_token": "1//0abc"}', '{"refresh_token": "[redacted]"}'),
        ('"{\\"client_secret\\": \\"hunter2", ...', '"{\\"client_secret\\": \\"[redacted]", ...'),
        ("f(api_key='hunter2')", "f(api_key='[redacted]')"),
        ("?token=hunter2&page=2", "?token=[redacted]&page=2"),
        ("KAFKA_SASL_PASSWORD=hunter2 shutterline run", "KAFKA_SASL_PASSWORD=[redacted] shutterline run"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(expected) == expected


@pytest.mark.parametrize("kind", ["PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
def test_private_keys_are_taken_out_whole_or_cut_short(kind: str) -> None:
    body = "MIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC"
    whole = f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----"
    assert redact(f"the key is\n{whole}\nand more") == "the key is\n[redacted]\nand more"
    assert redact(json.dumps({"key": whole, "user": "alice"})) == '{"key": "[redacted]", "user": "alice"}'
    assert redact(f"the key is {whole[:50]}") == "the key is [redacted]"
    assert redact("-----BEGIN CERTIFICATE-----\nMIIB") == "-----BEGIN CERTIFICATE-----\nMIIB"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch 3/10, loss 0.1234, 51,234 images/s",
        "basic training of a basic classifier",
        "the bearer of bad news",
        "gs://bucket/models/run-1/model.safetensors",
        "http://host:8080/path@version and user@example.com",
        "KAFKA_SASL_PASSWORD_FILE: /run/secrets/kafka/password cannot be read: No such file or directory",
        "KAFKA_SASL_OAUTH_TOKEN_FILE: /run/secrets/token is empty",
        "KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE is missing, and PLAIN needs it",
        "check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
        "GOOGLE_APPLICATION_CREDENTIALS: there is no file /secrets/token.json; mount it",
        "tokenizer: 5 passwords, 3 secrets and a key",
        "KeyError: 'conv1.weight'",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_ordinary_texts_stay(text: str) -> None:
    assert redact(text) == text


def test_a_word_of_any_length_that_is_made_of_such_names_stays() -> None:
    assert redact("token" * 40_000) == "token" * 40_000  # searched from each of them it would take minutes


@pytest.mark.parametrize(
    "name",
    [
        "KAFKA_SASL_PASSWORD", "KAFKA_SSL_KEY_PASSWORD", "KAFKA_SASL_OAUTH_TOKEN", "DB_PASSWD", "MY_PASSPHRASE",
        "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "WANDB_API_KEY", "some_apikey", "PRIVATE_KEY",
    ],
)  # fmt: skip
def test_variables_with_the_name_of_a_secret_are_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x9-hunter2")
    assert redact("they said x9-hunter2 twice: x9-hunter2") == "they said [redacted] twice: [redacted]"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_SASL_PASSWORD_FILE", "/run/secrets/password"),
        ("TOKEN_URL", "https://issuer.example"),
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("KAFKA_SASL_OAUTH_PROVIDER", "google"),
        ("KAFKA_SASL_USERNAME", "alice"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("REQUIRE_TOKEN", "True"),
        ("DB_PASSWORD", "abc"),  # too short: it would blot out words
    ],
)
def test_other_variables_are_none(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"they said {value}") == f"they said {value}"


def test_a_registered_secret_is_known_to_those_who_asked_before() -> None:
    before = Redactor()
    assert before("hunter2-and-more") == "hunter2-and-more"
    register_secret("hunter2-and-more")
    assert before("hunter2-and-more") == REDACTED


def test_a_keys_lines_are_taken_out_one_by_one() -> None:
    register_secret(private_key())
    lines = private_key().splitlines()
    for line in lines[1:-2]:
        assert redact(f"ValueError: near {line!r}") == "ValueError: near '[redacted]'"
    assert redact(f"key {private_key()} end") == "key [redacted] end"
    assert redact(json.dumps({"k": private_key()})) == '{"k": "[redacted]"}'


def test_a_registered_key_does_not_hide_that_another_text_is_a_key() -> None:
    register_secret(private_key())
    other = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\n-----END PRIVATE KEY-----"
    assert redact(f"also {other}!") == "also [redacted]!"


@pytest.mark.parametrize(
    "secret", ['it\'s "quoted"', "back\\slash\\es", "with\nlines", "gr\u00fc\u00dfe-\u65e5\u672c", "\x1b[31m\x1b[0m"]
)
@pytest.mark.parametrize("quoted", [str, repr, json.dumps], ids=["as it is", "repr", "JSON"])
def test_a_secret_is_found_as_python_and_json_quote_it(secret: str, quoted: Callable[[str], str]) -> None:
    register_secret(secret)
    assert redact(f"got {quoted(secret)}").strip("'\"") in ("got [redacted]", "got '[redacted]", 'got "[redacted]')


@pytest.mark.parametrize("order", [1, -1])
def test_a_secret_within_another_leaves_no_rest(order: int) -> None:
    for secret in ["hunter-2", "hunter-2-and-more", "xhunter-2x"][::order]:
        register_secret(secret)
    assert (
        redact("hunter-2-and-more xhunter-2x hunter-2 hunter-2-and")
        == "[redacted] [redacted] [redacted] [redacted]-and"
    )


WORDS = ["status", "Kafka", "changeit", "hunter2", "4711", "n0-w."]


@pytest.mark.parametrize("secret", WORDS)
@pytest.mark.parametrize(
    "text",
    [
        "--password <VALUE> --topic <WORD>",
        "--sasl-password=<VALUE>",
        "Command '['x', '--password', '<VALUE>', '<WORD>']' returned 1",
        "password=<VALUE>, but <WORD>",
        "KAFKA_SASL_PASSWORD=<VALUE> shutterline run /<WORD>/params.yaml",
        'environment: {"DB_PASSWORD": "<VALUE>", "topic": "<WORD>"}',
        '"{\\"client_secret\\": \\"<VALUE>\\", ...',
        "login(user='<WORD>', pwd='<VALUE>')",
        "X-Api-Key: <VALUE>",
        "Authorization: <VALUE>",
        "authorization: Token <VALUE>; <WORD>",
        "postgres://<VALUE>@db:5432/<WORD>",
        "https://<VALUE>@host/<WORD>/<WORD>.html",
        "https://host/<WORD>?page=2&x=<VALUE>&y=3#<WORD>",
    ],
)
def test_a_word_is_taken_out_where_it_is_the_whole_of_a_value(secret: str, text: str) -> None:
    register_secret(secret)
    given, expected = (text.replace("<VALUE>", value).replace("<WORD>", secret) for value in (secret, REDACTED))
    assert redact(given) == expected
    assert redact_message(given) == expected
    assert redact(expected) == expected


@pytest.mark.parametrize("secret", WORDS)
@pytest.mark.parametrize(
    "text",
    [
        "deliver them later: shutterline events replay /data/<WORD>/events/run.<WORD>.0.jsonl",
        "<WORD> events are not at Kafka broker:9092 topic <WORD>: does not answer",
        "shutterline watch --topic <WORD> --group <WORD>-1",
        "KAFKA_SASL_PASSWORD_FILE: /run/<WORD> cannot be read",
        "--password-file <WORD> --token-dir=<WORD>",
        "--password /run/<WORD> and <WORD>/password",
        "gs://<WORD>/<WORD>/model-<WORD>.safetensors",
        "http://<WORD>:8080/<WORD>?page=2",
        "topic=<WORD>, x<WORD>x <WORD>s",
        "the <WORD> token is not accepted",
    ],
)
def test_a_word_stays_where_it_is_a_word_or_a_part_of_a_path(secret: str, text: str) -> None:
    register_secret(secret)
    assert redact(text.replace("<WORD>", secret)) == text.replace("<WORD>", secret)


def message_of(text: str) -> str:
    """An error's message after it was encoded."""
    (_, message) = encoded_texts(Failed(1.0, Error("E", text)))
    return message


def test_bytes_that_are_no_text_are_a_secret_too() -> None:
    os.environb[b"DB_PASSWORD"] = b"pass\xff\xfeword"
    try:
        assert message_of(f"login with {os.environ['DB_PASSWORD']}") == "login with [redacted]"
    finally:
        del os.environb[b"DB_PASSWORD"]


def test_a_secret_at_the_limit_of_a_text_is_not_cut_in_two() -> None:
    register_secret("0123456789abcdef-the-secret")
    message = message_of("x" * (TEXT_LIMIT - 10) + "0123456789abcdef-the-secret")
    assert message.endswith(("x[redacted]", "…"))
    assert "0123" not in message


# No secret that is more than a word survives in an event, whatever it is and wherever it is put.

SOURCE = EventSource("run-1", "train", 0, "pod-1")


def is_strong(secret: str) -> bool:
    is_word = secret.isalpha() and (secret.islower() or secret.istitle()) and len(secret) < 16
    return len(secret) >= 8 and not is_word


secrets = st.one_of(
    st.text(min_size=8, max_size=40),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789_-.=+/'\"\\ ", min_size=8, max_size=80),
    st.binary(min_size=6, max_size=40).map(lambda raw: base64.b64encode(raw).decode()),
).filter(is_strong)
words = st.text(max_size=30)


def placed(secret: str, before: str, after: str) -> list[Any]:
    """Every kind of event, with the text in every place that is a text."""
    text = f"{before}{secret}{after}"
    return [
        StepStarted(text, text, text, text),
        Progress(1, 2, device=text, mlflow_run=text),
        Checkpoint(1, 2, text),
        DataFinding(text, "note", 1, "images", text, {text: 1}, examples=[[text, text]]),
        Succeeded(1.0, {"accuracy": 0.5}, {"model": text}, {text: 2}, {text: 2}, mlflow_run=text),
        Failed(1.0, Error(text, text), mlflow_run=text),
        Cancelled(1.0, text, mlflow_run=text),
        PipelineStarted(text, [text, text], text, text, text),
        PipelineEnded(text, "failed", text, text, [StepOutcome(text, "failed", 0, Error(text, text))]),
    ]


def encoded_texts(data: Any, redactor: Redactor | None = None) -> list[str]:
    state = next(state for (_, state), kind in KINDS.items() if kind is type(data))
    return texts(json.loads(encode(SOURCE, 0, state, time.time_ns(), data, redactor).body)["data"])


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for each in inner for text in texts(each)]


def test_the_events_above_are_of_all_kinds_with_all_their_texts() -> None:
    assert {type(data) for data in placed("x", "", "")} == set(KINDS.values())
    for data in placed("planted", "", ""):
        for name, kind in ((field.name, str(field.type)) for field in fields(data)):
            if "str" in kind and "dict[str, Measured]" not in kind and "Literal" not in kind:
                assert "planted" in repr(getattr(data, name)), f"{type(data).__name__}.{name}"


@together
@given(secret=secrets, before=words, after=words, named=st.booleans())
@example("redacte", "", "", False)
@example("\\" * 8, "\\", "\\", False)
@example("q" * 16, "a", "b", False)
def test_no_secret_survives_in_any_event(
    monkeypatch: pytest.MonkeyPatch, secret: str, before: str, after: str, named: bool
) -> None:
    # What cannot be told from what stands in its place says nothing either.
    escaped = secret.encode("utf-8", "backslashreplace").decode()
    assume(escaped not in REDACTED)
    if named:
        assume("\0" not in secret and "\ud800" > max(secret) < "\udfff")
        assume(secret.lower() not in ("true", "false", "none", "null"))
        monkeypatch.setenv("SOME_PASSWORD", secret)
    else:
        register_secret(secret)
    for data in placed(secret, before, after):
        for text in encoded_texts(data):
            assert secret not in text
            assert escaped not in text


@together
@given(st.lists(secrets, min_size=2, max_size=4), st.data())
def test_of_several_secrets_that_overlap_none_survives(several: list[str], data: st.DataObject) -> None:
    # Ones that share an end, or lie within each other.
    several += [f"{several[0][:6]}{several[1]}", several[0][1:] + several[1][:3], several[0][1:5]]
    several = [secret for secret in several if is_strong(secret)]
    for secret in several:
        register_secret(secret)
    text = "".join(data.draw(st.lists(st.one_of(st.sampled_from(several), st.sampled_from(" ab=")), max_size=8)))
    left = redact(text.encode("utf-8", "backslashreplace").decode())
    for secret in several:
        # Between the marks, since what is within a mark says nothing.
        assert all(secret not in between for between in left.split(REDACTED))


@together
@given(st.lists(st.from_regex(r"[a-z]{4,15}|[A-Z][a-z]{3,14}|[a-z0-9]{4,7}", fullmatch=True), min_size=1, max_size=4))
def test_a_command_that_the_user_is_told_to_run_stays_whatever_words_are_secret(several: list[str]) -> None:
    for secret in several:
        register_secret(secret)
    command = f"shutterline events replay /{'/'.join(several)}/{'.'.join(several)} --timeout 5 --params {several[0]}"
    assert redact(command) == redact_message(command) == command
    (left,) = encoded_texts(Cancelled(1.0, f"{command} password={several[-1]}"))
    assert left == f"{command} password={REDACTED}"


letters = st.text("abcdefghijklm nopqrstuvwxyz ABCDEFG 0123456789 .,;!?()[]{}<>#%&*+-_/\n\té日", max_size=200)


@together
@given(letters.filter(lambda text: not any(word in text.lower() for word in ("bearer", "basic", "pass", "token"))))
def test_texts_without_secrets_stay(text: str) -> None:
    register_secret("a-secret-that-is-in-none-of-them")
    assert redact(text) == text
    assert encoded_texts(Cancelled(1.0, text)) == [text]


@together
@given(st.text(max_size=200), secrets)
def test_what_was_redacted_stays_as_it_is(text: str, secret: str) -> None:
    escaped = text.encode("utf-8", "backslashreplace").decode()
    assume(not any(part in REDACTED for part in (secret, repr(secret)[1:-1])))
    register_secret(secret)
    once = redact(f"{escaped} password={secret} {escaped}")
    assume(secret not in once)  # made of the marks themselves
    assert redact(once) == once
