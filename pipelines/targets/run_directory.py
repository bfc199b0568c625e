"""The directory of a local run: what may be in it, what an earlier run left, and result.json at the end."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, get_args

from components.shared.artifacts.dataset import DATASET
from components.shared.errors import EXIT_FAILURE, InputError, ParamsError
from components.shared.files import write_atomically, write_json
from components.shared.locks import RUN_LOCK_FILE, HeldError, holder_of, locked, remove_held
from components.shared.params.params import Params
from components.shared.params.parsed import ParamsWarning
from components.shared.params.training_id import FREE, OF_THE_DATASET
from components.shared.step import StepName, StepRecord
from components.shared.strict_json import read_json
from components.train.checkpoints.format import is_checkpoint_file, remove_all
from components.train.checkpoints.resume import (
    LOCK,
    differences,
    differences_of_params,
    last_good,
    manifests,
    of_another_length,
)
from pipelines.targets.steps import INTERRUPTED, STOPS, LocalRunPaths, Steps

# Those of the pipeline, in the order they run.
STEPS: tuple[StepName, ...] = tuple(step for step in get_args(StepName) if step != "predict")
# What a finished run shows at the top of its directory: the step that makes it, and where kfp keeps it.
LINKS: dict[str, tuple[StepName, str]] = {
    "dataset": ("data-prep", "data-prep/dataset"),
    "quality.html": ("data-prep", "data-prep/dataset/quality.html"),
    "model": ("train", "train/model"),
    "learning-curves.html": ("train", "train/model/learning-curves.html"),
    "evaluation": ("evaluate", "evaluate/evaluation"),
    "report.html": ("evaluate", "evaluate/evaluation/report.html"),
}
PARAMS_FILE, DATA_FILE, RESULT_FILE = "params.json", "data.json", "result.json"
DIRECTORIES = ("checkpoints", "events", "kfp", "steps")
_WRITTEN = (PARAMS_FILE, DATA_FILE, RESULT_FILE, "kfp.log", *LINKS, *DIRECTORIES)
_LOCK_TIMEOUT_S = 2.0  # a training whose run was killed saves its last checkpoint
_SHOWN = 8
# What may differ between two runs in one directory; whether another number of epochs may go on depends on checkpoints.
_FREE = (FREE - OF_THE_DATASET) | {"num_epochs"}


def require_run_directory(out: Path) -> None:
    """Refuse a directory in which a run would replace what no earlier run has made, by an InputError.

    Other files may be there. So may empty directories, and checkpoints that somebody moved or linked there.
    """
    if _is_of_a_run(out):
        return
    found = [name for name in _WRITTEN if os.path.lexists(out / name) and not _may_stay(out / name)]
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


def _may_stay(path: Path) -> bool:
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


def require_same_run(out: Path, params: Params, data: str) -> None:
    """Refuse a directory in which an earlier run of other params or data made something, by an InputError."""
    made = (f"kfp/*/data-prep/dataset/{DATASET.manifest_file}", "checkpoints/*/epoch-*.json")
    if not any(next(out.glob(pattern), None) for pattern in made):
        return
    found = list(dict.fromkeys([*_differences(out, params, data), *_checkpoint_differences(out, params)]))
    if found:
        lines = "".join(f"\n  {line}" for line in found[:_SHOWN])
        more = f"\n  … and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise InputError(
            f"--out {out}: holds another run; name another directory, or start over there by --start-over, which "
            f"removes its checkpoints. What differs:{lines}{more}"
        )


def _differences(out: Path, params: Params, data: str) -> Iterator[str]:
    there = _read(out / DATA_FILE).get("data")
    if there is not None and there != data:
        yield f"data: {there} there, {data} here"
    if raw := _read(out / PARAMS_FILE):
        with suppress(ParamsError), warnings.catch_warnings():  # of another version: compared as it is
            warnings.simplefilter("ignore", ParamsWarning)
            raw = Params.from_dict(raw).to_dict()
        yield from differences_of_params(raw, params.to_dict(), _FREE)


def _checkpoint_differences(out: Path, params: Params) -> Iterator[str]:
    """Why training would refuse to go on from the checkpoints that are there; nothing of an earlier run is lost yet."""
    for directory in sorted((out / "checkpoints").glob("*/")):
        there = list(manifests(directory))
        if not there or there[0].num_epochs == params.num_epochs:
            continue
        with suppress(ModuleNotFoundError):  # torch, which knows the schedules: then the training step refuses it
            yield from differences(there[0], params, there[0].dataset_sha256)
        reasons = [of_another_length(manifest, params) for manifest in there]
        if reasons[0] is not None and all(reasons):
            yield f"{reasons[0]}; no checkpoint of before is kept"


def write_inputs(out: Path, params: Params, data: str) -> None:
    """Write what the next run in a directory is compared with."""
    write_json(out / DATA_FILE, {"data": data})
    write_atomically(out / PARAMS_FILE, (params.to_json(indent=2) + "\n").encode())


def _read(file: Path) -> dict[str, Any]:
    try:
        document = read_json(file)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def clear(out: Path, *, start_over: bool) -> None:
    """Remove what an earlier run reported, result first; its model, report and checkpoints only to start over.

    Raises:
        InputError: A training is at the checkpoints.
    """
    with ExitStack() as stack:
        directories = [
            directory
            for directory in (sorted((out / "checkpoints").glob("*/")) if start_over else ())
            if any(_is_of_checkpoints(file.name) for file in directory.iterdir())
        ]
        for directory in directories:
            try:
                stack.enter_context(locked(directory / LOCK, timeout_s=_LOCK_TIMEOUT_S))
            except HeldError as error:
                raise InputError(
                    f"{directory}: {error} is training there; wait for its end, end it, or name another --out"
                ) from error
        (out / RESULT_FILE).unlink(missing_ok=True)
        for step in STEPS:
            (out / "steps" / f"{step}.json").unlink(missing_ok=True)
        if start_over:
            for name in _linked(out):
                (out / name).unlink()
        for directory in directories:
            remove_all(directory)
            remove_held(directory / LOCK)
            with suppress(OSError):  # a link, or what others keep there
                directory.rmdir()


def _linked(out: Path) -> list[str]:
    return [name for name in LINKS if (out / name).is_symlink()]


def link_artifacts(records: Mapping[str, StepRecord], out: Path) -> tuple[dict[str, str], list[str]]:
    """Link what the steps made at the top of the run's directory.

    An earlier run's links go together, once there is another model: no report is beside a model that it is not of.

    Returns:
        The path of each artifact by name; and the earlier run's links that stay.
    """
    runs = [path for path in (out / "kfp").glob("*/") if path.is_dir()]
    tasks = max(runs, key=lambda path: path.stat().st_mtime_ns, default=None)
    earlier = _linked(out)
    made = {
        name: tasks / path
        for name, (step, path) in LINKS.items()
        if tasks is not None and step in records and records[step].status == "succeeded"
    }
    kept = earlier if "model" in earlier and "model" not in made else []
    if not kept:
        for name in earlier:
            (out / name).unlink()
        for name, path in made.items():
            with suppress(OSError):  # a filesystem without links: the full path is enough
                (out / name).symlink_to(os.path.relpath(path, out))
    return {name.removesuffix(".html").replace("-", "_"): str(path) for name, path in made.items()}, kept


def result_document(
    records: dict[str, StepRecord],
    artifacts: dict[str, str],
    failure: str | None,
    paths: LocalRunPaths,
    steps: Steps,
) -> dict[str, Any]:
    """The content of result.json: outcome, metrics, paths, seconds per step.

    `failure` is what went wrong outside the steps, which may know how one ended that left no record.
    """
    out = paths.out
    if any((out / "checkpoints").glob("*/epoch-*.json")):
        artifacts = artifacts | {"checkpoints": str(out / "checkpoints")}
    error = _error(records, failure, paths, steps)
    evaluated = records["evaluate"].report if "evaluate" in records else {}
    trained = records["train"].report if "train" in records else {}
    return {
        "run": paths.run,
        "status": "succeeded" if error is None else "cancelled" if failure in STOPS else "failed",
        "error": error,
        "metrics": evaluated.get("metrics", {}),
        "gate": evaluated.get("gate"),
        "published": records["publish"].report.get("published") if "publish" in records else None,
        "training": {key: value for key, value in trained.items() if key not in ("model", "checkpoints")},
        "artifacts": artifacts,
        "params": str(out / PARAMS_FILE),
        "steps": {step: records[step].status for step in STEPS if step in records},
        "seconds": {step: round(records[step].seconds, 3) for step in STEPS if step in records},
        "log": str(paths.log),
    }


def saved_in(out: Path) -> str:
    """How far a run is saved in its directory, by its newest whole checkpoint; empty: nothing is."""
    kept = [(directory, last_good(directory)) for directory in (out / "checkpoints").glob("*/")]
    found = [(manifest.epoch, manifest.batch, manifest.position, directory) for directory, manifest in kept if manifest]
    return "{2} is saved in {3}".format(*max(found)) if found else ""


def _saved(training: StepRecord | None, out: Path) -> str:
    if training is not None and training.status == "succeeded":
        return f"training is done, and its checkpoints are kept in {out / 'checkpoints'}"
    return (training.saved if training is not None else "") or saved_in(out)


def _error(
    records: dict[str, StepRecord], failure: str | None, paths: LocalRunPaths, steps: Steps
) -> dict[str, Any] | None:
    """Why the run did not succeed: the first step's own error, else what is missing."""
    evaluated = records["evaluate"].report if "evaluate" in records else {}
    for step in STEPS:
        record = records.get(step)
        if step == "publish" and record is None and not evaluated.get("publish"):
            continue  # not every run has it
        if failure in STOPS and (record is None or record.status != "succeeded"):
            kind = "KeyboardInterrupt" if failure == INTERRUPTED else "Terminated"
            error = {"step": step, "type": kind, "message": failure, "exit_code": STOPS[failure]}
            return error | {"saved": _saved(records.get("train"), paths.out)}
        if record is not None and record.error is not None:
            kind, message = record.error.type, record.error.message
            return {"step": step, "type": kind, "message": message, "exit_code": record.exit_code}
        why = steps.failure(step)  # also of one that failed after it had recorded its success
        if record is None:
            why = why or failure or f"it left no record, so it was killed; see {paths.log}"
        if why:
            return {"step": step, "type": "Killed", "message": why, "exit_code": EXIT_FAILURE}
    return {"step": None, "type": "kfp", "message": failure, "exit_code": EXIT_FAILURE} if failure else None
