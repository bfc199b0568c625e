"""The value types settings are made of: quantities and names as Kubernetes takes them.

No validator here shows a value where somebody may have written a secret by mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from components.shared.errors import InputError
from components.shared.events.redaction import redact
from components.shared.files import CLAIMS_VARIABLE
from components.shared.params.types import Whole, refusal, refusals
from components.shared.run import AUTO
from components.shared.storage.location import parse_location
from components.shared.text import described
from pipelines.compiled import TARGET_VARIABLE
from pipelines.quantities import CPU, MEMORY
from pipelines.secret_texts import is_secret, name_of_label, secret_shape

_DURABLE_RULE = f'must be "{AUTO}", gs://bucket/…, s3://bucket/… or an absolute path'
# RFC 1123: what Kubernetes takes for names of most objects, and of volumes and the like.
_SUBDOMAIN = r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_LABEL_PART = r"(?=.{0,63}$)([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_LABEL_KEY = re.compile(rf"({_SUBDOMAIN.replace('$', '/')}/)?(?!$){_LABEL_PART}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _with_null(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Let a JSON Schema say that null takes away what mappings and lists hold."""
    for name, field in model.model_fields.items():
        properties, key = schema["properties"], field.alias or name
        if field.default_factory is dict:
            entries = properties[key].pop("additionalProperties")
            properties[key]["additionalProperties"] = {"anyOf": [entries, {"type": "null"}]}
        if field.default_factory is not None:
            kept = {each: properties[key].pop(each) for each in ("description", "title") if each in properties[key]}
            properties[key] = {"anyOf": [properties[key], {"type": "null"}], **kept}


class SettingsRecord(BaseModel):
    """A mapping of settings: keys that are not known are refused; null takes away, once settings are merged."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True, json_schema_extra=_with_null
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            # Without what was given: where a secret's name and key belong, somebody may have written the secret.
            keys = ", ".join(field.alias or name for name, field in cls.model_fields.items())
            raise refusal(f"must be a mapping; its keys are {keys}")
        rest = dict(value)
        for name, field in cls.model_fields.items():
            if field.default_factory in (dict, list) and rest.get(name, "") is None:
                del rest[name]
            elif field.default_factory is dict and isinstance(rest.get(name), dict):
                rest[name] = {entry: item for entry, item in rest[name].items() if item is not None}
        return rest


def matching(pattern: str, message: str) -> BeforeValidator:
    """A validator of text by a pattern."""

    def match(value: object) -> str:
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise refusal(message)
        return value

    return BeforeValidator(match)


def _quantity(pattern: re.Pattern[str], message: str) -> BeforeValidator:
    def check(value: object) -> str:
        is_plain = isinstance(value, int | float | str) and not isinstance(value, bool)
        text = str(value).removesuffix(".0") if is_plain else ""
        if not pattern.fullmatch(text) or not re.search("[1-9]", text):
            raise refusal(f"{message}, got {described(value)}")
        return text

    return BeforeValidator(check)


def _sub_path(value: object) -> str:
    if not isinstance(value, str) or not value.strip("/") or not value.isprintable():
        raise refusal("must be a directory inside the volume, such as shutterline")
    if value.startswith("/") or ".." in value.split("/"):
        raise refusal("must be relative to the volume, and without ..")
    return value.rstrip("/")


def _mount_path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or ":" in value or not value.isprintable():
        raise refusal("must be an absolute path without a colon, such as /shared")
    if ".." in value.split("/"):
        raise refusal("must be a path without ..")
    if not (path := re.sub("/+", "/", value).rstrip("/")):
        raise refusal("must not be / itself: it would hide the image's own files")
    return path


def _looks_secret(name: str, value: object) -> bool:
    """Whether a value is a secret: by its name, its look, or because this environment has it as one."""
    if not isinstance(value, str):
        return False
    return is_secret(name, value) or secret_shape(value) is not None or redact(value) != value


def _each(problem_of: Callable[[Any, Any], str | None], what: str) -> BeforeValidator:
    """A validator of a mapping by the problem of an entry's key and value."""

    def check(value: object) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise refusal(f"must be a mapping of {what}")
        if problems := [(f".{key}", found) for key, item in value.items() if (found := problem_of(key, item))]:
            raise refusals(problems)
        return dict(value)

    return BeforeValidator(check)


def _text_problem(key: object, value: object) -> str | None:
    if not isinstance(value, str) or not isinstance(key, str):
        return "must be a text; put it in quotes"
    # Half of a pair of surrogates, or the end of a C string.
    is_sendable = "\0" not in value and not re.search("[\ud800-\udfff]", value)
    return None if is_sendable else "has a character that no file and no environment can hold"


def _annotation_problem(key: object, value: object) -> str | None:
    if problem := _text_problem(key, value):
        return problem
    if not _LABEL_KEY.fullmatch(str(key)):
        return "a key is at most 63 letters, digits and -_. inside, perhaps after a DNS name and /"
    return "looks like a secret, and everybody may read it" if _looks_secret(name_of_label(str(key)), value) else None


def _label_problem(key: object, value: object) -> str | None:
    if (problem := _annotation_problem(key, value)) is None and not re.fullmatch(_LABEL_PART, str(value)):
        return "a value is at most 63 letters, digits and -_. inside"
    return problem


def _variable_name_problem(key: object, value: object) -> str | None:
    if not isinstance(key, str) or not _VARIABLE.fullmatch(key):
        return "is no name of an environment variable"
    reserved = key.startswith((TARGET_VARIABLE, CLAIMS_VARIABLE, "KFP_"))
    return "is set by the platform or by compile" if reserved else None


def _variable_problem(key: object, value: object) -> str | None:
    problem = _text_problem(key, value) or _variable_name_problem(key, value)
    if problem is None and value and _looks_secret(str(key), value):
        return (
            "would put a secret into the compiled file; name where it is kept instead: secret_env on Kubeflow, "
            "a …_FILE variable with sm://projects/…/secrets/…/versions/… on Vertex AI"
        )
    return problem


def _not_secret(value: str) -> str:
    if _looks_secret("", value):
        raise refusal("looks like a secret, and everybody may read it")
    return value


def durable_location(value: object) -> str:
    """Where files outlive the machine of a step: ``auto``, in a bucket, or in a directory, perhaps of a volume."""
    if not isinstance(value, str):
        raise refusal(f"{_DURABLE_RULE}, got {described(value)}")
    if value == AUTO:
        return value
    if _looks_secret("", value):
        raise refusal(f"{_DURABLE_RULE}; this looks like a secret")
    if "{{" in value:
        raise refusal("must not have {{ in it, by which KFP marks what it fills in")
    try:
        location = parse_location(value)
    except InputError as error:
        raise refusal(f"{_DURABLE_RULE}: {error}") from error
    if isinstance(location, Path) and not (location.is_absolute() and ".." not in location.parts):
        raise refusal(f"{_DURABLE_RULE}, got {described(value)}")
    return str(location)


_CPU_SCHEMA = {
    "anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": f"^({CPU.pattern})$"}]
}
_VOLUME_RULE = "must be at most 63 small letters, digits and hyphens: KFP names the pod's volume like it"
_TAINT_RULE = 'must be a taint\'s value: a text of at most 63 letters, digits and -_. inside, such as "true"'

Cpu = Annotated[
    str, _quantity(CPU, "must be a number of processors such as 4, 0.5 or 500m"), WithJsonSchema(_CPU_SCHEMA)
]
Memory = Annotated[
    str,
    _quantity(MEMORY, "must be a whole number with a unit, such as 16Gi, 512Mi or 64G"),
    WithJsonSchema({"type": "string", "pattern": f"^{MEMORY.pattern}$"}),
]
ObjectName = Annotated[
    str, matching(_SUBDOMAIN, "must be a Kubernetes name: at most 253 small letters, digits, hyphens and dots")
]
VolumeName = Annotated[str, matching(_DNS_LABEL, _VOLUME_RULE)]
MountPath = Annotated[str, BeforeValidator(_mount_path)]
SubPath = Annotated[str, BeforeValidator(_sub_path)]
TaintKey = Annotated[str, matching(_LABEL_KEY.pattern, "must be a taint's key, such as nvidia.com/gpu")]
TaintValue = Annotated[str, AfterValidator(_not_secret), matching(_LABEL_PART, _TAINT_RULE)]
Labels = Annotated[dict[str, str], _each(_label_problem, "texts")]
Annotations = Annotated[dict[str, str], _each(_annotation_problem, "texts")]
Variables = Annotated[dict[str, str], _each(_variable_problem, "texts")]
VariableNames = _each(_variable_name_problem, "environment variables by name")
Seconds = Annotated[Whole, Field(ge=1, le=30 * 24 * 3600)]
