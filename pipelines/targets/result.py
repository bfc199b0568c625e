"""result.json: how a local run ended and where everything is, put together from what its steps recorded."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from components.shared.errors import EXIT_FAILURE
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, TERMINATING
from components.shared.step import StepName, StepRecord
from components.train.checkpoints.resume import last_good
from pipelines.targets.steps import RunPlace, Steps

STEPS: tuple[StepName, ...] = get_args(StepName)  # in the order they run
INTERRUPTED = "interrupted from the keyboard"
# What a run that was told to end says of it, by the signal, and its exit code.
REASONS = {signal.SIGINT: INTERRUPTED} | {number: f"told to end by {number.name}" for number in TERMINATING}
STOPS = {reason: EXIT_INTERRUPTED if reason == INTERRUPTED else EXIT_TERMINATED for reason in REASONS.values()}
# What a finished run shows at the top of its directory: the step that makes it, and where kfp keeps it.
LINKS: dict[str, tuple[StepName, str]] = {
    "dataset": ("data-prep", "data-prep/dataset"),
    "model": ("train", "train/model"),
    "learning-curves.html": ("train", "train/model/learning-curves.html"),
    "evaluation": ("evaluate", "evaluate/evaluation"),
    "report.html": ("evaluate", "evaluate/evaluation/report.html"),
}


def linked(out: Path) -> list[str]:
    """What is linked at the top of a run's directory."""
    return [name for name in LINKS if (out / name).is_symlink()]


def link_artifacts(records: Mapping[str, StepRecord], place: RunPlace) -> tuple[dict[str, str], list[str]]:
    """Link what the steps made at the top of the run's directory.

    An earlier run's links go together, once there is another model: no report is beside a model that it is not of.

    Args:
        records: The records that the steps left.
        place: Where the run is.

    Returns:
        Where each artifact is, by name; and the earlier run's links that stay.
    """
    out, tasks, earlier = place.out, _task_directory(place.out / "kfp"), linked(place.out)
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
    records: dict[str, StepRecord], artifacts: dict[str, str], trouble: str | None, place: RunPlace, steps: Steps
) -> dict[str, Any]:
    """Outcome, metrics, where everything is, seconds per step.

    Args:
        records: The records that the steps left.
        artifacts: Where each artifact is, by name.
        trouble: What went wrong outside the steps, in words.
        place: Where the run is.
        steps: The steps, which may know how one ended that left no record.
    """
    out = place.out
    if any((out / "checkpoints").glob("*/epoch-*.json")):
        artifacts = artifacts | {"checkpoints": str(out / "checkpoints")}
    error = _error(records, trouble, place, steps)
    evaluated = records["evaluate"].report if "evaluate" in records else {}
    trained = records["train"].report if "train" in records else {}
    return {
        "run": place.run,
        "status": "succeeded" if error is None else "cancelled" if trouble in STOPS else "failed",
        "error": error,
        "metrics": evaluated.get("metrics", {}),
        "training": {key: value for key, value in trained.items() if key not in ("model", "checkpoints")},
        "artifacts": artifacts,
        "params": str(out / "params.json"),
        "steps": {step: records[step].status for step in STEPS if step in records},
        "seconds": {step: round(records[step].seconds, 3) for step in STEPS if step in records},
        "log": str(out / "kfp.log"),
    }


def _task_directory(root: Path) -> Path | None:
    """The newest run's directory below kfp's pipeline root."""
    runs = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return max(runs, key=lambda path: path.stat().st_mtime_ns) if runs else None


def saved_in(out: Path) -> str:
    """How far a run is saved in its directory, by its newest whole checkpoint; empty: nothing is."""
    kept = [(directory, last_good(directory)) for directory in (out / "checkpoints").glob("*/")]
    found = [(manifest.epoch, manifest.batch, manifest.place, directory) for directory, manifest in kept if manifest]
    return "{2} is saved in {3}".format(*max(found)) if found else ""


def _saved(training: StepRecord | None, place: RunPlace) -> str:
    """How far a run is saved that was told to end; empty: nothing is."""
    if training is None or training.status != "succeeded":
        return (training.saved if training is not None else "") or saved_in(place.out)
    return f"training is done, and its checkpoints are kept in {place.out / 'checkpoints'}"


def _error(records: dict[str, StepRecord], trouble: str | None, place: RunPlace, steps: Steps) -> dict[str, Any] | None:
    """Why the run did not succeed: the first step's own word, else what is missing."""
    for step in STEPS:
        record = records.get(step)
        if trouble in STOPS and (record is None or record.status != "succeeded"):
            kind = "KeyboardInterrupt" if trouble == INTERRUPTED else "Terminated"
            error = {"step": step, "type": kind, "message": trouble, "exit_code": STOPS[trouble]}
            return error | {"saved": _saved(records.get("train"), place)}
        if record is None:
            why = steps.how_it_ended(step) or trouble or f"it left no record, so it was killed; see {place.log}"
            return {"step": step, "type": "Killed", "message": why, "exit_code": EXIT_FAILURE}
        if record.error is not None:
            return {"step": step, **record.error.model_dump(), "exit_code": record.exit_code}
        if ended := steps.how_it_ended(step):  # after it had said that it succeeded
            return {"step": step, "type": "Killed", "message": ended, "exit_code": EXIT_FAILURE}
    if trouble:
        return {"step": None, "type": "kfp", "message": trouble, "exit_code": EXIT_FAILURE}
    return None
