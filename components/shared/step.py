"""run_step(): the frame around every step, whether a command line or a pipeline started it.

It logs and emits how the step began and ended, turns exceptions and signals into exit codes, and leaves a step record
where the environment variable ``SHUTTERLINE_RECORDS`` names a directory. Exit codes: 0 done; 2 bad input, with one
message and no traceback; 130 interrupted; 143 terminated; 1 anything else.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from components.shared.errors import EXIT_FAILURE, ShutterlineError
from components.shared.events.data import Cancelled, Emit, Error, EventData, Failed, PipelineEnded, ignore_events
from components.shared.events.redaction import redact
from components.shared.files import disk_message, write_json
from components.shared.locks import end_with_run
from components.shared.logs import log_to_stderr, step_logger
from components.shared.params.params import Params
from components.shared.params.parsed import ParamsWarning
from components.shared.pipeline_end import part_of
from components.shared.process_group import ignored_rank, is_rank_zero, should_report, starts_again
from components.shared.run import StepRun, current_run, step_run
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, Termination, sigterm_kept
from components.shared.staging import POD, Addresses
from components.shared.status import Status
from components.shared.strict_json import read_json
from components.shared.tracking.recorder import Recorder, recorder_of

RECORDS_VARIABLE = "SHUTTERLINE_RECORDS"

StepName = Literal["data-prep", "train", "evaluate", "publish", "exit", "predict"]


class StepRecord(BaseModel):
    """How one step ended; one JSON file per step.

    Attributes:
        seconds: Wall time of the step's work, without starting its process.
        part: Which part of the step it was, from 0, where several share it.
        saved: Of a step that was ended by a signal: how far it is saved, and where; empty: nothing is.
        delivery: What became of its status events.
    """

    model_config = ConfigDict(frozen=True)

    step: StepName
    status: Literal["succeeded", "failed", "cancelled"]
    seconds: float
    exit_code: int = 0
    part: int | None = None
    saved: str = ""
    report: dict[str, Any] = {}
    error: Error | None = None
    delivery: dict[str, Any] | None = None


class Reported(Protocol):
    """A step's result."""

    def report(self) -> dict[str, Any]:
        """Metrics, counts and artifact paths as JSON data, for people and programs."""
        ...

    def event(self, seconds: float) -> EventData:
        """The step's last status event, given the seconds the work took."""
        ...


ResultT = TypeVar("ResultT", bound=Reported)


def run_step(
    step: StepName,
    params: Params | str | Callable[[], Params],
    work: Callable[[Params, Emit], ResultT],
    run: Callable[[], StepRun] = step_run,
    addresses: Mapping[str, str] | None = None,
    *,
    part: tuple[int, int] | None = None,
    is_recorded: bool = True,
) -> tuple[ResultT, StepRecord]:
    """Run a step's work in its frame, and return its result and the step's record.

    Args:
        step: The step's name.
        params: The run's options, their JSON text as a pipeline carries it, or what loads them.
        work: From checked params, and what takes its status, to the result.
        run: Finds out which run the step belongs to.
        addresses: Address by local path: what events, the record and its error messages name the paths by.
        part: Which part of the step this is, from 0, and how many there are; status has each as a step of its own.
        is_recorded: Whether it is recorded in MLflow, where the environment names a server.

    Raises:
        StepFailed: A SystemExit with the exit code, when the work failed; the reason is logged.
    """
    return _run(step, params, work, run, addresses, part=part, is_recorded=is_recorded)


def run_without_params(
    step: StepName, work: Callable[[], ResultT], addresses: Mapping[str, str] | None = None
) -> tuple[ResultT, StepRecord]:
    """As :func:`run_step`, of a step that needs no params and was given none: it is of no run, and emits no status."""
    return _run(step, None, lambda params, emit: work(), step_run, addresses)


def _run(
    step: StepName,
    params: Params | str | Callable[[], Params] | None,
    work: Callable[[Any, Emit], ResultT],
    run: Callable[[], StepRun],
    addresses: Mapping[str, str] | None,
    *,
    part: tuple[int, int] | None = None,
    is_recorded: bool = True,
) -> tuple[ResultT, StepRecord]:
    log_to_stderr()
    if (ignored := ignored_rank()) is not None:
        step_logger(step).warning("%s", ignored)
    with sigterm_kept() as termination:
        end_with_run()
        frame = _Frame(step, part, termination, Addresses(addresses), is_recorded=is_recorded)
        outside = current_run.set("")
        try:
            return copy_context().run(frame.run, params, work, run)  # the run is current within it alone
        except Terminated as error:  # also one that comes while another end is being made ready
            frame.cancel(error, error.reason, EXIT_TERMINATED)
        finally:
            current_run.reset(outside)


class _Frame:
    def __init__(
        self,
        step: StepName,
        part: tuple[int, int] | None,
        termination: Termination,
        addresses: Addresses,
        *,
        is_recorded: bool,
    ) -> None:
        self._step = step
        self._part = part
        self._termination = termination
        self._addresses = addresses
        self._process = os.getpid()
        self._log = step_logger(step)
        self._start = time.perf_counter()
        self._status: Status | None = None
        self._is_recorded = is_recorded
        self._recorder: Recorder | None = None
        self._made: dict[str, Any] = {}  # the result's report, in paths of this machine

    def run(
        self,
        params: Params | str | Callable[[], Params] | None,
        work: Callable[[Any, Emit], ResultT],
        run: Callable[[], StepRun],
    ) -> tuple[ResultT, StepRecord]:
        addresses = self._addresses
        try:
            if params is None:
                self._termination.arm()
                self._log.info("started")
                result = work(None, ignore_events)
            else:
                name = part_of(self._step, self._part[0]) if self._part else self._step
                self._status = status = Status(name, replace(run(), part=self._part), self._log)
                current_run.set(status.run.run)
                # SIGTERM is deferred until here: before, nobody could report how the step ended.
                self._termination.arm()
                params = self._checked(params)
                status.open(params)
                self._log.info("started")
                if self._is_recorded:
                    self._recorder = recorder_of(self._step, status.run, params, self._log)
                status.check(params.on_status_error)
                result = work(params, self._emit_to(status))
            report = addresses.document(result.report())
            self._made = getattr(result, "local", result).report()
            last = addresses.event(result.event(self._seconds))
        except ShutterlineError as error:
            if should_report(error):
                self._log.error("failed: %s", error)
            self._end_badly(error, "failed", str(error), error.exit_code)
        except KeyboardInterrupt as error:
            self.cancel(error, "interrupted from the keyboard", EXIT_INTERRUPTED)
        except (Exception, SystemExit) as error:
            message = disk_message(error) if isinstance(error, OSError) else None
            if message is not None:
                self._log.error("failed: %s", message)
            else:
                self._log.exception("failed: %s", type(error).__name__)
            self._end_badly(error, "failed", message or str(error), EXIT_FAILURE)
        record = StepRecord(step=self._step, status="succeeded", seconds=self._seconds, report=report)
        record = self._end(record, last)
        if self._step == "exit":
            self._require_published(record)
        return result, record

    def _emit_to(self, status: Status) -> Emit:
        addresses, recorder, emit = self._addresses, self._recorder, status.emit
        addressed = (lambda data: emit(addresses.event(data))) if addresses else emit
        return addressed if recorder is None else lambda data: addressed(recorder.take(data))

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self._start

    def _checked(self, params: Params | str | Callable[[], Params]) -> Params:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ParamsWarning)
            if isinstance(params, str):
                params = Params.load(params)
            elif not isinstance(params, Params):
                params = params()
        for warning in caught if is_rank_zero() else ():
            self._log.warning("%s", warning.message)
        return params

    def cancel(self, error: BaseException, reason: str, exit_code: int) -> NoReturn:
        if is_rank_zero():
            self._log.error(f"cancelled: {reason}" if isinstance(error, Terminated) else "cancelled")
        self._end_badly(error, "cancelled", reason, exit_code)

    def _end_badly(
        self, error: BaseException, status: Literal["failed", "cancelled"], message: str, exit_code: int
    ) -> NoReturn:
        # A file's name may hold bytes that are no text, and a record is JSON.
        text = self._addresses.text(message).encode("utf-8", "backslashreplace").decode("utf-8")
        reason = Error(type=type(error).__name__, message=redact(text))
        record = StepRecord(step=self._step, status=status, seconds=self._seconds, exit_code=exit_code, error=reason)
        if self._step == "exit":  # whose own end is not the pipeline's
            pipeline = (self._status.run.pipeline if self._status else None) or ""
            event: EventData = PipelineEnded(pipeline, "unknown", "", f"the exit step {status}: {reason.message}", [])
        elif status == "failed":
            event = Failed(record.seconds, reason, exit_code, starts_again=starts_again(error) or None)
        else:
            event = Cancelled(record.seconds, message, exit_code, starts_again=starts_again(error) or None)
            # The note is of what was interrupted, which knows its checkpoints.
            saved = self._addresses.text("; ".join(getattr(error, "__notes__", ())))
            record = record.model_copy(update={"saved": saved})
        raise StepFailed(self._end(record, event), exit_code) from error

    def _require_published(self, record: StepRecord) -> None:
        """The exit step's one duty: its event is at every broker, or where a replay finds it."""
        delivery = record.delivery or {}
        missing = [broker["place"] for broker in delivery.get("brokers", {}).values() if broker["undelivered"]]
        if not missing or delivery.get("kept"):
            return
        message = f"the pipeline's end is not at {', '.join(missing)}, and is kept nowhere else"
        self._log.error("failed: %s", message)
        error = Error(type="StatusUnavailableError", message=message)
        record = record.model_copy(update={"status": "failed", "exit_code": EXIT_FAILURE, "error": error})
        _write_record(record)
        raise StepFailed(record, EXIT_FAILURE)

    def _end(self, record: StepRecord, last: EventData) -> StepRecord:
        self._termination.disarm()
        record = record.model_copy(update={"part": self._part[0] if self._part else None})
        if os.getpid() != self._process:
            return record  # a forked worker that came out of the work this way; the step is not its to end
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            last = recorder.finish(last, self._made)
        if self._status is not None:
            record = record.model_copy(update={"delivery": self._addresses.document(self._status.end(last))})
        if recorder is not None:
            recorder.close()
        _write_record(record)
        if record.status == "succeeded":
            self._log.info("succeeded in %.1f s", record.seconds)
        return record


class StepFailed(SystemExit):
    """Ends the process with a step's exit code; carries the step's record."""

    def __init__(self, record: StepRecord, exit_code: int) -> None:
        super().__init__(exit_code)
        self.record = record


def _write_record(record: StepRecord) -> None:
    if is_rank_zero() and (directory := os.environ.get(RECORDS_VARIABLE)):
        with suppress(OSError):
            Path(directory).mkdir(parents=True, exist_ok=True)
            # As the standard of JSON has it: a number that is not finite becomes null.
            document = json.loads(record.model_dump_json())
            write_json(Path(directory) / f"{_name_of(record)}.json", document)


def _name_of(record: StepRecord) -> str:
    return record.step if record.part is None else part_of(record.step, record.part)


def read_records(directory: Path) -> dict[str, StepRecord]:
    """The step records in a directory, by step or part of one; files that are none are passed over."""
    records: dict[str, StepRecord] = {}
    for file in sorted(directory.glob("*.json")) if directory.is_dir() else []:
        with suppress(OSError, ValueError, ValidationError):
            record = StepRecord.model_validate(read_json(file))
            records[_name_of(record)] = record
    return records


# KFP's launcher stores text and numbers alone: a null makes it fail the step after its work ("unknown/unsupported value
# type *structpb.Value_NullValue"), NaN loses all outputs of the step ("failed to unmarshall ExecutorOutput"), lists and
# dicts come back wrapped. kfp's local runners accept all of these.
Scalar = str | float | bool
_EXACT = 2**53  # it stores every number as a double


def scalars(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """The values that KFP's launcher can store, by name.

    Numbers that are not finite become text ("nan", "inf"), and so do integers that a double would round. None, lists
    and dicts are left out, and so are texts that are paths of this machine, which nobody else can open.
    """
    found: dict[str, Scalar] = {}
    for name, value in values.items():
        if isinstance(value, int | float):  # and bool
            is_exact = math.isfinite(value) and (isinstance(value, float) or abs(value) <= _EXACT)
            found[name] = value if is_exact else str(value)
        elif isinstance(value, str) and not value.startswith(("/", POD)):
            found[name] = value.encode("utf-8", "backslashreplace").decode()  # its JSON reader refuses half a character
    return found


def metadata_of(record: StepRecord, **more: Scalar) -> dict[str, Scalar]:
    """A step's report, how long it took and how many of its events are undelivered, as metadata with more values."""
    delivery = record.delivery or {}
    brokers = delivery.get("brokers", {}).values()
    undelivered = sum(broker["undelivered"] for broker in brokers) if delivery else None
    status = {"events": delivery.get("events"), "undelivered": undelivered}
    return scalars(record.report | {"seconds": record.seconds} | status | more)
