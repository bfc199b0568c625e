"""Where the processes of a group find each other: a place in their store that no earlier attempt has used.

When a process is lost, torchrun starts all of them again, and torch 2.15 lets them meet in the store that the ones
before have used (``torch/distributed/elastic/rendezvous/dynamic_rendezvous.py``). What gloo finds there first may be
the address of a process that is gone; it then gives up after seven seconds, and one restart is used up for nothing.
How often they were started is no name for the place: each node counts for itself, and one may have missed a start.
"""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

from torch.distributed import DistStoreError
from torch.distributed.distributed_c10d import PrefixStore, Store

from components.shared.errors import GroupLostError

# Seconds between two looks at the store.
_LOOK = 0.02


def unused(store: Store, rank: int, size: int, timeout: timedelta) -> Store:
    """A part of a store that is this attempt's alone; every process of it must ask.

    Rank 0 offers a new name, each other answers with a name of its own, and rank 0 confirms whom it has heard. An offer
    that is confirmed to others, or never, is an earlier attempt's, and the next one is waited for.

    Args:
        store: Where earlier attempts may have left anything.
        rank: This process's.
        size: How many they are.
        timeout: How long they wait for each other.

    Raises:
        GroupLostError: Not all of them came.
    """
    own = uuid4().hex
    meeting = PrefixStore("meeting", store)
    if rank == 0:
        meeting.set("offer", own)
        answers = [f"{own}/{other}" for other in range(1, size)]
        _wait(meeting, answers, timeout)
        meeting.set(f"{own}/all", " ".join(meeting.get(answer).decode() for answer in answers))
        return PrefixStore(own, store)
    until = time.monotonic() + timeout.total_seconds()
    _wait(meeting, ["offer"], timeout)
    while time.monotonic() < until:
        offer = meeting.get("offer").decode()
        meeting.set(f"{offer}/{rank}", own)
        if meeting.check([f"{offer}/all"]) and own in meeting.get(f"{offer}/all").decode().split():
            return PrefixStore(offer, store)
        time.sleep(_LOOK)
    raise GroupLostError(f"rank 0 did not come within {timeout.total_seconds():.0f} s")


def _wait(store: Store, keys: list[str], timeout: timedelta) -> None:
    if not keys:
        return
    try:
        store.wait(keys, timeout)
    except DistStoreError as error:
        raise GroupLostError(f"not all processes came within {timeout.total_seconds():.0f} s") from error
