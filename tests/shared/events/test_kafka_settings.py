"""Security settings of Kafka: what the environment may say, and what a person is told who says it wrongly."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from components.shared.errors import EXIT_BAD_INPUT, StatusRefusedError
from components.shared.events.kafka.settings import MECHANISMS, VARIABLES, kafka_settings
from components.shared.events.redaction import REDACTED, redact
from tests.peers.tls import Certificates
from tests.shared.events.security_fixtures import Row
from tests.shared.events.security_fixtures import a_clean_environment as a_clean_environment
from tests.shared.events.security_fixtures import in_the_table as in_the_table

PLAIN = {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "alice"}
BEARER = {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_MECHANISM": "OAUTHBEARER"}
TLS = {"KAFKA_SECURITY_PROTOCOL": "SSL"}
PASSWORD = "correct horse, battery=staple"  # noqa: S105 - of nobody


def message_of(environment: dict[str, str]) -> str:
    with pytest.raises(StatusRefusedError) as caught:
        kafka_settings(environment)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_settings_there_is_neither_login_nor_encryption() -> None:
    settings = kafka_settings({})
    assert (settings.protocol, settings.mechanism, settings.context, settings.token) == ("PLAINTEXT", None, None, None)
    assert settings.client == {"security_protocol": "PLAINTEXT", "client_id": "shutterline"}


def test_settings_come_from_the_environment_unless_others_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_CLIENT_ID", "from-the-environment")
    assert kafka_settings().client["client_id"] == "from-the-environment"
    assert kafka_settings({}).client["client_id"] == "shutterline"


def test_empty_variables_are_not_set() -> None:
    assert kafka_settings(dict.fromkeys(VARIABLES, "")).client == kafka_settings({}).client


def test_client_id_and_version_reach_the_client() -> None:
    client = kafka_settings({"KAFKA_CLIENT_ID": "night-run", "KAFKA_API_VERSION": "2.3"}).client
    assert (client["client_id"], client["api_version"]) == ("night-run", (2, 3))
    assert kafka_settings({"KAFKA_API_VERSION": "0.10.2.1"}).client["api_version"] == (0, 10, 2, 1)


@pytest.mark.parametrize("mechanism", MECHANISMS[:3])
@pytest.mark.parametrize("in_a_file", [False, True], ids=["value", "file"])
def test_a_login_with_user_and_password(tmp_path: Path, mechanism: str, in_a_file: bool) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    given = {"KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "password")} if in_a_file else {"KAFKA_SASL_PASSWORD": PASSWORD}

    settings = kafka_settings(PLAIN | {"KAFKA_SASL_MECHANISM": mechanism} | given)

    assert settings.mechanism == mechanism
    assert settings.client["sasl_mechanism"] == mechanism
    assert settings.client["sasl_plain_username"] == "alice"
    assert settings.client["sasl_plain_password"] == PASSWORD
    assert PASSWORD not in repr(settings)
    # Wherever it turns up from now on, it is taken out.
    assert redact(f"they said {PASSWORD}!") == f"they said {REDACTED}!"


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_mounted_secret_ends_where_its_line_ends(tmp_path: Path, ending: str) -> None:
    (tmp_path / "password").write_bytes(f" {PASSWORD} {ending}".encode())
    client = kafka_settings(PLAIN | {"KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "password")}).client
    assert client["sasl_plain_password"] == f" {PASSWORD} "


def test_a_token_is_given_as_it_is_at_that_moment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first-token\n")
    token = kafka_settings(BEARER | {"KAFKA_SASL_OAUTH_TOKEN_FILE": str(file)}).token
    assert token is not None
    assert token() == "first-token"

    file.write_text("second-token\n")

    assert token() == "second-token"
    assert redact("first-token second-token") == f"{REDACTED} {REDACTED}"
    file.unlink()
    with pytest.raises(StatusRefusedError, match=r"KAFKA_SASL_OAUTH_TOKEN_FILE: .* cannot be read: No such file"):
        token()


def test_a_token_may_be_a_variable() -> None:
    token = kafka_settings(BEARER | {"KAFKA_SASL_OAUTH_TOKEN": "the-token"}).token
    assert token is not None
    assert token() == "the-token"


def test_certificates_are_checked_against_the_given_authority(certificates: Certificates) -> None:
    context = kafka_settings(TLS | {"KAFKA_SSL_CAFILE": str(certificates.ca_file)}).context
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    (authority,) = context.get_ca_certs()
    assert ("organizationName", "trustme v1.2.1") in [
        pair for part in authority["subject"] for pair in part
    ] or authority


def test_certificates_are_checked_against_the_systems_authorities_otherwise() -> None:
    context = kafka_settings(TLS).context
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert kafka_settings(TLS).client["ssl_context"] is not None


def test_without_the_hosts_name_the_certificate_is_still_checked(certificates: Certificates) -> None:
    files = {"KAFKA_SSL_CAFILE": str(certificates.ca_file)}
    context = kafka_settings(TLS | files | {"KAFKA_SSL_CHECK_HOSTNAME": "false"}).context
    assert context is not None
    assert not context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    checked = kafka_settings(TLS | files | {"KAFKA_SSL_CHECK_HOSTNAME": "true"}).context
    assert checked is not None
    assert checked.check_hostname


@pytest.fixture
def locked_key(certificates: Certificates, tmp_path: Path) -> Path:
    """The client's key, under a password."""
    key = serialization.load_pem_private_key(certificates.client_key_file.read_bytes(), None)
    how = serialization.BestAvailableEncryption(PASSWORD.encode())
    format_ = serialization.PrivateFormat.PKCS8
    (tmp_path / "locked.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, format_, how))
    return tmp_path / "locked.key"


@pytest.mark.parametrize("in_a_file", [False, True], ids=["value", "file"])
def test_a_key_under_a_password_is_opened(
    certificates: Certificates, locked_key: Path, tmp_path: Path, in_a_file: bool
) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    given = {"KAFKA_SSL_KEY_PASSWORD": PASSWORD}
    if in_a_file:
        given = {"KAFKA_SSL_KEY_PASSWORD_FILE": str(tmp_path / "password")}
    files = {"KAFKA_SSL_CERTFILE": str(certificates.client_cert_file), "KAFKA_SSL_KEYFILE": str(locked_key)}

    assert kafka_settings(TLS | files | given).context is not None
    assert PASSWORD not in redact(f"opened with {PASSWORD}")


# Why nothing may be asked: a step that waits at a terminal nobody looks at hangs for ever.
ASKING = """
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    from components.shared.errors import StatusRefusedError
    from components.shared.events.kafka.settings import kafka_settings
    try:
        kafka_settings()
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
def test_a_key_that_stays_locked_is_told_and_no_terminal_is_asked(
    certificates: Certificates, locked_key: Path, password: str | None
) -> None:
    given = {"KAFKA_SSL_CERTFILE": str(certificates.client_cert_file), "KAFKA_SSL_KEYFILE": str(locked_key)}
    given |= {} if password is None else {"KAFKA_SSL_KEY_PASSWORD": password}
    environment = os.environ | TLS | given
    root = Path(__file__).parents[3]

    done = subprocess.run(
        [sys.executable, "-c", ASKING], cwd=root, env=environment, capture_output=True, text=True, timeout=60
    )

    assert done.stdout.startswith(f"KAFKA_SSL_CERTFILE: {certificates.client_cert_file} and KAFKA_SSL_KEYFILE are not")
    assert "or KAFKA_SSL_KEY_PASSWORD does not fit" in done.stdout
    assert done.stdout.count("\n") == 1
    if password:
        assert password not in done.stdout


KUBERNETES = {
    # Of services called kafka, kafka-ssl and kafka-sasl, as Kubernetes puts them into every pod beside them.
    "KAFKA_PORT": "tcp://10.0.0.7:9092",
    "KAFKA_SERVICE_HOST": "10.0.0.7",
    "KAFKA_PORT_9092_TCP": "tcp://10.0.0.7:9092",
    "KAFKA_SSL_SERVICE_HOST": "10.0.0.8",
    "KAFKA_SSL_SERVICE_PORT": "9093",
    "KAFKA_SSL_SERVICE_PORT_TLS": "9093",
    "KAFKA_SSL_PORT": "tcp://10.0.0.8:9093",
    "KAFKA_SSL_PORT_9093_TCP": "tcp://10.0.0.8:9093",
    "KAFKA_SSL_PORT_9093_TCP_PROTO": "tcp",
    "KAFKA_SSL_PORT_9093_TCP_PORT": "9093",
    "KAFKA_SSL_PORT_9093_TCP_ADDR": "10.0.0.8",
    "KAFKA_SASL_SERVICE_HOST": "10.0.0.9",
}


def test_what_kubernetes_tells_of_its_services_is_no_setting() -> None:
    assert kafka_settings(KUBERNETES).client == kafka_settings({}).client


# By name: an environment, and what must be told. Words in braces are the files below.
BAD: dict[str, tuple[dict[str, str], str]] = {
    "unknown protocol": (
        {"KAFKA_SECURITY_PROTOCOL": "TLS"},
        "KAFKA_SECURITY_PROTOCOL: must be one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL, got 'TLS'",
    ),
    "unknown mechanism": (
        PLAIN | {"KAFKA_SASL_MECHANISM": "GSSAPI"},
        "KAFKA_SASL_MECHANISM: must be one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, got 'GSSAPI'",
    ),
    "misspelt password": (
        PLAIN | {"KAFKA_SASL_PASWORD": PASSWORD},
        "KAFKA_SASL_PASWORD: no such setting; did you mean KAFKA_SASL_PASSWORD?",
    ),
    "misspelt authority": (
        TLS | {"KAFKA_SSL_CA_FILE": "{ca}"},
        "KAFKA_SSL_CA_FILE: no such setting; did you mean KAFKA_SSL_CAFILE?",
    ),
    "misspelt protocol": (
        {"KAFKA_SECURITY_PROTOCOLS": "SSL"},
        "KAFKA_SECURITY_PROTOCOLS: no such setting; did you mean KAFKA_SECURITY_PROTOCOL?",
    ),
    "setting like no other": (
        TLS | {"KAFKA_SSL_ENABLED_CIPHER_SUITES_OF_MINE": "any"},
        "KAFKA_SSL_ENABLED_CIPHER_SUITES_OF_MINE: no such setting; known are KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_",
    ),
    "login with PLAINTEXT": (
        {"KAFKA_SASL_USERNAME": "alice"},
        "KAFKA_SASL_USERNAME is set, but KAFKA_SECURITY_PROTOCOL is PLAINTEXT; set it to SASL_SSL, or SASL_PLAINTEXT",
    ),
    "login with SSL": (
        TLS | {"KAFKA_SASL_PASSWORD": PASSWORD},
        "KAFKA_SASL_PASSWORD is set, but KAFKA_SECURITY_PROTOCOL is SSL; set it to SASL_SSL",
    ),
    "certificates with PLAINTEXT": (
        {"KAFKA_SSL_CAFILE": "{ca}"},
        "KAFKA_SSL_CAFILE is set, but KAFKA_SECURITY_PROTOCOL is PLAINTEXT; set it to SSL",
    ),
    "certificates with SASL_PLAINTEXT": (
        PLAIN | {"KAFKA_SASL_PASSWORD": PASSWORD, "KAFKA_SSL_CHECK_HOSTNAME": "true"},
        "KAFKA_SSL_CHECK_HOSTNAME is set, but KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT; set it to SASL_SSL",
    ),
    "no mechanism": (
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
        "KAFKA_SASL_MECHANISM is missing, and SASL_SSL needs it; known are PLAIN, SCRAM-SHA-256",
    ),
    "no user": (
        PLAIN | {"KAFKA_SASL_USERNAME": "", "KAFKA_SASL_PASSWORD": PASSWORD},
        "KAFKA_SASL_USERNAME is missing, and PLAIN needs it",
    ),
    "no password": (PLAIN, "KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE is missing, and PLAIN needs it"),
    "password twice": (
        PLAIN | {"KAFKA_SASL_PASSWORD": PASSWORD, "KAFKA_SASL_PASSWORD_FILE": "{newline}"},
        "KAFKA_SASL_PASSWORD and KAFKA_SASL_PASSWORD_FILE are both set; only one can be meant",
    ),
    "password file missing": (
        PLAIN | {"KAFKA_SASL_PASSWORD_FILE": "{nowhere}"},
        "KAFKA_SASL_PASSWORD_FILE: {nowhere} cannot be read: No such file or directory",
    ),
    "password file a directory": (
        PLAIN | {"KAFKA_SASL_PASSWORD_FILE": "{folder}"},
        "KAFKA_SASL_PASSWORD_FILE: {folder} cannot be read: Is a directory",
    ),
    "password file empty": (
        PLAIN | {"KAFKA_SASL_PASSWORD_FILE": "{newline}"},
        "KAFKA_SASL_PASSWORD_FILE: {newline} is empty",
    ),
    "password file no text": (
        PLAIN | {"KAFKA_SASL_PASSWORD_FILE": "{noise}"},
        "KAFKA_SASL_PASSWORD_FILE: {noise} is not a text file",
    ),
    "no token": (
        BEARER,
        "KAFKA_SASL_OAUTH_TOKEN_FILE, KAFKA_SASL_OAUTH_TOKEN or KAFKA_SASL_OAUTH_PROVIDER is missing, and OAUTHBEARER",
    ),
    "token twice": (
        BEARER | {"KAFKA_SASL_OAUTH_TOKEN": "a-token", "KAFKA_SASL_OAUTH_TOKEN_FILE": "{newline}"},
        "KAFKA_SASL_OAUTH_TOKEN and KAFKA_SASL_OAUTH_TOKEN_FILE are both set; only one can be meant",
    ),
    "token file empty": (
        BEARER | {"KAFKA_SASL_OAUTH_TOKEN_FILE": "{empty}"},
        "KAFKA_SASL_OAUTH_TOKEN_FILE: {empty} is empty",
    ),
    "unknown token provider": (
        BEARER | {"KAFKA_SASL_OAUTH_PROVIDER": "aws"},
        "KAFKA_SASL_OAUTH_PROVIDER: must be one of google, got 'aws'",
    ),
    "authority missing": (
        TLS | {"KAFKA_SSL_CAFILE": "{nowhere}"},
        "KAFKA_SSL_CAFILE: {nowhere} cannot be read: No such file or directory",
    ),
    "authority empty": (
        TLS | {"KAFKA_SSL_CAFILE": "{empty}"},
        "KAFKA_SSL_CAFILE: {empty} holds no certificates (PEM)",
    ),
    "authority no PEM": (
        TLS | {"KAFKA_SSL_CAFILE": "{no_pem}"},
        "KAFKA_SSL_CAFILE: {no_pem} holds no certificates (PEM)",
    ),
    "authority damaged": (
        TLS | {"KAFKA_SSL_CAFILE": "{damaged}"},
        "KAFKA_SSL_CAFILE: {damaged} holds no certificates (PEM)",
    ),
    "authority no text": (
        TLS | {"KAFKA_SSL_CAFILE": "{noise}"},
        "KAFKA_SSL_CAFILE: {noise} is not a text file",
    ),
    "certificate missing": (
        TLS | {"KAFKA_SSL_CERTFILE": "{nowhere}"},
        "KAFKA_SSL_CERTFILE: {nowhere} cannot be read: No such file or directory",
    ),
    "certificate no PEM": (
        TLS | {"KAFKA_SSL_CERTFILE": "{no_pem}", "KAFKA_SSL_KEYFILE": "{key}"},
        "KAFKA_SSL_CERTFILE: {no_pem} and KAFKA_SSL_KEYFILE are not a certificate and its key (PEM)",
    ),
    "certificate without key": (
        TLS | {"KAFKA_SSL_CERTFILE": "{certificate}"},
        "KAFKA_SSL_CERTFILE: {certificate} and KAFKA_SSL_KEYFILE are not a certificate and its key (PEM)",
    ),
    "key missing": (
        TLS | {"KAFKA_SSL_CERTFILE": "{certificate}", "KAFKA_SSL_KEYFILE": "{nowhere}"},
        "KAFKA_SSL_KEYFILE: {nowhere} cannot be read: No such file or directory",
    ),
    "key of another certificate": (
        TLS | {"KAFKA_SSL_CERTFILE": "{certificate}", "KAFKA_SSL_KEYFILE": "{other_key}"},
        "KAFKA_SSL_CERTFILE: {certificate} and KAFKA_SSL_KEYFILE are not a certificate and its key (PEM)",
    ),
    "key without certificate": (
        TLS | {"KAFKA_SSL_KEYFILE": "{key}"},
        "KAFKA_SSL_KEYFILE is set without KAFKA_SSL_CERTFILE",
    ),
    "key password without certificate": (
        TLS | {"KAFKA_SSL_KEY_PASSWORD": PASSWORD},
        "KAFKA_SSL_KEY_PASSWORD is set without KAFKA_SSL_CERTFILE",
    ),
    "key password twice": (
        TLS
        | {"KAFKA_SSL_CERTFILE": "{certificate}", "KAFKA_SSL_KEYFILE": "{key}"}
        | {"KAFKA_SSL_KEY_PASSWORD": PASSWORD, "KAFKA_SSL_KEY_PASSWORD_FILE": "{newline}"},
        "KAFKA_SSL_KEY_PASSWORD and KAFKA_SSL_KEY_PASSWORD_FILE are both set; only one can be meant",
    ),
    "neither true nor false": (
        TLS | {"KAFKA_SSL_CHECK_HOSTNAME": "no"},
        "KAFKA_SSL_CHECK_HOSTNAME: must be one of true, false, got 'no'",
    ),
    "no version": ({"KAFKA_API_VERSION": "auto"}, "KAFKA_API_VERSION: must be a version such as 2.3, got 'auto'"),
}


@pytest.fixture
def files(tmp_path: Path, certificates: Certificates) -> dict[str, str]:
    """Good and bad files by the words that stand for them."""
    contents = {
        "empty": b"",
        "newline": b"\n",
        "noise": b"\xff\xfe\x00",
        "no_pem": b"not a certificate\n",
        "damaged": certificates.ca_file.read_bytes().replace(b"M", b"!", 3),
        "other_key": Certificates(tmp_path / "other").client_key_file.read_bytes(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = {name: tmp_path / name for name in [*contents, "nowhere"]} | {"folder": tmp_path}
    paths |= {"ca": certificates.ca_file, "certificate": certificates.client_cert_file}
    return {name: str(path) for name, path in (paths | {"key": certificates.client_key_file}).items()}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_told_with_what_to_do(files: dict[str, str], in_the_table: Row, name: str) -> None:
    environment, expected = BAD[name]
    given = {variable: value.format_map(files) for variable, value in environment.items()}

    message = message_of(given)

    assert message.startswith(expected.format_map(files))
    assert PASSWORD not in message
    # What goes into the log and into events still says which file or variable is meant.
    assert redact(message) == message
    in_the_table(f"kafka settings: {name}", message)
