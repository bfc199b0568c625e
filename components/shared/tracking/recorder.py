"""The recorder of a step in MLflow: its caller pays microseconds, a thread of its own does everything else.

:meth:`Recorder.take` puts an epoch's figures into a bounded queue. The thread loads the client, finds the run or makes
it, and hands over what there is, again and again where the server does not take it. At the step's end there is a bound
for that, and one for files; what is not recorded by then is logged once, with the reason. Nothing here fails a step.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from components.shared.events.data import Cancelled, EventData, Failed, Progress, Succeeded
from components.shared.events.redaction import redact, register_secret
from components.shared.params.params import Params
from components.shared.process_group import is_rank_zero
from components.shared.retry import pause_s
from components.shared.run import StepRun
from components.shared.tracking.figures import is_end_of_epoch
from components.shared.tracking.handover import Handover, reason_of
from components.shared.tracking.made import Made, made_by
from components.shared.tracking.server import URI_VARIABLE, TrackingServer, is_refusal, tracking_uri

RECORDED_STEPS = ("train", "evaluate", "publish", "exit")

_POLL_S = 1.0
_PAUSES_S, _LAST_PAUSE_S = (1.0, 30.0), 0.3
_LOADING_S = 30.0  # importing the client takes a second, on a busy machine many
_FILES_S = 60.0
_FILE_ATTEMPTS = 2
_TURN_S = 0.1
_LAST_CALL_S = 0.4  # as in the stream of status: a call that was cut short needs a moment to return

_BARE_ADDRESS = re.compile(r"[\w.-]+:\d+(/.*)?")
_NOT_RECORDED = "this step is not recorded in MLflow at %s: %s"


def recorder_of(step: str, run: StepRun, params: Params, log: logging.Logger) -> Recorder | None:
    """The recorder of a step, where the environment names an MLflow server; of a group the first process has one."""
    if step not in RECORDED_STEPS or not tracking_uri() or not is_rank_zero():
        return None
    if find_spec("mlflow") is None:
        if step != "exit":  # which would only end what the others have recorded
            log.warning(
                "%s is set, and MLflow's client is not installed: pip install 'shutterline[mlflow]'; "
                "the run goes on and is not recorded in MLflow",
                URI_VARIABLE,
            )
        return None
    if _BARE_ADDRESS.fullmatch(tracking_uri()):  # which MLflow takes for a folder
        uri = redact(tracking_uri())
        log.warning(_NOT_RECORDED, uri, f"begin {URI_VARIABLE} with http:// or https://, such as http://{uri}")
        return None
    return Recorder(step, run, params, log)


class Recorder:
    """Records one start of a step in MLflow."""

    def __init__(self, step: str, run: StepRun, params: Params, log: logging.Logger) -> None:
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
            register_secret(os.environ.get(name, ""))
        self._step, self._log = step, log
        self._timeout_s = params.TIMEOUT
        self._handover = Handover(step, run, params, redact(tracking_uri()), log)
        self._process = os.getpid()
        self._trouble: Exception | None = None
        self._deadline = float("inf")
        self._is_abandoned = self._is_given_up = False
        self._is_loaded, self._is_ending, self._is_settled, self._is_done = (threading.Event() for _ in range(4))
        threading.Thread(target=self._record, name="mlflow", daemon=True).start()

    def take(self, data: EventData) -> EventData:
        """Take what happened, and return it with the MLflow run's id once that is known. Never raises, never waits."""
        if isinstance(data, Progress) and is_end_of_epoch(data) and os.getpid() == self._process:
            self._handover.add_epoch(data, _now_ms())
        return self._linked(data)

    def finish(self, last: EventData, report: Mapping[str, Any]) -> EventData:
        """Hand over how the step ended, and wait, within the params' TIMEOUT, until MLflow has its figures.

        Args:
            last: The step's last event, which is returned with the MLflow run's id.
            report: Of a step that succeeded, its report in paths of this machine; else empty.
        """
        made = Made()
        try:
            made = made_by(self._step, report, _now_ms())
        except Exception as error:  # somebody has changed it since; the step has succeeded all the same
            self._handover.refusals.append(f"what it made: {reason_of(error)}")
        self._handover.add_end(last, made)
        self._wait(self._is_loaded, _LOADING_S)
        self._deadline = time.monotonic() + self._timeout_s
        self._is_ending.set()
        self._wait(self._is_settled, self._timeout_s + _LAST_CALL_S)
        return self._linked(last)

    def close(self) -> None:
        """Wait, within a minute, until MLflow has the files, and log what it does not have."""
        if self._is_settled.is_set():
            self._wait(self._is_done, _FILES_S + _LAST_CALL_S)
        handover, trouble = self._handover, self._trouble
        why = reason_of(trouble) if trouble is not None else "no answer in time"
        if not self._is_loaded.is_set():
            why = f"its client was not loaded within {_LOADING_S:g} s"
        left = handover.left()
        if handover.tracked is None:
            if not self._is_given_up and (self._step != "exit" or trouble is not None):
                self._log.warning(_NOT_RECORDED, handover.address, why)
        elif left:
            lacks = "; ".join(left) + (f": {why}" if len(left) > len(handover.refusals) else "")  # which have a reason
            self._log.warning("MLflow run %s at %s lacks %s", handover.tracked.id, handover.address, lacks)

    def _wait(self, event: threading.Event, seconds: float) -> None:
        """Wait by turns, as a signal that comes just before a wait is noticed after it; Ctrl-C ends all waiting."""
        deadline = time.monotonic() + seconds
        try:
            while not (event.is_set() or self._is_abandoned) and (left_s := deadline - time.monotonic()) > 0:
                event.wait(min(left_s, _TURN_S))
        except KeyboardInterrupt:
            self._is_abandoned = True

    def _linked(self, data: EventData) -> EventData:
        run = self._handover.tracked
        if run is None or not isinstance(data, Progress | Succeeded | Failed | Cancelled):
            return data
        return replace(data, mlflow_run=run.id)

    def _record(self) -> None:
        server = None
        try:
            server = TrackingServer()
        except Exception as error:  # of the import too, whatever is installed
            self._give_up(error)
        self._is_loaded.set()
        is_taken = server is not None and self._hand_over(server)
        self._is_settled.set()
        if server is not None and is_taken:
            self._hand_over_files(server)
        self._is_done.set()

    def _hand_over(self, server: TrackingServer) -> bool:
        """Hand over all but files, until the step has ended; whether all of it was taken."""
        failures = 0
        while True:
            is_ending = self._is_ending.is_set()  # before the queue is emptied
            try:
                self._handover.send(server, is_ending=is_ending)
                self._note(None)
                if is_ending:
                    return True
                failures, pause = 0, _POLL_S
            except Exception as error:  # the client raises TypeError and bare Exception, too
                if self._handover.tracked is None and is_refusal(error):  # no such run or experiment
                    self._give_up(error)
                    return False
                self._note(error)
                pause = pause_s(failures, *_PAUSES_S)
                failures += 1
            if not is_ending:
                self._is_ending.wait(pause)
            elif time.monotonic() + _LAST_PAUSE_S < self._deadline:
                time.sleep(_LAST_PAUSE_S)
            else:
                return False

    def _hand_over_files(self, server: TrackingServer) -> None:
        """Hand over files, and then the run's end, which a store of files that is away does not hold up."""
        for send in (self._handover.send_files, self._handover.send_end):
            for _ in range(_FILE_ATTEMPTS):
                try:
                    send(server)
                    break
                except Exception as error:
                    self._trouble = error
                    time.sleep(_LAST_PAUSE_S)

    def _give_up(self, error: Exception) -> None:
        self._is_given_up = True
        self._log.warning(_NOT_RECORDED, self._handover.address, reason_of(error))

    def _note(self, trouble: Exception | None) -> None:
        """Log a change of the server's state, once; what is missing at the end is logged there."""
        before, self._trouble = self._trouble, trouble
        if self._is_ending.is_set():
            return
        if trouble is not None and before is None:
            message = "MLflow at %s: %s; the run goes on, and it is tried again"
            self._log.warning(message, self._handover.address, reason_of(trouble))
        elif trouble is None and before is not None:
            self._log.info("MLflow at %s is back", self._handover.address)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
