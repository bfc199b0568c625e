"""What of this machine the containers of a run get to see: settings by their names, and the files these name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from components.shared.errors import InputError
from components.shared.params.params import Params
from components.shared.staging import SCRATCH_VARIABLE
from components.shared.storage.location import AnyPath, Location
from pipelines.params_files import locations_of

_NAMES = frozenset(
    {
        *("PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST"),
        # The same bits as in a process of this machine: what sums are made of depends on how many threads make them.
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG"),
        *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),  # where a company's own certificates are
        "TZ",  # of the log lines
    }
)
_FAMILIES = ("SHUTTERLINE_", "KAFKA_", "AWS_", "GOOGLE_", "MLFLOW_")
# KAFKA_SASL_PASSWORD_FILE, KAFKA_SSL_CAFILE, AWS_CA_BUNDLE, MLFLOW_TRACKING_SERVER_CERT_PATH, …
_NAMES_A_FILE = re.compile(r".*(FILE|_CA_BUNDLE|_CERT_PATH)|GOOGLE_APPLICATION_CREDENTIALS")
# Where the clients look without a setting; in a container there is no such home.
_DEFAULT_FILES = {
    "GOOGLE_APPLICATION_CREDENTIALS": ".config/gcloud/application_default_credentials.json",
    "AWS_SHARED_CREDENTIALS_FILE": ".aws/credentials",
    "AWS_CONFIG_FILE": ".aws/config",
}


def passed_on(environment: Mapping[str, str], params: Params, data: AnyPath) -> dict[str, str]:
    """The settings that the steps may need, files by absolute paths; logins of the user where something needs them."""
    passed = {
        name: _absolute(value) if value and (name == SCRATCH_VARIABLE or _NAMES_A_FILE.fullmatch(name)) else value
        for name, value in environment.items()
        if name in _NAMES or name.startswith(_FAMILIES)
    }
    schemes = {where.scheme for where in (data, *locations_of(params).values()) if isinstance(where, Location)}
    google = "gs" in schemes or params.PUB_SUB_TOPIC or "google" in passed.get("KAFKA_SASL_OAUTH_PROVIDER", "")
    needed = [*(["GOOGLE_"] if google else []), *(["AWS_"] if "s3" in schemes else [])]
    home = Path(environment.get("HOME", "/"))
    for name, usual in _DEFAULT_FILES.items():
        if name.startswith(tuple(needed)) and name not in passed and (home / usual).is_file():
            passed[name] = str(home / usual)
    return passed


def named_files(passed: Mapping[str, str], params: Params) -> Iterator[Path]:
    """The existing files, and directories of models to read, that settings and params name by absolute paths."""
    values = [value for name, value in passed.items() if _NAMES_A_FILE.fullmatch(name)]
    if params.GOOGLE_APPLICATION_CREDENTIALS:
        values.append(params.GOOGLE_APPLICATION_CREDENTIALS)
    for value in values:
        if value and Path(value).is_file():
            yield Path(value)
    for name, where in locations_of(params).items():
        if name != "publish_uri" and isinstance(where, Path) and where.exists():
            yield where


def with_absolute_paths(params: Params) -> Params:
    """Params whose files a container finds, which has another working directory."""
    absolute = {}
    if params.GOOGLE_APPLICATION_CREDENTIALS is not None:
        absolute["GOOGLE_APPLICATION_CREDENTIALS"] = _absolute(params.GOOGLE_APPLICATION_CREDENTIALS)
    for name, where in locations_of(params).items():
        if isinstance(where, Path):
            absolute[name] = _absolute(str(where))
    return params.model_copy(update=absolute) if absolute else params


def loopbacks(passed: Mapping[str, str], params: Params) -> Iterator[str]:
    """The settings that name this machine itself, which a container in a network of its own does not reach."""
    named = {name: value for name, value in passed.items() if "_HOST" in name or "_ENDPOINT" in name or "_URI" in name}
    named["KAFKA_HOST"] = params.KAFKA_HOST or ""
    for name, value in named.items():
        hosts = (re.sub(r"^\w+://", "", part.strip()) for part in value.split(","))
        if any(re.match(r"(localhost|127\.|\[::1\])", host) for host in hosts):
            yield name


def mountable(path: Path, what: str) -> str:
    """An absolute path as Docker takes it, or an InputError that calls it `what` where Docker cannot mount it."""
    text = str(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{what} {text!r}: its name is not UTF-8, which Docker cannot mount") from error
    if path == Path(path.anchor):
        raise InputError(f"{what} {text}: the root of the file system cannot be mounted; name a directory below it")
    return text


def _absolute(value: str) -> str:
    return os.path.abspath(value)  # noqa: PTH100 - a text, which may be anything
