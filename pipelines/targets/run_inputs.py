"""What a run's directory is of: its params and its data, so that another run does not replace what is there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.shared.artifacts import write_atomically, write_json
from components.shared.dataset import DATASET
from components.shared.errors import InputError, ParamsError
from components.shared.params import Params, ParamsWarning
from components.shared.strict_json import read_json
from components.train.checkpoints.identity import (
    FREE,
    OF_THE_DATASET,
    differences,
    differences_of_params,
    epochs_of,
    of_another_length,
)
from components.train.checkpoints.resume import manifests

PARAMS_FILE, DATA_FILE = "params.json", "data.json"
_SHOWN = 8
# What may differ between two runs in one directory; whether another number of epochs may go on, checkpoints tell.
_FREE = (FREE - OF_THE_DATASET) | {"num_epochs"}


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
        there = manifests(directory)
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
