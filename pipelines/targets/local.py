"""The local target: the real pipeline through kfp's SubprocessRunner, with a readable log and one result file."""

from __future__ import annotations

import importlib
import io
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, get_args

from components.shared.artifacts import write_atomically, write_json
from components.shared.errors import EXIT_FAILURE, EXIT_OK, InputError
from components.shared.logs import LINE
from components.shared.params import Params
from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE, new_run_id
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated
from components.shared.step import RECORDS_VARIABLE, StepName, StepRecord, read_records
from pipelines.targets.stopping import stopped_with_its_steps

STEPS: tuple[StepName, ...] = get_args(StepName)  # in the order they run
RESULT_FILE = "result.json"
INTERRUPTED, TERMINATED = "interrupted from the keyboard", "told to end by SIGTERM"
_STOPS = {INTERRUPTED: EXIT_INTERRUPTED, TERMINATED: EXIT_TERMINATED}
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
        exit_code: 0 done, 2 bad input, 130 interrupted, 143 terminated, 1 anything else.
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
    write_atomically(out / "params.json", (params.to_json(indent=2) + "\n").encode())
    start = time.perf_counter()
    with (
        (out / "kfp.log").open("w", encoding="utf-8") as log,
        tempfile.TemporaryDirectory(prefix="shutterline-") as scratch,
        _carriable(out, data, Path(scratch)) as places,
    ):
        run = os.environ.get(RUN_VARIABLE) or new_run_id()
        shown = _LineFilter(log, lambda line: show(places.spoken(line)))
        with _environment(run, places), stopped_with_its_steps() as stop:
            trouble = _through_kfp(params, places, shown)
            if stop.signal is not None:
                trouble = INTERRUPTED if stop.signal == signal.SIGINT else TERMINATED
            if trouble and "exit" not in read_records(out / "steps"):
                _say_the_end(out, "CANCELLED" if trouble in _STOPS else "FAILED", trouble, shown)
        document = _document(read_records(out / "steps"), trouble, places) | {"run": run}
    document["seconds"]["total"] = round(time.perf_counter() - start, 3)
    write_json(out / RESULT_FILE, document)
    exit_code = EXIT_OK if document["status"] == "succeeded" else document["error"]["exit_code"]
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


@dataclass(frozen=True)
class _Places:
    """Where a run is, for people and for kfp.

    Attributes:
        out: The run's directory as its user names it.
        data: The data as its user names it.
        carried_out: The same directory by a name that kfp can carry.
        carried_data: The same data by such a name.
        scratch: For temporary files of the steps; gone after the run.
    """

    out: Path
    data: Path
    carried_out: Path
    carried_data: Path
    scratch: Path

    def spoken(self, text: str) -> str:
        """A text of the steps with the user's names in it."""
        return text.replace(str(self.carried_out), str(self.out)).replace(str(self.carried_data), str(self.data))


@contextmanager
def _carriable(out: Path, data: Path, scratch: Path) -> Iterator[_Places]:
    """Names that kfp's SubprocessRunner can carry.

    It replaces the text ``python3`` everywhere in a task's command, artifact paths included, and puts the path of the
    interpreter into a shell line without quotes. Where a name would break on that, a link or a script stands in.
    """
    if "python3" not in f"{out}{data}" and shlex.quote(sys.executable) == sys.executable:
        yield _Places(out, data, out, data, scratch)
        return
    (scratch / "out").symlink_to(out)
    (scratch / "data").symlink_to(data)
    interpreter, script = sys.executable, scratch / "python"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(interpreter)} "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    sys.executable = str(script)
    try:
        yield _Places(out, data, scratch / "out", scratch / "data", scratch)
    finally:
        sys.executable = interpreter


def load_kfp() -> None:
    """Import kfp and the pipeline ahead of time."""
    importlib.import_module("kfp.local")
    importlib.import_module("pipelines.image_classifier")


@contextmanager
def _environment(run: str, places: _Places) -> Iterator[None]:
    """What the steps find in their environment."""
    before = dict(os.environ)
    os.environ |= {
        RUN_VARIABLE: run,
        EVENTS_VARIABLE: str(places.out / "events"),
        RECORDS_VARIABLE: str(places.out / "steps"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # a file torch.py in the user's directory is not torch
        "TMPDIR": str(places.scratch),  # kfp leaves a directory of its own behind for every task
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _through_kfp(params: Params, places: _Places, shown: _LineFilter) -> str | None:
    """Run the pipeline under kfp; returns what went wrong outside the steps, in words, or None."""
    from kfp import local
    from kfp.local.config import LocalExecutionConfig

    from pipelines.image_classifier import image_classifier

    configured = LocalExecutionConfig.instance
    try:
        with warnings.catch_warnings(), redirect_stdout(shown):
            warnings.simplefilter("ignore")  # kfp doubts images whose name does not say "python"
            local.init(
                runner=local.SubprocessRunner(use_venv=False),
                pipeline_root=str(places.carried_out / "kfp"),
                workspace_root=str(places.scratch / "workspace"),
                raise_on_error=False,
            )
            image_classifier(
                params=params.to_json().replace("python3", "python\\u0033"),
                data=str(places.carried_data),
                checkpoints=str(places.carried_out / "checkpoints"),
            )
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except Exception as error:  # kfp's own trouble: told with the steps' records, not instead of them
        shown.write(f"\nkfp: {type(error).__name__}: {error}\n")
        return f"kfp: {type(error).__name__}: {error}"
    finally:
        LocalExecutionConfig.instance = configured
    return None


def _say_the_end(out: Path, state: str, message: str, shown: _LineFilter) -> None:
    """Run the exit step that kfp did not get to."""
    command = [sys.executable, "-m", "components.exit_step", "--params", str(out / "params.json")]
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        [*command, "--state", state, "--message", message],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="backslashreplace",
    )
    shown.write(done.stdout)


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


def _document(records: dict[str, StepRecord], trouble: str | None, places: _Places) -> dict[str, Any]:
    """What result.json holds: outcome, metrics, where everything is, seconds per step."""
    out, tasks, artifacts = places.out, _task_directory(places.out / "kfp"), {}
    for name, (step, place) in LINKS.items():
        if tasks is not None and step in records and records[step].status == "succeeded":
            with suppress(OSError):  # a filesystem without links: the full path below is enough
                (out / name).symlink_to(os.path.relpath(tasks / place, out))
            artifacts[name.removesuffix(".html")] = str(tasks / place)
    if (out / "checkpoints").is_dir():
        artifacts["checkpoints"] = str(out / "checkpoints")
    error = _error(records, trouble, places)
    evaluated = records["evaluate"].report if "evaluate" in records else {}
    trained = records["train"].report if "train" in records else {}
    return {
        "status": "succeeded" if error is None else "cancelled" if trouble in _STOPS else "failed",
        "error": error,
        "metrics": evaluated.get("metrics", {}),
        "training": {key: value for key, value in trained.items() if key not in ("model", "checkpoints")},
        "artifacts": artifacts,
        "params": str(out / "params.json"),
        "steps": {step: records[step].status for step in STEPS if step in records},
        "seconds": {step: round(records[step].seconds, 3) for step in STEPS if step in records},
        "log": str(out / "kfp.log"),
    }


def _error(records: dict[str, StepRecord], trouble: str | None, places: _Places) -> dict[str, Any] | None:
    """Why the run did not succeed: the first step's own word, else what is missing."""
    for step in STEPS:
        record = records.get(step)
        if trouble in _STOPS and (record is None or record.status != "succeeded"):
            kind = "KeyboardInterrupt" if trouble == INTERRUPTED else "Terminated"
            return {"step": step, "type": kind, "message": trouble, "exit_code": _STOPS[trouble]}
        if record is None:
            why = trouble or f"it left no record, so it was killed; see {places.out / 'kfp.log'}"
            return {"step": step, "type": "Killed", "message": why, "exit_code": EXIT_FAILURE}
        if record.error is not None:
            told = record.error.model_dump() | {"message": places.spoken(record.error.message)}
            return {"step": step, **told, "exit_code": record.exit_code}
    if trouble:
        return {"step": None, "type": "kfp", "message": trouble, "exit_code": EXIT_FAILURE}
    return None
