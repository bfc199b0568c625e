"""``shutterline events``: what a run could not deliver, and what its events look like."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.shared.command import CommandParser, add_json_option, print_json
from components.shared.errors import EXIT_FAILURE, EXIT_OK, InputError

_REPLAY = """\
Deliver what the brokers of a run do not have yet, in order, under the same ids. A spool remembers which brokers it was
meant for and how far each has come, so repeating is harmless. Of a bucket's spools that is put back there."""


def add_events_parser(commands: Any) -> None:
    """Add ``events`` with its own commands."""
    events = commands.add_parser("events", help="deliver status events later; print their JSON Schema")
    actions = events.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=CommandParser)
    replay = actions.add_parser("replay", help="deliver what a run could not", description=_REPLAY)
    replay.add_argument(
        "spools",
        metavar="SPOOL",
        nargs="+",
        help="spool, or directory or bucket's prefix of spools: path, gs://… or s3://…",
    )
    replay.add_argument("--params", metavar="FILE", help="deliver to the brokers of these params instead")
    replay.add_argument("--timeout", metavar="SECONDS", type=float, default=30.0, help="how long to try; default: 30")
    add_json_option(replay)
    schema = actions.add_parser("schema", help="print the JSON Schema of status events")
    add_json_option(schema)


def events(options: argparse.Namespace) -> int:
    """``shutterline events``."""
    if options.action == "schema":
        from components.shared.events.event import event_schema

        print_json(event_schema())
        return EXIT_OK
    return _replay(options)


def _replay(options: argparse.Namespace) -> int:
    from components.shared.events.replay import find_spools, replay
    from components.shared.logs import log_to_stderr, step_logger
    from components.shared.params.params import Params
    from components.shared.status import transport_of
    from components.shared.storage.location import place

    if not 0 < options.timeout < 1e6:
        raise InputError(f"--timeout: must be a number of seconds above 0, got {options.timeout:g}")
    targets = None
    if options.params is not None:
        targets = Params.load(options.params).status_targets.as_ledger()
        if not targets:
            raise InputError(f"--params {options.params}: names no broker")
    log_to_stderr()
    log = step_logger("events")
    with tempfile.TemporaryDirectory(prefix="shutterline-events-") as scratch:
        found = find_spools(map(place, options.spools), Path(scratch), log)
        done = replay(found, transport_of, targets=targets, timeout_s=options.timeout, log=log)
    left = sum(entry.undelivered for entry in done)
    if options.json:
        print_json({"status": "undelivered" if left else "delivered", "spools": [asdict(entry) for entry in done]})
    else:
        for entry in done:
            rest = f", {entry.undelivered} not: {entry.trouble}" if entry.undelivered else ""
            sys.stdout.write(f"{entry.spool}: {entry.delivered} events to {entry.place}{rest}\n")
    return EXIT_FAILURE if left else EXIT_OK
