"""What two nodes of a group must have left, whatever became of one of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from components.shared.events.event import StepEvent
from components.shared.events.spool import events_in
from tests.kill.lives import left_in
from tests.train.pods import Pods


def events_of(folder: Path) -> list[StepEvent]:
    return list(events_in(folder / "events"))


def succeeded(folder: Path) -> int:
    return [event.state for event in events_of(folder)].count("succeeded")


def requires_one_story(job: Pods, folder: Path, undisturbed: Path, *, is_killed: bool, before: int = 0) -> None:
    """See that nothing is lost or reported twice; `before`: how often it had succeeded when a container was killed."""
    assert left_in(folder / "model") == left_in(undisturbed / "model"), job.log
    found = events_of(folder)
    assert len({(event.source, event.id) for event in found}) == len(found), job.log
    assert succeeded(folder) in (1, before + 1), job.log
    starts = Counter(event.source for event in found if event.state == "started")
    ends = Counter(event.source for event in found if event.is_terminal)
    assert set(starts.values()) == {1}
    assert set(ends.values()) == {1}
    if not is_killed:
        assert starts.keys() == ends.keys(), job.log
