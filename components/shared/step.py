"""run_step(): the frame around every step, whether a command line or a pipeline started it.

It logs how the step began and ended, turns exceptions into exit codes, and leaves a step record where the environment
variable ``SHUTTERLINE_RECORDS`` names a directory. Exit codes: 0 done; 2 bad input, with one message and no
traceback; 130 interrupted; 1 anything else.
"""

from __future__ import annotations

import errno
import json
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from components.shared.artifacts import write_json
from components.shared.errors import EXIT_FAILURE, ShutterlineError
from components.shared.logs import log_to_stderr, step_logger
from components.shared.params import Params, ParamsWarning

RECORDS_VARIABLE = "SHUTTERLINE_RECORDS"
EXIT_INTERRUPTED = 130

StepName = Literal["data-prep", "train", "evaluate", "exit"]


class StepError(BaseModel):
    """Why a step failed."""

    model_config = ConfigDict(frozen=True)

    type: str
    message: str


class StepRecord(BaseModel):
    """How one step ended; one JSON file per step.

    Attributes:
        seconds: Wall time of the step's work, without starting its process.
        exit_code: What the step's process ends with.
        report: What the step says of its result: metrics, artifact paths.
    """

    model_config = ConfigDict(frozen=True)

    step: StepName
    status: Literal["succeeded", "failed", "cancelled"]
    seconds: float
    exit_code: int = 0
    report: dict[str, Any] = {}
    error: StepError | None = None


class Reported(Protocol):
    """A step's result that can tell itself as JSON data."""

    def report(self) -> dict[str, Any]:
        """Metrics, counts and artifact paths, for people and programs."""
        ...


ResultT = TypeVar("ResultT", bound=Reported)


def run_step(step: StepName, params: Params | str, work: Callable[[Params], ResultT]) -> tuple[ResultT, StepRecord]:
    """Run a step's work in its frame.

    Args:
        step: The step's name.
        params: The run's options, or their JSON text as a pipeline carries it.
        work: From checked params to the result.

    Returns:
        The work's result and the step's record.

    Raises:
        SystemExit: With the exit code, when the work failed; the reason is logged.
    """
    log_to_stderr()
    log = step_logger(step)
    start = time.perf_counter()

    def end_with(
        status: Literal["failed", "cancelled"], error: BaseException, message: str, exit_code: int
    ) -> NoReturn:
        record = StepRecord(
            step=step,
            status=status,
            seconds=time.perf_counter() - start,
            exit_code=exit_code,
            # A file's name may hold bytes that are no text, and a record is JSON.
            error=StepError(
                type=type(error).__name__, message=message.encode("utf-8", "backslashreplace").decode("utf-8")
            ),
        )
        _leave(record)
        raise StepFailed(record, exit_code) from error

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ParamsWarning)
            params = params if isinstance(params, Params) else Params.load(params)
        for warning in caught:
            log.warning("%s", warning.message)
        if (targets := params.status_targets.describe()) != "none":
            log.warning("status is logged here only: sending it to %s is not built yet", targets)
        log.info("started")
        result = work(params)
        record = StepRecord(step=step, status="succeeded", seconds=time.perf_counter() - start, report=result.report())
    except ShutterlineError as error:
        log.error("failed: %s", error)
        end_with("failed", error, str(error), error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            log.exception("failed: %s", type(error).__name__)
            end_with("failed", error, str(error), EXIT_FAILURE)
        message = f"{error.strerror}: {error.filename or 'while writing'}; free some space and run the step again"
        log.error("failed: %s", message)
        end_with("failed", error, message, EXIT_FAILURE)
    except KeyboardInterrupt as error:
        log.error("cancelled")
        end_with("cancelled", error, "interrupted from the keyboard", EXIT_INTERRUPTED)
    except Exception as error:
        log.exception("failed: %s", type(error).__name__)
        end_with("failed", error, str(error), EXIT_FAILURE)
    _leave(record)
    log.info("succeeded in %.1f s", record.seconds)
    return result, record


class StepFailed(SystemExit):
    """Ends the process with a step's exit code; carries the step's record.

    Attributes:
        record: How the step ended.
    """

    def __init__(self, record: StepRecord, exit_code: int) -> None:
        super().__init__(exit_code)
        self.record = record


def _leave(record: StepRecord) -> None:
    """Write the record where the run asks for it; a full disk there must not change how the step ended."""
    if directory := os.environ.get(RECORDS_VARIABLE):
        with suppress(OSError):
            Path(directory).mkdir(parents=True, exist_ok=True)
            write_json(Path(directory) / f"{record.step}.json", record.model_dump(mode="json"))


def read_records(directory: Path) -> dict[str, StepRecord]:
    """The step records in a directory, by step; files that are none are passed over."""
    records: dict[str, StepRecord] = {}
    for file in sorted(directory.glob("*.json")) if directory.is_dir() else []:
        with suppress(OSError, ValueError, ValidationError):
            record = StepRecord.model_validate(json.loads(file.read_text(encoding="utf-8")))
            records[record.step] = record
    return records
