"""The spool: whole lines whatever happens, one owner at a time, and a ledger that may only lag."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from components.shared.errors import ArtifactError
from components.shared.events.event import EncodedEvent
from components.shared.events.spool import WINDOW_EVENTS, Spool, events_in, ledger_of, spools_of
from tests.shared.events.sample_events import parsed
from tests.shared.events.transports import WAIT_S, FullDisk, add, left_spool, lines_of, opened, targets

ROOT = Path(__file__).parents[3]
NOWHERE: dict[str, dict[str, Any]] = {}


def all_of(spool: Spool, number: int = 0) -> list[bytes]:
    lines: list[bytes] = []
    while number < spool.count:
        events = spool.read(number)
        assert len(events) <= WINDOW_EVENTS
        lines += [event.body + b"\n" for event in events]
        number += max(1, len(events))
    return lines


def test_every_start_of_a_step_has_a_spool_of_its_own(tmp_path: Path) -> None:
    spools: list[Spool] = []
    events = tmp_path / "events"
    threads = [
        threading.Thread(target=lambda: spools.append(Spool.create(events, "run-1", "train", 3, NOWHERE)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    other = Spool.create(events, "run-1", "evaluate", 3, NOWHERE)
    assert sorted(spool.attempt for spool in spools) == list(range(3, 11))
    assert {spool.path for spool in spools} == {events / f"run-1.train.{attempt}.jsonl" for attempt in range(3, 11)}
    assert (other.attempt, other.path) == (3, events / "run-1.evaluate.3.jsonl")
    for spool in (*spools, other):
        spool.close()


def test_a_spool_is_opened_again_with_all_its_lines_and_what_was_delivered(tmp_path: Path) -> None:
    lines = lines_of(600)
    spool = Spool.create(tmp_path, "run.1", "train", 2, targets("kafka", "pubsub"))
    add(spool, lines)
    spool.advance("kafka", 2)
    spool.write()
    spool.close()
    assert spool.path is not None
    again = opened(spool.path)
    assert (again.path, again.attempt, all_of(again)) == (spool.path, 2, lines)
    assert [again.undelivered(name) for name in ("kafka", "pubsub")] == [598, 600]
    assert all_of(again, again.position("kafka")) == lines[2:]
    assert again.targets["pubsub"] == {"topic": "status", "delivered": 0}
    again.close()


@pytest.mark.parametrize("memory_events", [0, 3, 10_000])
def test_what_is_no_longer_in_memory_is_read_from_the_file(tmp_path: Path, memory_events: int) -> None:
    spool = Spool.create(tmp_path, "run-1", "train", 0, NOWHERE, memory_events=memory_events)
    lines = lines_of(WINDOW_EVENTS + 20)
    for number in range(0, len(lines), 50):
        add(spool, lines[number : number + 50])
    assert all_of(spool) == lines
    assert all_of(spool, 7) == lines[7:]
    spool.close()


def test_a_ledger_that_lags_means_events_twice_and_never_events_lost(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "run-1", "train", 0, targets("kafka"))
    assert spool.path is not None
    lines = lines_of(4)
    add(spool, lines)
    spool.advance("kafka", 1)
    spool.write()
    with pytest.MonkeyPatch.context() as patch:  # and one that cannot be written stops nothing
        patch.setattr(os, "pwrite", FullDisk([-1] * 9).pwrite)
        spool.advance("kafka", 4)
        spool.write()
    assert spool.undelivered("kafka") == 0
    spool.close()
    again = opened(spool.path)
    assert all_of(again, again.position("kafka")) == lines[1:]
    again.close()


@pytest.mark.parametrize("torn", [b'{"specversion":"1.0","id":"run-1/tr', b"\0" * 70_000, b"\xff"])
def test_a_last_line_that_was_not_finished_is_passed_over(tmp_path: Path, torn: bytes) -> None:
    lines = lines_of(3)
    path = left_spool(tmp_path, [*lines, torn], "kafka")
    spool = opened(path)
    assert (all_of(spool), spool.undelivered("kafka")) == (lines, 3)
    spool.close()
    assert list(events_in(tmp_path)) == parsed([line.rstrip(b"\n") for line in lines])


DAMAGED = [
    None, b"", b"{", b"\0" * 200, b"\xff", b"[]", b"7", b"[" * 60_000, b'{"targets": []}',
    b'{"targets": {"kafka": []}}',
    b'{"targets": {"kafka": {"topic": "status"}}}', b'{"targets": {"kafka": {"topic": 1, "delivered": 2}}}',
    b'{"targets": {"kafka": {"topic": "status", "delivered": -1}}}',
    b'{"targets": {"kafka": {"topic": "status", "delivered": "all"}}}',
    b'{"targets": {"kafka": {"topic": "status", "delivered": 3, "too_large": -1}}}',
]  # fmt: skip


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_ledger_that_is_damaged_or_gone_says_nothing_of_what_was_delivered(
    tmp_path: Path, damaged: bytes | None
) -> None:
    path = left_spool(tmp_path, lines_of(2), "kafka")
    ledger_of(path).unlink()
    if damaged is not None:
        ledger_of(path).write_bytes(damaged)
    spool = opened(path)
    assert (spool.targets, spool.count) == ({}, 2)
    spool.close()


@pytest.mark.parametrize(
    "name", ["train.jsonl", "run.jsonl", "run-1.train.x.jsonl", "run-1.train.².jsonl", "run.train.0"]
)
def test_a_file_of_another_name_is_no_spool(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(lines_of(1)[0])
    with pytest.raises(ArtifactError, match="is not a spool; its name would be RUN"):
        Spool.open(tmp_path / name)


def test_a_folder_of_that_name_cannot_be_opened_and_holds_no_events(tmp_path: Path) -> None:
    (tmp_path / "run-1.train.0.jsonl").mkdir()
    for _ in range(2):  # and nothing of the first try is left
        with pytest.raises(OSError, match="Is a directory"):
            Spool.open(tmp_path / "run-1.train.0.jsonl")
    assert list(events_in(tmp_path)) == []


def test_spools_are_found_by_run_in_the_order_of_their_first_events(tmp_path: Path) -> None:
    names = ["run-1.train.0", "run-1.data-prep.0", "run-10.train.0", "run-1.x.train.0", "run-1.train.1", "run-1", "x"]
    for age, name in enumerate(names):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"time": "2026-11-28T12:00:0{age}"}}\n')
    (tmp_path / "notes.txt").touch()
    assert spools_of(tmp_path) == [tmp_path / f"{name}.jsonl" for name in names]
    assert spools_of(tmp_path, "run-1") == [tmp_path / f"{names[index]}.jsonl" for index in (0, 1, 4)]
    assert [spools_of(tmp_path / name) for name in ("nowhere", "notes.txt", "x" * 300)] == [[], [], []]
    assert list(events_in(None)) == []


OWNER = """
import sys
from pathlib import Path
from components.shared.events.spool import Spool
from tests.shared.events.transports import add, lines_of, targets
spool = Spool.create(Path(sys.argv[1]), "run-1", "train", 0, targets("kafka"))
add(spool, lines_of(3))
print(spool.path, flush=True)
sys.stdin.read()
"""


def test_a_live_spool_is_nobody_elses_and_a_killed_ones_is_free(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        path = Path(owner.stdout.readline().strip())
        assert Spool.open(path) is None
        assert len(list(events_in(tmp_path))) == 3  # reading needs no lock
        owner.kill()
    spool = opened(path)
    assert spool.undelivered("kafka") == 3
    assert Spool.open(path) is None  # nor does a process take it from itself
    spool.close()


FORKED = """
import os, subprocess, sys
from pathlib import Path
from components.shared.events.spool import Spool
spool = Spool.create(Path(sys.argv[1]), "run-1", "train", 0, {})
probe = "import sys; from pathlib import Path; from components.shared.events.spool import Spool; " \\
    "print(Spool.open(Path(sys.argv[1])) is None)"
def taken():
    return subprocess.run([sys.executable, "-c", probe, spool.path], capture_output=True, text=True).stdout.strip()
child = os.fork()
if child == 0:
    spool.close()  # the child's copies
    os._exit(0)
os.waitpid(child, 0)
print(taken())  # the child's closing let nothing go
go, gone = os.pipe()
child = os.fork()
if child == 0:
    os.read(go, 1)
    os._exit(0)
spool.close()
print(taken())  # a child that lives on holds nothing
os.write(gone, b"x")
os.waitpid(child, 0)
"""


def test_a_forked_child_neither_holds_the_lock_nor_lets_it_go(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.stdout.split(), done.stderr) == (["True", "False"], "")


def test_without_locks_a_spool_is_left_to_who_knows_that_its_step_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    path = left_spool(tmp_path, lines_of(2), "kafka")
    assert Spool.open(path) is None
    spool = Spool.open(path, unlocked=True)
    assert spool is not None
    assert spool.undelivered("kafka") == 2
    spool.close()


def an_event(number: int, size: int) -> EncodedEvent:
    body = json.dumps({"partitionkey": "run-1", "type": "shutterline.step.progress", "id": f"{number}{'x' * size}"})
    return EncodedEvent.from_body(body.encode())


@given(
    st.lists(st.lists(st.integers(1, 80), max_size=5), min_size=1, max_size=8),
    st.lists(st.just(-1) | st.integers(1, 300), max_size=20),
    st.sampled_from([0, 2, 10_000]),
)
@example([[5, 5], [5]], [10, -1, -1, 3], 0)
def test_whatever_the_disk_takes_no_line_is_lost_doubled_torn_or_out_of_place(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], takes: list[int], memory_events: int
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool.create(directory, "run-1", "train", 0, NOWHERE, memory_events=memory_events)
    assert spool.path is not None
    written: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", FullDisk(takes).pwrite)
        for sizes in batches:
            events = [an_event(len(written) + index, size) for index, size in enumerate(sizes)]
            for event in events:
                spool.append(event)
            written += [event.body + b"\n" for event in events]
            spool.write()
            assert spool.path.read_bytes() == b"".join(written[: len(written) - spool.unspooled])
            assert all_of(spool) == written
            assert (spool.trouble is not None) or spool.unspooled == 0
    spool.write()
    assert (spool.unspooled, all_of(spool), spool.path.read_bytes()) == (0, written, b"".join(written))
    spool.close()


def test_damaged_and_long_lines_are_passed_over_and_read_whole(tmp_path: Path) -> None:
    long = b'{"partitionkey": "run-1", "type": "x", "id": "' + b"b" * 700_000 + b'"}\n'
    lines = [b"a\n", long, b"c\r\xff\n", b"\n"]
    spool = opened(left_spool(tmp_path, lines, "kafka"))
    assert (all_of(spool), spool.undelivered("kafka")) == ([long], 4)
    spool.close()


@pytest.mark.parametrize("spoil", [lambda path: os.truncate(path, 100), lambda path: path.write_bytes(b"x" * 10_000)])
def test_a_file_that_somebody_else_changed_is_an_error_and_no_endless_silence(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    spool = opened(path := left_spool(tmp_path, lines_of(5)))
    spoil(path)
    with pytest.raises(OSError, match="is not what was written to it"):
        spool.read(0)
    spool.close()


def test_readers_follow_a_writer_without_missing_a_line(tmp_path: Path) -> None:
    count, readers = 2_000, 3
    events = [an_event(number, 1) for number in range(count)]
    spool = Spool.create(tmp_path, "run-1", "train", 0, NOWHERE, memory_events=20)
    seen: list[list[bytes]] = [[] for _ in range(readers)]

    def read(found: list[bytes]) -> None:
        while len(found) < count:
            found += [event.body for event in spool.read(len(found))]

    threads = [threading.Thread(target=read, args=[found], daemon=True) for found in seen]
    for thread in threads:
        thread.start()
    with pytest.MonkeyPatch.context() as patch:
        # Half of the writes fail or are cut, so that lines move from memory to the disk while they are read.
        patch.setattr(os, "pwrite", FullDisk([-1, 7, 40, 10_000] * 200).pwrite)
        for number, event in enumerate(events):
            spool.append(event)
            if number % 10 == 0:
                spool.write()
    spool.write()
    for thread in threads:
        thread.join(WAIT_S)
    bodies = [event.body for event in events]
    assert seen == [bodies] * readers
    assert spool.path is not None
    assert spool.path.read_bytes().splitlines() == bodies
    spool.close()


def test_events_of_a_directory_are_read_spool_by_spool(tmp_path: Path) -> None:
    first = lines_of(2, step="data-prep")
    second = [*lines_of(2), b"damaged\n", b"5\n", *lines_of(3)[2:]]
    for lines, step in ((first, "data-prep"), (second, "train")):
        left_spool(tmp_path, lines, step=step)
    events = [(event.step, event.sequence) for event in events_in(tmp_path, "run-1")]
    assert events == [("data-prep", 0), ("data-prep", 1), ("train", 0), ("train", 1), ("train", 2)]
    assert list(events_in(tmp_path, "run-2")) == []
