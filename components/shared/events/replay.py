"""Deliver later what a run could not: the rest of its spools, in order, under the same ids."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.errors import ArtifactError, InputError
from components.shared.events.courier import Courier, Signal
from components.shared.events.redaction import redact
from components.shared.events.spool import Spool, spools_of
from components.shared.events.transport import Transport

# A call that was given the rest of the time ends a little after it; the files must be open until then.
_LAST_CALL_S = 2.0


@dataclass(frozen=True)
class Replayed:
    """What a replay did for one spool and one broker.

    Attributes:
        spool: The spool's file.
        broker: Which: ``kafka`` or ``pubsub``.
        place: Where it is, for people.
        delivered: Events that it took now.
        undelivered: Events that it still does not have.
        trouble: What it said last, if there are any.
    """

    spool: str
    broker: str
    place: str
    delivered: int
    undelivered: int
    trouble: str | None


def find_spools(paths: Iterable[Path]) -> list[Path]:
    """The spools that are meant: files, and all of a directory.

    Raises:
        InputError: A path is not there, or a directory has none.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: is not there")
        spools = spools_of(path) if path.is_dir() else [path]
        if not spools:
            raise InputError(f"{path}: has no spools; a run keeps them in its directory events/")
        found += spools
    return list({path.absolute(): path for path in found}.values())  # a spool and its directory may both be named


def replay(
    paths: Sequence[Path],
    transport_of: Callable[[str, dict[str, Any]], Transport],
    *,
    targets: dict[str, dict[str, Any]] | None = None,
    timeout_s: float,
    log: logging.Logger,
) -> list[Replayed]:
    """Deliver what the spools' brokers do not have yet.

    Args:
        paths: Spools, in the order to deliver them.
        transport_of: From a broker's name and target to its transport.
        targets: Brokers to deliver to; by default those that each spool was meant for.
        timeout_s: How long to try.
        log: Gets a line when a broker's state changes.

    Raises:
        ArtifactError: A file is no spool, is in use, or names no broker.
        StatusRefusedError: A broker's credentials or settings are wrong.
    """
    spools: list[Spool] = []
    couriers: list[Courier] = []
    try:
        for path in paths:
            spools.append(_opened(path))
            _aim(spools[-1], targets or {})
        routes: dict[str, tuple[Transport, list[Spool]]] = {}
        for spool in spools:
            for name in targets or spool.ledger.targets:
                target = spool.ledger.targets[name]
                key = json.dumps([name, target.get("servers"), target["topic"]])
                if key not in routes:
                    routes[key] = (transport_of(name, target), [])
                routes[key][1].append(spool)
        signal = Signal()
        couriers += [Courier(transport, meant, signal, log) for transport, meant in routes.values()]
        return _deliver(list(routes.values()), couriers, signal, timeout_s)
    finally:
        # A courier that still waits for its client may yet write to its ledger; the process's end closes the files.
        if not any(courier.is_alive() for courier in couriers):
            for spool in spools:
                spool.close()


def _opened(path: Path) -> Spool:
    try:
        spool = Spool.open(path, unlocked=True)  # who asks for it knows that the step is over
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be opened: {error.strerror}") from error
    if spool is None:
        raise ArtifactError(f"{path}: its step is still running and delivers it itself")
    return spool


def _aim(spool: Spool, targets: dict[str, dict[str, Any]]) -> None:
    """Settle where a spool goes; what a topic already has it does not get again, and no other broker is forgotten."""
    known = spool.ledger.targets
    spool.ledger.targets = known | {
        name: target | {"delivered": known[name]["delivered"] if _same(known.get(name), target) else 0}
        for name, target in targets.items()
    }
    if not spool.ledger.targets:
        raise ArtifactError(f"{spool.path}: its run named no broker; name one by --params")


def _same(known: dict[str, Any] | None, target: dict[str, Any]) -> bool:
    return known is not None and all(known.get(key) == target.get(key) for key in ("servers", "topic"))


def _deliver(
    routes: list[tuple[Transport, list[Spool]]], couriers: list[Courier], signal: Signal, timeout_s: float
) -> list[Replayed]:
    signal.no_more()
    deadline = time.monotonic() + timeout_s
    signal.end_by(deadline)
    before = [[spool.undelivered(transport.name) for spool in spools] for transport, spools in routes]
    for courier in couriers:
        courier.start()
    for courier in couriers:
        courier.join(max(0.0, deadline - time.monotonic()) + _LAST_CALL_S)
    done = []
    for (transport, spools), counts, courier in zip(routes, before, couriers, strict=True):
        for spool, count in zip(spools, counts, strict=True):
            left = spool.undelivered(transport.name)
            trouble = redact(str(courier.trouble or "no answer in time")) if left else None
            done.append(Replayed(str(spool.path), transport.name, transport.place, count - left, left, trouble))
    return done
