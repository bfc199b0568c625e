"""What becomes of a TrainJob on a cluster, as it was recorded there, and how the step that follows it ends."""

from __future__ import annotations

import pytest

from components.shared.events.data import Cancelled, Failed, Progress, Succeeded
from tests.peers.trainer import histories
from tests.peers.trainer.api import TrainerApi
from tests.peers.trainer.plays import History
from tests.train_job.conftest import Training

SCALE = 0.01
# What the other tests of this folder do not follow.
FAST = ("success", "exit 2, stock runtime", "the pod that reports deleted", "the set restarted", "watches expire")


def followed(training: Training, api: TrainerApi, history: History) -> tuple[str, str]:
    """How the step ends, and its message; each epoch is reported once."""
    published = (10.0, lambda stage: training.publish())
    api.play(sorted([*history, published], key=lambda each: each[0]), scale=SCALE)
    training.run()
    events = training.events()
    assert [event.state for event in events].count("started") == 1
    assert sum(event.is_terminal for event in events) == 1
    epochs = [event.data.epoch or 0 for event in events if isinstance(event.data, Progress)]
    assert epochs == sorted(set(epochs))
    end = events[-1].data
    assert isinstance(end, Succeeded | Failed | Cancelled)
    if isinstance(end, Succeeded):
        assert epochs == [*range(1, histories.EPOCHS + 1)]
        return "succeeded", ""
    return f"{events[-1].state} {end.exit_code}", end.error.message if isinstance(end, Failed) else end.reason


@pytest.mark.parametrize(
    ("history", "ending", "words"),
    [
        pytest.param(history, ending, words, id=name, marks=[] if name in FAST else pytest.mark.slow)
        for name, history, ending, words in (
            ("success", histories.SUCCESS, "succeeded", ""),
            ("exit 2, stock runtime", histories.EXIT_2_STOCK, "failed 2", histories.BAD_INPUT),
            ("exit 2", histories.EXIT_2, "failed 2", histories.BAD_INPUT),
            ("out of memory once", histories.OOM_ONCE, "succeeded", ""),
            ("out of memory for good", histories.OOM, "failed 1", "OOMKilled"),
            ("a pod deleted", histories.POD_DELETED, "succeeded", ""),
            ("the pod that reports deleted", histories.SPEAKER_DELETED, "succeeded", ""),
            ("the set restarted", histories.SET_RESTARTED, "succeeded", ""),
            ("suspended and resumed", histories.SUSPENDED, "succeeded", ""),
            ("deadline", histories.ENDED_BY_DEADLINE, "failed 1", "took longer than train.timeout_s allows"),
            ("gone", histories.GONE, "failed 1", "deleted"),
            ("the log breaks", histories.LOG_BREAKS, "succeeded", ""),
            ("watches expire", histories.WATCH_EXPIRES, "succeeded", ""),
            ("refused for 60 s", histories.away("refused"), "succeeded", ""),
            ("hanging for 60 s", histories.away("hanging"), "succeeded", ""),
            ("500 for 60 s", histories.away(500), "succeeded", ""),
            ("503 for 60 s", histories.away(503), "succeeded", ""),
            ("429 for 60 s", histories.away(429), "succeeded", ""),
        )
    ],
)
def test_a_history_is_followed_to_its_end(
    training: Training, trainer_api: TrainerApi, history: History, ending: str, words: str
) -> None:
    found, message = followed(training, trainer_api, history)
    assert (found, words in message) == (ending, True), message
