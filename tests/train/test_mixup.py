"""Mixup and CutMix: the images, the shares and the loss, against a computation from the same draws."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.shared.seeds import derived_seed
from components.train.mixup import Mixing
from tests.examples import small
from tests.train.trials import ONE_STEP, epochs, trainer_of, whole_batch


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret


def mixing(seed: int = 0, **alphas: float) -> Mixing:
    return Mixing(small(**alphas), seeded(seed))


def batch(count: int = 5, side: int = 16) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 2, side, side), torch.arange(count)


def test_mixup_blends_each_image_with_its_neighbour() -> None:
    images, labels = batch()
    draws = seeded(3)
    mixer = mixing(3, mixup_alpha=0.4)
    for _ in range(5):
        share = draws.betavariate(0.4, 0.4)
        mixed = mixer(images, labels)
        assert mixed.share == share
        for index in range(len(images)):
            assert mixed.others[index] == labels[index - 1]
            expected = share * images[index] + (1 - share) * images[index - 1]
            torch.testing.assert_close(mixed.images[index], expected, rtol=1e-5, atol=1e-5)


def test_cutmix_puts_a_box_of_its_neighbour_into_each_image() -> None:
    images, labels = batch()
    draws = seeded(5)
    mixer = mixing(5, cutmix_alpha=1.0)
    shares = set()
    for _ in range(50):
        asked = draws.betavariate(1.0, 1.0)
        side = int(16 * math.sqrt(1 - asked))
        mask = torch.zeros(16, 16, dtype=torch.bool)
        rows, columns = draws.randrange(16), draws.randrange(16)
        mask[
            max(0, rows - side // 2) : rows + (side + 1) // 2, max(0, columns - side // 2) : columns + (side + 1) // 2
        ] = True

        mixed = mixer(images, labels)

        neighbours = images[[-1, 0, 1, 2, 3]]
        assert torch.equal(mixed.images, torch.where(mask, neighbours, images))
        assert mixed.share == pytest.approx(1 - float(mask.float().mean()))
        assert mixed.others.tolist() == [4, 0, 1, 2, 3]
        shares.add(mixed.share)
    assert len(shares) > 10


def test_with_both_each_batch_gets_one_of_the_two() -> None:
    images, labels = batch(2, 8)
    mixer = mixing(2, mixup_alpha=0.3, cutmix_alpha=1.0)
    boxes = 0
    for _ in range(400):
        mixed = mixer(images, labels)
        kept = mixed.images == images
        patched = mixed.images == images.roll(1, 0)
        boxes += bool((kept | patched).all())
    assert 150 < boxes < 250
    assert not mixing().is_on


@pytest.mark.parametrize(
    "alphas", [{"mixup_alpha": 0.5}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.5, "class_weights": "balanced"}], ids=str
)
def test_the_loss_of_a_mixed_batch_is_that_of_both_labels_by_their_share(dataset: Path, alphas: dict[str, Any]) -> None:
    trainer = trainer_of(dataset, **ONE_STEP, **alphas)
    trainer.optimiser.param_groups[0]["lr"] = 0.0
    images, labels = whole_batch(trainer)
    draws = seeded(derived_seed(0, "mix"))
    mixed = Mixing(trainer.params, draws)(images, labels)
    assert 0.01 < mixed.share < 0.99
    with torch.no_grad():
        logits, plain = trainer.network(mixed.images), trainer.network(images)
    weight = len(labels) / (10 * torch.bincount(labels).float()) if "class_weights" in alphas else torch.ones(10)
    loss = nn.CrossEntropyLoss(weight=weight, reduction="sum")
    expected = mixed.share * loss(logits, labels) + (1 - mixed.share) * loss(logits, labels.roll(1))

    (found,) = epochs(trainer, 1)

    assert found == pytest.approx(float(expected / weight[labels].sum()), rel=1e-5)
    assert found != pytest.approx(float(nn.CrossEntropyLoss(weight=weight)(plain, labels)), rel=1e-3)


def test_nothing_is_mixed_at_evaluation(dataset: Path) -> None:
    mixed, plain = trainer_of(dataset, mixup_alpha=1.0, cutmix_alpha=1.0), trainer_of(dataset)
    before = mixed.training_step.mixing.draws.getstate()
    said, expected = mixed.predict(), plain.predict()
    assert mixed.training_step.mixing.draws.getstate() == before
    np.testing.assert_array_equal(said.losses, expected.losses)
    epochs(mixed, 1)
    assert mixed.training_step.mixing.draws.getstate() != before
