"""Status of one step: opens its stream, checks the brokers at the start, reports the end."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Literal, TypeVar

from components.shared.errors import (
    ArtifactError,
    InputError,
    StatusRefusedError,
    StatusUnavailableError,
    StorageRefusedError,
    StorageUnavailableError,
)
from components.shared.events.bucket import EventsBucket
from components.shared.events.data import (
    Cancelled,
    EventData,
    Failed,
    PipelineEnded,
    PipelineStarted,
    StepOutcome,
    StepStarted,
    Succeeded,
)
from components.shared.events.delivery import Transport
from components.shared.events.event import PIPELINE, EventSource
from components.shared.events.history import History, bucket_of, read_history
from components.shared.events.runs import RunView
from components.shared.events.spool import Spool, spools_of
from components.shared.events.status_lines import LOG, LogTransport, is_status_logged
from components.shared.events.stream import StatusStream
from components.shared.events.targets import StatusTargets
from components.shared.files import unwritable
from components.shared.kubeflow.api import NoAnswerError, ask_run, is_kubeflow
from components.shared.kubeflow.trainer_status import TrainerStatus
from components.shared.params.params import Params
from components.shared.pipeline_end import PUBLISH, end_after_retry, part_of
from components.shared.process_group import is_rank_zero
from components.shared.run import StepRun
from components.shared.version import __version__

# The steps that every run of the pipeline has, in their order, as its first event names them.
PIPELINE_STEPS = ("data-prep", "train", "evaluate")

# What a directory that belongs to somebody else answers; a full disk may have room again.
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_LAST_PUT_S = 3.0
_PLATFORM_S = 1.0

T = TypeVar("T")


class Status:
    """The status of one start of a step, of which ``exit`` reports for the pipeline; of a group the first has one."""

    def __init__(self, step: str, run: StepRun, log: logging.Logger) -> None:
        self.run = run
        self._step = step
        self._log = log
        self._stream: StatusStream | None = None
        self._trainer: TrainerStatus | None = None
        self._bucket: EventsBucket | None = None
        self._refused: InputError | None = None  # the location for the run's events
        self._refusals: list[str] = []  # of brokers' settings
        self._history = History(RunView(run.run))
        self._timeout_s = self._answers_by = 0.0

    def open(self, params: Params | None) -> None:
        """Begin the stream and report that the step has started; where the params are bad there is the spool alone.

        Raises:
            InputError: The location for the run's events may not be written.
        """
        if not is_rank_zero():
            return
        run, targets = self.run, params.status_targets if params else StatusTargets()
        ledger = targets.as_ledger()
        try:
            if is_status_logged():  # what reads the log has brokers and a place for events; here none is looked at
                run = self.run = replace(run, events=None, shared=False, bucket=None)
                targets, ledger = StatusTargets(timeout_s=targets.timeout_s), {LOG: {}}
        except InputError as error:
            self._refused = error
        self._timeout_s = targets.timeout_s
        self._answers_by = time.monotonic() + targets.timeout_s
        is_exit = self._step == "exit"
        step = PIPELINE if is_exit else self._step
        has_bucket = False
        if run.bucket is not None:
            self._bucket = bucket_of(run, params.GOOGLE_APPLICATION_CREDENTIALS if params else None, self._log)
            has_bucket = self._ask_bucket(lambda bucket: bucket.fetch(run.run)) is not None
        # Whether the folder has the other steps' events: a bucket's copy only if the bucket could be read.
        is_shared = run.shared and (run.bucket is None or has_bucket)
        # The exit step reads what there is at its own time, so here its attempt is known by the folder alone. Trouble
        # with a broker is warned of where its answer is waited for.
        kafka_s = 0.0 if is_exit or run.is_new else targets.timeout_s / 2
        folder = replace(run, shared=is_shared)
        self._history = read_history(folder, targets, self._log, kafka_s=kafka_s, level=logging.DEBUG)
        attempt = max(run.attempt, self._history.next_attempt(step))
        if has_bucket:  # no other process has this one there; a bucket that did not answer is not asked again
            attempt = self._ask_bucket(lambda bucket: bucket.claim(run.run, step, attempt)) or attempt
        is_begun = attempt > 0 or self._history.view.began is not None  # as far as can be seen from here
        if run.part is not None:  # of which all begin at once
            is_first = run.part[0] == 0 and not is_begun
        elif is_shared and run.events is not None:
            is_first = not spools_of(run.events, run.run)
        else:
            is_first = step == PIPELINE_STEPS[0] and not run.joins and not is_begun
        spool = self._open_spool(step, attempt, ledger)
        transports = []
        for name, target in ledger.items():
            try:
                transports.append(transport_of(name, target))
            except StatusRefusedError as error:
                self._refusals.append(str(error))
        self._stream = StatusStream(
            EventSource(run.run, step, spool.attempt, run.process),
            spool,
            transports,
            earlier=self._earlier(ledger) if transports else [],
            log=self._log,
            first_sequence=1 if is_exit else 0,  # the pipeline's first event was its start
        )
        self._trainer = TrainerStatus.started(self._log)
        digest = params.digest() if params else None
        if is_first and run.pipeline:
            parts = [part_of(PIPELINE_STEPS[0], number) for number in range(run.part[1])] if run.part else []
            steps = [*parts, *PIPELINE_STEPS]
            self._stream.emit(PipelineStarted(run.pipeline, steps, __version__, run.host, digest))
        if not is_exit:
            self._stream.emit(StepStarted(__version__, run.host, digest, run.pipeline))
        if self._refused is not None:
            raise self._refused
        if self._bucket is not None and spool.path is not None:
            self._bucket.start(spool)

    def _open_spool(self, step: str, attempt: int, targets: dict[str, dict[str, Any]]) -> Spool:
        """A spool in the run's directory or, where that cannot be written, in memory.

        A directory that may not be written ends the step, the exit step aside; any other trouble is warned of.
        """
        directory = self.run.events
        if directory is not None:
            try:
                return Spool.create(directory, self.run.run, step, attempt, targets)
            except OSError as error:
                is_denied = error.errno in _NOT_ALLOWED and self.run.shared and self.run.bucket is None
                if is_denied and self._step != "exit":
                    self._refused = self._refused or unwritable("events", directory, error)
                else:
                    message = "status has no spool: %s: %s; it is kept in memory until the step ends"
                    self._log.warning(message, directory, error.strerror)
        return Spool(None, attempt, targets)

    def _ask_bucket(self, ask: Callable[[EventsBucket], T]) -> T | None:
        """Ask the bucket; without an answer a warning is logged, and a refusal ends any step but the exit step."""
        if self._bucket is None:
            return None
        try:
            return ask(self._bucket)
        except StorageRefusedError as error:
            self._bucket = None
            if self._step == "exit":
                self._log.warning("%s", error)
            else:
                self._refused = error
        except (StorageUnavailableError, OSError) as error:
            self._log.warning("%s; going on, and it is tried again", error)
        return None

    def _earlier(self, targets: dict[str, dict[str, Any]]) -> list[Spool]:
        """Spools of this run that no process has and that some broker does not have whole."""
        found = []
        for path in spools_of(self.run.events, self.run.run) if self.run.events else []:
            with suppress(OSError, ArtifactError):
                if (spool := Spool.open(path)) is None:
                    continue
                if not spool.targets:  # damaged, since the steps of a run name the same brokers: all of it again
                    spool.targets = {name: target | {"delivered": 0} for name, target in targets.items()}
                if any(spool.position(name) < spool.count for name in spool.targets):
                    found.append(spool)
                else:
                    spool.close()
        return found

    def check(self, on_status_error: Literal["warn", "fail"]) -> None:
        """Wait for the brokers' first answers, within a bound, before any work is done.

        Raises:
            StatusRefusedError: A broker refuses.
            StatusUnavailableError: A broker does not answer, and that is to be an error.
        """
        if self._stream is None or self._step == "exit":  # which has emitted nothing yet, and stops nothing any more
            return
        refused, silent = self._refusals, []
        # A part of the time may have gone to reading earlier events, of which a slow broker's answer is no part.
        wait_s = max(self._answers_by - time.monotonic(), self._timeout_s / 2)
        for address, trouble in self._stream.first_answers(wait_s).items():
            if isinstance(trouble, TimeoutError):
                silent.append(f"{address} does not answer within {self._timeout_s:g} s")
            elif trouble is not None:
                (refused if isinstance(trouble, StatusRefusedError) else silent).append(str(trouble))
        if refused:
            raise StatusRefusedError("; ".join(refused))
        if silent and on_status_error == "fail":
            raise StatusUnavailableError(f"{'; '.join(silent)}; on_status_error: warn would go on without it")
        for message in silent:
            self._log.warning("%s; going on, status waits in the spool", message)

    def emit(self, data: EventData) -> None:
        """Report that something happened."""
        if self._stream is not None:
            self._stream.emit(data)
        if self._trainer is not None:
            self._trainer.take(data)

    def end(self, data: EventData) -> dict[str, Any] | None:
        """Emit the terminal event, deliver what is left within the bound, and report as JSON what became of it all."""
        if self._stream is None:
            with suppress(InputError):  # the params were bad, and that is what is reported
                if self.run.shared or is_status_logged():
                    self.open(None)
        if self._stream is None:
            return None
        stream, self._stream = self._stream, None
        stream.emit(data)
        if self._trainer is not None:
            self._trainer.end(data)
        if (end := self._new_end(data, stream.event_source)) is not None:
            stream.emit(end)
        try:
            try:
                report = stream.close(self._timeout_s)
            except KeyboardInterrupt:  # somebody who has waited long enough
                report = stream.close(0)
        except Exception:  # a defect of ours; how the step ended stays as it is
            self._log.exception("the delivery of status could not be ended")
            return None
        finally:
            if self._trainer is not None:  # whose last report was on its way meanwhile
                self._trainer.close()
        spool = report.spool
        is_kept = self.run.shared and spool is not None and not report.unspooled
        if self.run.bucket is not None:
            bucket = self._bucket
            is_kept = bucket is not None and bucket.close(max(_LAST_PUT_S, self._timeout_s)) and is_kept
            if is_kept and bucket is not None:
                spool = bucket.spool  # the directory that it is a copy of ends with the pod
        for broker in report.brokers.values():
            if broker.undelivered:
                how = f"; deliver them later: shutterline events replay {spool}" if spool else ""
                counts = f"{broker.undelivered} of {report.events}"
                message = "%s status events are not at %s: %s%s"
                self._log.warning(message, counts, broker.place, broker.trouble, how)
        if spool and (lost := report.dropped + report.unspooled):
            self._log.warning("%d status events are not in the spool %s", lost, spool)
        return asdict(report) | {"kept": is_kept}

    def _new_end(self, data: EventData, event_source: EventSource) -> PipelineEnded | None:
        """The pipeline's new end, where its exit task has reported one before; None where it still will."""
        step = self._step
        is_one = self.run.part is not None or step in (*PIPELINE_STEPS, PUBLISH)
        if self.run.pipeline is None or not is_one or not is_kubeflow() or not self._is_last(data):
            return None
        platform = None
        if self.run.platform_run:
            with suppress(NoAnswerError):
                platform = ask_run(self.run.platform_run, _PLATFORM_S, is_over=False)
        was_retried = platform is not None and platform.retried
        if self._history.view.ended is None and not was_retried:
            return None
        own = StepOutcome(step, "unknown", event_source.attempt, None, event_source.source)
        return end_after_retry(PIPELINE_STEPS, self._history, platform, own, data).event(0)

    def _is_last(self, data: EventData) -> bool:
        """Whether nothing of the pipeline runs after a step that ends so."""
        if isinstance(data, Failed | Cancelled):
            return not data.starts_again
        last = PUBLISH if isinstance(data, Succeeded) and data.publishes else PIPELINE_STEPS[-1]
        return self._step in (last, PUBLISH)


def transport_of(name: str, target: dict[str, Any]) -> Transport:
    """The transport to one broker of `StatusTargets.as_ledger`, its client loaded when it is first used.

    Raises:
        StatusRefusedError: Settings or credentials are wrong, or the client is not installed.
    """
    if name == LOG:
        return LogTransport()
    if name == "kafka":
        from components.shared.events.kafka.publisher import KafkaTransport

        return KafkaTransport(target["servers"], target["topic"])
    from components.shared.events.pubsub.publisher import PubSubTransport

    return PubSubTransport(target["topic"], target.get("credentials_file"), target.get("timeout_s", 3.0))
