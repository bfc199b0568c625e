"""``batch_size: auto``: chosen once, by rule on a CPU and by trying on a GPU, and kept through the run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.classifier.check import check
from components.classifier.images import LabelledImages, Normaliser, ResidentImages
from components.classifier.network import network_of
from components.shared.artifacts.model import open_model
from components.shared.errors import CheckpointError
from components.train.batch_size import ChosenBatchSize, decided, images_a_second, largest_batch, on_cpu, on_gpu
from components.train.checkpoints.format import list_checkpoints, read_checkpoint_manifest
from components.train.group import Group
from tests.configs import layer, transform
from tests.examples import digits, small
from tests.train.interrupting import at_step, ended, trained, weights_in
from tests.train.trials import trainer_of

CPU = torch.device("cpu")
BIG = ChosenBatchSize(4096, "the most that auto takes")


@pytest.mark.parametrize(
    ("images", "accumulated", "processes", "size", "reason"),
    [
        (1_294, 1, 1, 64, "so that an epoch of 1,294 images has 20 steps"),
        (1_294, 4, 1, 16, "so that an epoch of 1,294 images has 20 steps"),
        (60_000, 1, 1, 2048, "so that an epoch of 60,000 images has 20 steps"),
        (1_281_167, 1, 8, 4096, "the most that auto takes"),
        (100, 1, 1, 8, "the least that auto takes, for 100 images"),
        (100, 1, 8, 16, "the least that auto takes, for 100 images"),
    ],
)
def test_a_batch_leaves_an_epoch_its_steps(
    images: int, accumulated: int, processes: int, size: int, reason: str
) -> None:
    params = small(gradient_accumulation_steps=accumulated)
    assert largest_batch(images, params, processes) == ChosenBatchSize(size, reason)


@pytest.mark.parametrize(
    ("side", "free", "size", "reason"),
    [
        (8, 2**34, 4096, "the most that auto takes"),
        (64, 2**34, 256, "on a CPU a step of 1.1e+09 FLOP is large enough"),
        (640, 2**34, 8, "on a CPU a step of 3.5e+09 FLOP is large enough"),
        (640, 2**26, 1, "what it keeps fits in half of 0.1 GB"),
    ],
)
def test_on_a_cpu_the_size_follows_from_the_networks_cost(side: int, free: int, size: int, reason: str) -> None:
    arch = [
        layer("Conv2d", in_channels=1, out_channels=30, kernel_size=3, padding=1),
        layer("AdaptiveAvgPool2d", output_size=1),
    ]
    table = check(small(image_height=side, image_width=side, net_arch=arch)).table
    assert on_cpu(table, BIG, free) == ChosenBatchSize(size, reason)


@pytest.mark.parametrize(
    ("rates", "size", "reason"),
    [
        ([0], 16, "tried, 32 does not fit in memory"),
        ([100, 190, 0], 64, "tried, 190 images/s; 128 does not fit in memory"),
        ([100, 190, 200], 64, "tried, 190 images/s; 128 is hardly faster, 200"),
        ([100, 50], 32, "tried, 100 images/s; 64 is hardly faster, 50"),
        ([100, 190, 300], 128, "tried, 300 images/s; the most that auto takes"),
        ([100], 32, "tried, 100 images/s; the most that auto takes"),
    ],
)
def test_a_doubling_must_fit_and_be_worth_it(rates: list[float], size: int, reason: str) -> None:
    sizes = [32, 64, 128][: len(rates)]
    assert decided(sizes, rates, BIG) == ChosenBatchSize(size, reason)


class Crowded(nn.Module):
    """Refuses more images than there is room for, as a device does."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return images


def states() -> list[Any]:
    return [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]


def test_trials_are_real_steps_that_leave_network_and_generators_as_they_were() -> None:
    changes: dict[str, Any] = {"ema_decay": 0.9, "mixup_alpha": 1.0, "flip_images": True, "optim_kwargs": {}}
    changes["additional_transforms"] = [transform("GaussianBlur", kernel_size=3), transform("RandomPerspective", p=0.5)]
    params = small(**changes)
    network = network_of(params)
    network.features.append(nn.Dropout(0.5)).append(Crowded(16))
    images, labels = digits()
    data = LabelledImages(ResidentImages(torch.from_numpy(images[:300].copy())), torch.from_numpy(labels[:300]))
    kept, generators = {name: value.clone() for name, value in network.state_dict().items()}, states()

    def found(largest: int, group: Group) -> int:
        allowed = ChosenBatchSize(largest, "")
        return on_gpu(network, data, Normaliser(None, CPU), params, CPU, allowed, group).size

    assert images_a_second(network, data, Normaliser(None, CPU), params, CPU, 17) == 0
    assert images_a_second(network, data, Normaliser(None, CPU), params, CPU, 16) > 0
    assert found(64, Group()) == 16
    assert found(64, Group(rank=1, size=2)) == 32
    assert found(8, Group()) == 8
    assert states() == generators
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.usefixtures("every_step_reports")
def test_a_run_goes_on_with_the_size_it_began_with(
    dataset: Path, tmp_path: Path, heard: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = small(batch_size="auto", num_epochs=1)
    trained(dataset, tmp_path / "named", small(batch_size=8, num_epochs=1))

    ended(dataset, tmp_path / "auto", auto, at_step(3))
    assert "batch_size auto: 8, so that an epoch of 200 images has 20 steps; learning_rate stays 0.01" in heard.messages
    (checkpoint,) = list_checkpoints(tmp_path / "auto" / "checkpoints")
    assert read_checkpoint_manifest(checkpoint).params["batch_size"] == 8

    # A device that would choose otherwise.
    monkeypatch.setattr("components.train.batch_size.FEWEST_STEPS", 2)
    assert trained(dataset, tmp_path / "auto", auto).resumed_from == "epoch 1, batch 3"

    assert "batch_size auto: 8, as the run has begun; learning_rate stays 0.01" in heard.messages
    assert weights_in(tmp_path / "auto") == weights_in(tmp_path / "named")
    assert open_model(tmp_path / "auto" / "model").manifest.provenance.params["batch_size"] == 8
    # Named or chosen, it is the same run; another number is another.
    trained(dataset, tmp_path / "auto", small(batch_size=8, num_epochs=1))
    with pytest.raises(CheckpointError, match="batch_size: 8 there, 16 here"):
        trained(dataset, tmp_path / "auto", small(batch_size=16, num_epochs=1))


def test_trials_of_a_run_take_it_too(dataset: Path) -> None:
    trainer = trainer_of(dataset, batch_size="auto")
    assert (trainer.params.batch_size, len(trainer.slices)) == (8, 25)


def test_a_size_that_is_still_to_be_chosen_is_no_number() -> None:
    with pytest.raises(ValueError, match="still to be chosen"):
        str(small(batch_size="auto").images_per_batch)
