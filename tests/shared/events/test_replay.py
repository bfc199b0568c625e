"""Delivering later what a run could not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.errors import ArtifactError, InputError, RetryableError, StatusRefusedError
from components.shared.events import replay as module
from components.shared.events.replay import Replayed, find_spools, replay
from components.shared.events.spool import Spool, ledger_of
from tests.shared.events.sample_events import progress
from tests.shared.events.transports import (
    LOG,
    WAIT_S,
    Act,
    Gate,
    ScriptedTransport,
    Takes,
    left_spool,
    lines_of,
    opened,
    stream_to,
    targets,
    until,
)

AWAY = RetryableError("kafka: is away")


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_CALL_S", 0.1)


class Brokers:
    """Makes scripted transports, and remembers for which targets."""

    def __init__(self, **scripted: ScriptedTransport) -> None:
        self.scripted = scripted
        self.asked: list[tuple[str, str]] = []

    def __call__(self, name: str, target: dict[str, Any]) -> ScriptedTransport:
        self.asked.append((name, target["topic"]))
        return self.scripted.setdefault(name, ScriptedTransport(name))


def replayed(brokers: Callable[..., Any], *paths: Path, timeout_s: float = WAIT_S, **more: Any) -> list[Replayed]:
    return replay(find_spools(paths, Path(), LOG), brokers, timeout_s=timeout_s, log=LOG, **more)


def ids(step: str, *numbers: int) -> list[str]:
    return [f"run-1/{step}/0/{number}" for number in numbers]


def test_what_is_left_is_delivered_in_order_and_then_nothing_is_left(tmp_path: Path) -> None:
    first = left_spool(tmp_path, lines_of(300, step="data-prep"), "kafka", "pubsub", step="data-prep")
    second = left_spool(tmp_path, lines_of(2), "kafka")
    acts: list[Act] = [Takes(7), AWAY, StatusRefusedError(""), RuntimeError()]
    brokers = Brokers(kafka=ScriptedTransport("kafka", acts))
    assert replayed(brokers, tmp_path) == [
        Replayed(str(first), "kafka", "kafka in memory", 300, 0, None),
        Replayed(str(second), "kafka", "kafka in memory", 2, 0, None),
        Replayed(str(first), "pubsub", "pubsub in memory", 300, 0, None),
    ]
    assert brokers.scripted["kafka"].ids == ids("data-prep", *range(300)) + ids("train", 0, 1)
    assert brokers.scripted["pubsub"].ids == ids("data-prep", *range(300))
    assert brokers.asked == [("kafka", "status"), ("pubsub", "status")]
    again = Brokers()
    assert [(entry.delivered, entry.undelivered) for entry in replayed(again, tmp_path)] == [(0, 0)] * 3
    assert [transport.taken for transport in again.scripted.values()] == [[], []]


def test_what_a_step_had_delivered_is_not_delivered_again(tmp_path: Path) -> None:
    status = stream_to(tmp_path, broker := ScriptedTransport(acts=[Takes(1), *[AWAY] * 100_000]))
    for epoch in range(3):
        status.emit(progress(epoch, 3))
    until(lambda: len(broker.windows) > 1)
    status.close(0.05)
    brokers = Brokers()
    (entry,) = replayed(brokers, tmp_path)
    assert brokers.scripted["kafka"].ids == ids("train", 1, 2)
    assert (entry.delivered, entry.undelivered) == (2, 0)


def test_what_a_broker_does_not_take_in_time_is_reported(tmp_path: Path) -> None:
    path = left_spool(tmp_path, lines_of(5), "kafka", "pubsub")
    brokers = Brokers(kafka=ScriptedTransport("kafka", [Takes(2), *[AWAY] * 100_000]))
    assert replayed(brokers, path, timeout_s=0.2) == [
        Replayed(str(path), "kafka", "kafka in memory", 2, 3, "kafka: is away"),
        Replayed(str(path), "pubsub", "pubsub in memory", 5, 0, None),
    ]
    assert [entry.delivered for entry in replayed(Brokers(), path)] == [3, 0]


def test_an_answer_that_was_lost_means_the_same_ids_again(tmp_path: Path) -> None:
    path = left_spool(tmp_path, lines_of(4), "kafka")
    brokers = Brokers(kafka=ScriptedTransport("kafka", [Takes(3, answers=False)]))
    (entry,) = replayed(brokers, path)
    assert brokers.scripted["kafka"].ids == ids("train", 0, 1, 2, 0, 1, 2, 3)
    assert (entry.delivered, entry.undelivered) == (4, 0)


def test_a_spool_with_events_that_were_too_large_is_offered_again(tmp_path: Path) -> None:
    lines = lines_of(3)
    lines[1] = json.dumps(json.loads(lines[1]) | {"note": "x" * 2_000}).encode() + b"\n"
    path = left_spool(tmp_path, lines, "kafka")
    for limit, delivered, left in ((2_000, 2, 1), (2_000, 0, 1), (9_000, 1, 0), (9_000, 0, 0)):
        brokers = Brokers(kafka=ScriptedTransport(limit=limit))
        (entry,) = replayed(brokers, path)
        assert (entry.delivered, entry.undelivered, entry.too_large) == (delivered, left, left)
    assert brokers.scripted["kafka"].ids == []


def test_other_brokers_can_be_named(tmp_path: Path) -> None:
    path = left_spool(tmp_path, lines_of(3), "kafka")
    brokers = Brokers()
    elsewhere = targets("pubsub", topic="elsewhere")
    assert [entry.delivered for entry in replayed(brokers, path, targets=elsewhere)] == [3]
    assert brokers.asked == [("pubsub", "elsewhere")]
    assert brokers.scripted["pubsub"].ids == ids("train", 0, 1, 2)
    # What a topic has it does not get again, however it is named.
    assert [entry.delivered for entry in replayed(Brokers(), path, targets=elsewhere)] == [0]
    assert [entry.delivered for entry in replayed(Brokers(), path, targets=targets("pubsub", topic="third"))] == [3]


def test_spools_of_two_topics_go_each_to_its_own(tmp_path: Path) -> None:
    left_spool(tmp_path, lines_of(1, step="data-prep"), "kafka", step="data-prep")
    left_spool(tmp_path, lines_of(1), "kafka", topic="elsewhere")
    made: list[ScriptedTransport] = []

    def transport_of(name: str, target: dict[str, Any]) -> ScriptedTransport:
        made.append(ScriptedTransport(name, address=target["topic"]))
        return made[-1]

    assert {entry.place: entry.delivered for entry in replayed(transport_of, tmp_path)} == {"status": 1, "elsewhere": 1}
    assert {transport.address: transport.ids for transport in made} == {
        "status": ids("data-prep", 0),
        "elsewhere": ids("train", 0),
    }


def test_a_spool_named_twice_is_delivered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = left_spool(tmp_path, lines_of(2), "kafka")
    monkeypatch.chdir(tmp_path)
    (entry,) = replayed(Brokers(), tmp_path, path, Path(path.name))
    assert (entry.delivered, entry.undelivered) == (2, 0)


def test_a_running_steps_spool_is_left_alone_and_nothing_else_is_held(tmp_path: Path) -> None:
    mine = left_spool(tmp_path / "a", lines_of(1), "kafka")
    status = stream_to(tmp_path / "b", ScriptedTransport())
    brokers = Brokers()
    with pytest.raises(ArtifactError, match="its step is still running and delivers it itself"):
        replayed(brokers, mine, tmp_path / "b")
    assert brokers.asked == []
    status.close(WAIT_S)
    assert [entry.delivered for entry in replayed(brokers, mine, tmp_path / "b")] == [1, 0]


def test_a_spool_without_a_broker_wants_one_named(tmp_path: Path) -> None:
    path = left_spool(tmp_path, lines_of(2))
    with pytest.raises(ArtifactError, match="its run named no broker; name one by --params"):
        replayed(Brokers(), path)
    assert [entry.delivered for entry in replayed(Brokers(), path, targets=targets("kafka"))] == [2]


def test_what_is_not_there_or_holds_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: is not there"):
        find_spools([tmp_path / "nowhere"], tmp_path, LOG)
    with pytest.raises(InputError, match="has no spools; a run keeps them in its directory events/"):
        find_spools([tmp_path], tmp_path, LOG)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ArtifactError, match=r"notes\.txt: is not a spool"):
        replayed(Brokers(), tmp_path / "notes.txt")


def test_a_broker_that_hangs_for_good_is_left_behind(tmp_path: Path, gate: Gate) -> None:
    path = left_spool(tmp_path, lines_of(2), "kafka", "pubsub")
    brokers = Brokers(kafka=ScriptedTransport("kafka", [gate]))
    assert replayed(brokers, path, timeout_s=0.05) == [
        Replayed(str(path), "kafka", "kafka in memory", 0, 2, "no answer in time"),
        Replayed(str(path), "pubsub", "pubsub in memory", 2, 0, None),
    ]
    # It may yet come back and write to the ledger, so the spool stays its own.
    assert Spool.open(path) is None


ANYTHING = st.none() | st.integers(-1, 2_000) | st.text(max_size=3) | st.just("status")
TARGET = st.fixed_dictionaries({}, optional=dict.fromkeys(("topic", "delivered", "servers"), ANYTHING))
TARGETS = st.dictionaries(st.sampled_from(["kafka", "pubsub"]), TARGET | ANYTHING) | ANYTHING
LEDGERS = st.fixed_dictionaries({}, optional={"targets": TARGETS}) | ANYTHING


@given(LEDGERS.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50))
def test_whatever_a_ledger_says_the_spool_is_delivered_or_refused(
    tmp_path_factory: pytest.TempPathFactory, ledger: bytes
) -> None:
    path = left_spool(tmp_path_factory.mktemp("spool"), lines_of(3), "kafka")
    ledger_of(path).write_bytes(ledger)
    try:
        done = replayed(Brokers(), path)
    except ArtifactError:
        done = replayed(Brokers(), path, targets=targets("kafka"))
    assert [(entry.undelivered, entry.trouble) for entry in done] == [(0, None)] * len(done)
    opened(path).close()
