"""From the environment to kafka-python's arguments: security comes from variables and mounted files, never from params.

A file may be a reference to a secret of Google's Secret Manager instead, where nothing can be mounted.
"""

from __future__ import annotations

import difflib
import os
import re
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from tempfile import NamedTemporaryFile
from typing import Any

from components.shared.errors import StatusRefusedError
from components.shared.events.redaction import register_secret
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
_OURS = re.compile(
    r"KAFKA_(SASL|SSL|SECURITY)_"
    r"(?!(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$)"
)


def client_arguments(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Keyword arguments for kafka-python's clients; the secrets that the settings refer to are fetched.

    Raises:
        StatusRefusedError: They contradict each other, name files or secrets that are not there, or are misspelt.
        RetryableError: They refer to a secret, and Secret Manager does not answer.
    """
    environment = os.environ if environment is None else environment
    given = {name: value for name, value in environment.items() if value and name in VARIABLES}
    for name, value in environment.items():
        if value and name not in VARIABLES and _OURS.match(name):
            near = difflib.get_close_matches(name, VARIABLES, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(VARIABLES)}"
            raise StatusRefusedError(f"{name}: no such setting{hint}")
    protocol = _one_of(given, "KAFKA_SECURITY_PROTOCOL", PROTOCOLS) or "PLAINTEXT"
    client: dict[str, Any] = {"security_protocol": protocol, "client_id": given.get("KAFKA_CLIENT_ID", "shutterline")}
    if version := given.get("KAFKA_API_VERSION"):
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}", version):
            raise StatusRefusedError(f"KAFKA_API_VERSION: must be a version such as 2.3, got {version!r}")
        client["api_version"] = tuple(int(part) for part in version.split("."))
    has_login, has_tls = protocol.startswith("SASL"), protocol.endswith("SSL")
    for prefix, wanted, advice in (
        ("KAFKA_SSL", has_tls, "SASL_SSL" if has_login else "SSL"),
        ("KAFKA_SASL", has_login, "SASL_SSL, or SASL_PLAINTEXT without encryption"),
    ):
        if not wanted and (surplus := sorted(name for name in given if name.startswith(prefix))):
            raise StatusRefusedError(
                f"{surplus[0]} is set, but KAFKA_SECURITY_PROTOCOL is {protocol}; set it to {advice}"
            )
    if has_tls:
        client["ssl_context"] = _tls(given)
    return client | _login(given, protocol) if has_login else client


def refer_to_secrets() -> bool:
    """Whether the environment's settings are only known once Secret Manager was asked."""
    return any(is_reference(os.environ.get(name, "")) for name in VARIABLES)


def _one_of(given: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    value = given.get(name)
    if value is not None and value not in allowed:
        raise StatusRefusedError(f"{name}: must be one of {', '.join(allowed)}, got {value!r}")
    return value


def _tls(given: Mapping[str, str]) -> ssl.SSLContext:
    authorities = given.get("KAFKA_SSL_CAFILE")
    text = None
    if authorities is not None:  # comments between the certificates may be anything; no text would mean the system's
        text = _text_of("KAFKA_SSL_CAFILE", authorities).encode("ascii", "replace").decode() or "none"
    try:
        context = ssl.create_default_context(cadata=text)
    except ssl.SSLError as error:
        raise StatusRefusedError(f"KAFKA_SSL_CAFILE: {authorities} holds no certificates (PEM)") from error
    context.check_hostname = _one_of(given, "KAFKA_SSL_CHECK_HOSTNAME", ("true", "false")) != "false"
    if "KAFKA_SSL_CERTFILE" in given:
        _load_certificate(context, given)
    elif of_a_key := sorted(name for name in given if name.startswith("KAFKA_SSL_KEY")):
        raise StatusRefusedError(f"{of_a_key[0]} is set without KAFKA_SSL_CERTFILE")
    return context


def _load_certificate(context: ssl.SSLContext, given: Mapping[str, str]) -> None:
    certificate = given["KAFKA_SSL_CERTFILE"]
    password = _secret(given, "KAFKA_SSL_KEY_PASSWORD")
    texts = {name: _text_of(name, given[name]) for name in ("KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE") if name in given}
    files = [given[name] for name in texts]
    try:
        with ExitStack() as removal:
            if fetched := [name for name in texts if is_reference(given[name])]:
                # OpenSSL reads them from files alone: in one for this user (mode 0600), gone again at once.
                try:
                    file = removal.enter_context(NamedTemporaryFile("w", encoding="utf-8", prefix="shutterline-"))
                    file.write("\n".join(texts.values()))
                    file.flush()
                except OSError as error:
                    raise StatusRefusedError(
                        f"{fetched[0]}: {given[fetched[0]]} has to lie in a temporary file for a moment, and none can "
                        f"be written: {error.strerror}; TMPDIR names a directory for them"
                    ) from error
                files = [file.name]
            # A password that is not given must not be asked for on a terminal.
            context.load_cert_chain(files[0], files[1] if len(files) > 1 else None, lambda: password or "")
    except (ssl.SSLError, ValueError) as error:  # ValueError: a password longer than OpenSSL takes
        raise StatusRefusedError(
            f"KAFKA_SSL_CERTFILE: {certificate} and KAFKA_SSL_KEYFILE are not a certificate and its key (PEM), or "
            f"KAFKA_SSL_KEY_PASSWORD does not fit: {getattr(error, 'reason', None) or error}"
        ) from error


def _login(given: Mapping[str, str], protocol: str) -> dict[str, Any]:
    mechanism = _one_of(given, "KAFKA_SASL_MECHANISM", MECHANISMS)
    if mechanism is None:
        raise StatusRefusedError(
            f"KAFKA_SASL_MECHANISM is missing, and {protocol} needs it; known are {', '.join(MECHANISMS)}"
        )
    if mechanism == "OAUTHBEARER":
        return {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": _token_provider(given)}
    user, password = given.get("KAFKA_SASL_USERNAME"), _secret(given, "KAFKA_SASL_PASSWORD")
    for name, value in (("KAFKA_SASL_USERNAME", user), ("KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE", password)):
        if not value:
            raise StatusRefusedError(f"{name} is missing, and {mechanism} needs it")
    return {"sasl_mechanism": mechanism, "sasl_plain_username": user, "sasl_plain_password": password}


def _token_provider(given: Mapping[str, str]) -> Any:
    from kafka.net.sasl.oauth import AbstractTokenProvider

    from components.shared.events.google_login import google_token

    is_google = _one_of(given, "KAFKA_SASL_OAUTH_PROVIDER", ("google",)) is not None
    if not is_google and _secret(given, "KAFKA_SASL_OAUTH_TOKEN") is None:
        raise StatusRefusedError(
            "KAFKA_SASL_OAUTH_TOKEN_FILE, KAFKA_SASL_OAUTH_TOKEN or KAFKA_SASL_OAUTH_PROVIDER is missing, "
            "and OAUTHBEARER needs one of them"
        )

    class Provider(AbstractTokenProvider):  # type: ignore[misc] # kafka-python has no types
        def token(self) -> str:  # fresh at every login
            return google_token() if is_google else _secret(given, "KAFKA_SASL_OAUTH_TOKEN") or ""

    return Provider()


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
