"""What a step hands over to MLflow, in its order: what the run is, its epochs, its figures, its files, its end.

What was taken is forgotten, so that it may be tried again after any failure; what the server refuses for good is passed
over, and kept with the reason.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from components.shared.errors import causes_of
from components.shared.events.data import Cancelled, EventData, Failed, PipelineEnded, Progress, Succeeded
from components.shared.events.redaction import Redactor
from components.shared.params.params import Params
from components.shared.run import StepRun
from components.shared.text import first_line, shortened
from components.shared.tracking.figures import points_of_epoch, redacted, short_params
from components.shared.tracking.made import Made
from components.shared.tracking.server import TrackedRun, TrackingServer, is_refusal
from components.shared.version import __version__

PARAMS_FILE = "params.json"
_LAST_STEPS = ("evaluate", "publish", "exit")  # with one of which a pipeline may end well
_STATUSES = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_QUEUE = 10_000  # epochs that wait for the server
_WINDOW = 200  # epochs in a call
_REASON = 300


class _Job(NamedTuple):
    what: str
    do: Callable[[TrackingServer, TrackedRun], object]


class Handover:
    """What one start of a step hands over; its own thread sends, the step's adds.

    Attributes:
        tracked: The MLflow run, once it is found or made.
        refusals: What the server does not take, and why.
        address: The server, without secrets.
    """

    def __init__(self, step: str, run: StepRun, params: Params, address: str, log: logging.Logger) -> None:
        self.tracked: TrackedRun | None = None
        self.refusals: list[str] = []
        self.address = address
        self._step, self._run, self._params, self._log = step, run, params, log
        self._redact = Redactor()
        self._made = Made()
        self._queue: deque[tuple[Progress, int]] = deque()
        self._dropped = 0
        self._epochs: set[int] = set()  # that were taken
        # The exit step only ends what others have recorded.
        self._first = [] if step == "exit" else [_Job("params and tags", self._describe)]
        self._last: list[_Job] = []
        self._files: list[_Job] = []
        self._end: _Job | None = None

    def add_epoch(self, data: Progress, time_ms: int) -> None:
        """Add an epoch's figures; without room they are left to the model's history."""
        if len(self._queue) < _QUEUE:
            self._queue.append((data, time_ms))
        else:
            self._dropped += 1

    def add_end(self, last: EventData, made: Made) -> None:
        """Add how the step ended and what it has made; nothing may be added after it."""
        self._made = made
        if self._step != "exit":
            tags = made.tags | {f"end.{self._step}": _outcome(last)} | _marks(last)
            self._last.append(_Job("final figures and tags", lambda server, run: self._log_end(server, run, tags)))
        self._files += [_upload(name, made) for name in made.files]
        if made.model is not None and made.model.onnx is not None:
            self._files.append(_Job("model/MLmodel", self._log_model))
        if status := self._status(last):
            end = _Job(f"its end, {status}", lambda server, run: server.end(run, status))
            if self._files and isinstance(last, Succeeded):  # at the end the files are there
                self._end = end
            else:
                self._last.append(end)

    def _status(self, last: EventData) -> str:
        """How the MLflow run ends with this step; empty: it goes on, or that is not known."""
        if isinstance(last, PipelineEnded):
            return _STATUSES.get(last.outcome, "")
        if isinstance(last, Succeeded):
            is_last = self._step in _LAST_STEPS and not last.publishes
            return "FINISHED" if self._run.pipeline is None or is_last else ""
        return "KILLED" if isinstance(last, Cancelled) else "FAILED"

    def send(self, server: TrackingServer, *, is_ending: bool) -> None:
        """Hand over all but files, at the step's end also its figures. Raises whatever the client raises."""
        run = self._open(server)
        if run is None:
            return
        self._do(server, run, self._first)
        self._send_epochs(server, run)
        if is_ending:
            self._do(server, run, self._last)

    def send_files(self, server: TrackingServer) -> None:
        """Hand over the files. Raises whatever the client raises."""
        if self.tracked is not None:
            self._do(server, self.tracked, self._files)

    def send_end(self, server: TrackingServer) -> None:
        """End the run, if that was left for after the files. Raises whatever the client raises."""
        if self.tracked is not None and self._end is not None:
            self._end.do(server, self.tracked)
            self._end = None

    def left(self) -> list[str]:
        """What was not taken: by name, epochs by their number."""
        jobs = [*self._first, *self._last, *self._files, *([self._end] if self._end else [])]
        has_history = bool(self._made.history)  # which holds them again, and is among the final figures
        epochs = 0 if has_history else len(self._queue) + self._dropped
        return [*self.refusals, *([f"{epochs} epochs"] if epochs else []), *(job.what for job in jobs)]

    def _do(self, server: TrackingServer, run: TrackedRun, jobs: list[_Job]) -> None:
        while jobs:
            try:
                jobs[0].do(server, run)
            except Exception as error:
                if not is_refusal(error):
                    raise
                self.refusals.append(f"{jobs[0].what}: {reason_of(error)}")
            del jobs[0]

    def _open(self, server: TrackingServer) -> TrackedRun | None:
        """The MLflow run, found or made; the exit step makes none."""
        if self.tracked is not None:
            return self.tracked
        found = server.find(self._run.run)
        if self._step != "exit":
            if found is None:
                found = server.create(self._run.run)
            else:
                server.reopen(found)
            self._log.info("MLflow run %s of experiment %s at %s", found.id, found.experiment, self.address)
        self.tracked = found
        return found

    def _describe(self, server: TrackingServer, run: TrackedRun) -> None:
        params = redacted(self._params.to_dict(), self._redact)
        short, known = short_params(params), run.params
        tags = {
            "run_id": self._run.run,
            "version": __version__,
            "step": self._step,
            "host": self._run.host,
            "params_sha256": self._params.digest(),
        }
        if self._run.pipeline is not None:
            tags["pipeline"] = self._run.pipeline
        # With one param that has another value there, the server would refuse all of them.
        new = {name: value for name, value in short.items() if name not in known}
        server.log(run, params=new, tags=self._own(tags))
        if changed := [name for name, value in short.items() if known.get(name, value) != value]:
            message = "MLflow keeps the first values of params that have changed since: %s; %s has the new ones"
            self._log.info(message, ", ".join(changed), PARAMS_FILE)
        # Whole: of a value above 6,000 characters MLflow keeps the beginning, without an error.
        text = json.dumps(params, indent=2, ensure_ascii=False)
        job = _Job(PARAMS_FILE, lambda server, run: server.log_text(run, text, PARAMS_FILE))
        try:
            job.do(server, run)
        except Exception:  # where files are kept may be away by itself, which is no reason to wait with the figures
            self._files.insert(0, job)

    def _send_epochs(self, server: TrackingServer, run: TrackedRun) -> None:
        while self._queue:
            window = [self._queue[index] for index in range(min(len(self._queue), _WINDOW))]
            points = [point for data, time_ms in window for point in points_of_epoch(data, time_ms)]
            self._do(server, run, [_Job(f"{len(window)} epochs", partial(TrackingServer.log, points=points))])
            self._epochs |= {data.epoch or 0 for data, _ in window}
            for _ in window:
                self._queue.popleft()

    def _log_end(self, server: TrackingServer, run: TrackedRun, tags: Mapping[str, str]) -> None:
        """The final figures, and of training those of epochs that an outage or an earlier attempt has left out."""
        missing = {point.step for point in self._made.history} - self._epochs
        if missing and not run.is_new:
            missing -= server.epochs_of(run)
        points = [*self._made.points, *(point for point in self._made.history if point.step in missing)]
        server.log(run, points, tags=self._own(tags))

    def _log_model(self, server: TrackingServer, run: TrackedRun) -> None:
        for name, text in self._made.texts(run.id, server.version).items():
            server.log_text(run, text, name)

    def _own(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {f"shutterline.{name}": self._redact(value) for name, value in tags.items()}


def _upload(name: str, made: Made) -> _Job:
    folder = str(PurePosixPath(name).parent)
    return _Job(name, lambda server, run: server.log_file(run, made.files[name], None if folder == "." else folder))


def _outcome(last: EventData) -> str:
    if isinstance(last, Failed):
        return f"failed: {last.error.type}: {last.error.message}"
    return f"cancelled: {last.reason}" if isinstance(last, Cancelled) else "succeeded"


def _marks(last: EventData) -> dict[str, str]:
    """What of a step's end people look for in a table of runs: whether the model passes, where it is published."""
    if not isinstance(last, Succeeded):
        return {}
    marks = {} if last.gate is None else {"gate": "passed" if last.gate.passed else "failed"}
    return marks | ({"published": last.artifacts["published"]} if "published" in last.artifacts else {})


def reason_of(error: Exception) -> str:
    """Why MLflow did not take something, in a line without secrets, and with what to do where that is known."""
    # What the client wraps into five exceptions, such as "Connection refused", or "too many 503 error responses".
    causes = list(causes_of(error)) if "failed with exception" in str(error) else [error]
    system = next((each.strerror for each in causes if isinstance(each, OSError) and each.strerror), None)
    text = Redactor()(system or shortened(str(causes[-1]) or first_line(error), _REASON))
    if "Invalid Host header" in text:
        text += "; the server's option --allowed-hosts must name this host, with its port"
    return text if getattr(error, "error_code", None) else f"{type(error).__name__}: {text}"
