"""``shutterline events``: what a run could not deliver, and what its events look like."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from components.shared.command import print_json
from components.shared.errors import EXIT_FAILURE, EXIT_OK, InputError


def events_schema() -> int:
    """Print the JSON Schema of status events."""
    from components.shared.events.event import schema_text

    sys.stdout.write(schema_text())
    return EXIT_OK


def events_replay(
    spools: Sequence[str], *, params: str | None = None, timeout: float = 30.0, as_json: bool = False
) -> int:
    """Deliver what runs could not, and return the exit code; see ``shutterline events replay``."""
    from components.shared.events.replay import find_spools, replay
    from components.shared.logs import log_to_stderr, step_logger
    from components.shared.params.params import Params
    from components.shared.status import transport_of
    from components.shared.storage.location import parse_location

    if not 0 < timeout < 1e6:
        raise InputError(f"--timeout: must be a number of seconds above 0, got {timeout:g}")
    targets = None
    if params is not None:
        targets = Params.load(params).status_targets.as_ledger()
        if not targets:
            raise InputError(f"--params {params}: names no broker")
    log_to_stderr()
    log = step_logger("events")
    with tempfile.TemporaryDirectory(prefix="shutterline-events-") as scratch:
        found = find_spools(map(parse_location, spools), Path(scratch), log)
        done = replay(found, transport_of, targets=targets, timeout_s=timeout, log=log)
    left = sum(entry.undelivered for entry in done)
    if as_json:
        print_json({"status": "undelivered" if left else "delivered", "spools": [asdict(entry) for entry in done]})
    else:
        for entry in done:
            rest = f", {entry.undelivered} not: {entry.trouble}" if entry.undelivered else ""
            sys.stdout.write(f"{entry.spool}: {entry.delivered} events to {entry.place}{rest}\n")
    return EXIT_FAILURE if left else EXIT_OK
