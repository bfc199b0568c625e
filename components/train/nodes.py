"""How the nodes of a group find each other, notice that one has begun anew, and leave together.

Torch's own static rendezvous (``torch/distributed/elastic/rendezvous/static_tcp_rendezvous.py`` of 2.15) waits in C++,
where no signal is heeded, keeps the connection to a host that is gone, and does not notice a node that came anew.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined] # it is documented there
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
)

from components.shared.errors import GroupLostError
from components.shared.process_group import MEETING_VARIABLE
from components.shared.retry import bounded
from components.shared.text import first_line

T = TypeVar("T")

POLL_S = 0.02
_SLOW_POLL_S = 0.2  # where the others take long
_SILENT_S = 5.0  # of a wait that is not logged
_LOOK_EVERY_S = 1.0
# How long processes have to end by themselves, with a reason, once another node has begun anew.
_END_S = 5.0
_ANSWER_S = 30.0  # of a host that is there
_CONNECT_S = 2.0
# How long the host waits, once all is done, for a node that was lost meanwhile and comes again: a new pod took 15 s.
_FAREWELL_S = 60.0


class LostError(GroupLostError):
    """Processes were lost, and all may be started again."""


class BegunAnewError(LostError):
    """A node has begun anew, and what this one does with those before is over."""


class FinishedError(GroupLostError):
    """The others have ended, and all is done."""


class Meeting:
    """Who takes part in one start of a group, agreed on in a store; by rank 0's offer, the others' answers.

    When one is lost all are started again, and what is in the store is from before: the address of a process that is
    gone would be waited for. The number of starts is no name for one: each node counts for itself, and one may have
    missed a start. So rank 0 offers a new name, each other answers with a name of its own, and rank 0 confirms those
    that answered. An offer that is confirmed to others, or never, is an earlier start's; the next one is waited for.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._names = PrefixStore("meeting", store)
        self._rank, self._size, self._own = rank, size, uuid4().hex
        self._answered = ""
        self._answers: list[bytes] = []
        self.name = ""
        if rank == 0:
            self._names.set("offer", self._own)

    def is_complete(self) -> bool:
        """Whether all have met, which gives the meeting its `name`."""
        names = self._names
        if self._rank == 0:
            answers = self._answer_keys(self._own)
            if answers and not names.check(answers):
                return False
            self._answers, self.name = names.multi_get(answers) if answers else [], self._own
            names.set(f"{self._own}/all", b" ".join(self._answers).decode())
            return True
        if not names.check(["offer"]):
            return False
        offer = names.get("offer").decode()
        if offer != self._answered:
            names.set(f"{offer}/{self._rank}", self._own)
            self._answered = offer
        if names.check([f"{offer}/all"]) and self._own in names.get(f"{offer}/all").decode().split():
            self.name = offer
        return bool(self.name)

    def is_over(self) -> bool:
        """Whether one of those that have met has begun anew."""
        if self._rank:
            return self._names.get("offer").decode() != self.name
        keys = self._answer_keys(self.name)
        return bool(keys) and self._names.multi_get(keys) != self._answers

    def missing(self) -> list[int]:
        """Who has not come yet, as far as this one can see; rank 0 alone knows of all."""
        if self._rank:
            return [] if self._answered else [0]
        keys = self._answer_keys(self._own)
        return [rank for rank, key in enumerate(keys, 1) if not self._names.check([key])]

    def _answer_keys(self, offer: str) -> list[str]:
        return [f"{offer}/{rank}" for rank in range(1, self._size)]


def unused_store(store: Store, rank: int, size: int, timeout: timedelta) -> Store:
    """A part of a store that is this start's alone; every process of the group must ask.

    Where a user's torchrun starts all again, torch 2.15 gives them the store that the ones before have used
    (``torch/distributed/elastic/rendezvous/dynamic_rendezvous.py``). What gloo finds there first may be the address of
    a process that is gone; it gives up after seven seconds, and one restart is used up for nothing.
    """
    meeting, until = Meeting(store, rank, size), time.monotonic() + timeout.total_seconds()
    while not meeting.is_complete():
        if time.monotonic() > until:
            ranks = ", ".join(map(str, meeting.missing()))
            raise GroupLostError(f"rank {ranks} did not come within {timeout.total_seconds():.0f} s")
        time.sleep(POLL_S)
    return PrefixStore(meeting.name, store)


class Nodes(RendezvousHandler):
    """The nodes of a group, this one's `rank` among them, whose rank 0 is the host of what all agree on.

    Args:
        rank: This node's, from 0.
        size: How many nodes there are.
        host: Where rank 0 is, as the others reach it.
        port: There; 0 on one node alone: any.
        timeout_s: How long the others are waited for.
        warn: Gets who is waited for, for people.
    """

    use_agent_store = True

    def __init__(
        self, rank: int, size: int, host: str, port: int, timeout_s: float, warn: Callable[[str], None]
    ) -> None:
        self._rank, self._size, self._host, self._port = rank, size, host, port
        self._timeout_s, self._warn = timeout_s, warn
        self._store: TCPStore | None = None
        self._meeting: Meeting | None = None
        self._look_at = 0.0
        self._over_since: float | None = None
        self._is_over_noted = False

    def get_backend(self) -> str:
        """The kind of rendezvous that this takes the place of."""
        return "static"

    def get_run_id(self) -> str:
        """No name: the step's run has one."""
        return "none"

    def is_closed(self) -> bool:
        """Nobody closes it."""
        return False

    def set_closed(self) -> None:
        """Nobody closes it."""

    def shutdown(self) -> bool:
        """The store ends with the process."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until all nodes are there; signals act meanwhile.

        Raises:
            BegunAnewError: It is asked for because :meth:`num_nodes_waiting` has said so.
            FinishedError: The others have ended, and all is done.
            GroupLostError: A node did not come in time, or the host cannot listen.
        """
        self._over_since = None
        if self._is_over_noted:
            self._is_over_noted = False
            raise BegunAnewError("a node has begun anew")
        begun, is_logged, self._meeting = time.monotonic(), False, None
        while True:
            missing = [0]
            try:
                if self._store is None and not self._connect():
                    self._meeting = None
                elif (store := self._store) is not None:
                    if self._meeting is None:
                        self._meeting = self._ask(lambda: Meeting(store, self._rank, self._size))
                    meeting = self._meeting
                    if self._ask(meeting.is_complete):
                        os.environ[MEETING_VARIABLE] = meeting.name  # which what is started inherits
                        info = RendezvousStoreInfo(self._host, self._port)
                        return RendezvousInfo(PrefixStore(meeting.name, store), self._rank, self._size, info)
                    if self._rank and self._ask(lambda: store.check(["finished"])):
                        raise FinishedError("the others have ended, and all is done")
                    missing = self._ask(meeting.missing)
            except dist.DistError as error:
                if self._rank == 0:
                    raise GroupLostError(first_line(error)) from error
                self._store = self._meeting = None
            waited, who = time.monotonic() - begun, " and ".join(f"node {rank}" for rank in missing)
            if self._rank:
                host = f"node 0 ({self._host}:{self._port})"
                who = host if missing else f"the nodes that {host} waits for"
            if waited > self._timeout_s:
                raise GroupLostError(f"{who} did not come within {self._timeout_s:.0f} s")
            if waited > _SILENT_S and not is_logged and who:
                self._warn(f"waiting for {who}, at most {self._timeout_s:.0f} s")
                is_logged = True
            time.sleep(min(_SLOW_POLL_S, max(POLL_S, waited / 10)))

    def num_nodes_waiting(self) -> int:
        """One, once a node has begun anew or the host is gone, and the processes had time to end by themselves."""
        now = time.monotonic()
        if now < self._look_at or self._meeting is None:
            return 0
        self._look_at = now + _LOOK_EVERY_S
        if not self._is_over():
            self._over_since = None
            return 0
        self._over_since = self._over_since or now
        self._is_over_noted = now - self._over_since > _END_S
        return int(self._is_over_noted)

    def farewell(self) -> bool:
        """Leave when all is done here; false where it is not done elsewhere, and all are to begin anew.

        A node that was lost at the very end comes again, and is to learn that there is nothing left to do.
        """
        store, until = self._store, time.monotonic() + _FAREWELL_S
        if store is None or self._size == 1:
            return True
        try:
            if self._rank == 0:
                done = [f"done/{rank}" for rank in range(1, self._size)]
                self._ask(lambda: store.set("finished", ""))
                while not self._ask(lambda: store.check(done)):
                    if time.monotonic() > until:
                        self._warn("a node has not come again to learn that all is done")
                        return True
                    time.sleep(POLL_S)
                return True
            while not self._ask(lambda: store.check(["finished"])):
                if self._is_over():
                    return False
                time.sleep(POLL_S)
        except dist.DistError:
            return False
        self.note_done()
        return True

    def note_done(self) -> None:
        """Let the host know that this node needs it no longer."""
        if (store := self._store) is not None:
            with suppress(dist.DistError):
                self._ask(lambda: store.set(f"done/{self._rank}", ""))

    def _connect(self) -> bool:
        """Connect to the host's store, which the host makes; whether there is one."""
        if self._rank:
            # torch would try for its whole timeout, and log each try.
            try:
                socket.create_connection((self._host, self._port), _CONNECT_S).close()
            except OSError:  # no name yet, or nobody there
                return False
        is_host, own = self._rank == 0, "localhost" if self._rank == 0 else self._host
        timeout = timedelta(seconds=_ANSWER_S)
        options: dict[str, Any] = {"wait_for_workers": False, "multi_tenant": is_host}
        store = self._ask(lambda: TCPStore(own, self._port, None, is_host, timeout, **options))
        self._store, self._port = store, store.port
        return True

    def _is_over(self) -> bool:
        try:
            return self._meeting is not None and self._ask(self._meeting.is_over)
        except dist.DistError:
            self._store = None
            return True

    def _ask(self, question: Callable[[], T]) -> T:
        """The store's answer, waited for so that signals act: in C++ a host that vanished is waited for for ever."""
        try:
            return bounded(question, _ANSWER_S)
        except TimeoutError:
            raise dist.DistNetworkError(f"{self._host} does not answer within {_ANSWER_S:.0f} s") from None
