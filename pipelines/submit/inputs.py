"""What a version and a run are called, and the values of a run's inputs; on both platforms alike."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.events.redaction import redact
from components.shared.params.params import Params, parse
from components.shared.params.source import from_json, with_overrides
from components.shared.run import AUTO
from components.shared.storage.location import parse_location
from components.shared.version import __version__
from pipelines.compiled import CompiledPipeline, PlatformName, secret_named_by
from pipelines.params_files import HOW_TO_GET_PARAMS, Checked, are_example, check_params, load_checked
from pipelines.vertex_limits import JOB_ID
from pipelines.watch_text import printable

_DIGITS = 12  # of a digest in a name: 48 bits
_LONGEST = 128
LONGEST_VERSION: dict[PlatformName, int] = {"kubeflow": 127, "vertex": _LONGEST}
_NUMBER_ROOM = 5  # for "-2" to "-9999"


def version_name(pipeline: CompiledPipeline) -> str:
    """What a version is called unless it is named: who made it, and a digest of what is in it."""
    maker = re.sub(r"[^a-z0-9.]+", "-", __version__.lower())
    return f"{maker}-{pipeline.digest[:_DIGITS]}"


def run_name(
    pipeline: CompiledPipeline, values: Mapping[str, str], use_cache: bool = True, **others: str | None
) -> str:
    """What a run is called unless it is named: the pipeline, and a digest of everything that decides what it does.

    It is a job id of Vertex AI, too: a small letter, then small letters, digits and dashes.

    Args:
        pipeline: What shall run.
        values: Values of its inputs.
        use_cache: Whether steps may be served from a cache.
        others: What else is asked of the platform, such as the account that the run has.
    """
    asked = {name: value for name, value in others.items() if value is not None}
    content = [pipeline.digest, dict(values), None if use_cache else False, *([asked] if asked else [])]
    sent = json.dumps(content, sort_keys=True, separators=(",", ":"))
    name = re.sub(r"[^a-z0-9]+", "-", pipeline.name.lower()).strip("-")
    name = name if name[:1].isalpha() else f"run-{name}".rstrip("-")
    name = name[: _LONGEST - _DIGITS - _NUMBER_ROOM - 1].rstrip("-")
    return f"{name}-{hashlib.sha256(sent.encode()).hexdigest()[:_DIGITS]}"


def check_name(option: str, name: str, longest: int = _LONGEST) -> None:
    """InputError if a pipeline, version or experiment cannot be called so, or the name is a secret."""
    check_no_secret(option, name)
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > longest:
        raise InputError(f"{option}: must be 1 to {longest} printable characters, got {printable(name, 60)!r}")


def check_run_name(name: str, target: PlatformName) -> None:
    """As :func:`check_name`, of a run on a platform."""
    check_name("--name", name, _LONGEST - _NUMBER_ROOM)
    if target == "vertex" and re.fullmatch(JOB_ID, name) is None:
        raise InputError(
            f"--name: on Vertex AI a run's name is a small letter, then small letters, digits and dashes, "
            f"got {printable(name, 60)!r}"
        )


def checked_params(
    pipeline: CompiledPipeline, source: str | None, overrides: list[str], data: str | None
) -> Checked | None:
    """The params that ``--params`` and ``--set`` give, completely checked; None: the file's own are to be used.

    Raises:
        ParamsError: With every problem found.
        InputError: There are no params to change, or the file's are the example's, and other data are named.
    """
    if source:
        return load_checked(source, overrides)
    default: Any = pipeline.inputs.get("params", {}).get("defaultValue")
    if data is not None and isinstance(default, str) and are_example(default):
        raise InputError(
            f"--data needs --params: those in {pipeline.file} are the example's digits', and decide the network; "
            f"compile it with --params, or: {HOW_TO_GET_PARAMS}"
        )
    if not overrides:
        return None
    if not isinstance(default, str):
        raise InputError(f"--set: {pipeline.file} has no params of its own to change; name some by --params")
    # As the steps take it: a file from elsewhere must not name another one here, which may be code.
    name = f"{pipeline.file}: its params"
    return check_params(parse(with_overrides(from_json(default, name), overrides), name))


def run_values(
    pipeline: CompiledPipeline, params: Params | None, data: str | None, checkpoints: str | None
) -> dict[str, str]:
    """The values to send; InputError if one is missing, is not known, is no location, or is a secret."""
    given = {"params": None if params is None else params.to_form(), "data": data, "checkpoints": checkpoints}
    values = {name: value for name, value in given.items() if value is not None}
    for name, value in values.items():
        option = f"--{name}"
        if name not in pipeline.inputs:
            known = ", ".join(pipeline.inputs) or "none"
            raise InputError(f"{option}: {pipeline.file} has no input {name}; its inputs are: {known}")
        kind = pipeline.inputs[name].get("parameterType")
        if kind != "STRING":
            raise InputError(f"{option}: the input {name} of {pipeline.file} is no STRING, but {kind}")
        is_location = name == "data" or (name == "checkpoints" and value not in ("", AUTO))
        if is_location and isinstance(path := parse_location(value), Path) and not path.is_absolute():
            raise InputError(
                f"{option} {value}: would be looked for inside the steps' containers; name a bucket, gs://… or s3://…, "
                "or the absolute path of a volume that the settings mount"
            )
        check_no_secret(option, value)
    for name, definition in pipeline.inputs.items():
        if name not in values and "defaultValue" not in definition and not definition.get("isOptional"):
            what = f"give it by --{name}" if name in given else "compile it with a default"
            raise InputError(f"{pipeline.file}: its input {name} has no value and no default; {what}")
    return values


def check_no_secret(option: str, value: str) -> None:
    """InputError if a text that will be sent, and shown to all who see the run, is a secret; it does not show it."""
    if redact(value) != value:
        raise InputError(
            f"{option}: holds a secret, or what looks like one, and would be shown to all who see the run; refer to "
            "it by the settings' secrets instead"
        )


def check_file_has_no_secret(pipeline: CompiledPipeline, *secrets: str) -> None:
    """InputError if a secret of this environment, or one of `secrets`, is in a file that will be uploaded."""
    name = secret_named_by([pipeline.spec, pipeline.platforms], {"the token or the cookie of this command": secrets})
    if name is not None:
        raise InputError(
            f"{pipeline.file}: holds the secret that {name} has here; compile it without, and refer to it by the "
            "settings' secrets"
        )


def without_cache(pipeline: CompiledPipeline) -> CompiledPipeline:
    """The pipeline with the cache off for every task: the vendors' switches reach the root's tasks, or need a file."""
    spec = copy.deepcopy(pipeline.spec)
    for component in (spec["root"], *(spec.get("components") or {}).values()):
        for task in ((component.get("dag") or {}).get("tasks") or {}).values():
            task["cachingOptions"] = {}
    return replace(pipeline, spec=spec)


def as_sent(pipeline: CompiledPipeline) -> str:
    """What was checked, each document as JSON: PyYAML writes the text 1e3 without quotes, and Go reads a number."""
    documents: list[object] = [pipeline.spec]
    if pipeline.platforms:
        documents.append({"platforms": pipeline.platforms})
    # Not as ASCII: YAML has no pairs of escapes for one character.
    return "\n---\n".join(json.dumps(document, ensure_ascii=False) for document in documents) + "\n"
