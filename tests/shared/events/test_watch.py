from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.errors import RetryableError, StatusRefusedError
from components.shared.events import watch
from components.shared.events.event import StepEvent
from components.shared.events.runs import fold
from components.shared.events.watch import Counts, follow
from tests.shared.events.sample_events import (
    JSON,
    EventSequence,
    MemorySource,
    a_pipeline,
    a_step,
    foreign,
    parsed,
    progress,
)

Shown = list[StepEvent]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FIRST_PAUSE_S", 0.0001)
    monkeypatch.setattr(watch, "LONGEST_PAUSE_S", 0.001)


def shows(source: MemorySource, count: int, run: str | None = None) -> tuple[Shown, Counts]:
    """Follow until so many events are shown and all rounds are delivered."""
    shown: Shown = []
    counts = follow(
        source, shown.append, run=run, until=lambda counts: counts.shown >= count and not source.rounds, poll_s=0.001
    )
    return shown, counts


def test_every_event_is_shown_in_order_and_acknowledged() -> None:
    bodies = a_pipeline("run-1")
    source = MemorySource([bodies[:3], [], bodies[3:]])
    shown, counts = shows(source, len(bodies))
    assert shown == parsed(bodies)
    assert source.acknowledged == bodies
    assert counts == Counts(shown=len(bodies), acknowledged=len(bodies))


def test_a_duplicate_is_dropped_and_acknowledged() -> None:
    bodies = a_step("run-1")
    source = MemorySource([bodies[:4], bodies[:4], bodies[2:]])
    shown, counts = shows(source, len(bodies))
    assert shown == parsed(bodies)
    assert counts == Counts(shown=len(bodies), duplicates=6, acknowledged=len(bodies) + 6)


def test_two_processes_that_know_nothing_of_each_other_are_no_duplicates() -> None:
    (one, *_) = a_step("run-1")
    document = json.loads(one)
    other = json.dumps(document | {"source": document["source"].replace("pod-1", "pod-2")}).encode()
    shown, _ = shows(MemorySource([[one, other]]), 2)
    assert [event.id for event in shown] == [document["id"]] * 2


def test_only_the_newest_events_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "REMEMBERED", 3)
    one, two, three, four, *_ = a_step("run-1")
    # The second delivery of one makes it younger than two.
    source = MemorySource([[one, two, three, one, four, one, two]])
    shown, counts = shows(source, 5)
    assert shown == parsed([one, two, three, four, two])
    assert counts.duplicates == 2


def test_an_older_attempt_that_comes_late_is_shown_and_changes_nothing() -> None:
    first, second = EventSequence("run-1", "train"), EventSequence("run-1", "train", attempt=1)
    bodies = [second.next("progress", progress(2, 3)), first.next("progress", progress(1, 3))]
    shown, _ = shows(MemorySource([bodies]), 2)
    assert shown == parsed(bodies)
    view = fold("run-1", shown).steps["train"]
    assert (view.attempt, view.progress) == (1, shown[0].data)


def test_events_of_other_runs_are_passed_over_and_acknowledged() -> None:
    mine, other = a_step("mine"), a_step("other")
    bodies = [body for pair in zip(other, mine, strict=True) for body in pair]
    source = MemorySource([bodies])
    shown, counts = shows(source, len(mine), run="mine")
    assert shown == parsed(mine)
    assert source.acknowledged == bodies
    assert counts == Counts(shown=len(mine), others=len(other), acknowledged=len(bodies))


class ShowError(Exception):
    pass


def failing_at(number: int, shown: Shown) -> Callable[[StepEvent], None]:
    def show(event: StepEvent) -> None:
        if len(shown) == number:
            raise ShowError
        shown.append(event)

    return show


def test_what_the_callback_did_not_return_for_stays_unacknowledged() -> None:
    bodies = a_step("run-1")
    source = MemorySource([[b"noise", *bodies]])
    shown: Shown = []
    with pytest.raises(ShowError):
        follow(source, failing_at(3, shown))
    assert shown == parsed(bodies[:3])
    assert source.acknowledged == [b"noise", *bodies[:3]]


def test_a_callback_that_raises_while_the_broker_is_away_still_says_what_it_raised() -> None:
    source = MemorySource([a_step("run-1")])
    source.refusals = [RetryableError("gone")]
    with pytest.raises(ShowError):
        follow(source, failing_at(3, []))


def test_the_end_leaves_the_rest_of_a_window_to_the_next_watcher() -> None:
    bodies = a_step("run-1")
    source = MemorySource([bodies])
    shown: Shown = []
    follow(source, shown.append, until=lambda counts: counts.shown == 2)
    assert shown == parsed(bodies[:2])
    assert source.acknowledged == bodies[:2]
    assert not source.closed  # whoever opened it closes it


def test_documents_are_shown_as_they_came() -> None:
    document = json.loads(a_step("run-1")[0])
    body = json.dumps(document | {"traceparent": "00-ab-cd-01"}, indent=2).encode()
    told: list[object] = []
    follow(
        MemorySource([[body, body]]), lambda event: told.append(event.state), on_document=told.append,
        until=lambda counts: counts.duplicates == 1,
    )  # fmt: skip
    assert told == [body, "started"]


def test_an_outage_is_told_once_and_so_is_its_end() -> None:
    bodies = a_step("run-1")
    away = [RetryableError("nobody answers")] * 5
    source = MemorySource([bodies[:2], *away, bodies[2:], RetryableError("again"), []])
    told: list[str | None] = []
    counts = follow(source, lambda _: None, until=lambda _: len(told) == 4, on_trouble=told.append, poll_s=0.001)
    assert told == ["nobody answers", None, "again", None]
    assert counts == Counts(shown=len(bodies), acknowledged=len(bodies), troubles=2)


def test_an_acknowledgement_that_fails_is_made_again() -> None:
    bodies = a_step("run-1")
    source = MemorySource([bodies, []])
    source.refusals = [RetryableError("not now"), RetryableError("not now")]
    _, counts = shows(source, len(bodies))
    assert source.acknowledged == bodies
    assert counts.troubles == 1


def test_an_outage_at_the_end_is_no_error() -> None:
    bodies = a_step("run-1")
    source = MemorySource([bodies])
    source.refusals = [RetryableError("gone")] * 3
    shown, counts = shows(source, len(bodies))
    assert shown == parsed(bodies)
    assert counts.acknowledged == 0


def test_an_end_is_noticed_during_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr(watch, "LONGEST_PAUSE_S", 3600.0)
    asked = itertools.count()
    counts = follow(
        MemorySource([RetryableError("gone")]), lambda _: None, until=lambda _: next(asked) > 5, poll_s=0.001
    )  # fmt: skip
    assert counts == Counts(troubles=1)


def test_a_refusal_is_an_error_of_the_users() -> None:
    source = MemorySource([a_step("run-1")[:1], StatusRefusedError("no topic x; create it")])
    with pytest.raises(StatusRefusedError, match="no topic x; create it"):
        follow(source, lambda _: None)
    assert len(source.acknowledged) == 1


def test_ten_thousand_foreign_messages_hide_no_event() -> None:
    events = [body for number in range(50) for body in a_pipeline(f"run-{number}")]
    noise = list(itertools.islice(foreign(7), 10_000))
    mixed = [body for group in itertools.zip_longest(events, *[iter(noise)] * 20) for body in group if body is not None]
    assert len(mixed) == 10_000 + len(events)
    source = MemorySource([mixed[start : start + 200] for start in range(0, len(mixed), 200)])
    shown, counts = shows(source, len(events))
    assert shown == parsed(events)
    assert (counts.foreign, counts.acknowledged) == (10_000, len(mixed))
    assert counts.last_foreign


DOCUMENTS = [json.loads(body) for body in [*a_pipeline("run-1"), *a_step("run-2", "failed")]]


@st.composite
def changed_events(draw: st.DrawFn) -> bytes:
    """A real event with some of it replaced by anything."""
    document = dict(draw(st.sampled_from(DOCUMENTS)))
    for key in draw(st.lists(st.sampled_from(sorted(document)), max_size=3)):
        document[key] = draw(JSON)
    return json.dumps(document).encode()


@given(
    st.lists(
        st.binary(max_size=200)
        | JSON.map(lambda value: json.dumps(value).encode())
        | changed_events()
        | st.sampled_from(DOCUMENTS).map(lambda document: json.dumps(document).encode()[:-3]),
        max_size=20,
    )
)
def test_whatever_comes_is_shown_or_counted(messages: Sequence[bytes]) -> None:
    source = MemorySource([messages])
    shown: Shown = []
    seen = len(messages)
    counts = follow(
        source, shown.append, until=lambda now: now.shown + now.duplicates + now.foreign == seen, poll_s=0.001
    )  # fmt: skip
    assert source.acknowledged == list(messages)
    assert counts.shown == len(shown)
    assert counts.shown + counts.duplicates + counts.foreign == len(messages)
