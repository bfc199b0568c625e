"""A real training whose brokers fail while it goes on, and the questions that are asked of it afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import ArtifactError
from components.shared.events.data import Emit, EventData, Progress
from components.shared.events.event import StepEvent
from components.shared.events.replay import FoundSpool, Replayed, replay
from components.shared.params.params import Params
from components.shared.run import StepRun
from components.shared.status import transport_of
from components.shared.step import StepRecord, run_step
from components.shared.train_result import TrainResult
from components.train.train import train
from tests.conftest import FAULT
from tests.examples import small, write_digits

EPOCHS = 12
TIMEOUT = 3.0
RUN = "run-of-faults"

Happenings = dict[int, Callable[[], object]]


@dataclass(frozen=True)
class Trained:
    """What a training left."""

    record: StepRecord
    weights: str
    spooled: list[bytes]
    spool: Path
    waited_at_start: float
    waited_at_exit: float

    def undelivered(self, broker: str) -> int:
        assert self.record.delivery is not None
        return int(self.record.delivery["brokers"][broker]["undelivered"])


def trained(folder: Path, happenings: Happenings | None = None, **params: Any) -> Trained:
    dataset, model, events = folder / "dataset", folder / "model", folder / "events"
    write_digits(dataset)
    moments = {}

    def work(checked: Params, emit: Emit) -> TrainResult[Path]:
        moments["begin"] = time.monotonic()

        def emit_and_happen(data: EventData) -> None:
            emit(data)
            if isinstance(data, Progress) and data.epoch in (happenings or {}):
                (happenings or {}).pop(data.epoch)()

        result = train(dataset=dataset, model=model, params=checked, emit=emit_and_happen)
        moments["end"] = time.monotonic()
        return result

    begin = time.monotonic()
    run = StepRun(RUN, None, 0, events, shared=True, host="pod")
    options = small(num_epochs=EPOCHS, eval_freq=1, save_freq=3, TIMEOUT=TIMEOUT, **params)
    _, record = run_step("train", options, work, lambda: run)
    end = time.monotonic()
    (spool,) = events.glob("*.train.*.jsonl")
    return Trained(
        record=record,
        weights=hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest(),
        spooled=spool.read_bytes().splitlines(),
        spool=spool,
        waited_at_start=moments["begin"] - begin,
        waited_at_exit=end - moments["end"],
    )


@pytest.fixture(scope="session")
def without_status(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("without-status"))


def replayed(done: Trained) -> list[Replayed]:
    for _ in range(300):
        with suppress(ArtifactError):
            return replay(
                [FoundSpool(done.spool, str(done.spool))], transport_of, timeout_s=20.0, log=logging.getLogger("test")
            )
        time.sleep(0.1)  # the step's process would be gone by now; here its thread ends with its call
    raise AssertionError("the spool is still in use")


def once_epoch_arrived(epoch: int, read: Callable[[], Sequence[bytes]]) -> list[bytes]:
    """All that a broker has, once the progress of an epoch is there."""
    end = time.monotonic() + 300.0
    while True:
        found = list(read())
        data = [StepEvent.from_bytes(body).data for body in found]
        if any(isinstance(each, Progress) and each.epoch == epoch for each in data):
            return found
        assert time.monotonic() < end, f"the progress of epoch {epoch} does not arrive"
        time.sleep(0.05)


@dataclass(frozen=True)
class Row:
    """One row of the fault table."""

    fault: str
    broker: str
    events: int
    at_exit: int
    lost: int
    duplicates: int
    waited_at_start: float
    waited_at_exit: float


def judged(
    fault: str, broker: str, done: Trained, received: Sequence[bytes], reference: Trained, record_property: Any
) -> Row:
    assert done.record.status == "succeeded"
    assert done.weights == reference.weights, "status changed the training"
    assert told_in(done.spooled) == told_in(reference.spooled)
    assert [StepEvent.from_bytes(line).sequence for line in done.spooled] == list(range(len(done.spooled)))

    first, duplicates = [], 0
    seen: dict[str, bytes] = {}
    for message in received:
        name = json.loads(message)["id"]
        if name in seen:
            assert seen[name] == message, "two events share an id"
            duplicates += 1
        else:
            seen[name] = message
            first.append(message)
    assert first == done.spooled, "an event is lost, out of order or changed"
    assert sum(StepEvent.from_bytes(message).is_terminal for message in first) == 1
    row = Row(
        fault=fault,
        broker=broker,
        events=len(done.spooled),
        at_exit=len(done.spooled) - done.undelivered(broker),
        lost=len(set(done.spooled) - set(received)),
        duplicates=duplicates,
        waited_at_start=done.waited_at_start,
        waited_at_exit=done.waited_at_exit,
    )
    record_property(FAULT, vars(row))
    return row


def told_in(spooled: Sequence[bytes]) -> tuple[list[tuple[str, dict[str, Any]]], list[dict[str, Any]]]:
    events = [told(line) for line in spooled]
    return [event for event in events if "checkpoint" not in event[0]], [
        data for kind, data in events if "checkpoint" in kind
    ]


def told(line: bytes) -> tuple[str, dict[str, Any]]:
    document = json.loads(line)
    data = {
        key: value
        for key, value in document["data"].items()
        if key not in ("seconds", "samples_per_second", "eta_seconds", "uri", "artifacts", "params_sha256")
    }
    if isinstance(data.get("metrics"), dict):
        data["metrics"] = {key: value for key, value in data["metrics"].items() if key != "images_per_second"}
    return document["type"], data
