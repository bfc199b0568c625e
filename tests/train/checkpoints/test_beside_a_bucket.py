"""Checkpoints beside a model in a bucket: kept and gone on from by the same rules as those of a directory."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import CheckpointError
from components.shared.events.data import EventData, Progress
from components.shared.params.params import Params
from components.shared.signals import Terminated, sigterm_raises
from components.shared.storage.location import parse_location
from components.train.step import train_step
from tests.examples import small
from tests.peers.object_store import Bucket


def resumed_from(dataset: Path, bucket: Bucket, params: Params, **options: Any) -> object:
    done = train_step(dataset=dataset, model=parse_location(f"{bucket.uri}/model"), params=params, **options)
    return done.report()["resumed_from"]


def test_those_of_a_finished_run_make_room_and_those_of_an_unfinished_one_do_not(
    dataset: Path, gcs_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.train.progress.EVENT_EVERY_S", -1.0)

    def at_step_3(data: EventData) -> None:
        if isinstance(data, Progress) and data.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert resumed_from(dataset, gcs_bucket, small()) is None
    with pytest.raises(Terminated) as ended, sigterm_raises():
        resumed_from(dataset, gcs_bucket, small(learning_rate=0.02), emit=at_step_3)
    assert ended.value.__notes__ == [f"epoch 1, batch 3 is saved in {gcs_bucket.uri}/model-checkpoints"]
    kept = gcs_bucket.names("model-checkpoints/")

    with pytest.raises(CheckpointError, match=r"learning_rate: 0\.02 there, 0\.03 here"):
        resumed_from(dataset, gcs_bucket, small(learning_rate=0.03))

    assert gcs_bucket.names("model-checkpoints/") == kept
    assert resumed_from(dataset, gcs_bucket, small(learning_rate=0.02)) == "epoch 1, batch 3"


def test_more_epochs_go_on_from_before_an_evaluation_that_they_would_not_have_had(
    dataset: Path, gcs_bucket: Bucket
) -> None:
    assert resumed_from(dataset, gcs_bucket, small(num_epochs=3, eval_freq=2)) is None
    whole = train_step(
        dataset=dataset, model=parse_location(f"{gcs_bucket.uri}/whole"), params=small(num_epochs=4, eval_freq=2)
    )
    assert whole.report()["resumed_from"] is None

    assert resumed_from(dataset, gcs_bucket, small(num_epochs=4, eval_freq=2)) == "epoch 3, batch 7"

    for name in ("model.safetensors", "model.onnx"):
        one, other = (
            [gcs_bucket.read(key) for key in gcs_bucket.names(f"{model}/") if key.endswith(f"/{name}")]
            for model in ("model", "whole")
        )
        assert one == other != []
