"""A loss or a weight that leaves the numbers: the run stops, says where, and keeps the last good state."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.shared.errors import DivergedError
from components.shared.events.data import Checkpoint, EventData
from components.shared.files import sha256_of
from components.shared.params.params import Params
from components.train.checkpoints.format import list_checkpoints, read_checkpoint_manifest
from components.train.checkpoints.resume import find_checkpoint
from components.train.state import restore
from components.train.train import train
from components.train.trainer import Trainer
from tests.configs import schedule
from tests.examples import small
from tests.train.trials import PLAIN_ARCH, trainer_of

LOG = logging.getLogger("shutterline.train")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)


def diverging(**changes: Any) -> Params:
    return small(
        net_arch=PLAIN_ARCH,
        optim_class="torch.optim.SGD",
        learning_rate=0.05,
        num_epochs=5,
        save_freq=1,
        learning_rate_schedule=[schedule("StepLR", step_size=2, gamma=1e30)],
        **changes,
    )


@pytest.mark.parametrize("minutes", [None, 1e-9], ids=["every epoch", "every step"])
def test_a_loss_that_leaves_the_numbers_keeps_the_last_good_state(
    dataset: Path, tmp_path: Path, minutes: float | None
) -> None:
    params = diverging(checkpoint_minutes=minutes, keep_checkpoints=100)
    with pytest.raises(DivergedError) as caught:
        train(dataset=dataset, model=tmp_path / "model", params=params, checkpoints=tmp_path / "kept")

    message = str(caught.value)
    assert "became" in message
    assert "in epoch 3 of 5, batch " in message
    assert "a lower learning_rate (now 5e+28) or max_grad_norm: 1.0 or warmup_epochs: 1 usually helps" in message
    assert f"is kept in {tmp_path / 'kept'}" in message
    assert not (tmp_path / "model" / "model.json").exists()
    if minutes is None:
        with pytest.raises(DivergedError) as again:
            train(dataset=dataset, model=tmp_path / "model", params=params, checkpoints=tmp_path / "kept")
        assert str(again.value) == message, "it goes on from the good state, and stops where it stopped"

    newest = read_checkpoint_manifest(list_checkpoints(tmp_path / "kept")[-1])
    assert newest.position in message
    assert newest.epoch == 3
    for path in list_checkpoints(tmp_path / "kept"):
        manifest = read_checkpoint_manifest(path)
        found = find_checkpoint(tmp_path / "kept", params, manifest.dataset_sha256, LOG)
        assert found is not None
        assert all(bool(tensor.isfinite().all()) for tensor in _tensors(found.state["network"]))
        trainer = trainer_of(dataset, **{key: value for key, value in params.to_dict().items() if value is not None})
        restore(trainer, found, LOG)
        assert trainer.position.epoch == 3
        assert [record.epoch for record in trainer.history] == [1, 2]
        assert math.isfinite(trainer.predict().metrics().loss)


def test_without_a_checkpoint_the_message_says_so(dataset: Path, tmp_path: Path) -> None:
    params = small(net_arch=PLAIN_ARCH, optim_class="torch.optim.SGD", learning_rate=1e30, normalise_images=False)
    with pytest.raises(DivergedError, match=r"normalise_images: true.*there is no checkpoint of before"):
        train(dataset=dataset, model=tmp_path / "model", params=params)


def test_a_weight_that_becomes_infinite_is_not_saved(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = small(num_epochs=4, save_freq=1, net_arch=PLAIN_ARCH)
    events: list[EventData] = []
    whole = Trainer.end_epoch

    def spoil(trainer: Trainer, poll: Callable[[], None]) -> Any:
        record = whole(trainer, poll)
        if record[0].epoch == 3:  # whose losses were numbers
            with torch.no_grad():
                next(iter(trainer.network.parameters()))[0] = math.inf
        return record

    monkeypatch.setattr(Trainer, "end_epoch", spoil)
    with pytest.raises(DivergedError, match=r"a weight became NaN or infinite in epoch 4 of 4, batch 0 of 7"):
        train(dataset=dataset, model=tmp_path / "m", params=params, checkpoints=tmp_path / "kept", emit=events.append)

    assert [read_checkpoint_manifest(path).epoch for path in list_checkpoints(tmp_path / "kept")] == [2, 3]
    assert {event.epoch for event in events if isinstance(event, Checkpoint)} <= {1, 2}
    found = find_checkpoint(tmp_path / "kept", params, sha256_of(dataset / "dataset.json"), LOG)
    assert found is not None
    assert all(bool(tensor.isfinite().all()) for tensor in _tensors(found.state["network"]))
