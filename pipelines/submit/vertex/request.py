"""What is asked of Vertex AI, checked before anything is sent."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from components.shared.errors import InputError, PlatformRefusedError
from components.shared.params.allowed_classes import shortened
from components.shared.storage.location import Location, key_problem, parse_location
from pipelines.compiled import PLATFORM_TITLES, CompiledPipeline
from pipelines.submit.platform import RunRequest
from pipelines.vertex_limits import JOB_ID, LABEL_KEY, LABEL_VALUE, MAX_LABELS, PIPELINE_NAME

# By it a job that is there is known as the one that is asked for again.
REQUEST_LABEL = "shutterline-request"

# Google's rule for project ids, with the domain that the ids of some old ones begin with; or a project's number.
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]|[0-9]+")
_LOCATION = re.compile(r"[a-z]+(-[a-z]+[0-9]+)?")
_NETWORK = re.compile(r"projects/[0-9]+/global/networks/[a-z]([-a-z0-9]*[a-z0-9])?")
_ACCOUNT = re.compile(r"[^@\s/]+@[^@\s/]+\.[^@\s/]+")
_EXPERIMENT = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
_ENDPOINT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")
_EXACT = 2**53  # integers up to here stay what they are in JSON's numbers


@dataclass(frozen=True)
class Project:
    """Where at Vertex AI, and as whom.

    Attributes:
        project: The project's id.
        location: The region.
        staging: The bucket, or the prefix in one, for compiled pipelines and what runs write.
        service_account: Who the run is; None: the project's default.
        network: The network that its machines are in; None: none.
        endpoint: Host and perhaps port that answer in the place of the location's own; None: that.
        experiment: The experiment the run belongs to; None: none.

    Raises:
        InputError: One of them cannot be right.
    """

    project: str
    location: str
    staging: Location
    service_account: str | None
    network: str | None
    endpoint: str | None
    experiment: str | None

    def __post_init__(self) -> None:
        """See that each has the form it needs."""
        for option, value, rule, example in (
            ("--project", self.project, _PROJECT, "a project's id, such as my-project"),
            ("--location", self.location, _LOCATION, "a region, such as europe-west4"),
            ("--service-account", self.service_account, _ACCOUNT, "name@project.iam.gserviceaccount.com"),
            ("--network", self.network, _NETWORK, "projects/NUMBER/global/networks/NAME, with the project's number"),
            ("--experiment", self.experiment, _EXPERIMENT, "small letters, digits and '-', up to 128"),
            ("--endpoint", self.endpoint, _ENDPOINT, "a host, or host:port, spoken to by https"),
        ):
            if value is not None and rule.fullmatch(value) is None:
                # What stands before the '@' of an address may be a password.
                shown = value if rule is _ACCOUNT else re.sub(r".*@", "…@", value)
                raise InputError(f"{option} {_shown(shown)}: must be {example}")

    @property
    def parent(self) -> str:
        """The resource that jobs are made in."""
        return f"projects/{self.project}/locations/{self.location}"


def staging_place(text: str) -> Location:
    """The staging bucket as the user wrote it.

    Raises:
        InputError: It is no place in a bucket of Google Cloud Storage.
    """
    try:
        found = parse_location(text)
    except InputError as error:
        raise InputError(f"--staging-bucket {error}") from error
    if not isinstance(found, Location) or found.scheme != "gs":
        raise InputError(f"--staging-bucket {_shown(text)}: must be gs://bucket or gs://bucket/prefix")
    return found


def check_file(pipeline: CompiledPipeline) -> None:
    """See that a file is one for Vertex AI.

    Raises:
        PlatformRefusedError: It is not.
    """
    again = "compile it with `shutterline compile --target vertex`"
    if pipeline.target == "kubeflow":
        title = PLATFORM_TITLES["kubeflow"]
        raise PlatformRefusedError(f"{pipeline.file}: is compiled for {title}; {again}")
    if pipeline.documents != 1:
        raise PlatformRefusedError(
            f"{pipeline.file}: has {pipeline.documents} documents, and Vertex AI reads files with one; {again}"
        )
    if PIPELINE_NAME.fullmatch(pipeline.name) is None:
        raise PlatformRefusedError(
            f"{pipeline.file}: the pipeline's name {_shown(pipeline.name)} is none for Vertex AI: up to 128 small "
            "letters, digits and '-', a letter or digit first"
        )


def check_part(what: str, value: str) -> None:
    """See that a name can be a part of an object's key.

    Raises:
        PlatformRefusedError: It cannot.
    """
    problem = "it is empty" if not value else "it has a '/'" if "/" in value else key_problem(value)
    if problem:
        raise PlatformRefusedError(f"{what} {_shown(value)}: cannot be part of a place in a bucket: {problem}")


def check_request(project: Project, request: RunRequest) -> dict[str, Any]:
    """See that a request is within Vertex AI's rules.

    Returns:
        The values of the pipeline's inputs, each of its input's type.

    Raises:
        PlatformRefusedError: It is not.
    """
    check_file(request.pipeline)
    if JOB_ID.fullmatch(request.name) is None:
        raise PlatformRefusedError(
            f"--name {_shown(request.name)}: a run's name on Vertex AI has up to 128 small letters, digits and '-', a "
            "letter first"
        )
    _check_labels(labels_of(project, request))
    inputs = request.pipeline.inputs
    if unknown := sorted(set(request.values) - set(inputs)):
        raise PlatformRefusedError(
            f"{request.pipeline.file}: has no input {_shown(unknown[0])}; it has {', '.join(inputs) or 'none'}"
        )
    for name, definition in inputs.items():
        optional = "defaultValue" in definition or definition.get("isOptional") is True
        if name not in request.values and not optional:
            raise PlatformRefusedError(f"{request.pipeline.file}: its input {name} has no value, and needs one")
    return {name: _typed(name, inputs[name], value) for name, value in request.values.items()}


def labels_of(project: Project, request: RunRequest) -> dict[str, str]:
    """The labels that a request's job gets."""
    return {**request.labels, REQUEST_LABEL: digest_of(project, request)}


def digest_of(project: Project, request: RunRequest) -> str:
    """What makes two requests the same, in 40 hexadecimal digits.

    Pipeline, values, caching; account, network and where the run writes.
    """
    run = [request.pipeline.digest, sorted(request.values.items()), request.caching]
    content = json.dumps([*run, project.service_account, project.network, str(project.staging)])
    return hashlib.sha256(content.encode()).hexdigest()[:40]


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise PlatformRefusedError(
            f"{len(labels)} labels with Shutterline's own: Vertex AI allows {MAX_LABELS}; leave some out"
        )
    for key, value in labels.items():
        if LABEL_KEY.fullmatch(key) is None:
            raise PlatformRefusedError(
                f"label {_shown(key)}: a label's key has up to 63 small letters, digits, '-' and '_', a letter first"
            )
        if LABEL_VALUE.fullmatch(value) is None:
            raise PlatformRefusedError(
                f"label {key}={_shown(value)}: a label's value has up to 63 small letters, digits, '-' and '_'"
            )


def _typed(name: str, definition: Mapping[str, Any], value: str) -> Any:
    """A value as its input wants it; Vertex AI converts none."""
    kind = str(definition.get("parameterType", "STRING"))
    if kind == "STRING":
        return value
    kinds: dict[str, tuple[type, ...]] = {
        "NUMBER_INTEGER": (int,),
        "NUMBER_DOUBLE": (int, float),
        "BOOLEAN": (bool,),
        "LIST": (list,),
        "STRUCT": (dict,),
    }
    try:
        typed = json.loads(value)
    except ValueError:
        typed = None
    wanted = kinds.get(kind, ())
    if not isinstance(typed, wanted) or (isinstance(typed, bool) and bool not in wanted):
        raise PlatformRefusedError(f"input {name}: must be a {kind}, written as in JSON, got {_shown(value)}")
    if isinstance(typed, int) and abs(typed) > _EXACT:
        raise PlatformRefusedError(f"input {name}: {typed} would be rounded on the way; integers go up to 2^53")
    return typed


def host_of(url: str) -> str:
    """Who a URL or a host with a port names."""
    return urlsplit(url if "//" in url else f"https://{url}").netloc


def _shown(value: str) -> str:
    return shortened(repr(value), 80)
