"""The value types settings are made of: quantities as Kubernetes writes them, names as Kubernetes takes them.

No validator here shows a value where somebody may have written a secret by mistake.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    WithJsonSchema,
    model_validator,
)

from components.shared.claims import CLAIMS_VARIABLE
from components.shared.errors import InputError
from components.shared.events.redaction import redact
from components.shared.params.types import Whole, described, refusal, refusals
from components.shared.run import CHECKPOINTS_AUTO
from components.shared.storage.location import parse_location
from pipelines.compiled import TARGET_VARIABLE
from pipelines.quantities import CPU, MEMORY, bytes_of, processors
from pipelines.secret_texts import is_secret, name_of_label, secret_shape

CPU_RULE = "must be a number of processors such as 4, 0.5 or 500m"
_DURABLE_RULE = f'must be "{CHECKPOINTS_AUTO}", gs://bucket/…, s3://bucket/… or an absolute path'
MEMORY_RULE = "must be a whole number with a unit, such as 16Gi, 512Mi or 64G"

# RFC 1123: what Kubernetes takes for names of most objects, and of volumes and the like.
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_PART = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _with_null(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Let a JSON Schema say that null takes away what mappings and lists hold."""
    for name, field in model.model_fields.items():
        properties, key = schema["properties"], field.alias or name
        if field.default_factory is dict:
            entries = properties[key].pop("additionalProperties")
            properties[key]["additionalProperties"] = {"anyOf": [entries, {"type": "null"}]}
        if field.default_factory is not None:
            told = {word: properties[key].pop(word) for word in ("description", "title") if word in properties[key]}
            properties[key] = {"anyOf": [properties[key], {"type": "null"}], **told}


class SettingsRecord(BaseModel):
    """A mapping of settings: keys that are not known are refused.

    Where null stands in the place of a mapping or a list, or of an entry of a mapping of any keys, that is remembered
    for whoever puts these settings on top of others (:func:`pipelines.settings.common.merged`).
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True, json_schema_extra=_with_null
    )

    # (field,) or (field, entry) of what shall be taken away.
    _taken: frozenset[tuple[str, ...]] = PrivateAttr(frozenset())

    @property
    def taken(self) -> frozenset[tuple[str, ...]]:
        """What null stands for: fields, and entries of fields."""
        return self._taken

    @model_validator(mode="wrap")
    @classmethod
    def _without_nulls(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # Without what was given: where a secret's name and key belong, somebody may have written the secret.
        if not isinstance(value, dict | cls):
            keys = ", ".join(field.alias or name for name, field in cls.model_fields.items())
            raise refusal(f"must be a mapping; its keys are {keys}")
        if isinstance(value, cls):
            return handler(value)
        taken: set[tuple[str, ...]] = set()
        rest = dict(value)
        for name, field in cls.model_fields.items():
            key = field.alias if field.alias in rest else name
            if field.default_factory is None or key not in rest:
                continue
            if rest[key] is None:
                # A step with nothing below it is said nothing of; a mapping or a list is taken away.
                taken |= {(name,)} if field.default_factory in (dict, list) else set()
                del rest[key]
            elif isinstance(rest[key], dict) and field.default_factory is dict:
                taken |= {(name, entry) for entry, item in rest[key].items() if item is None}
                rest[key] = {entry: item for entry, item in rest[key].items() if item is not None}
        made = handler(rest)
        made._taken = frozenset(taken)
        return made


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
    if not isinstance(value, str) or not DNS_LABEL.fullmatch(value):
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
    if isinstance(value, str) and _looks_secret("", value):
        raise refusal("looks like a secret, and everybody may read it")
    if not isinstance(value, str) or len(value) > 63 or not _LABEL_PART.fullmatch(value):
        raise refusal('must be a taint\'s value: a text of at most 63 letters, digits and -_. inside, such as "true"')
    return value


def _mount_path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or ":" in value or not value.isprintable():
        raise refusal("must be an absolute path without a colon, such as /shared")
    if ".." in value.split("/"):
        raise refusal("must be a path without ..")
    if not (path := re.sub("/+", "/", value).rstrip("/")):
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


def _is_sendable(text: str) -> bool:
    """Whether a text can be written as UTF-8, and handed to a process."""
    try:
        return b"\0" not in text.encode("utf-8")
    except UnicodeEncodeError:  # half of a pair
        return False


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise refusal("must be a mapping of texts")
    problems = []
    for key, item in value.items():
        if not isinstance(item, str) or not isinstance(key, str):
            problems.append((f".{key}", "must be a text; put it in quotes"))
        elif not _is_sendable(item):
            problems.append((f".{key}", "has a character that no file and no environment can hold"))
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


def _looks_secret(name: str, value: str) -> bool:
    """Whether a value is a secret: by its name, its look, or because this environment has it as one."""
    return is_secret(name, value) or secret_shape(value) is not None or redact(value) != value


def _not_like_secrets(value: dict[str, str]) -> dict[str, str]:
    """Metadata of a pod is for everybody to read."""
    problems = [
        (f".{key}", "looks like a secret, and everybody may read it")
        for key, item in value.items()
        if _looks_secret(name_of_label(key), item)
    ]
    if problems:
        raise refusals(problems)
    return value


def _variable_names(value: Any) -> Any:
    if not isinstance(value, dict):
        raise refusal("must be a mapping, each key the name of an environment variable")
    problems = []
    for key in value:
        if not isinstance(key, str) or not VARIABLE.fullmatch(key):
            problems.append((f".{key}", "is no name of an environment variable"))
        elif key.startswith((TARGET_VARIABLE, CLAIMS_VARIABLE, "KFP_")):
            problems.append((f".{key}", "is set by the platform or by compile"))
    if problems:
        raise refusals(problems)
    return value


def _no_secrets(value: dict[str, str]) -> dict[str, str]:
    problems = [
        (f".{key}", "would put a secret into the compiled file; name where it is kept instead: secret_env on Kubeflow, "
         "a …_FILE variable with sm://projects/…/secrets/…/versions/… on Vertex AI")
        for key, item in value.items()
        if item and _looks_secret(key, item)
    ]  # fmt: skip
    if problems:
        raise refusals(problems)
    return value


def durable_location(value: object) -> str:
    """Where files outlive the machine of a step: ``auto``, in a bucket, or in a directory, perhaps of a volume."""
    if not isinstance(value, str):
        raise refusal(f"{_DURABLE_RULE}, got {described(value)}")
    if value == CHECKPOINTS_AUTO:
        return value
    if _looks_secret("", value):
        raise refusal(f"{_DURABLE_RULE}; this looks like a secret")
    if "{{" in value:
        raise refusal("must not have {{ in it, by which KFP marks what it fills in")
    try:
        named = parse_location(value)
    except InputError as error:
        raise refusal(f"{_DURABLE_RULE}: {error}") from error
    if isinstance(named, Path) and not (named.is_absolute() and ".." not in named.parts):
        raise refusal(f"{_DURABLE_RULE}, got {described(value)}")
    return str(named)


_NUMBER_SCHEMA = {"type": "number", "exclusiveMinimum": 0}
_CPU_SCHEMA = {"anyOf": [_NUMBER_SCHEMA, {"type": "string", "pattern": f"^({CPU.pattern})$"}]}
_MEMORY_SCHEMA = {"type": "string", "pattern": f"^{MEMORY.pattern.removesuffix('?')}$"}

Cpu = Annotated[str, BeforeValidator(_cpu), WithJsonSchema(_CPU_SCHEMA)]
Memory = Annotated[str, BeforeValidator(_memory), WithJsonSchema(_MEMORY_SCHEMA)]
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
