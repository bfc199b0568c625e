"""The local target: the real pipeline through one of kfp's local runners, with a readable log and one result file."""

from __future__ import annotations

import importlib
import io
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from components.shared.artifacts.artifact import write_json
from components.shared.errors import EXIT_OK, InputError, ShutterlineError
from components.shared.files import Output, disk_message, is_full, naming
from components.shared.locks import remove_held
from components.shared.logs import LINE
from components.shared.params.params import Params
from components.shared.run import RUN_VARIABLE, new_run_id
from components.shared.run_lock import run_locked
from components.shared.signals import Terminated
from components.shared.step import read_records
from components.shared.storage.location import AnyPath
from components.train.checkpoints.directory import LOCK
from components.train.checkpoints.resume import remove_all
from pipelines.targets.result import INTERRUPTED, REASONS, STEPS, STOPS, link_artifacts, linked, result_document
from pipelines.targets.run_inputs import (
    RESULT_FILE,
    checkpoints_held,
    require_run_directory,
    require_same_run,
    write_inputs,
)
from pipelines.targets.steps import RunPlace, Steps, Target
from pipelines.targets.stopping import stopped_with


@dataclass(frozen=True)
class LocalRun:
    """How a local run ended.

    Attributes:
        exit_code: 0 done, 2 bad input, 130 interrupted, 143 terminated, 1 anything else.
        document: What result.json holds.
        is_reported: Whether the log lines that were shown hold the error's message.
        kept: What stays linked at the top of the directory of an earlier run, as this one made no model.
    """

    exit_code: int
    document: dict[str, Any]
    is_reported: bool
    kept: list[str]


class Lines(Protocol):
    """Where people see what the steps log."""

    def __call__(self, line: str) -> None:
        """Show a line."""
        ...

    def running(self, place: RunPlace) -> AbstractContextManager[None]:
        """Within, a run is under way."""
        ...


def run_local(
    params: Params, data: AnyPath, out: Path, show: Lines, target: Target, *, start_over: bool = False
) -> LocalRun:
    """Run the pipeline on this machine.

    Args:
        params: Checked params.
        data: Folder of images or IDX files, here or in a bucket.
        out: Directory of the run; an earlier run's model and report stay until there are new ones.
        show: Shows each log line of the steps; everything else that is printed goes to ``kfp.log`` in `out`.
        target: What starts the steps.
        start_over: Remove the checkpoints that are there, and nothing else beside them, which a run of the same params
            would go on from, and do so where they are of other params or data.

    Raises:
        InputError: The directory cannot be written, holds a run of other params or data, one that is under way, or
            files of others that the run would replace.
        OSError: The disk is full.
    """
    out = out.absolute()
    named = str(data.absolute() if isinstance(data, Path) else data)
    with _writing(out):
        require_run_directory(out)
        out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _writing(out):
            lock = stack.enter_context(run_locked(out))
        return _run_alone(params, named, out, show, target, lock, start_over=start_over)


def _run_alone(
    params: Params,
    named: str,
    out: Path,
    show: Lines,
    target: Target,
    lock: Path | None,
    *,
    start_over: bool,
) -> LocalRun:
    """Run the pipeline in a directory that no other run is at."""
    with _writing(out):
        if not start_over:
            require_same_run(out, params, named)
        _clear(out, start_over=start_over)
    write_inputs(out, params, named)
    start = time.perf_counter()
    with (out / "kfp.log").open("wb", buffering=0) as stream, target.scratch(out) as scratch:
        place = RunPlace(os.environ.get(RUN_VARIABLE) or new_run_id(), out, Path(scratch), lock)
        log = Output(stream)
        shown = _LineFilter(log, show)
        with show.running(place), target.steps(place) as steps:
            with stopped_with(steps) as stop:
                trouble = _through_kfp(params, named, place, steps, shown)
                if stop.signal is not None:
                    trouble = REASONS[stop.signal]
                if trouble and "exit" not in read_records(place.records):
                    steps.say_the_end("CANCELLED" if trouble in STOPS else "FAILED", trouble, shown.write)
            trouble = trouble or _trouble_of(log, place)
            records = read_records(place.records)
            artifacts, kept = link_artifacts(records, place)
            document = result_document(records, artifacts, trouble, place, steps)
    document["seconds"]["total"] = round(time.perf_counter() - start, 3)
    write_json(out / RESULT_FILE, document)
    exit_code = EXIT_OK if document["status"] == "succeeded" else document["error"]["exit_code"]
    is_reported = document["error"] is not None and shown.holds(document["error"]["message"])
    return LocalRun(exit_code, document, is_reported, kept)


def _clear(out: Path, *, start_over: bool) -> None:
    """Remove what says how an earlier run ended, result first; its model and report only where all begins anew."""
    with ExitStack() as stack:
        directories = stack.enter_context(checkpoints_held(out)) if start_over else []
        (out / RESULT_FILE).unlink(missing_ok=True)
        for step in STEPS:
            (out / "steps" / f"{step}.json").unlink(missing_ok=True)
        if start_over:
            for name in linked(out):
                (out / name).unlink()
        for directory in directories:
            remove_all(directory)
            remove_held(directory / LOCK)
            with suppress(OSError):  # a link, or what others keep there
                directory.rmdir()


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Within, a run's directory that cannot be written is what the user named."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise
        raise InputError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def _trouble_of(log: Output, place: RunPlace) -> str | None:
    """Why the log is not whole; None: it is."""
    try:
        with naming(place.log):
            log.check()
    except OSError as error:
        return disk_message(error) or str(error)
    return None


def load_kfp() -> None:
    """Import kfp and the pipeline ahead of time."""
    importlib.import_module("kfp.local")
    importlib.import_module("pipelines.image_classifier")


def _through_kfp(params: Params, data: str, place: RunPlace, steps: Steps, shown: _LineFilter) -> str | None:
    """Run the pipeline under kfp; returns what went wrong outside the steps, in words, or None."""
    from kfp import local
    from kfp.local.config import LocalExecutionConfig

    configured, ours = LocalExecutionConfig.instance, None
    (place.scratch / "workspace").mkdir()
    try:
        with warnings.catch_warnings(), redirect_stdout(shown):
            warnings.simplefilter("ignore")  # kfp doubts images whose name does not say "python"
            local.init(
                runner=steps.runner,
                pipeline_root=str(place.out / "kfp"),
                workspace_root=str(place.scratch / "workspace"),
                raise_on_error=False,
            )
            ours = LocalExecutionConfig.instance
            steps.pipeline(params=params.to_json(), data=data, checkpoints=str(place.out / "checkpoints"))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated as error:
        return REASONS[error.signal]
    except ShutterlineError as error:
        shown.write(f"\n{error}\n")
        return str(error)
    except Exception as error:  # kfp's own trouble: told with the steps' records, not instead of them
        shown.write(f"\nkfp: {type(error).__name__}: {error}\n")
        return f"kfp: {type(error).__name__}: {error}"
    finally:
        if LocalExecutionConfig.instance is ours:  # another thread may have configured kfp for itself meanwhile
            LocalExecutionConfig.instance = configured
    return None


class _LineFilter(io.TextIOBase):
    """Writes everything to the log and shows the lines that are the steps' own.

    kfp prints, around every step, its whole input and output and each line indented by some spaces.
    """

    def __init__(self, log: Output, show: Callable[[str], None]) -> None:
        self._log = log
        self._show = show
        self._partial = ""
        self._errors: list[str] = []

    def holds(self, message: str) -> bool:
        """Whether errors that were shown hold every line of a message."""
        return all(any(shown.endswith(line) for shown in self._errors) for line in message.splitlines())

    def write(self, text: str) -> int:
        # The name of a file may have bytes that are no text.
        self._log.write(text.encode("utf-8", "backslashreplace"))
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            shown = line.lstrip(" ")
            if (found := LINE.fullmatch(shown)) is not None:
                if found["level"] == "ERROR":
                    self._errors.append(shown)
                self._show(shown)
        return len(text)
