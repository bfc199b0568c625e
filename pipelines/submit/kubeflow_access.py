"""Where a Kubeflow Pipelines API is, and by which credentials it is asked; they come from files and the environment."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from components.shared.errors import InputError
from components.shared.events.redaction import redact, register_secret
from pipelines.watch_text import printable

TOKEN_VARIABLE = "SHUTTERLINE_KFP_TOKEN"  # noqa: S105 - the variable's name
COOKIE_VARIABLE = "SHUTTERLINE_KFP_COOKIE"
# kfp.Client's own.
HOST_VARIABLE = "KF_PIPELINES_ENDPOINT"
UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"
EXPERIMENT_VARIABLE = "KF_PIPELINES_DEFAULT_EXPERIMENT_NAME"
EXPERIMENT_OVERRIDE_VARIABLE = "KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME"
TOKEN_FILE_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105 - likewise

DEFAULT_EXPERIMENT = "shutterline"
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
    def told(self) -> str:
        """What is sent along, in words; empty for nothing."""
        return " and ".join(word for word, value in (("token", self.token), ("cookie", self.cookie)) if value)

    def current_token(self) -> str | None:
        """The token as its file has it now; the one it had where it cannot be read."""
        if self.token_file is None:
            return self.token
        try:
            return read_token(self.token_file)
        except InputError:
            return self.token


def read_access(token_file: Path | None, ca_file: Path | None) -> Access:
    """The credentials that options and the environment name.

    Raises:
        InputError: A file cannot be read, or what is in it or in a variable is none.
    """
    token, file = None, token_file
    if file is None and os.environ.get(TOKEN_VARIABLE):
        token = _header(os.environ[TOKEN_VARIABLE], TOKEN_VARIABLE)
    elif file is None and os.environ.get(TOKEN_FILE_VARIABLE):
        file = Path(os.environ[TOKEN_FILE_VARIABLE])
    if file is not None:
        token = read_token(file)
    cookie = os.environ.get(COOKIE_VARIABLE) or None
    if cookie is not None:
        cookie = _header(cookie, COOKIE_VARIABLE, spaces=True)
        for part in cookie.split(";"):
            register_secret(part.partition("=")[2].strip() or part.strip())
    if ca_file is not None:
        _check_authorities(ca_file)
    return Access(token, file, cookie, ca_file)


def read_token(file: Path) -> str:
    """A token from its file.

    Raises:
        InputError: It cannot be read, or holds none.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST_TOKEN + 1)
    except OSError as error:
        raise InputError(f"--token-file {file}: cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST_TOKEN:
        raise InputError(f"--token-file {file}: is larger than {_LARGEST_TOKEN} bytes, so it is no token")
    return _header(data.decode("ascii", "replace"), f"--token-file {file}")


def _header(text: str, where: str, *, spaces: bool = False) -> str:
    """A secret as a header's value: http.client would show it in the message of its refusal."""
    value = text.strip()
    register_secret(value)
    if not value:
        raise InputError(f"{where}: is empty")
    if not value.isascii() or not value.isprintable() or (" " in value and not spaces):
        raise InputError(f"{where}: must be one line of plain characters" + ("" if spaces else " without spaces"))
    return value


def _check_authorities(file: Path) -> None:
    try:
        ssl.create_default_context(cafile=str(file))
    except ssl.SSLError as error:
        raise InputError(f"--ca-file {file}: holds no certificates in PEM form") from error
    except OSError as error:
        raise InputError(f"--ca-file {file}: cannot be read: {error.strerror}") from error


def api_host(text: str | None) -> str:
    """The address of the API that an option or the environment names, without a slash at its end.

    Args:
        text: The option's; None: ``KF_PIPELINES_ENDPOINT`` has the word. Without a scheme, https as in kfp.Client.

    Raises:
        InputError: There is none, or it is no address.
    """
    where = "--host" if text else HOST_VARIABLE
    host = text or os.environ.get(HOST_VARIABLE, "")
    if not host:
        raise InputError(
            "--host is missing: the address of Kubeflow's API, such as https://kubeflow.example.com/pipeline, "
            "or http://localhost:8080 after `kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80`; "
            f"{HOST_VARIABLE} may say it as well"
        )
    address = host if "://" in host else f"https://{host}"

    def refuse(why: str) -> InputError:
        return InputError(f"{where} {printable(redact(host), 200)!r}: {why}; allowed is http(s)://HOST[:PORT][/PATH]")

    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise refuse("is no address") from error
    if "@" in parts.netloc:
        register_secret(parts.netloc.rpartition("@")[0])
        raise refuse(f"credentials do not belong into an address; {HOW_TO_SIGN_IN}")
    if parts.scheme not in ("http", "https"):
        raise refuse(f"{parts.scheme}:// is not spoken there")
    if not parts.hostname or not address.isascii() or not address.isprintable() or " " in address or port == 0:
        raise refuse("is no address")
    if parts.query or parts.fragment or "?" in address or "#" in address:
        raise refuse("is the address of a page; leave out what follows ? and #")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def experiment_name(chosen: str | None) -> str:
    """What runs are filed under: the variable that overrides, the option, the variable that says otherwise, ours."""
    overriding, usual = os.environ.get(EXPERIMENT_OVERRIDE_VARIABLE), os.environ.get(EXPERIMENT_VARIABLE)
    return overriding or (chosen if chosen is not None else usual or DEFAULT_EXPERIMENT)


def ui_address(host: str) -> str:
    """Where a person sees what the API has: kfp.Client's rule."""
    address = os.environ.get(UI_VARIABLE) or host
    return (address if "://" in address else f"http://{address}").rstrip("/")
