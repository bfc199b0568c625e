"""Security settings of Kafka: what the environment may hold, and the message for whoever sets it wrongly."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import EXIT_BAD_INPUT, StatusRefusedError
from components.shared.events.kafka.settings import MECHANISMS, VARIABLES, client_arguments
from components.shared.events.redaction import REDACTED, redact
from tests.peers.tls import Certificates
from tests.pipelines.conftest import ROOT
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment

PLAIN = {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "alice"}
BEARER = {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_MECHANISM": "OAUTHBEARER"}
TLS = {"KAFKA_SECURITY_PROTOCOL": "SSL"}
PASSWORD = "correct horse, battery=staple"  # noqa: S105 - of nobody
DEFAULT = {"security_protocol": "PLAINTEXT", "client_id": "shutterline"}

KUBERNETES = {
    # Of services called kafka, kafka-ssl and kafka-sasl, as Kubernetes puts them into every pod beside them.
    f"KAFKA_{name}": "10.0.0.7"
    for name in (
        "PORT", "SERVICE_HOST", "PORT_9092_TCP", "SSL_SERVICE_HOST", "SSL_SERVICE_PORT", "SSL_SERVICE_PORT_TLS",
        "SSL_PORT", "SSL_PORT_9093_TCP", "SSL_PORT_9093_TCP_PROTO", "SSL_PORT_9093_TCP_PORT", "SSL_PORT_9093_TCP_ADDR",
        "SASL_SERVICE_HOST",
    )
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, DEFAULT),
        (dict.fromkeys(VARIABLES, ""), DEFAULT),
        (KUBERNETES, DEFAULT),
        (
            {"KAFKA_CLIENT_ID": "night-run", "KAFKA_API_VERSION": "0.10.2.1"},
            DEFAULT | {"client_id": "night-run", "api_version": (0, 10, 2, 1)},
        ),
    ],
    ids=["nothing", "empty variables", "services of Kubernetes", "name and version"],
)
def test_the_clients_arguments(environment: dict[str, str], expected: dict[str, Any]) -> None:
    assert client_arguments(environment) == expected


@pytest.mark.parametrize("mechanism", MECHANISMS[:3])
@pytest.mark.parametrize("ending", [None, b"", b"\n", b"\r\n"], ids=["value", "file", "file with LF", "file with CRLF"])
def test_a_login_with_user_and_password(tmp_path: Path, mechanism: str, ending: bytes | None) -> None:
    given = {"KAFKA_SASL_PASSWORD": PASSWORD}
    if ending is not None:
        (tmp_path / "password").write_bytes(PASSWORD.encode() + ending)
        given = {"KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "password")}
    assert client_arguments(PLAIN | {"KAFKA_SASL_MECHANISM": mechanism} | given) == {
        "security_protocol": "SASL_PLAINTEXT",
        "client_id": "shutterline",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "alice",
        "sasl_plain_password": PASSWORD,
    }
    assert redact(f"password {PASSWORD}!") == f"password {REDACTED}!"


def test_a_token_may_be_a_variable() -> None:
    arguments = client_arguments(BEARER | {"KAFKA_SASL_OAUTH_TOKEN": "the-token"})
    assert arguments["sasl_oauth_token_provider"].token() == "the-token"


@pytest.mark.parametrize("authority", [True, False], ids=["a file's authorities", "the system's"])
@pytest.mark.parametrize("check_hostname", [None, "true", "false"])
def test_certificates_are_always_checked(
    certificates: Certificates, authority: bool, check_hostname: str | None
) -> None:
    given = TLS | ({"KAFKA_SSL_CAFILE": str(certificates.ca_file)} if authority else {})
    given |= {"KAFKA_SSL_CHECK_HOSTNAME": check_hostname} if check_hostname else {}
    context = client_arguments(given)["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is (check_hostname != "false")
    if authority:
        assert context.get_ca_certs(binary_form=True) == [ssl.PEM_cert_to_DER_cert(certificates.ca_file.read_text())]


@pytest.fixture
def locked_key(certificates: Certificates, tmp_path: Path) -> Path:
    (tmp_path / "locked.key").write_bytes(certificates.locked_client_key(PASSWORD))
    return tmp_path / "locked.key"


@pytest.mark.parametrize("in_a_file", [False, True], ids=["value", "file"])
def test_a_key_under_a_password_is_opened(
    certificates: Certificates, locked_key: Path, tmp_path: Path, in_a_file: bool
) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    given = {"KAFKA_SSL_CERTFILE": str(certificates.client_cert_file), "KAFKA_SSL_KEYFILE": str(locked_key)}
    if in_a_file:
        given["KAFKA_SSL_KEY_PASSWORD_FILE"] = str(tmp_path / "password")
    else:
        given["KAFKA_SSL_KEY_PASSWORD"] = PASSWORD
    assert "ssl_context" in client_arguments(TLS | given)
    assert PASSWORD not in redact(f"opened with {PASSWORD}")


# A step that waits at a terminal nobody watches hangs for ever.
ASKING = """
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    from components.shared.errors import StatusRefusedError
    from components.shared.events.kafka.settings import client_arguments
    try:
        client_arguments()
    except StatusRefusedError as error:
        print(error)
    os._exit(0)
said = b""
try:
    while part := os.read(terminal, 4096):
        said += part
        if b"pass phrase" in part:  # what OpenSSL asks with
            break
except OSError:  # the terminal is closed
    pass
os.kill(pid, 9)
os.waitpid(pid, 0)
sys.stdout.buffer.write(said)
"""


@pytest.mark.parametrize(
    "password", [None, "", "wrong password", "x" * 5000], ids=["none", "empty", "wrong", "too long"]
)
def test_a_key_that_stays_locked_is_reported_and_no_terminal_is_asked(
    certificates: Certificates, locked_key: Path, password: str | None
) -> None:
    given = {"KAFKA_SSL_CERTFILE": str(certificates.client_cert_file), "KAFKA_SSL_KEYFILE": str(locked_key)}
    given |= {} if password is None else {"KAFKA_SSL_KEY_PASSWORD": password}
    done = subprocess.run(
        [sys.executable, "-c", ASKING], cwd=ROOT, env=os.environ | TLS | given, capture_output=True, text=True
    )
    assert done.stdout.startswith(f"KAFKA_SSL_CERTFILE: {certificates.client_cert_file} and KAFKA_SSL_KEYFILE are not")
    assert "or KAFKA_SSL_KEY_PASSWORD does not fit" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not password or password not in done.stdout


# By name: an environment, and how the message begins. Words in braces are the files below.
BAD: dict[str, tuple[dict[str, str], str]] = {
    "unknown protocol": ({"KAFKA_SECURITY_PROTOCOL": "TLS"},
        "KAFKA_SECURITY_PROTOCOL: must be one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL, got 'TLS'"),
    "unknown mechanism": (PLAIN | {"KAFKA_SASL_MECHANISM": "GSSAPI"},
        "KAFKA_SASL_MECHANISM: must be one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, got 'GSSAPI'"),
    "misspelt password": (PLAIN | {"KAFKA_SASL_PASWORD": PASSWORD},
        "KAFKA_SASL_PASWORD: no such setting; did you mean KAFKA_SASL_PASSWORD?"),
    "misspelt authority": (TLS | {"KAFKA_SSL_CA_FILE": "{ca}"},
        "KAFKA_SSL_CA_FILE: no such setting; did you mean KAFKA_SSL_CAFILE?"),
    "setting like no other": (TLS | {"KAFKA_SSL_ENABLED_CIPHER_SUITES_OF_MINE": "any"},
        "KAFKA_SSL_ENABLED_CIPHER_SUITES_OF_MINE: no such setting; known are KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_"),
    "login with PLAINTEXT": ({"KAFKA_SASL_USERNAME": "alice"},
        "KAFKA_SASL_USERNAME is set, but KAFKA_SECURITY_PROTOCOL is PLAINTEXT; set it to SASL_SSL, or SASL_PLAINTEXT"),
    "login with SSL": (TLS | {"KAFKA_SASL_PASSWORD": PASSWORD},
        "KAFKA_SASL_PASSWORD is set, but KAFKA_SECURITY_PROTOCOL is SSL; set it to SASL_SSL"),
    "certificates with PLAINTEXT": ({"KAFKA_SSL_CAFILE": "{ca}"},
        "KAFKA_SSL_CAFILE is set, but KAFKA_SECURITY_PROTOCOL is PLAINTEXT; set it to SSL"),
    "certificates with SASL_PLAINTEXT": (PLAIN | {"KAFKA_SASL_PASSWORD": PASSWORD, "KAFKA_SSL_CHECK_HOSTNAME": "true"},
        "KAFKA_SSL_CHECK_HOSTNAME is set, but KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT; set it to SASL_SSL"),
    "no mechanism": ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
        "KAFKA_SASL_MECHANISM is missing, and SASL_SSL needs it; known are PLAIN, SCRAM-SHA-256"),
    "no user": (PLAIN | {"KAFKA_SASL_USERNAME": "", "KAFKA_SASL_PASSWORD": PASSWORD},
        "KAFKA_SASL_USERNAME is missing, and PLAIN needs it"),
    "no password": (PLAIN, "KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE is missing, and PLAIN needs it"),
    "password twice": (PLAIN | {"KAFKA_SASL_PASSWORD": PASSWORD, "KAFKA_SASL_PASSWORD_FILE": "{newline}"},
        "KAFKA_SASL_PASSWORD and KAFKA_SASL_PASSWORD_FILE are both set; only one can be meant"),
    "password file missing": (PLAIN | {"KAFKA_SASL_PASSWORD_FILE": "{nowhere}"},
        "KAFKA_SASL_PASSWORD_FILE: {nowhere} cannot be read: No such file or directory"),
    "password file a directory": (PLAIN | {"KAFKA_SASL_PASSWORD_FILE": "{folder}"},
        "KAFKA_SASL_PASSWORD_FILE: {folder} cannot be read: Is a directory"),
    "password file empty": (PLAIN | {"KAFKA_SASL_PASSWORD_FILE": "{newline}"},
        "KAFKA_SASL_PASSWORD_FILE: {newline} is empty"),
    "password file no text": (PLAIN | {"KAFKA_SASL_PASSWORD_FILE": "{noise}"},
        "KAFKA_SASL_PASSWORD_FILE: {noise} is not a text file"),
    "no token": (BEARER,
        "KAFKA_SASL_OAUTH_TOKEN_FILE, KAFKA_SASL_OAUTH_TOKEN or KAFKA_SASL_OAUTH_PROVIDER is missing, and OAUTHBEARER"),
    "token twice": (BEARER | {"KAFKA_SASL_OAUTH_TOKEN": "a-token", "KAFKA_SASL_OAUTH_TOKEN_FILE": "{newline}"},
        "KAFKA_SASL_OAUTH_TOKEN and KAFKA_SASL_OAUTH_TOKEN_FILE are both set; only one can be meant"),
    "unknown token provider": (BEARER | {"KAFKA_SASL_OAUTH_PROVIDER": "aws"},
        "KAFKA_SASL_OAUTH_PROVIDER: must be one of google, got 'aws'"),
    "authority missing": (TLS | {"KAFKA_SSL_CAFILE": "{nowhere}"},
        "KAFKA_SSL_CAFILE: {nowhere} cannot be read: No such file or directory"),
    "authority empty": (TLS | {"KAFKA_SSL_CAFILE": "{empty}"}, "KAFKA_SSL_CAFILE: {empty} holds no certificates (PEM)"),
    "authority damaged": (TLS | {"KAFKA_SSL_CAFILE": "{damaged}"},
        "KAFKA_SSL_CAFILE: {damaged} holds no certificates (PEM)"),
    "certificate missing": (TLS | {"KAFKA_SSL_CERTFILE": "{nowhere}"},
        "KAFKA_SSL_CERTFILE: {nowhere} cannot be read: No such file or directory"),
    "certificate no PEM": (TLS | {"KAFKA_SSL_CERTFILE": "{no_pem}", "KAFKA_SSL_KEYFILE": "{key}"},
        "KAFKA_SSL_CERTFILE: {no_pem} and KAFKA_SSL_KEYFILE are not a certificate and its key (PEM)"),
    "certificate without key": (TLS | {"KAFKA_SSL_CERTFILE": "{certificate}"},
        "KAFKA_SSL_CERTFILE: {certificate} and KAFKA_SSL_KEYFILE are not a certificate and its key (PEM)"),
    "key missing": (TLS | {"KAFKA_SSL_CERTFILE": "{certificate}", "KAFKA_SSL_KEYFILE": "{nowhere}"},
        "KAFKA_SSL_KEYFILE: {nowhere} cannot be read: No such file or directory"),
    "key of another certificate": (TLS | {"KAFKA_SSL_CERTFILE": "{certificate}", "KAFKA_SSL_KEYFILE": "{other_key}"},
        "KAFKA_SSL_CERTFILE: {certificate} and KAFKA_SSL_KEYFILE are not a certificate and its key (PEM)"),
    "key without certificate": (TLS | {"KAFKA_SSL_KEYFILE": "{key}"},
        "KAFKA_SSL_KEYFILE is set without KAFKA_SSL_CERTFILE"),
    "neither true nor false": (TLS | {"KAFKA_SSL_CHECK_HOSTNAME": "no"},
        "KAFKA_SSL_CHECK_HOSTNAME: must be one of true, false, got 'no'"),
    "no version": ({"KAFKA_API_VERSION": "auto"}, "KAFKA_API_VERSION: must be a version such as 2.3, got 'auto'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused_with_what_to_do(certificates: Certificates, tmp_path: Path, name: str) -> None:
    contents = {
        "empty": b"",
        "newline": b"\n",
        "noise": b"\xff\xfe\x00",
        "no_pem": b"not a certificate\n",
        "damaged": certificates.ca_file.read_bytes().replace(b"M", b"!", 3),
        "other_key": Certificates(tmp_path / "other").client_key_file.read_bytes(),
    }
    for file, content in contents.items():
        (tmp_path / file).write_bytes(content)
    files = {file: tmp_path / file for file in [*contents, "nowhere"]} | {"folder": tmp_path}
    files |= {"ca": certificates.ca_file, "certificate": certificates.client_cert_file}
    files |= {"key": certificates.client_key_file}
    environment, expected = BAD[name]
    with pytest.raises(StatusRefusedError) as caught:
        client_arguments({variable: value.format_map(files) for variable, value in environment.items()})
    message = str(caught.value)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert message.startswith(expected.format_map(files))
    assert "\n" not in message
    assert PASSWORD not in message
    assert redact(message) == message
