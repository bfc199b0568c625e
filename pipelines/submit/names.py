"""How versions and runs are called, on both platforms alike: what is the same gets the same name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace

from components.shared.errors import InputError, PlatformRefusedError
from components.shared.kubeflow.run import RunState
from components.shared.version import __version__
from pipelines.compiled import CompiledPipeline, PlatformName
from pipelines.submit.platform import Platform, RunRequest, Submitted
from pipelines.vertex_limits import JOB_ID
from pipelines.watch_text import printable

_DIGITS = 12  # of a digest in a name: 48 bits
_LONGEST = 128
_LONGEST_VERSION: dict[PlatformName, int] = {"kubeflow": 127, "vertex": _LONGEST}
_NUMBER_ROOM = 5  # for "-2" to "-9999"
_MOST_RUNS = 1000

# A run that ended so is started anew; any other is the run that was asked for.
_WORTH_ANOTHER: frozenset[RunState] = frozenset({"failed", "cancelled"})


def version_name(pipeline: CompiledPipeline) -> str:
    """What a version is called unless it is named: who made it, and a digest of what is in it."""
    maker = re.sub(r"[^a-z0-9.]+", "-", __version__.lower())
    return f"{maker}-{pipeline.digest[:_DIGITS]}"


def run_name(pipeline: CompiledPipeline, values: Mapping[str, str], caching: bool | None, **others: str | None) -> str:
    """What a run is called unless it is named: the pipeline, and a digest of everything that decides what it does.

    It is a job id of Vertex AI, too: a small letter, then small letters, digits and dashes.

    Args:
        pipeline: What shall run.
        values: Values of its inputs.
        caching: Whether steps may be served from a cache.
        others: What else is asked of the platform, such as the account that the run has; None: nothing.
    """
    asked = {name: value for name, value in others.items() if value is not None}
    content = [pipeline.digest, dict(values), caching, *([asked] if asked else [])]
    sent = json.dumps(content, sort_keys=True, separators=(",", ":"))
    name = re.sub(r"[^a-z0-9]+", "-", pipeline.name.lower()).strip("-")
    name = name if name[:1].isalpha() else f"run-{name}".rstrip("-")
    name = name[: _LONGEST - _DIGITS - _NUMBER_ROOM - 1].rstrip("-")
    return f"{name}-{hashlib.sha256(sent.encode()).hexdigest()[:_DIGITS]}"


def numbered(name: str, number: int) -> str:
    """A run's name for its first, second, third attempt: ``name``, ``name-2``, ``name-3``."""
    return name if number == 1 else f"{name}-{number}"


def check_name(option: str, name: str, longest: int = _LONGEST) -> None:
    """See that a pipeline, version or experiment can be called so.

    Raises:
        InputError: It cannot.
    """
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > longest:
        raise InputError(f"{option}: must be 1 to {longest} printable characters, got {printable(name, 60)!r}")


def check_version_name(name: str, target: PlatformName) -> None:
    """See that a version can be called so on a platform.

    Raises:
        InputError: It cannot.
    """
    check_name("--version-name", name, _LONGEST_VERSION[target])


def check_run_name(name: str, target: PlatformName) -> None:
    """See that a run can be called so on a platform.

    Raises:
        InputError: It cannot.
    """
    check_name("--name", name, _LONGEST - _NUMBER_ROOM)
    if target == "vertex" and re.fullmatch(JOB_ID, name) is None:
        raise InputError(
            f"--name: on Vertex AI a run's name is a small letter, then small letters, digits and dashes, "
            f"got {printable(name, 60)!r}"
        )


def submit_run(platform: Platform, request: RunRequest, *, again: bool) -> Submitted:
    """Start a run, unless it is there: one that waits, runs or succeeded under the name is returned.

    One that failed or was cancelled has the next number started, from ``name-2`` on.

    Args:
        platform: Where.
        request: The run, by its name without a number.
        again: Start the next number whatever became of the others.

    Raises:
        PlatformRefusedError: There are too many of them.
    """
    for number in range(1, _MOST_RUNS + 1):
        submitted = platform.submit(replace(request, name=numbered(request.name, number)))
        if not submitted.existed or not (again or submitted.state in _WORTH_ANOTHER):
            return submitted
    raise PlatformRefusedError(f"{request.name}: there are {_MOST_RUNS} runs of that name; choose another by --name")
