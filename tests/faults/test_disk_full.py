"""The fault table, the disk: a spool that takes nothing costs neither the training nor the events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.disks import small_file_system
from tests.faults.training import Trained, judged, trained
from tests.peers.noida import DurableKafkaBroker

pytestmark = pytest.mark.slow  # what faults cost takes 100 s together


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 KiB for the events."""
    with small_file_system(tmp_path / "events", "24k") as events:
        yield events


def fill(ballast: Path) -> None:
    """Leave no room on the file system of a file."""
    with ballast.open("wb", buffering=0) as stream:
        while True:
            try:
                stream.write(bytes(256))
            except OSError:
                break


def test_disk_full_and_free_again(
    tmp_path: Path,
    small_disk: Path,
    own_kafka_broker: DurableKafkaBroker,
    topic: str,
    without_status: Trained,
    record_property: Any,
) -> None:
    own_kafka_broker.create_topic(topic)
    ballast = small_disk / "ballast"

    done = trained(
        tmp_path,
        {3: lambda: fill(ballast), 10: ballast.unlink},
        KAFKA_HOST=own_kafka_broker.bootstrap,
        KAFKA_TOPIC=topic,
    )

    received = [record.value for record in own_kafka_broker.records(topic)]
    row = judged("disk full for the spool, then free", "kafka", done, received, without_status, record_property)
    assert (row.at_exit, row.duplicates) == (row.events, 0)


def test_disk_full_to_the_end(
    tmp_path: Path,
    small_disk: Path,
    own_kafka_broker: DurableKafkaBroker,
    topic: str,
    without_status: Trained,
    record_property: Any,
) -> None:
    own_kafka_broker.create_topic(topic)

    done = trained(
        tmp_path, {3: lambda: fill(small_disk / "ballast")}, KAFKA_HOST=own_kafka_broker.bootstrap, KAFKA_TOPIC=topic
    )

    received = [record.value for record in own_kafka_broker.records(topic)]
    assert done.record.delivery is not None
    assert done.record.delivery["unspooled"] == len(received) - len(done.spooled) > 0
    assert received[: len(done.spooled)] == done.spooled, "what is there is whole lines"
    whole = Trained(**{**vars(done), "spooled": received})
    row = judged("disk full to the end", "kafka", whole, received, without_status, record_property)
    assert (row.at_exit, row.duplicates) == (row.events, 0)
