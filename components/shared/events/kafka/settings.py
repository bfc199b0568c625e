"""How to reach a Kafka that asks for more than an address: from the environment and mounted files, never from params.

Every variable whose name says PASSWORD or TOKEN may instead be given with ``_FILE`` appended, naming a file that holds
the value, as secrets are mounted into containers. Where nothing can be mounted, a reference to a secret of Google's
Secret Manager stands in the place of any such file, and of certificates and their key.
"""

from __future__ import annotations

import difflib
import os
import re
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shared.errors import StatusRefusedError, StatusUnavailableError
from components.shared.events.redaction import register_secret
from components.shared.events.transport import RetryableError
from components.shared.files import read_regular
from components.shared.secret_manager import REFERENCE_FORM, fetch_secret, is_reference

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")

_LARGEST_FILE = 1024**2  # a system's whole bundle of certificates is a quarter of that

VARIABLES = {
    "KAFKA_SECURITY_PROTOCOL": f"{', '.join(PROTOCOLS)}; default: PLAINTEXT",
    "KAFKA_SASL_MECHANISM": ", ".join(MECHANISMS),
    "KAFKA_SASL_USERNAME": "user of PLAIN and SCRAM",
    "KAFKA_SASL_PASSWORD": "password of PLAIN and SCRAM",
    "KAFKA_SASL_PASSWORD_FILE": f"file that holds it, or a secret of Google's Secret Manager: {REFERENCE_FORM}",
    "KAFKA_SASL_OAUTH_TOKEN": "token of OAUTHBEARER",
    "KAFKA_SASL_OAUTH_TOKEN_FILE": "file or sm://… that holds it; read again at every login, so that it may be renewed",
    "KAFKA_SASL_OAUTH_PROVIDER": "google: tokens of the application default credentials, for Google's managed Kafka",
    "KAFKA_SSL_CAFILE": "file or sm://… of certificates that the brokers' are signed by (PEM); default: the system's",
    "KAFKA_SSL_CERTFILE": "file or sm://… of the client certificate (PEM)",
    "KAFKA_SSL_KEYFILE": "file or sm://… of its private key (PEM)",
    "KAFKA_SSL_KEY_PASSWORD": "password of the private key",
    "KAFKA_SSL_KEY_PASSWORD_FILE": "file or sm://… that holds it",
    "KAFKA_SSL_CHECK_HOSTNAME": "true or false; default: true",
    "KAFKA_CLIENT_ID": "what the brokers' logs and quotas call us; default: shutterline",
    "KAFKA_API_VERSION": "the brokers' version, such as 2.3, where it cannot be asked for",
}

# Those that only we could have meant. Kubernetes tells every pod of the services around it, and a service may be called
# kafka-ssl: KAFKA_SSL_SERVICE_HOST, KAFKA_SSL_PORT_9093_TCP_ADDR and the like are not settings.
_OURS = re.compile(r"KAFKA_(SASL|SSL|SECURITY)_")
_A_SERVICE = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


@dataclass(frozen=True)
class KafkaSettings:
    """Settings of a Kafka client, checked.

    Attributes:
        protocol: One of :data:`PROTOCOLS`.
        mechanism: One of :data:`MECHANISMS`, if the protocol has a login.
        context: For TLS, if the protocol has it.
        client: Keyword arguments for kafka-python's clients, but for the token provider.
        token: Gives the OAUTHBEARER token; None for other mechanisms.
    """

    protocol: str
    mechanism: str | None
    context: ssl.SSLContext | None
    client: dict[str, Any] = field(repr=False)  # holds a password
    token: Callable[[], str] | None = field(default=None, repr=False)


def kafka_settings(environment: Mapping[str, str] | None = None) -> KafkaSettings:
    """Read the settings, and fetch the secrets that they refer to.

    Raises:
        StatusRefusedError: They contradict each other, name files or secrets that are not there, or are misspelt.
        StatusUnavailableError: They refer to a secret, and Secret Manager does not answer.
    """
    try:
        return _read(os.environ if environment is None else environment)
    except RetryableError as error:
        raise StatusUnavailableError(str(error)) from error


def refer_to_secrets() -> bool:
    """Whether the environment's settings are only known once Secret Manager was asked."""
    return any(is_reference(os.environ.get(name, "")) for name in VARIABLES)


def _read(environment: Mapping[str, str]) -> KafkaSettings:
    given = {name: value for name, value in environment.items() if value and name in VARIABLES}
    for name, value in environment.items():
        if value and _OURS.match(name) and name not in VARIABLES and not _A_SERVICE.fullmatch(name):
            near = difflib.get_close_matches(name, VARIABLES, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(VARIABLES)}"
            raise StatusRefusedError(f"{name}: no such setting{hint}")
    protocol = _one_of(given, "KAFKA_SECURITY_PROTOCOL", PROTOCOLS) or "PLAINTEXT"
    client: dict[str, Any] = {
        "security_protocol": protocol,
        "client_id": given.get("KAFKA_CLIENT_ID", "shutterline"),
    }
    if version := given.get("KAFKA_API_VERSION"):
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}", version):
            raise StatusRefusedError(f"KAFKA_API_VERSION: must be a version such as 2.3, got {version!r}")
        client["api_version"] = tuple(int(part) for part in version.split("."))
    context = _tls(given, protocol)
    if context is not None:
        client["ssl_context"] = context
    token = None
    if protocol.startswith("SASL"):
        token = _sasl(given, client)
    elif surplus := sorted(name for name in given if name.startswith("KAFKA_SASL")):
        raise StatusRefusedError(
            f"{surplus[0]} is set, but KAFKA_SECURITY_PROTOCOL is {protocol}; "
            "set it to SASL_SSL, or SASL_PLAINTEXT without encryption"
        )
    return KafkaSettings(protocol, client.get("sasl_mechanism"), context, client, token)


def _one_of(given: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    value = given.get(name)
    if value is not None and value not in allowed:
        raise StatusRefusedError(f"{name}: must be one of {', '.join(allowed)}, got {value!r}")
    return value


def _tls(given: Mapping[str, str], protocol: str) -> ssl.SSLContext | None:
    named = sorted(name for name in given if name.startswith("KAFKA_SSL"))
    if not protocol.endswith("SSL"):
        if named:
            wanted = "SASL_SSL" if protocol.startswith("SASL") else "SSL"
            raise StatusRefusedError(
                f"{named[0]} is set, but KAFKA_SECURITY_PROTOCOL is {protocol}; set it to {wanted}"
            )
        return None
    context = _trusting(given.get("KAFKA_SSL_CAFILE"))
    context.check_hostname = _one_of(given, "KAFKA_SSL_CHECK_HOSTNAME", ("true", "false")) != "false"
    if "KAFKA_SSL_CERTFILE" in given:
        _show_certificate(context, given)
    elif of_a_key := [name for name in named if name.startswith("KAFKA_SSL_KEY")]:
        raise StatusRefusedError(f"{of_a_key[0]} is set without KAFKA_SSL_CERTFILE")
    return context


def _trusting(authorities: str | None) -> ssl.SSLContext:
    """A context that checks the brokers' certificates against the authorities', or the system's."""
    if authorities is None:
        return ssl.create_default_context()
    text = _text_of("KAFKA_SSL_CAFILE", authorities)
    try:
        if is_reference(authorities):
            ascii_alone = text.encode("ascii", "replace").decode()  # of comments between the certificates
            return ssl.create_default_context(cadata=ascii_alone or "none")  # nothing at all would mean the system's
        return ssl.create_default_context(cafile=authorities)
    except ssl.SSLError as error:
        raise StatusRefusedError(f"KAFKA_SSL_CAFILE: {authorities} holds no certificates (PEM)") from error


def _show_certificate(context: ssl.SSLContext, given: Mapping[str, str]) -> None:
    """Load the client's certificate and key into a context."""
    certificate = given["KAFKA_SSL_CERTFILE"]
    password = _secret(given, "KAFKA_SSL_KEY_PASSWORD")
    with _as_files(given, "KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE") as files:
        try:
            # A password that is not given must not be asked for on a terminal.
            context.load_cert_chain(files["KAFKA_SSL_CERTFILE"], files.get("KAFKA_SSL_KEYFILE"), lambda: password or "")
        except (ssl.SSLError, ValueError) as error:  # ValueError: a password longer than OpenSSL takes
            raise StatusRefusedError(
                f"KAFKA_SSL_CERTFILE: {certificate} and KAFKA_SSL_KEYFILE are not a certificate and its key (PEM), or "
                f"KAFKA_SSL_KEY_PASSWORD does not fit: {getattr(error, 'reason', None) or error}"
            ) from error


@contextmanager
def _as_files(given: Mapping[str, str], *names: str) -> Iterator[dict[str, Path]]:
    """Files with what the variables name, for OpenSSL, which reads a certificate and its key from files alone.

    What was fetched lies there for as long as this is open, readable for this user alone.
    """
    texts = {name: _text_of(name, given[name]) for name in names if name in given}
    files = {name: Path(given[name]) for name in texts}
    with ExitStack() as removal:
        if fetched := [name for name in texts if is_reference(given[name])]:
            try:
                folder = removal.enter_context(tempfile.TemporaryDirectory(prefix="shutterline-"))  # of mode 0700
                for name in fetched:
                    files[name] = Path(folder) / name
                    files[name].touch(mode=0o600, exist_ok=False)
                    files[name].write_text(texts[name], encoding="utf-8")
            except OSError as error:
                raise StatusRefusedError(
                    f"{fetched[0]}: {given[fetched[0]]} has to lie in a temporary file for a moment, and none can be "
                    f"written: {error.strerror}; TMPDIR names a directory for them"
                ) from error
        yield files


def _sasl(given: Mapping[str, str], client: dict[str, Any]) -> Callable[[], str] | None:
    """Put the login into the client's settings; what gives tokens is returned."""
    mechanism = _one_of(given, "KAFKA_SASL_MECHANISM", MECHANISMS)
    if mechanism is None:
        protocol = client["security_protocol"]
        raise StatusRefusedError(
            f"KAFKA_SASL_MECHANISM is missing, and {protocol} needs it; known are {', '.join(MECHANISMS)}"
        )
    client["sasl_mechanism"] = mechanism
    if mechanism == "OAUTHBEARER":
        return _token(given)
    user, password = given.get("KAFKA_SASL_USERNAME"), _secret(given, "KAFKA_SASL_PASSWORD")
    for name, value in (("KAFKA_SASL_USERNAME", user), ("KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE", password)):
        if not value:
            raise StatusRefusedError(f"{name} is missing, and {mechanism} needs it")
    client |= {"sasl_plain_username": user, "sasl_plain_password": password}
    return None


def _token(given: Mapping[str, str]) -> Callable[[], str]:
    provider = _one_of(given, "KAFKA_SASL_OAUTH_PROVIDER", ("google",))
    if provider == "google":
        from components.shared.events.kafka.google_tokens import google_token

        return google_token
    if _secret(given, "KAFKA_SASL_OAUTH_TOKEN") is None:
        raise StatusRefusedError(
            "KAFKA_SASL_OAUTH_TOKEN_FILE, KAFKA_SASL_OAUTH_TOKEN or KAFKA_SASL_OAUTH_PROVIDER is missing, "
            "and OAUTHBEARER needs one of them"
        )
    return lambda: _secret(given, "KAFKA_SASL_OAUTH_TOKEN") or ""


def _secret(given: Mapping[str, str], name: str) -> str | None:
    """A secret's value, directly or from its file; never to be written out from then on."""
    value, file = given.get(name), given.get(f"{name}_FILE")
    if value is not None and file is not None:
        raise StatusRefusedError(f"{name} and {name}_FILE are both set; only one can be meant")
    if value is not None and is_reference(value):
        raise StatusRefusedError(f"{name} is a reference to a secret, not the secret; set {name}_FILE to it instead")
    if file is not None:
        value = _text_of(f"{name}_FILE", file).strip("\r\n")
        if not value:
            raise StatusRefusedError(f"{name}_FILE: {file} is empty")
    if value is not None:
        register_secret(value)
    return value


def _text_of(name: str, source: str) -> str:
    """What a variable's file or secret holds."""
    try:
        if is_reference(source):
            return fetch_secret(name, source, is_public=name == "KAFKA_SSL_CAFILE").decode()
        return read_regular(source, _LARGEST_FILE).decode()
    except OSError as error:
        raise StatusRefusedError(f"{name}: {source} cannot be read: {error.strerror}") from error
    except ValueError as error:
        what = "no text" if is_reference(source) else "not a text file"
        raise StatusRefusedError(f"{name}: {source} is {what}") from error
