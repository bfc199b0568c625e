"""Where a Kubeflow Pipelines API is, and by which credentials it is asked; they come from files and the environment."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from components.shared.errors import InputError
from components.shared.events.redaction import redact, register_secret
from components.shared.files import read_regular
from pipelines.watch_text import printable

TOKEN_VARIABLE = "SHUTTERLINE_KFP_TOKEN"  # noqa: S105 - the variable's name
COOKIE_VARIABLE = "SHUTTERLINE_KFP_COOKIE"
# kfp.Client's own.
_HOST, _UI = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"
_EXPERIMENT, _OVERRIDE = "KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", "KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME"
_TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105 - likewise

HOW_TO_SIGN_IN = f"set {TOKEN_VARIABLE}, name a file by --token-file, or set {COOKIE_VARIABLE} to the browser's cookie"
_LARGEST_TOKEN = 64 * 1024


@dataclass(frozen=True)
class Access:
    """By what the API is asked.

    Attributes:
        token: Sent as a bearer's; None: none.
        token_file: Where it was read, and will be read again: a pod's is replaced every hour. None: nowhere.
        cookie: Value of the Cookie header; None: none.
        ca_file: PEM file of the authorities to trust; None: those that kfp trusts.
    """

    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    cookie: str | None = field(default=None, repr=False)
    ca_file: Path | None = None

    @property
    def kinds(self) -> str:
        """What is sent along, without its value; empty for nothing."""
        return " and ".join(word for word, value in (("token", self.token), ("cookie", self.cookie)) if value)

    @property
    def secrets(self) -> list[str]:
        """All that must be in no file: the token, and the value of each cookie."""
        return [*filter(None, [self.token]), *_values(self.cookie or "")]

    def current_token(self) -> str | None:
        """The token as its file has it now; the one it had where it cannot be read."""
        try:
            return _read_token(self.token_file, str(self.token_file)) if self.token_file else self.token
        except InputError:
            return self.token


def read_access(token_file: Path | None, ca_file: Path | None) -> Access:
    """The credentials that options and the environment name.

    Raises:
        InputError: A file cannot be read, or what is in it or in a variable is none.
    """
    token, file, option = None, token_file, "--token-file"
    if file is None and os.environ.get(TOKEN_VARIABLE):
        token = _header(os.environ[TOKEN_VARIABLE], TOKEN_VARIABLE)
    elif file is None and os.environ.get(_TOKEN_FILE):
        file, option = Path(os.environ[_TOKEN_FILE]), _TOKEN_FILE
    if file is not None:
        token = _read_token(file, f"{option} {_shown(file)}")
    cookie = os.environ.get(COOKIE_VARIABLE) or None
    if cookie is not None:
        cookie = _header(cookie, COOKIE_VARIABLE, spaces=True)
        for value in _values(cookie):
            register_secret(value)
    if ca_file is not None:
        try:
            ssl.create_default_context(cafile=str(ca_file))
        except OSError as error:
            why = "holds no certificates in PEM form" if isinstance(error, ssl.SSLError) else "cannot be read"
            raise InputError(f"--ca-file {_shown(ca_file)}: {why}: {error.strerror or error}") from error
    return Access(token, file, cookie, ca_file)


def _values(cookie: str) -> list[str]:
    return [part.partition("=")[2].strip() or part.strip() for part in cookie.split(";") if part]


def _read_token(file: Path, where: str) -> str:
    try:
        data = read_regular(file, _LARGEST_TOKEN, shell_pipes=True)
    except OSError as error:
        raise InputError(f"{where}: cannot be read as a token: {error.strerror}") from error
    return _header(data.decode("ascii", "replace"), where)


def _header(text: str, where: str, *, spaces: bool = False) -> str:
    """A secret as a header's value: http.client would show it in the message of its refusal."""
    value = text.strip()
    register_secret(value)
    if not value:
        raise InputError(f"{where}: is empty")
    if not value.isascii() or not value.isprintable() or (" " in value and not spaces):
        raise InputError(f"{where}: must be one line of plain characters" + ("" if spaces else " without spaces"))
    return value


def _shown(file: Path) -> str:
    return printable(redact(str(file)), 200)


def api_host(text: str | None) -> str:
    """The address of the API, without a slash at its end.

    Args:
        text: The option's; None: ``KF_PIPELINES_ENDPOINT`` says it. Without a scheme, https as in kfp.Client.

    Raises:
        InputError: There is none, or it is no address.
    """
    host = text or os.environ.get(_HOST, "")
    if not host:
        raise InputError(
            "--host is missing: the address of Kubeflow's API, such as https://kubeflow.example.com/pipeline, "
            "or http://localhost:8080 after `kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80`; "
            f"{_HOST} may say it as well"
        )
    return _address("--host" if text else _HOST, host, "https")


def ui_address(host: str) -> str:
    """Where a person sees what the API has: kfp.Client's rule.

    Raises:
        InputError: The variable that says so holds no address.
    """
    address = os.environ.get(_UI)
    return _address(_UI, address, "http") if address else host


def _address(where: str, text: str, scheme: str) -> str:
    address = text if "://" in text else f"{scheme}://{text}"
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    labels = (parts.hostname or "").removesuffix(".").split(".")
    why = ""
    if "@" in parts.netloc:
        register_secret(parts.netloc.rpartition("@")[0])
        why = f"credentials do not belong into an address; {HOW_TO_SIGN_IN}"
    elif not usable or not re.fullmatch(r"[!-~]+", address) or not all(0 < len(label) < 64 for label in labels):
        why = "is no address"
    elif redact(text) != text:
        why = "holds a secret, or what looks like one, and would be shown"
    elif "?" in address or "#" in address:
        why = "is the address of a page; leave out what follows ? and #"
    if why:
        raise InputError(f"{where} {printable(redact(text), 200)!r}: {why}; allowed is http(s)://HOST[:PORT][/PATH]")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def experiment_name(chosen: str | None) -> tuple[str, str]:
    """What runs are filed under, and what says so: kfp's overriding variable, the option, or kfp's other variable."""
    if overriding := os.environ.get(_OVERRIDE):
        return overriding, _OVERRIDE
    if chosen is None and (usual := os.environ.get(_EXPERIMENT)):
        return usual, _EXPERIMENT
    return "shutterline" if chosen is None else chosen, "--experiment"


def proxy_for(host: str) -> tuple[str, str] | None:
    """The proxy that the environment names for an address, and what signs in there; None: none, as urllib3 reads none.

    Raises:
        InputError: What the environment names is none that can be used.
    """
    parts = urlsplit(host)
    address = getproxies().get(parts.scheme)
    if not address or proxy_bypass(parts.netloc):
        return None
    try:
        proxy = urlsplit(address if "://" in address else f"http://{address}")
        usable = proxy.scheme in ("http", "https") and proxy.hostname and proxy.port != 0
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[!-~]+", address):  # it may hold a password, so it is not shown
        raise InputError(
            f"{parts.scheme.upper()}_PROXY: is no address of a proxy; allowed is http(s)://HOST[:PORT], perhaps with "
            "USER:PASSWORD@ before the host"
        )
    signing_in, _, server = proxy.netloc.rpartition("@")
    for secret in (signing_in, signing_in.partition(":")[2]):
        register_secret(secret)
    return f"{proxy.scheme}://{server}", signing_in
