"""The value types settings are made of: quantities as Kubernetes writes them, names as Kubernetes takes them.

No validator here shows a value where somebody may have written a secret by mistake.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from components.shared.errors import InputError
from components.shared.events.redaction import names_a_secret, redact
from components.shared.params_types import Whole, described, refusal, refusals
from components.shared.run import CHECKPOINTS_AUTO
from components.shared.storage.location import place
from pipelines.quantities import bytes_of, processors

CPU_RULE = "must be a number of processors such as 4, 0.5 or 500m"
_CHECKPOINTS_RULE = f'must be "{CHECKPOINTS_AUTO}", gs://bucket/…, s3://bucket/… or an absolute path'
MEMORY_RULE = "must be a whole number with a unit, such as 16Gi, 512Mi or 64G"

# RFC 1123: what Kubernetes takes for names of most objects, and of volumes and the like.
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_PART = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SettingsRecord(BaseModel):
    """A mapping of settings: keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, value: object) -> object:
        # Without what was given: where a secret's name and key belong, somebody may have written the secret.
        if not isinstance(value, dict | cls):
            keys = ", ".join(field.alias or name for name, field in cls.model_fields.items())
            raise refusal(f"must be a mapping; its keys are {keys}")
        return value


def _cpu(value: object) -> str:
    text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    text = text.removesuffix(".0")
    try:
        enough = processors(text) > 0
    except ValueError:
        enough = False
    if not enough:
        raise refusal(f"{CPU_RULE}, got {described(value)}")
    return text


def _memory(value: object) -> str:
    try:
        # A bare number is bytes to KFP, and hardly ever meant so.
        if isinstance(value, str) and not value.isdigit() and bytes_of(value):
            return value
    except ValueError:
        pass
    raise refusal(f"{MEMORY_RULE}, got {described(value)}")


def is_object_name(text: str) -> bool:
    """Whether Kubernetes takes it for the name of a secret, a claim and the like: a DNS subdomain."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def _object_name(value: object) -> str:
    if not isinstance(value, str) or not is_object_name(value):
        raise refusal("must be a Kubernetes name: at most 253 small letters, digits, hyphens and dots")
    return value


def _volume_name(value: object) -> str:
    # KFP's driver calls the pod's volume like the claim or the secret in it, and a volume's name is a DNS label.
    if not isinstance(value, str) or not _DNS_LABEL.fullmatch(value):
        raise refusal("must be at most 63 small letters, digits and hyphens: KFP names the pod's volume like it")
    return value


def _sub_path(value: object) -> str:
    if not isinstance(value, str) or not value.strip("/") or not value.isprintable():
        raise refusal("must be a directory inside the volume, such as shutterline")
    if value.startswith("/") or ".." in value.split("/"):
        raise refusal("must be relative to the volume, and without ..")
    return value.rstrip("/")


def _taint_key(value: object) -> str:
    if not isinstance(value, str) or label_problem(value, None):
        raise refusal("must be a taint's key, such as nvidia.com/gpu")
    return value


def _taint_value(value: object) -> str:
    if not isinstance(value, str) or len(value) > 63 or not _LABEL_PART.fullmatch(value):
        raise refusal('must be a taint\'s value: a text of at most 63 letters, digits and -_. inside, such as "true"')
    return value


def _mount_path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or ":" in value or not value.isprintable():
        raise refusal("must be an absolute path without a colon, such as /shared")
    if ".." in value.split("/"):
        raise refusal("must be a path without ..")
    if not (path := value.rstrip("/")):
        raise refusal("must not be / itself: it would hide the image's own files")
    return path


def label_problem(key: str, value: str | None) -> str | None:
    """What is wrong with a label; None: nothing."""
    prefix, slash, name = key.rpartition("/")
    if slash and not is_object_name(prefix):
        return "the part before / must be a DNS name"
    if not name or len(name) > 63 or not _LABEL_PART.fullmatch(name):
        return "a key is at most 63 letters, digits and -_. inside"
    if value is not None and (len(value) > 63 or not _LABEL_PART.fullmatch(value)):
        return "a value is at most 63 letters, digits and -_. inside"
    return None


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise refusal("must be a mapping of texts")
    problems = [
        (f".{key}", "must be a text; put it in quotes")
        for key, item in value.items()
        if not isinstance(item, str) or not isinstance(key, str)
    ]
    if problems:
        raise refusals(problems)
    return dict(value)


def _labels(value: dict[str, str]) -> dict[str, str]:
    problems = [(f".{key}", problem) for key, item in value.items() if (problem := label_problem(key, item))]
    if problems:
        raise refusals(problems)
    return _not_like_secrets(value)


def _annotations(value: dict[str, str]) -> dict[str, str]:
    problems = [(f".{key}", problem) for key in value if (problem := label_problem(key, None))]
    if problems:
        raise refusals(problems)
    return _not_like_secrets(value)


def _not_like_secrets(value: dict[str, str]) -> dict[str, str]:
    """Metadata of a pod is for everybody to read; no name tells there, so that the look of a secret must."""
    problems = [(f".{key}", "looks like a secret, and everybody may read it") for key, item in value.items()
                if redact(item) != item]  # fmt: skip
    if problems:
        raise refusals(problems)
    return value


def _variable_names(value: Any) -> Any:
    if not isinstance(value, dict):
        raise refusal("must be a mapping, each key the name of an environment variable")
    problems = []
    for key in value:
        if not isinstance(key, str) or not _VARIABLE.fullmatch(key):
            problems.append((f".{key}", "is no name of an environment variable"))
        elif key.startswith(("SHUTTERLINE_TARGET", "KFP_")):
            problems.append((f".{key}", "is set by the platform or by compile"))
    if problems:
        raise refusals(problems)
    return value


def _no_secrets(value: dict[str, str]) -> dict[str, str]:
    problems = [
        (f".{key}", "would put a secret into the compiled file; name where it is kept instead: secret_env on Kubeflow, "
         "a …_FILE variable with sm://projects/…/secrets/…/versions/… on Vertex AI")
        for key, item in value.items()
        if item and (names_a_secret(key, item) or redact(item) != item)
    ]  # fmt: skip
    if problems:
        raise refusals(problems)
    return value


def checkpoint_place(value: object) -> str:
    """A place that outlives the machine a step runs on: ``auto``, a bucket's, or a directory, perhaps of a volume."""
    if not isinstance(value, str):
        raise refusal(f"{_CHECKPOINTS_RULE}, got {described(value)}")
    if value == CHECKPOINTS_AUTO:
        return value
    try:
        named = place(value)
    except InputError as error:
        raise refusal(f"{_CHECKPOINTS_RULE}: {error}") from error
    if isinstance(named, Path) and not (named.is_absolute() and ".." not in named.parts):
        raise refusal(f"{_CHECKPOINTS_RULE}, got {described(value)}")
    return str(named)


Cpu = Annotated[str, BeforeValidator(_cpu)]
Memory = Annotated[str, BeforeValidator(_memory)]
ObjectName = Annotated[str, BeforeValidator(_object_name)]
VolumeName = Annotated[str, BeforeValidator(_volume_name)]
MountPath = Annotated[str, BeforeValidator(_mount_path)]
SubPath = Annotated[str, BeforeValidator(_sub_path)]
TaintKey = Annotated[str, BeforeValidator(_taint_key)]
TaintValue = Annotated[str, BeforeValidator(_taint_value)]
Labels = Annotated[dict[str, str], BeforeValidator(_texts), AfterValidator(_labels)]
Annotations = Annotated[dict[str, str], BeforeValidator(_texts), AfterValidator(_annotations)]
Variables = Annotated[
    dict[str, str], BeforeValidator(_texts), AfterValidator(_variable_names), AfterValidator(_no_secrets)
]
Seconds = Annotated[Whole, Field(ge=1, le=30 * 24 * 3600)]
VariableNames = BeforeValidator(_variable_names)
