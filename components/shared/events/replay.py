"""Deliver later what a run could not: the rest of its spools, in order, under the same ids."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.errors import ArtifactError, InputError, ShutterlineError
from components.shared.events.bucket import EventsBucket, spool_name
from components.shared.events.delivery import Delivery, DeliveryControl, SpoolWriter, Transport
from components.shared.events.spool import SPOOL_SUFFIX, Spool, spools_of
from components.shared.storage.location import AnyPath, Location
from components.shared.storage.transfer import timeout_s as storage_timeout_s

# A call that was given the rest of the time ends a little after it; the files must be open until then.
LAST_CALL_S = 2.0


@dataclass(frozen=True)
class Replayed:
    """What a replay did for one spool, a file or an address in a bucket, and one broker; `place` has its topic.

    Attributes:
        trouble: Why there are undelivered events.
        too_large: Those of them that the broker refuses for their size.
    """

    spool: str
    broker: str
    place: str
    delivered: int
    undelivered: int
    trouble: str | None
    too_large: int = 0


@dataclass(frozen=True)
class FoundSpool:
    """A spool to deliver: its file, how messages name it, and the bucket that it was fetched from, if it was."""

    path: Path
    address: str
    bucket: EventsBucket | None = None


def find_spools(where: Iterable[AnyPath], scratch: Path, log: logging.Logger) -> list[FoundSpool]:
    """The spools of paths and locations: files, all of a directory, objects, and all below a location in a bucket.

    Args:
        where: Paths and locations.
        scratch: An empty directory for what is fetched from buckets, which raises as `EventsBucket` does.
        log: Gets a line for what is passed over.

    Raises:
        InputError: A path or an object is not there, or a directory or location has no spools.
    """
    found: list[FoundSpool] = []
    for path in where:
        found += _in_bucket(path, scratch, log) if isinstance(path, Location) else _in_directory(path)
    # A spool and its directory may both be named.
    return list({spool.address if spool.bucket else str(spool.path.absolute()): spool for spool in found}.values())


def _in_directory(path: Path) -> list[FoundSpool]:
    if not path.exists():
        raise InputError(f"{path}: is not there")
    spools = spools_of(path) if path.is_dir() else [path]
    if not spools:
        raise InputError(f"{path}: has no spools; a run keeps them in its directory events/")
    return [FoundSpool(spool, str(spool)) for spool in spools]


def _in_bucket(location: Location, scratch: Path, log: logging.Logger) -> list[FoundSpool]:
    name = spool_name(location)
    parent = Location(location.scheme, location.bucket, location.key.rpartition("/")[0]) if name else location
    local = Path(tempfile.mkdtemp(dir=scratch))
    bucket = EventsBucket(parent, local, timeout_s=storage_timeout_s(), log=log)
    bucket.fetch(name=name)
    # An empty one was claimed by a step that has not come to put an event there.
    if not (spools := [spool for spool in spools_of(local) if spool.stat().st_size]):
        raise InputError(
            f"{location}: is not there, or holds no events"
            if name
            else f"{location}: has no spools with events (RUN.STEP.ATTEMPT{SPOOL_SUFFIX}); check the address"
        )
    return [FoundSpool(spool, str(parent.child(spool.name)), bucket) for spool in spools]


def replay(
    found: Sequence[FoundSpool],
    transport_of: Callable[[str, dict[str, Any]], Transport],
    *,
    targets: dict[str, dict[str, Any]] | None = None,
    timeout_s: float,
    log: logging.Logger,
) -> list[Replayed]:
    """Deliver what the spools' brokers do not have yet; ledgers of a bucket's spools are put back, spools never.

    The brokers are `targets`, by default those that each spool was meant for.

    Raises:
        ArtifactError: A file is no spool, is in use, or names no broker.
        StatusRefusedError: A broker's credentials or settings are wrong.
    """
    addresses: dict[Path | None, str] = {one.path: one.address for one in found}
    routes: dict[str, tuple[Transport, list[Spool]]] = {}
    before: dict[tuple[str, Path | None], int] = {}
    spools: list[Spool] = []
    try:
        for one in found:
            spools.append(spool := _opened(one))
            _set_targets(spool, one.address, targets or {})
        for spool in spools:
            for name in targets or spool.targets:
                target = spool.targets[name]
                key = json.dumps([name, target.get("servers"), target["topic"]])
                if key not in routes:
                    routes[key] = (transport_of(name, target), [])
                routes[key][1].append(spool)
                before[name, spool.path] = spool.undelivered(name)
                spool.begin_again(name)
    except BaseException:
        for spool in spools:
            spool.close()
        raise
    control = DeliveryControl(is_complete=True)
    deliveries = [Delivery(transport, meant, control, log) for transport, meant in routes.values()]
    writer = SpoolWriter(spools, deliveries, control, log)
    try:
        control.end_within(timeout_s)
        for thread in (*deliveries, writer):
            thread.start()
        for delivery in deliveries:
            delivery.join(control.remaining_s + LAST_CALL_S)
        if all(delivery.is_done for delivery in deliveries):
            writer.join()
    finally:
        for bucket in {id(one.bucket): one.bucket for one in found if one.bucket is not None}.values():
            try:
                bucket.put_ledgers()
            except (ShutterlineError, OSError) as error:
                log.warning("%s; the next replay delivers the same events again, under the same ids", error)
    done = []
    for delivery in deliveries:
        name, place = delivery.transport.name, delivery.transport.address
        for spool in delivery.spools:
            left, address = spool.undelivered(name), addresses[spool.path]
            count = max(0, before[name, spool.path] - left)
            done.append(Replayed(address, name, place, count, left, delivery.reason(spool), spool.too_large(name)))
    return done


def _opened(found: FoundSpool) -> Spool:
    try:
        spool = Spool.open(found.path, unlocked=True)  # who asks for it knows that the step is over
    except OSError as error:
        raise ArtifactError(f"{found.address}: cannot be opened: {error.strerror}") from error
    if spool is None:
        raise ArtifactError(f"{found.address}: its step is still running and delivers it itself")
    return spool


def _set_targets(spool: Spool, address: str, targets: dict[str, dict[str, Any]]) -> None:
    """Set where a spool goes; what a topic already has it does not get again, and no other broker is forgotten."""
    for name, target in targets.items():
        known = spool.targets.get(name, {})
        is_same = all(known.get(key) == target.get(key) for key in ("servers", "topic"))
        spool.targets[name] = (known if is_same else {"delivered": 0}) | target
    if not spool.targets:
        raise ArtifactError(f"{address}: its run named no broker; name one by --params")
