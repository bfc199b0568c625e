"""``shutterline watch``: from its options to a subscription, and from events to a terminal, a pipe or a script."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

import click

from components.shared.command import discard, print_message
from components.shared.errors import EXIT_FAILURE, EXIT_OK, InputError, ShutterlineError
from components.shared.events.event import StepEvent, is_run_id
from components.shared.events.runs import SILENCE, RunView
from components.shared.events.watch import Counts, Subscriber, follow
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, sigterm_raises
from pipelines.options import SET, flag, option, options, seconds, unwrapped
from pipelines.watch_text import counts_line, duration, event_line, printable

if TYPE_CHECKING:
    from pipelines.watch_view import LiveView

_EPILOG = """\
A subscription of Pub/Sub remembers what was shown, for all who use it: give each purpose one of its own, since what
--run passes over is not shown to another watcher either. On Kafka nothing is remembered without --group, and there
--until-done reads on to the newest event: a run that was retried behind its end goes on, or has another end. A step
that is a run by itself and is likely to start again, as after Kubeflow Trainer's SIGTERM, has 15 minutes for it.

exit codes:
  0    the run succeeded (--until-done), or --timeout came to its end without --until-done
  1    the run failed, how it ended is not known, --timeout came first, or the reader of the output went away
  2    bad input: options, params, topic, subscription, permission or credentials; one message says which
  130  the run was cancelled, or the watching was, by Ctrl-C (143 by SIGTERM or SIGHUP)
"""
_EXIT_CODES = {"succeeded": EXIT_OK, "failed": EXIT_FAILURE, "cancelled": EXIT_INTERRUPTED, "unknown": EXIT_FAILURE}
_POLL_S = 0.25  # how late an end by --timeout may be noticed
# After a run's end: without a message for so long, all that is there was read; on a busy topic, after so long at most.
_QUIET_S, _LONGEST_S = 0.2, 5.0


@click.command(epilog=unwrapped(_EPILOG))
@options(
    option("--kafka", metavar="HOST[,HOST]/TOPIC", is_flag=False, flag_value="", help="The topic; without a value, "
           "the params'."),
    option("--pubsub", metavar="SUBSCRIPTION", is_flag=False, flag_value="", help="projects/P/subscriptions/S or P/S; "
           "without a value, the params'."),
    option("--params", metavar="FILE", help="Params file or JSON text; they name broker, topic, subscription and "
           "credentials."),
    SET,
    option("--run", metavar="ID", help="Show this run only."),
    option("--since", metavar="WHEN", help="Kafka: beginning, now, a span such as 90s, 10m, 24h or 7d, or an ISO "
           "time; default: 24h, but now for --until-done without --run."),
    option("--group", metavar="NAME", help="Kafka: go on where the watcher before with this consumer group stopped."),
    option("--json", "as_json", is_flag=True, help="Print each event's CloudEvents JSON on a line of its own."),
    flag("--until-done", "End with the run and its outcome; without --run, the first one seen."),
    option("--timeout", metavar="SECONDS", type=seconds, help="End after so long; with --until-done: exit code 1."),
)  # fmt: skip
def watch(
    *,
    kafka: str | None,
    pubsub: str | None,
    params: str | None,
    overrides: Sequence[str],
    run: str | None,
    since: str | None,
    group: str | None,
    as_json: bool,
    until_done: bool,
    timeout: float | None,
) -> int:
    """Show runs as they go.

    Their status events are shown live on a terminal, one line an event elsewhere, or as JSON lines. Events are
    acknowledged once they were shown. A broker that is away is waited for.
    """
    from pipelines.watch_source import subscribe

    try:
        if run is not None and not is_run_id(run):
            raise InputError(f"--run: {printable(run)!r} is not a run's id: letters, digits and the characters ._-")
        from_now = until_done and run is None
        subscriber = subscribe(kafka, pubsub, params, overrides, since, group, from_now=from_now)
        with sigterm_raises(), closing(subscriber):
            return _follow(subscriber, run, as_json=as_json, until_done=until_done, timeout_s=timeout)
    except ShutterlineError as error:  # here and not in main: standard output is for events alone
        print_message(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Terminated:
        return EXIT_TERMINATED
    except BrokenPipeError:
        discard(sys.stdout)
        return EXIT_FAILURE


def _follow(
    subscriber: Subscriber, run: str | None, *, as_json: bool, until_done: bool, timeout_s: float | None
) -> int:
    end = math.inf if timeout_s is None else time.monotonic() + timeout_s
    view: RunView | None = None
    seen, seen_at = 0, 0.0
    done_at: float | None = None

    def on_event(event: StepEvent) -> None:
        nonlocal view
        display.event(event)
        if until_done and view is None and run in (None, event.run):
            view = RunView(event.run)
        if view is not None and event.run == view.run:
            view.add(event)

    def until(counts: Counts) -> bool:
        nonlocal seen, seen_at, done_at
        display.tick(counts)
        now = time.monotonic()
        if counts.seen != seen:
            seen, seen_at = counts.seen, now
        if view is None or view.end_at(datetime.now(UTC)) is None:
            done_at = None
            return now >= end
        done_at = done_at or now
        # What is behind the run's end already may be a Retry, after which the run goes on or has another end. It is not
        # read where somebody else would not be shown it then.
        return now >= end or subscriber.remembers or now - seen_at >= _QUIET_S or now - done_at >= _LONGEST_S

    with _display(subscriber.address, as_json, run) as display:
        counts = follow(
            subscriber, on_event, run=run, until=until, on_trouble=display.trouble, on_document=display.document,
            poll_s=_POLL_S,
        )  # fmt: skip
        display.tick(counts)
    if not until_done:
        return EXIT_OK
    ended = view.starting_again if view is not None else None
    if view is not None and (state := view.end_at(datetime.now(UTC))) is not None:
        if ended is not None:
            print_message(f"{view.run}: {ended.step} {state}, and did not start again within {duration(SILENCE)}")
        return _EXIT_CODES[state]
    which = run or (view.run if view else "any run")
    which += f", whose {ended.step} {ended.state} and is likely to start again," if ended is not None else ""
    print_message(f"error: {subscriber.address}: no end of {which} within {timeout_s:g} s")
    return EXIT_FAILURE


def _display(address: str, as_json: bool, run: str | None) -> _Lines | LiveView:
    if as_json or not is_live(sys.stdout):
        return _Lines(address, as_json, run)
    from pipelines.watch_view import LiveView

    return LiveView(address, run)


class _Lines:
    """A line an event on standard output, all else on standard error."""

    def __init__(self, address: str, as_json: bool, run: str | None) -> None:
        self._address = address
        self._as_json = as_json
        self._run = "any run" if run is None else f"run {run}"
        self._counts = Counts()

    def __enter__(self) -> _Lines:
        self._report(f"watching {self._address}, waiting for events of {self._run}")
        return self

    def __exit__(self, *_: object) -> None:
        self._report(counts_line(self._counts))

    def event(self, event: StepEvent) -> None:
        if not self._as_json:
            self._print(event_line(event))

    def document(self, body: bytes) -> None:
        if self._as_json:
            self._print(one_line(body))

    def trouble(self, message: str | None) -> None:
        self._report(f"{self._address} is back" if message is None else f"{printable(message)}; trying again")

    def tick(self, counts: Counts) -> None:
        self._counts = counts

    def _print(self, line: str) -> None:
        try:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()  # acknowledged means that a script may have read it
        except BrokenPipeError:
            raise
        except OSError as error:
            discard(sys.stdout)
            raise ShutterlineError(f"standard output cannot be written: {error.strerror}") from error

    def _report(self, line: str) -> None:
        with suppress(OSError):  # a reader that has seen enough, or a full disk, ends no watching
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


def is_live(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can be drawn on."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def one_line(document: bytes) -> str:
    """A JSON document on one line of ASCII: nothing in it that is not JSON, or that a terminal obeys."""

    def finite(text: str) -> float | None:
        value = float(text)
        return value if math.isfinite(value) else None

    plain = json.loads(document, parse_constant=lambda _: None, parse_float=finite)
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)
