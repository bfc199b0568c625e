"""The local target: the real pipeline through one of kfp's local runners, with a readable log and one result file."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
import warnings
from contextlib import AbstractContextManager, ExitStack, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from components.shared.errors import EXIT_OK, InputError, ShutterlineError
from components.shared.files import Output, disk_message, is_full, naming, write_json
from components.shared.locks import run_locked
from components.shared.logs import LINE
from components.shared.params.params import Params
from components.shared.run import RUN_VARIABLE, new_run_id
from components.shared.signals import TERMINATING, Terminated, handled
from components.shared.step import read_records
from components.shared.storage.location import AnyPath
from pipelines.targets.kfp_import import import_kfp
from pipelines.targets.run_directory import (
    RESULT_FILE,
    clear,
    link_artifacts,
    require_run_directory,
    require_same_run,
    result_document,
    write_inputs,
)
from pipelines.targets.steps import INTERRUPTED, REASONS, STOPS, LocalRunPaths, Steps, Target


@dataclass(frozen=True)
class LocalRun:
    """How a local run ended.

    Attributes:
        document: The content of result.json.
        is_reported: Whether the log lines that were shown hold the error's message.
        kept: What stays linked at the top of the directory of an earlier run, as this one made no model.
    """

    exit_code: int
    document: dict[str, Any]
    is_reported: bool
    kept: list[str]


class Lines:
    """The lines that a run's steps log, one after the other on standard error."""

    def __call__(self, line: str) -> None:
        """Show a line."""
        with suppress(OSError):  # of a terminal that was closed
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def running(self, paths: LocalRunPaths) -> AbstractContextManager[None]:
        """Within, a run is under way."""
        return nullcontext()


def run_local(
    params: Params,
    data: AnyPath,
    out: Path,
    show: Lines,
    target: Target,
    *,
    start_over: bool = False,
    follow_links: bool = False,
    is_mounted: bool = False,
) -> LocalRun:
    """Run the pipeline on this machine.

    Args:
        params: Checked params.
        data: Images and their labels: a folder, an archive or a file, here or in a bucket.
        out: Directory of the run; an earlier run's model and report stay until there are new ones.
        show: Shows each log line of the steps; everything else that is printed goes to ``kfp.log`` in `out`.
        target: What starts the steps.
        start_over: Remove the checkpoints that are there, also those of other params or data.
        follow_links: Let data prep read what links in the data lead to outside of it.
        is_mounted: Whether the steps see the directory, and not the system's temporary files.

    Raises:
        InputError: The directory cannot be written, holds a run of other params or data, one that is under way, or
            files of others that the run would replace.
        OSError: The disk is full.
    """
    import_kfp()
    out = out.absolute()
    data_named = str(data.absolute() if isinstance(data, Path) else data)
    with ExitStack() as stack:
        try:
            require_run_directory(out)
            out.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(run_locked(out))
            if not start_over:
                require_same_run(out, params, data_named)
            clear(out, start_over=start_over)
        except OSError as error:
            if is_full(error):
                raise
            raise InputError(f"--out {out}: cannot be written: {error.strerror or error}") from error
        write_inputs(out, params, data_named)
        start = time.perf_counter()
        stream = stack.enter_context((out / "kfp.log").open("wb", buffering=0))
        # Not always in the run's directory: the sockets of a step's workers need short paths.
        temporary = TemporaryDirectory(prefix=".shutterline-", dir=out if is_mounted else None)
        scratch = Path(stack.enter_context(temporary))  # in which kfp leaves a directory for every task
        paths = LocalRunPaths(os.environ.get(RUN_VARIABLE) or new_run_id(), out, scratch, lock, follow_links)
        log = Output(stream)
        shown = _LineFilter(log, show)
        with show.running(paths), target(paths) as steps:
            stop = _Stop(steps)
            with handled(dict.fromkeys((signal.SIGINT, *TERMINATING), stop.handle)):
                failure = _through_kfp(params, data_named, paths, steps, shown)
                if stop.signal is not None:
                    failure = REASONS[stop.signal]
                if failure and "exit" not in read_records(paths.records):
                    command = ["-m", "components.exit_step", "--params", str(out / "params.json")]
                    command += ["--state", "CANCELLED" if failure in STOPS else "FAILED", "--message", failure]
                    steps.run_exit_step(command, shown.write)
            failure = failure or _log_failure(log, paths)
            records = read_records(paths.records)
            artifacts, kept = link_artifacts(records, out)
            document = result_document(records, artifacts, failure, paths, steps)
        document["seconds"]["total"] = round(time.perf_counter() - start, 3)
        write_json(out / RESULT_FILE, document)
    why = document["error"]
    is_reported = why is not None and shown.holds(why["message"])
    return LocalRun(why["exit_code"] if why else EXIT_OK, document, is_reported, kept)


def _log_failure(log: Output, paths: LocalRunPaths) -> str | None:
    """Why the log is not whole; None: it is."""
    try:
        with naming(paths.log):
            log.check()
    except OSError as error:
        return disk_message(error) or str(error)
    return None


def _through_kfp(params: Params, data: str, paths: LocalRunPaths, steps: Steps, shown: _LineFilter) -> str | None:
    """Run the pipeline under kfp; returns what went wrong outside the steps, or None."""
    from kfp import local
    from kfp.local.config import LocalExecutionConfig

    configured = LocalExecutionConfig.instance
    (paths.scratch / "workspace").mkdir()
    try:
        with warnings.catch_warnings(), redirect_stdout(shown):
            warnings.simplefilter("ignore")  # kfp doubts images whose name does not say "python"
            local.init(
                runner=steps.runner,
                pipeline_root=str(paths.out / "kfp"),
                workspace_root=str(paths.scratch / "workspace"),
                raise_on_error=False,
            )
            steps.pipeline(params=params.to_json(), data=data, checkpoints=str(paths.out / "checkpoints"))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated as error:
        return REASONS[error.signal]
    except Exception as error:  # kfp's own: reported with the steps' records, not instead of them
        message = str(error) if isinstance(error, ShutterlineError) else f"kfp: {type(error).__name__}: {error}"
        shown.write(f"\n{message}\n")
        return message
    finally:
        LocalExecutionConfig.instance = configured
    return None


class _LineFilter(io.TextIOBase):
    """Writes everything to the log and shows the lines that are the steps' own.

    kfp prints, around every step, its whole input and output and each line indented by some spaces.
    """

    def __init__(self, log: Output, show: Lines) -> None:
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


class _Stop:
    """The signal handler of a local run; `signal` is the first signal that came, or None.

    kfp reads a step's output until the step ends, and runs the exit step after one that failed. So the first signal is
    only passed on to the step; kfp does the rest. A second one ends everything at once.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.signal: signal.Signals | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None or not self._steps.is_running():
            self.signal = self.signal or signal.Signals(number)
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
        self.signal = signal.Signals(number)
        self._steps.stop(self.signal)
