"""What a run's directory is of: its params and its data, so that another run does not replace what is there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from components.shared.artifacts.artifact import write_atomically, write_json
from components.shared.artifacts.dataset import DATASET
from components.shared.errors import InputError, ParamsError
from components.shared.locks import HeldError, holder_of, locked
from components.shared.params.params import Params, ParamsWarning
from components.shared.run_lock import RUN_LOCK_FILE
from components.shared.strict_json import read_json
from components.train.checkpoints.directory import LOCK
from components.train.checkpoints.format import is_checkpoint_file
from components.train.checkpoints.identity import (
    FREE,
    OF_THE_DATASET,
    differences,
    differences_of_params,
    epochs_of,
    of_another_length,
)
from components.train.checkpoints.resume import manifests
from pipelines.targets.result import LINKS

PARAMS_FILE, DATA_FILE, RESULT_FILE = "params.json", "data.json", "result.json"
_WRITTEN = (PARAMS_FILE, DATA_FILE, RESULT_FILE, "kfp.log", *LINKS, "checkpoints", "events", "kfp", "steps")
_PATIENCE_S = 2.0  # a training whose run was killed saves its last checkpoint
_SHOWN = 8
# What may differ between two runs in one directory; whether another number of epochs may go on, checkpoints tell.
_FREE = (FREE - OF_THE_DATASET) | {"num_epochs"}


def require_run_directory(out: Path) -> None:
    """See that a run replaces nothing in a directory but what an earlier run has made.

    Other files may be there. So may empty directories, and checkpoints that somebody moved or linked there.

    Args:
        out: The directory; it need not be there.

    Raises:
        InputError: No run made it, and something is there that a run writes.
        OSError: It cannot be read.
    """
    if _is_of_a_run(out):
        return
    found = [name for name in _WRITTEN if os.path.lexists(out / name) and not _may_be_there(out / name)]
    if found:
        raise InputError(
            f"--out {out}: holds files that no run of Shutterline made ({', '.join(found)}), and the run would write "
            "there; name a new or empty directory"
        )


def _is_of_a_run(out: Path) -> bool:
    """Whether a run left its inputs, its result or, killed or under way, its lock."""
    inputs, result = _read(out / DATA_FILE), _read(out / RESULT_FILE)
    return (
        (inputs.keys() == {"data"} and isinstance(inputs["data"], str))
        or result.keys() >= {"run", "status", "artifacts", "steps", "seconds"}
        or holder_of(out / RUN_LOCK_FILE) is not None
    )


def _may_be_there(path: Path) -> bool:
    if not path.is_dir():
        return False
    if path.name != "checkpoints":
        return not any(path.iterdir())
    return path.is_symlink() or all(
        directory.is_dir() and all(_is_of_checkpoints(file.name) for file in directory.iterdir())
        for directory in path.iterdir()
    )


def _is_of_checkpoints(name: str) -> bool:
    return name == LOCK or is_checkpoint_file(name) or (name.startswith(".epoch-") and name.endswith(".tmp"))


@contextmanager
def checkpoints_held(out: Path) -> Iterator[list[Path]]:
    """The directories of a run's that hold checkpoints, each kept from any training.

    Raises:
        InputError: A training is at one.
        OSError: One cannot be read or written.
    """
    with ExitStack() as stack:
        found = [
            directory
            for directory in sorted((out / "checkpoints").glob("*/"))
            if any(_is_of_checkpoints(file.name) for file in directory.iterdir())
        ]
        for directory in found:
            try:
                stack.enter_context(locked(directory / LOCK, patience_s=_PATIENCE_S))
            except HeldError as error:
                raise InputError(
                    f"{directory}: {error} is training there; wait for its end, end it, or name another --out"
                ) from error
        yield found


def require_same_run(out: Path, params: Params, data: str) -> None:
    """See that what lies in a run's directory is of these params and this data.

    Args:
        out: The directory; anything may be there, or nothing.
        params: This run's.
        data: Where its images are.

    Raises:
        InputError: An earlier run made something there, of other params or data; with what differs.
    """
    found = [*_differences(out, params, data), *_at_checkpoints(out, params)] if _has_made_something(out) else []
    found = list(dict.fromkeys(found))
    if found:
        lines = "".join(f"\n  {line}" for line in found[:_SHOWN])
        more = f"\n  … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise InputError(
            f"--out {out}: holds another run; name another directory, or start over there by --start-over, which "
            f"removes its checkpoints. What differs:{lines}{more}"
        )


def write_inputs(out: Path, params: Params, data: str) -> None:
    """Write what the next run in a directory is held against."""
    write_json(out / DATA_FILE, {"data": data})
    write_atomically(out / PARAMS_FILE, (params.to_json(indent=2) + "\n").encode())


def _has_made_something(out: Path) -> bool:
    """Whether an earlier run got beyond its data's refusal: a dataset, or what came behind it."""
    made = (f"kfp/*/data-prep/dataset/{DATASET.manifest_file}", "checkpoints/*/epoch-*.json")
    return any(next(out.glob(pattern), None) is not None for pattern in made)


def _differences(out: Path, params: Params, data: str) -> Iterator[str]:
    there = _read(out / DATA_FILE).get("data")
    if there is not None and there != data:
        yield f"data: {there} there, {data} here"
    if raw := _read(out / PARAMS_FILE):
        with suppress(ParamsError), warnings.catch_warnings():  # of another version: what it says is compared as it is
            warnings.simplefilter("ignore", ParamsWarning)
            raw = Params.from_dict(raw).to_dict()
        yield from differences_of_params(raw, params.to_dict(), _FREE)


def _at_checkpoints(out: Path, params: Params) -> Iterator[str]:
    """Why training would refuse to go on from the checkpoints that are there; nothing of an earlier run is lost yet."""
    for directory in sorted((out / "checkpoints").glob("*/")):
        there = list(manifests(directory))
        if not there or epochs_of(there[0]) == params.num_epochs:
            continue
        with suppress(ModuleNotFoundError):  # torch, which knows the schedules: then the training step refuses it
            yield from differences(there[0], params, there[0].dataset_sha256)
        reasons = [of_another_length(manifest, params) for manifest in there]
        if reasons[0] is not None and all(reasons):
            yield f"{reasons[0]}; no checkpoint of before is kept"


def _read(file: Path) -> dict[str, Any]:
    try:
        document = read_json(file)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
