"""Where a Kubeflow Pipelines API is, and by which credentials it is asked; they come from files and the environment."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from requests import PreparedRequest

from components.shared.errors import InputError
from components.shared.events.redaction import redact, register_secret
from components.shared.files import read_regular
from pipelines.watch_text import printable

TOKEN_VARIABLE = "SHUTTERLINE_KFP_TOKEN"  # noqa: S105 - the variable's name
COOKIE_VARIABLE = "SHUTTERLINE_KFP_COOKIE"
# kfp.Client's own.
_HOST, _UI = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"
_TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105 - likewise

HOW_TO_SIGN_IN = f"set {TOKEN_VARIABLE}, name a file by --token-file, or set {COOKIE_VARIABLE} to the browser's cookie"
_LARGEST_TOKEN = 64 * 1024


@dataclass(frozen=True)
class Access:
    """The credentials of every request, as requests takes them.

    Attributes:
        token: Sent as a bearer's; None: none.
        token_file: Where it was read, and is read again for each request: a pod's is replaced every hour.
        cookie: Value of the Cookie header; None: none.
        ca_file: PEM file of the authorities to trust; None: those that requests trusts.
    """

    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    cookie: str | None = field(default=None, repr=False)
    ca_file: Path | None = None

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Sign a request."""
        if token := self._current_token():
            request.headers["Authorization"] = f"Bearer {token}"
        if self.cookie:
            request.headers["Cookie"] = self.cookie
        return request

    @property
    def kinds(self) -> str:
        """What is sent along, without its value; empty for nothing."""
        return " and ".join(kind for kind, value in (("token", self.token), ("cookie", self.cookie)) if value)

    @property
    def secrets(self) -> list[str]:
        """All that must be in no file: the token, and the value of each cookie."""
        return [*filter(None, [self.token]), *_values(self.cookie or "")]

    def _current_token(self) -> str | None:
        try:
            return _read_token(self.token_file, str(self.token_file)) if self.token_file else self.token
        except InputError:
            return self.token


def read_access(token_file: Path | None, ca_file: Path | None) -> Access:
    """The credentials that options and the environment name; InputError if a file or a variable holds none."""
    token, option = None, "--token-file"
    if token_file is None and os.environ.get(TOKEN_VARIABLE):
        token = _header(os.environ[TOKEN_VARIABLE], TOKEN_VARIABLE)
    elif token_file is None and os.environ.get(_TOKEN_FILE):
        token_file, option = Path(os.environ[_TOKEN_FILE]), _TOKEN_FILE
    if token_file is not None:
        token = _read_token(token_file, f"{option} {_shown(token_file)}")
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
    for proxy in getproxies().values():  # an error may quote one
        credentials = proxy.rpartition("@")[0].rpartition("/")[2]
        for secret in (credentials, credentials.partition(":")[2]):
            register_secret(secret)
            register_secret(unquote(secret))
    return Access(token, token_file, cookie, ca_file)


def _values(cookie: str) -> list[str]:
    return [part.partition("=")[2].strip() or part.strip() for part in cookie.split(";") if part]


def _read_token(file: Path, where: str) -> str:
    try:
        data = read_regular(file, _LARGEST_TOKEN, shell_pipes=True)
    except OSError as error:
        raise InputError(f"{where}: cannot be read as a token: {error.strerror}") from error
    return _header(data.decode("ascii", "replace"), where)


def _header(text: str, where: str, *, spaces: bool = False) -> str:
    # Checked here because http.client would show a secret in the message of its refusal.
    value = text.strip()
    register_secret(value)
    if not value:
        raise InputError(f"{where}: is empty")
    if not value.isascii() or not value.isprintable() or (" " in value and not spaces):
        raise InputError(f"{where}: must be one line of plain characters" + ("" if spaces else " without spaces"))
    return value


def _shown(file: Path) -> str:
    return printable(redact(str(file)), 200)


def api_addresses(host: str | None) -> tuple[str, str]:
    """The address of the API, and where a person sees what it has, both without a slash at the end.

    Args:
        host: ``--host``; None: as kfp.Client's variable says; without a scheme https, as there.

    Raises:
        InputError: There is none, or one is no address.
    """
    text = host or os.environ.get(_HOST, "")
    if not text:
        raise InputError(
            "--host is missing: the address of Kubeflow's API, such as https://kubeflow.example.com/pipeline, "
            "or http://localhost:8080 after `kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80`; "
            f"{_HOST} may say it as well"
        )
    api, ui = _address("--host" if host else _HOST, text, "https"), os.environ.get(_UI)
    return api, _address(_UI, ui, "http") if ui else api


def _address(where: str, text: str, scheme: str) -> str:
    address = text if "://" in text else f"{scheme}://{text}"
    try:
        parts = urlsplit(address)
        labels = (parts.hostname or "").removesuffix(".").split(".")
        usable = parts.scheme in ("http", "https") and parts.port != 0 and all(0 < len(each) < 64 for each in labels)
    except ValueError:
        parts, usable = urlsplit(""), False
    why = ""
    if "@" in parts.netloc:
        register_secret(parts.netloc.rpartition("@")[0])
        why = f"credentials do not belong into an address; {HOW_TO_SIGN_IN}"
    elif not usable or not re.fullmatch(r"[!-~]+", address):
        why = "is no address"
    elif redact(text) != text:
        why = "holds a secret, or what looks like one, and would be shown"
    elif "?" in address or "#" in address:
        why = "is the address of a page; leave out what follows ? and #"
    if why:
        raise InputError(f"{where} {printable(redact(text), 200)!r}: {why}; allowed is http(s)://HOST[:PORT][/PATH]")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
