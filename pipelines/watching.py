"""``shutterline watch``: from its options to a subscription, and from events to a terminal, a pipe or a script."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from contextlib import closing, suppress
from types import TracebackType
from typing import Protocol, Self, TextIO

from components.shared.command import let_go_of, tell
from components.shared.errors import EXIT_FAILURE, EXIT_OK, InputError, ShutterlineError
from components.shared.events.event import StepEvent
from components.shared.events.runs import RunView
from components.shared.events.watch import Counts, Source, follow
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, sigterm_raises
from pipelines.watch_text import counts_line, event_line, printable

EPILOG = """\
A subscription of Pub/Sub remembers what was shown, for all who use it: give each purpose one of its own, since what
--run passes over is not shown to another watcher either. On Kafka nothing is remembered without --group, and there
--until-done reads on to the newest event: a run that was retried behind its end goes on, or has another end.

exit codes:
  0    the run succeeded (--until-done), or --timeout came to its end without --until-done
  1    the run failed, how it ended is not known, --timeout came first, or the reader of the output went away
  2    bad input: options, params, topic, subscription, permission or credentials; one message says which
  130  the run was cancelled, or the watching was, by Ctrl-C (143 by SIGTERM or SIGHUP)
"""
_EXIT_CODES = {
    "succeeded": EXIT_OK,
    "failed": EXIT_FAILURE,
    "cancelled": EXIT_INTERRUPTED,
    "unknown": EXIT_FAILURE,
}
# After a run's end: without a message for so long, all that is there was read; on a busy topic, after so long at most.
_QUIET_S, _LONGEST_S = 0.2, 5.0


def watch(options: argparse.Namespace) -> int:
    """``shutterline watch``."""
    from pipelines.watch_options import open_source

    try:
        with sigterm_raises(), closing(open_source(options)) as source:
            return _follow(source, options)
    except ShutterlineError as error:  # here and not in main: standard output is for events alone
        tell(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Terminated:
        return EXIT_TERMINATED
    except BrokenPipeError:
        let_go_of(sys.stdout)
        return EXIT_FAILURE


class _Ending:
    """When to stop, and with which exit code.

    Args:
        options: Of the command.
        place: What is watched.
        reads_on: Whether to read what is behind the run's end already: a Retry, after which the run goes on or has
            another end. Not where somebody else would not be shown it then.
    """

    def __init__(self, options: argparse.Namespace, place: str, *, reads_on: bool) -> None:
        self._place = place
        self._reads_on = reads_on
        self._seen, self._seen_at = 0, 0.0
        self._done_at: float | None = None
        self._until_done: bool = options.until_done
        self._run: str | None = options.run
        self._view: RunView | None = None
        self._timeout: float | None = options.timeout
        self._end = math.inf if options.timeout is None else time.monotonic() + options.timeout

    def event(self, event: StepEvent) -> None:
        """Take in one event."""
        if not self._until_done:
            return
        if self._view is None and self._run in (None, event.run):
            self._view = RunView(event.run)
        if self._view is not None and event.run == self._view.run:
            self._view.add(event)

    def is_reached(self, counts: Counts) -> bool:
        """Whether to stop now."""
        now = time.monotonic()
        seen = counts.shown + counts.duplicates + counts.others + counts.foreign
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        if now >= self._end:
            return True
        if self._view is None or not self._view.is_done:
            self._done_at = None
            return False
        self._done_at = self._done_at or now
        return not self._reads_on or now - self._seen_at >= _QUIET_S or now - self._done_at >= _LONGEST_S

    def exit_code(self) -> int:
        """The exit code, once the end is reached; what people should know goes to standard error."""
        if not self._until_done:
            return EXIT_OK
        if self._view is not None and self._view.is_done:
            return _EXIT_CODES[self._view.state]
        run = self._run or (self._view.run if self._view else "any run")
        tell(f"error: {self._place}: no end of {run} within {self._timeout:g} s")
        return EXIT_FAILURE


class _Face(Protocol):
    """Where a person or a script sees what comes."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def event(self, event: StepEvent) -> None: ...

    def document(self, body: bytes) -> None: ...

    def trouble(self, message: str | None) -> None: ...

    def tick(self, counts: Counts) -> None: ...


class _Lines:
    """A line an event on standard output, all else on standard error."""

    def __init__(self, place: str, as_json: bool, run: str | None) -> None:
        self._place = place
        self._as_json = as_json
        self._run = run
        self._counts = Counts()

    def __enter__(self) -> Self:
        run = "any run" if self._run is None else f"run {self._run}"
        self._tell(f"watching {self._place}, waiting for events of {run}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(counts_line(self._counts))

    def event(self, event: StepEvent) -> None:
        if not self._as_json:
            self._say(event_line(event))

    def document(self, body: bytes) -> None:
        if self._as_json:
            self._say(one_line(body))

    def trouble(self, message: str | None) -> None:
        self._tell(f"{self._place} is back" if message is None else f"{printable(message)}; trying again")

    def tick(self, counts: Counts) -> None:
        self._counts = counts

    def _say(self, line: str) -> None:
        try:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()  # acknowledged means that a script may have read it
        except BrokenPipeError:
            raise
        except OSError as error:
            let_go_of(sys.stdout)
            raise ShutterlineError(f"standard output cannot be written: {error.strerror}") from error

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # a reader that has seen enough, or a full disk, ends no watching
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


def is_live(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can be drawn on."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _face(place: str, as_json: bool, run: str | None) -> _Face:
    if as_json or not is_live(sys.stdout):
        return _Lines(place, as_json, run)
    try:
        from rich.console import Console
    except ImportError as error:
        raise InputError(
            "watch needs rich on a terminal: pip install 'shutterline[pipelines]', or use --json"
        ) from error
    from pipelines.watch_view import LiveView

    return LiveView(place, Console(highlight=False, markup=False, emoji=False), run)


def _follow(source: Source, options: argparse.Namespace) -> int:
    from components.shared.events.kafka.subscriber import KafkaSubscriber

    forgets = isinstance(source, KafkaSubscriber) and options.group is None
    ending = _Ending(options, source.address, reads_on=forgets)
    with _face(source.address, options.json, options.run) as face:

        def take(event: StepEvent) -> None:
            face.event(event)
            ending.event(event)

        def until(counts: Counts) -> bool:
            face.tick(counts)
            return ending.is_reached(counts)

        counts = follow(
            source,
            take,
            run=options.run,
            until=until,
            on_trouble=face.trouble,
            on_document=face.document,
            poll_s=0.25,  # how late an end by --timeout may be noticed
        )
        face.tick(counts)
    return ending.exit_code()


def one_line(document: bytes) -> str:
    """A JSON document on one line of ASCII: nothing in it that is not JSON, or that a terminal obeys."""
    plain = json.loads(document, parse_constant=lambda _: None, parse_float=_finite)
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
