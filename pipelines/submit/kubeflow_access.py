"""Where a Kubeflow Pipelines API is, and by which credentials it is asked; they come from files and the environment."""

from __future__ import annotations

import errno
import json
import os
import ssl
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from components.shared.errors import InputError
from components.shared.events.redaction import redact, register_secret
from components.shared.files import read_regular
from pipelines.watch_text import printable

TOKEN_VARIABLE = "SHUTTERLINE_KFP_TOKEN"  # noqa: S105 - the variable's name
COOKIE_VARIABLE = "SHUTTERLINE_KFP_COOKIE"
# kfp.Client's own.
HOST_VARIABLE = "KF_PIPELINES_ENDPOINT"
UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"
EXPERIMENT_VARIABLE = "KF_PIPELINES_DEFAULT_EXPERIMENT_NAME"
EXPERIMENT_OVERRIDE_VARIABLE = "KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME"
TOKEN_FILE_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105 - likewise
IAP_VARIABLE = "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID"
APP_VARIABLES = ("KF_PIPELINES_APP_OAUTH2_CLIENT_ID", "KF_PIPELINES_APP_OAUTH2_CLIENT_SECRET")

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

    @property
    def secrets(self) -> list[str]:
        """All that must be in no file: the token, and the value of each cookie."""
        return [*filter(None, [self.token]), *(_values_of(self.cookie) if self.cookie else [])]

    def current_token(self) -> str | None:
        """The token as its file has it now; the one it had where it cannot be read."""
        if self.token_file is None:
            return self.token
        try:
            return read_token(self.token_file, str(self.token_file))
        except InputError:
            return self.token


def read_access(token_file: Path | None, ca_file: Path | None) -> Access:
    """The credentials that options and the environment name.

    Raises:
        InputError: A file cannot be read, or what is in it or in a variable is none.
    """
    cookie = _cookie()
    token, file, option = None, token_file, "--token-file"
    if file is None and os.environ.get(TOKEN_VARIABLE):
        token = _header(os.environ[TOKEN_VARIABLE], TOKEN_VARIABLE)
    elif file is None and os.environ.get(TOKEN_FILE_VARIABLE):
        file, option = Path(os.environ[TOKEN_FILE_VARIABLE]), TOKEN_FILE_VARIABLE
    if file is not None:
        token = read_token(file, f"{option} {_shown(file)}")
    if ca_file is not None:
        _check_authorities(ca_file)
    return Access(token, file, cookie, ca_file)


def dry_access(token_file: Path | None) -> Access:
    """The same as far as it can be used: what is not sent needs none, but no secret may be in what is shown."""
    try:
        return read_access(token_file, None)
    except InputError:
        return Access()


def _cookie() -> str | None:
    if not os.environ.get(COOKIE_VARIABLE):
        return None
    cookie = _header(os.environ[COOKIE_VARIABLE], COOKIE_VARIABLE, spaces=True)
    for value in _values_of(cookie):
        register_secret(value)
    return cookie


def _values_of(cookie: str) -> list[str]:
    return [part.partition("=")[2].strip() or part.strip() for part in cookie.split(";")]


def needs_browser(access: Access, signed_in: Path) -> bool:
    """Whether kfp would wait for a browser where nobody is: its way through Google's IAP does, and for ever.

    Args:
        access: A token is taken instead.
        signed_in: Where kfp keeps what a person's browser brought before.
    """
    client, *app = (os.environ.get(name) for name in (IAP_VARIABLE, *APP_VARIABLES))
    if access.token or not client or None in app or (sys.stdin is not None and sys.stdin.isatty()):
        return False
    try:
        known = json.loads(signed_in.read_text(encoding="utf-8"))[client]
        return None in (known.get(name) for name in ("refresh_token", "other_client_id", "other_client_secret"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return True


def read_token(file: Path, where: str) -> str:
    """A token from its file.

    Args:
        file: The file.
        where: What names it, for messages.

    Raises:
        InputError: It cannot be read, or holds none.
    """
    try:
        data = read_regular(file, _LARGEST_TOKEN, shell_pipes=True)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise InputError(f"{where}: {error.strerror}, so it is no token") from error
        raise InputError(f"{where}: cannot be read: {error.strerror}") from error
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


def _check_authorities(file: Path) -> None:
    try:
        ssl.create_default_context(cafile=str(file))
    except ssl.SSLError as error:
        raise InputError(f"--ca-file {_shown(file)}: holds no certificates in PEM form") from error
    except OSError as error:
        raise InputError(f"--ca-file {_shown(file)}: cannot be read: {error.strerror}") from error


def api_host(text: str | None) -> str:
    """The address of the API that an option or the environment names, without a slash at its end.

    Args:
        text: The option's; None: ``KF_PIPELINES_ENDPOINT`` has the word. Without a scheme, https as in kfp.Client.

    Raises:
        InputError: There is none, or it is no address.
    """
    host = text or os.environ.get(HOST_VARIABLE, "")
    if not host:
        raise InputError(
            "--host is missing: the address of Kubeflow's API, such as https://kubeflow.example.com/pipeline, "
            "or http://localhost:8080 after `kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80`; "
            f"{HOST_VARIABLE} may say it as well"
        )
    return _address("--host" if text else HOST_VARIABLE, host, "https")


def _address(where: str, text: str, scheme: str) -> str:
    """An address without a slash at its end; that scheme is meant where it has none."""
    address = text if "://" in text else f"{scheme}://{text}"

    def refuse(why: str) -> InputError:
        return InputError(f"{where} {printable(redact(text), 200)!r}: {why}; allowed is http(s)://HOST[:PORT][/PATH]")

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
    if ":" not in parts.hostname and not all(0 < len(label) < 64 for label in _labels(parts.hostname)):
        raise refuse("is no address: between its dots are 1 to 63 characters")
    if redact(text) != text:
        raise refuse("holds a secret, or what looks like one, and would be shown")
    if parts.query or parts.fragment or "?" in address or "#" in address:
        raise refuse("is the address of a page; leave out what follows ? and #")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def _labels(hostname: str) -> list[str]:
    return hostname.removesuffix(".").split(".")


def experiment_name(chosen: str | None) -> tuple[str, str]:
    """What runs are filed under, and what says so.

    It is the variable that overrides, the option, the variable that says otherwise, or ours.
    """
    if overriding := os.environ.get(EXPERIMENT_OVERRIDE_VARIABLE):
        return overriding, EXPERIMENT_OVERRIDE_VARIABLE
    if chosen is None and (usual := os.environ.get(EXPERIMENT_VARIABLE)):
        return usual, EXPERIMENT_VARIABLE
    return DEFAULT_EXPERIMENT if chosen is None else chosen, "--experiment"


def ui_address(host: str) -> str:
    """Where a person sees what the API has: kfp.Client's rule.

    Raises:
        InputError: The variable that says so holds no address.
    """
    address = os.environ.get(UI_VARIABLE)
    return _address(UI_VARIABLE, address, "http") if address else host
