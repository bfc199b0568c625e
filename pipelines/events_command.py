"""``shutterline events``: what a run could not deliver, and what its events look like."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from components.shared.command import print_json
from components.shared.errors import EXIT_FAILURE, EXIT_OK, InputError


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
