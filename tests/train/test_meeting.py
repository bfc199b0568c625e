"""Processes that are started again meet each other, and none that is gone."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import HashStore
from torch.distributed.distributed_c10d import Store

from components.shared.errors import GroupLostError
from components.train.nodes import unused_store

SOON, LATER = timedelta(milliseconds=200), timedelta(seconds=60)


def met(store: Store, size: int, late: int | None = None) -> list[Store]:
    found: dict[int, Store] = {}

    def come(rank: int) -> None:
        if rank == late:
            time.sleep(0.2)
        found[rank] = unused_store(store, rank, size, LATER)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(size)]


@pytest.fixture
def store() -> Store:
    return HashStore()


@pytest.mark.parametrize("late", [None, 0, 1, 2])
def test_each_attempt_has_a_place_of_its_own(store: Store, late: int | None) -> None:
    for attempt in range(3):
        stores = met(store, 3, late)
        assert not any(each.check(["address"]) for each in stores), "an earlier attempt's"
        stores[0].set("address", str(attempt))
        assert [each.get("address") for each in stores] == [str(attempt).encode()] * 3


@pytest.mark.parametrize("gone", [0, 1])
def test_an_attempt_in_which_one_has_not_come_hinders_no_other(store: Store, gone: int) -> None:
    with pytest.raises(GroupLostError):
        unused_store(store, 1 - gone, 2, SOON)

    stores = met(store, 2, late=0)

    stores[1].set("address", "new")
    assert stores[0].get("address") == b"new"


def test_one_alone_waits_for_nobody(store: Store) -> None:
    unused_store(store, 0, 1, SOON).set("address", "mine")
