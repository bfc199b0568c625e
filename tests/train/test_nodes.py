"""Nodes meet at each start, wait for who is gone, and leave together."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.shared.errors import GroupLostError
from components.shared.signals import Terminated, sigterm_raises
from components.train.nodes import BegunAnewError, FinishedError, Nodes
from tests.train.test_launch import free_port


@pytest.fixture
def node() -> Callable[..., Nodes]:
    port = int(free_port())

    def node(rank: int, size: int = 2, timeout_s: float = 60) -> Nodes:
        return Nodes(rank, size, "localhost", port, timeout_s, print)

    return node


def met(*nodes: Nodes) -> list[bytes]:
    """What each reads of what the first has left for this start."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        stores = [info.store for info in pool.map(lambda node: node.next_rendezvous(), nodes)]
    assert not any(store.check(["address"]) for store in stores), "an earlier start's"
    stores[0].set("address", str(time.monotonic()))
    return [store.get("address") for store in stores]


def test_nodes_meet_at_each_start(node: Callable[..., Nodes]) -> None:
    nodes = [node(rank, 3) for rank in range(3)]
    for _ in range(3):
        assert len(set(met(*nodes))) == 1
        assert [one.num_nodes_waiting() for one in nodes] == [0, 0, 0]
    assert len(set(met(nodes[0], node(1, 3), nodes[2]))) == 1, "one that was replaced"


def test_a_host_that_comes_again_is_found(node: Callable[..., Nodes]) -> None:
    other = node(1)
    for _ in range(2):
        host = node(0)
        assert len(set(met(host, other))) == 1
        del host
        gc.collect()  # the server ends with it, as with a process


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_that_begins_anew_ends_what_the_others_do(node: Callable[..., Nodes], rank: int) -> None:
    """Also where nothing else shows it: a machine that vanishes closes no connection."""
    nodes = [node(0), node(1)]
    met(*nodes)
    stays = nodes[1 - rank]
    if rank == 0:
        del nodes[:]
        gc.collect()
    with ThreadPoolExecutor() as pool:
        again = pool.submit(met, node(rank)) if rank else None
        begun = time.monotonic()
        while not stays.num_nodes_waiting():
            assert time.monotonic() - begun < 120, "it hangs"
            time.sleep(0.1)
        with pytest.raises(BegunAnewError):  # which torch elastic asks for, once its processes are ended
            stays.next_rendezvous()
        others = [pool.submit(one.next_rendezvous) for one in ([stays] if again else [node(0), stays])]
        assert len([one.result() for one in others]) == len(others)
        assert again is None or again.result()


@pytest.mark.parametrize(("rank", "message"), [(0, "node 1 did"), (1, r"node 0 \(localhost:[0-9]+\) did")])
def test_a_node_that_does_not_come_is_named(node: Callable[..., Nodes], rank: int, message: str) -> None:
    with pytest.raises(GroupLostError, match=f"{message} not come within 0 s"):
        node(rank, timeout_s=0.3).next_rendezvous()


def test_where_a_third_does_not_come_the_second_does_not_name_the_first(node: Callable[..., Nodes]) -> None:
    with ThreadPoolExecutor() as pool:
        waits = [pool.submit(node(rank, 3, timeout_s).next_rendezvous) for rank, timeout_s in ((0, 2.0), (1, 1.0))]
    assert isinstance(waits[1].exception(), GroupLostError)
    assert str(waits[1].exception()).startswith("the nodes that node 0 (localhost:")
    assert "node 2 did not come" in str(waits[0].exception())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_ends_the_wait(node: Callable[..., Nodes], rank: int) -> None:
    threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM]).start()
    with sigterm_raises(), pytest.raises(Terminated):
        node(rank).next_rendezvous()


def test_nodes_leave_together_and_one_that_comes_again_learns_that_all_is_done(node: Callable[..., Nodes]) -> None:
    host, other = node(0), node(1)
    met(host, other)
    with ThreadPoolExecutor() as pool:
        left = pool.submit(host.farewell)
        again = node(1)  # the other was killed at this moment
        with pytest.raises(FinishedError):
            again.next_rendezvous()
        assert not left.done(), "it is waited for"
        assert again.farewell()
        assert left.result()
    del host
    gc.collect()


def test_where_the_host_ends_before_all_is_done_all_is_done_again(node: Callable[..., Nodes]) -> None:
    host, other = node(0), node(1)
    met(host, other)
    del host
    gc.collect()
    assert not other.farewell()
    assert len(set(met(node(0), other))) == 1


def test_one_alone_waits_for_nobody(node: Callable[..., Nodes]) -> None:
    alone = node(0, 1)
    assert met(alone)
    assert alone.farewell()
