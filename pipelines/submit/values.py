"""The values of a run's inputs: what options say instead of the defaults in the compiled file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.shared.errors import InputError
from components.shared.events.redaction import redact
from components.shared.params.params import Params, parse
from components.shared.params.source import from_json, with_overrides
from components.shared.run import CHECKPOINTS_AUTO
from components.shared.storage.location import parse_location
from pipelines.compiled import CompiledPipeline, secret_named_by
from pipelines.params_files import HOW_TO_GET_PARAMS, Checked, are_example, check_params, load_checked

_OPTIONS = {"params": "--params", "data": "--data", "checkpoints": "--checkpoints"}


def checked_params(pipeline: CompiledPipeline, source: str | None, overrides: list[str]) -> Checked | None:
    """The params that options give, completely checked; None: the file's own are to be used.

    Args:
        pipeline: Has the params that ``--set`` changes where no others are given.
        source: What ``--params`` says, if it is given.
        overrides: What ``--set`` says, each.

    Raises:
        ParamsError: With every problem found.
        InputError: There are no params to change.
    """
    if not source and not overrides:
        return None
    if source:
        return load_checked(source, overrides)
    default: Any = pipeline.inputs.get("params", {}).get("defaultValue")
    if not isinstance(default, str):
        raise InputError(f"--set: {pipeline.file} has no params of its own to change; name some by --params")
    # As the steps take it: a file from elsewhere must not name another one here, which may be code.
    name = f"{pipeline.file}: its params"
    return check_params(parse(with_overrides(from_json(default, name), overrides), name))


def require_params_for_data(pipeline: CompiledPipeline) -> None:
    """See that data that an option names are not for the example's params, which a file compiled without others has.

    Raises:
        InputError: The file's params are the example's.
    """
    default: Any = pipeline.inputs.get("params", {}).get("defaultValue")
    if isinstance(default, str) and are_example(default):
        raise InputError(
            f"--data needs --params: those in {pipeline.file} are the example's digits', and decide the network; "
            f"compile it with --params, or: {HOW_TO_GET_PARAMS}"
        )


def run_values(
    pipeline: CompiledPipeline, params: Params | None, data: str | None, checkpoints: str | None
) -> dict[str, str]:
    """The values to send.

    Raises:
        InputError: The pipeline has no such input, one that it needs is missing, or one is no place or a secret.
    """
    given = {"params": None if params is None else params.to_form(), "data": data, "checkpoints": checkpoints}
    values = {name: value for name, value in given.items() if value is not None}
    for name, value in values.items():
        if name not in pipeline.inputs:
            known = ", ".join(pipeline.inputs) or "none"
            raise InputError(f"{_OPTIONS[name]}: {pipeline.file} has no input {name}; its inputs are: {known}")
        kind = pipeline.inputs[name].get("parameterType")
        if kind != "STRING":
            raise InputError(f"{_OPTIONS[name]}: the input {name} of {pipeline.file} is no STRING, but {kind}")
        if name != "params":
            _check_place(_OPTIONS[name], value)
        check_no_secret(_OPTIONS[name], value)
    for name, definition in pipeline.inputs.items():
        if name not in values and "defaultValue" not in definition and not definition.get("isOptional"):
            what = f"give it by {_OPTIONS[name]}" if name in _OPTIONS else "compile it with a default"
            raise InputError(f"{pipeline.file}: its input {name} has no value and no default; {what}")
    return values


def _check_place(option: str, value: str) -> None:
    if option == "--checkpoints" and value in ("", CHECKPOINTS_AUTO):
        return
    found = parse_location(value)
    if isinstance(found, Path) and not found.is_absolute():
        raise InputError(
            f"{option} {value}: would be looked for inside the steps' containers; name a bucket, gs://… or s3://…, or "
            "the absolute path of a volume that the settings mount"
        )


def check_no_secret(option: str, value: str) -> None:
    """See that a text that will be sent, and shown to whoever may see the run, is no secret.

    Raises:
        InputError: It is one; the message does not show it.
    """
    if redact(value) != value:
        raise InputError(
            f"{option}: holds a secret, or what looks like one, and would be shown to all who see the run; refer to "
            "it by the settings' secrets instead"
        )


def check_file_has_no_secret(pipeline: CompiledPipeline, *secrets: str) -> None:
    """See that no secret of this environment is in a file that will be uploaded.

    Args:
        pipeline: The file.
        secrets: Others that are known: the token and the cookies that it is sent with.

    Raises:
        InputError: One is; the message says which variable's.
    """
    name = secret_named_by([pipeline.spec, pipeline.platforms], {"the token or the cookie of this command": secrets})
    if name is not None:
        raise InputError(
            f"{pipeline.file}: holds the secret that {name} has here; compile it without, and refer to it by the "
            "settings' secrets"
        )
