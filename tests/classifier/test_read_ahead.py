"""Reading ahead: in order, never far ahead, errors where results are used, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.classifier.read_ahead import read_ahead

SOON = 10.0  # seconds; what is waited for here takes milliseconds


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + SOON
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


@given(st.lists(st.none() | st.integers()), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_results_come_in_order_and_whole(items: list[int | None], depth: int) -> None:
    assert list(read_ahead(lambda item: item, items, depth)) == items
    assert not reading_threads()


def test_so_many_results_are_made_ahead_and_no_more() -> None:
    made: list[int] = []
    with closing(read_ahead(made.append, range(100), depth=3)) as results:
        next(results)
        # One taken, three waiting, one that finds no room.
        assert eventually(lambda: len(made) == 5)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3, 4]
    assert not reading_threads()
    assert len(made) == 5


def test_nothing_is_done_before_the_first_result_is_asked_for() -> None:
    made: list[int] = []
    results = read_ahead(made.append, range(3))
    assert not reading_threads()
    results.close()
    assert made == []


def test_an_error_comes_after_the_results_before_it() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise OSError("the disk is gone")
        return item

    results = read_ahead(work, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    assert not reading_threads()


def test_an_error_of_the_items_is_raised_too() -> None:
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda item: item, (1 // (1 - item) for item in range(3))))


def test_leaving_early_ends_the_thread() -> None:
    class StoppedError(Exception):
        """As a signal that is raised as an exception."""

    def consume() -> None:
        for item in read_ahead(lambda item: item, range(10**9)):
            if item == 5:
                raise StoppedError

    with pytest.raises(StoppedError):
        consume()
    assert eventually(lambda: not reading_threads())


def test_closing_waits_for_the_item_in_work_alone() -> None:
    begun, go_on = threading.Event(), threading.Event()
    finished: list[int] = []

    def work(item: int) -> int:
        if item == 1:
            begun.set()
            go_on.wait(SOON)
        finished.append(item)
        return item

    results = read_ahead(work, range(100))
    next(results)
    assert begun.wait(SOON)
    threading.Timer(0.05, go_on.set).start()
    results.close()
    assert finished == [0, 1]
    assert not reading_threads()
