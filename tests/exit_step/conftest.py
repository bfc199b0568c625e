from pathlib import Path

import pytest

from components.shared.run import EVENTS_VARIABLE, RUN_VARIABLE
from components.shared.step import RECORDS_VARIABLE
from tests.exit_step.ends import RUN
from tests.peers.fixtures import kafka_broker as kafka_broker
from tests.peers.fixtures import leaky_kafka_client as leaky_kafka_client
from tests.peers.fixtures import topic as topic


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the exit step of a run whose steps share no directory of events."""
    monkeypatch.setenv(RUN_VARIABLE, RUN)
    monkeypatch.delenv(EVENTS_VARIABLE, raising=False)
    monkeypatch.setenv(RECORDS_VARIABLE, str(tmp_path / "steps"))
    return tmp_path


@pytest.fixture
def events(alone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of events that all steps share."""
    (alone / "events").mkdir()
    monkeypatch.setenv(EVENTS_VARIABLE, str(alone / "events"))
    return alone / "events"
