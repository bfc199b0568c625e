"""The local target: the real pipeline through kfp's SubprocessRunner, with a readable log and one result file."""

from __future__ import annotations

import io
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from components.shared.artifacts import write_json
from components.shared.errors import EXIT_FAILURE, EXIT_OK, InputError
from components.shared.logs import LINE
from components.shared.params import Params
from components.shared.step import RECORDS_VARIABLE, StepName, StepRecord, read_records

STEPS: tuple[StepName, ...] = ("data-prep", "train", "evaluate", "exit")
RESULT_FILE = "result.json"
# What a finished run shows at the top of its directory: the step that makes it, and where kfp keeps it.
LINKS: dict[str, tuple[StepName, str]] = {
    "dataset": ("data-prep", "data-prep/dataset"),
    "model": ("train", "train/model"),
    "evaluation": ("evaluate", "evaluate/evaluation"),
    "report.html": ("evaluate", "evaluate/evaluation/report.html"),
}


@dataclass(frozen=True)
class LocalRun:
    """How a local run ended.

    Attributes:
        exit_code: 0 done, 2 bad input, 1 anything else.
        document: What result.json holds.
    """

    exit_code: int
    document: dict[str, Any]


def run_local(params: Params, data: Path, out: Path, show: Callable[[str], None]) -> LocalRun:
    """Run the pipeline on this machine.

    Args:
        params: Checked params.
        data: Folder of images or IDX files.
        out: Directory of the run; an earlier run's result in it is replaced, its other files stay.
        show: Gets each log line of the steps; everything else that is printed goes to ``kfp.log`` in `out`.

    Raises:
        InputError: The directory cannot be written.
    """
    out, data = out.absolute(), data.absolute()
    _clear(out)
    (out / "params.json").write_text(params.to_json(indent=2) + "\n", encoding="utf-8")
    start = time.perf_counter()
    root, records = out / "kfp", out / "steps"
    with (out / "kfp.log").open("w", encoding="utf-8") as log, _plain_paths(out, data) as (plain_root, plain_data):
        ran = _through_kfp(params, plain_data, plain_root, records, log, show)
    document = _document(read_records(records), _task_directory(root), ran, out)
    document["seconds"]["total"] = round(time.perf_counter() - start, 3)
    write_json(out / RESULT_FILE, document)
    exit_code = EXIT_OK if document["status"] == "succeeded" else document["error"].get("exit_code", EXIT_FAILURE)
    return LocalRun(exit_code, document)


def _clear(out: Path) -> None:
    """Remove what an earlier run of ours left to be looked at, result first, so that no old success survives."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / RESULT_FILE).unlink(missing_ok=True)
        for name in LINKS:
            if (out / name).is_symlink():
                (out / name).unlink()
        for step in STEPS:
            (out / "steps" / f"{step}.json").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from error


@contextmanager
def _plain_paths(out: Path, data: Path) -> Iterator[tuple[Path, Path]]:
    """Paths that kfp's SubprocessRunner can carry.

    It replaces the text ``python3`` everywhere in a task's command, artifact paths included, and puts the path of the
    interpreter into a shell line without quotes. Where a name would break on that, a link or a script beside the
    temporary files stands in for it.
    """
    root = out / "kfp"
    awkward = "python3" in f"{root}{data}" or not _shell_safe(sys.executable)
    if not awkward:
        yield root, data
        return
    root.mkdir(exist_ok=True)
    interpreter = sys.executable
    with tempfile.TemporaryDirectory(prefix="shutterline-") as directory:
        base = Path(directory)
        (base / "kfp").symlink_to(root)
        (base / "data").symlink_to(data)
        script = base / "python"
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(interpreter)} "$@"\n', encoding="utf-8")
        script.chmod(0o700)
        sys.executable = str(script)
        try:
            yield base / "kfp", base / "data" if data.exists() else data
        finally:
            sys.executable = interpreter


def _shell_safe(path: str) -> bool:
    return shlex.quote(path) == path


def _through_kfp(
    params: Params, data: Path, root: Path, records: Path, log: TextIO, show: Callable[[str], None]
) -> str | None:
    """Run the pipeline under kfp; returns what kfp raised, in words, or None."""
    from kfp import local

    from pipelines.image_classifier import image_classifier

    before = dict(os.environ)
    os.environ |= {RECORDS_VARIABLE: str(records), "PYTHONUNBUFFERED": "1"}
    try:
        with warnings.catch_warnings(), redirect_stdout(_LineFilter(log, show)):
            warnings.simplefilter("ignore")  # kfp doubts images whose name does not say "python"
            local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=False)
            carried = params.to_json().replace("python3", "python\\u0033")
            image_classifier(params=carried, data=str(data), checkpoints=str(records.parent / "checkpoints"))
    except Exception as error:  # kfp's own trouble: told with the steps' records, not instead of them
        log.write(f"\nkfp: {type(error).__name__}: {error}\n")
        return f"{type(error).__name__}: {error}"
    finally:
        os.environ.clear()
        os.environ.update(before)
    return None


class _LineFilter(io.TextIOBase):
    """Writes everything to the log and shows the lines that are the steps' own.

    kfp prints, around every step, its whole input and output and each line indented by some spaces.
    """

    def __init__(self, log: TextIO, show: Callable[[str], None]) -> None:
        self._log = log
        self._show = show
        self._partial = ""

    def write(self, text: str) -> int:
        self._log.write(text)
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            shown = line.lstrip(" ")
            if LINE.fullmatch(shown):
                self._log.flush()
                self._show(shown)
        return len(text)


def _task_directory(root: Path) -> Path | None:
    """The newest run's directory below kfp's pipeline root."""
    runs = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return max(runs, key=lambda path: path.stat().st_mtime_ns) if runs else None


def _document(records: dict[str, StepRecord], tasks: Path | None, kfp_error: str | None, out: Path) -> dict[str, Any]:
    """What result.json holds: outcome, metrics, where everything is, seconds per step."""
    artifacts = {}
    for name, (step, place) in LINKS.items():
        if tasks is not None and step in records and records[step].status == "succeeded":
            with suppress(OSError):  # a filesystem without links: the full path below is enough
                (out / name).symlink_to(os.path.relpath(tasks / place, out))
            artifacts[name.removesuffix(".html")] = str(tasks / place)
    if (out / "checkpoints").is_dir():
        artifacts["checkpoints"] = str(out / "checkpoints")
    error = _error(records, kfp_error, out)
    evaluated = records["evaluate"].report if "evaluate" in records else {}
    trained = records["train"].report if "train" in records else {}
    return {
        "status": "failed" if error else "succeeded",
        "error": error,
        "metrics": evaluated.get("metrics", {}),
        "training": {key: value for key, value in trained.items() if key not in ("model", "checkpoints")},
        "artifacts": artifacts,
        "params": str(out / "params.json"),
        "steps": {step: records[step].status for step in STEPS if step in records},
        "seconds": {step: round(records[step].seconds, 3) for step in STEPS if step in records},
        "log": str(out / "kfp.log"),
    }


def _error(records: dict[str, StepRecord], kfp_error: str | None, out: Path) -> dict[str, Any] | None:
    """Why the run failed: the first step's own word, else what is missing."""
    for step in STEPS:
        record = records.get(step)
        if record is None:
            why = f"kfp: {kfp_error}" if kfp_error else f"it left no record, so it was killed; see {out / 'kfp.log'}"
            return {"step": step, "type": "Killed", "message": why, "exit_code": EXIT_FAILURE}
        if record.error is not None:
            return {"step": step, **record.error.model_dump(), "exit_code": record.exit_code}
    if kfp_error:
        return {"step": None, "type": "kfp", "message": kfp_error, "exit_code": EXIT_FAILURE}
    return None
