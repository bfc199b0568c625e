"""What a practitioner expects of a training: each option against a computation in plain torch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from components.classifier.inference import Predictions, predict
from components.shared.artifacts.dataset import SplitName
from components.shared.artifacts.dataset_writer import DatasetWriter
from components.shared.artifacts.model import open_model
from components.train.group import Group, evaluated
from components.train.train import train
from tests.examples import digits, small
from tests.train.trials import ONE_STEP, PLAIN_ARCH, epochs, trainer_of, weights, whole_batch


def test_early_stopping_ends_where_patience_does_and_keeps_the_best(dataset: Path, tmp_path: Path) -> None:
    overfits = {"learning_rate": 0.05, "num_epochs": 30}
    train(dataset=dataset, model=tmp_path / "all", params=small(**overfits))
    train(dataset=dataset, model=tmp_path / "stopped", params=small(**overfits, early_stopping_patience=3))
    history = open_model(tmp_path / "all").manifest.history

    best, stale, last = (-1.0, 0.0), 0, 0
    for record in history:
        assert record.accuracy is not None
        assert record.loss is not None
        found = (record.accuracy, -record.loss)
        best, stale = (found, 0) if found > best else (best, stale + 1)
        last = record.epoch
        if stale == 3:
            break
    assert 4 <= last < 30
    stopped = open_model(tmp_path / "stopped").manifest
    assert [record.train_loss for record in stopped.history] == [record.train_loss for record in history[:last]]
    assert stopped.selection.epoch == last - 3
    assert (stopped.selection.accuracy, -stopped.selection.loss) == best


def test_patience_counts_evaluations_and_not_epochs(dataset: Path) -> None:
    frozen = {"net_arch": PLAIN_ARCH, "optim_class": "torch.optim.SGD", "learning_rate": 1e-30}
    trainer = trainer_of(dataset, **frozen, num_epochs=20, eval_freq=2, early_stopping_patience=2)
    while not trainer.is_finished:
        epochs(trainer, 1)
    assert len(trainer.history) == 6
    assert trainer.best.epoch == 2


def _gradients(network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    loss = nn.functional.cross_entropy(network(images), labels)
    return list(torch.autograd.grad(loss, list(network.parameters())))


def _length(tensors: list[Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors]).norm())


def test_clipping_bounds_the_step(dataset: Path) -> None:
    for limit, clips in ((0.05, True), (1e6, False)):
        trainer = trainer_of(dataset, **ONE_STEP, max_grad_norm=limit)
        before = weights(trainer)
        gradients = _gradients(trainer.network, *whole_batch(trainer))
        norm = _length(gradients)
        assert (norm > limit) == clips
        epochs(trainer, 1)

        scale = min(1.0, limit / norm)
        for old, new, gradient in zip(before, weights(trainer), gradients, strict=True):
            torch.testing.assert_close(new, old - 0.1 * scale * gradient, rtol=1e-4, atol=1e-6)
        moved = _length([old - new for old, new in zip(before, weights(trainer), strict=True)])
        assert moved == pytest.approx(0.1 * min(limit, norm), rel=1e-3)


@pytest.mark.parametrize("balanced", [None, "balanced"])
def test_accumulated_batches_make_the_step_of_one_large_batch(dataset: Path, balanced: str | None) -> None:
    common: dict[str, Any] = {
        "net_arch": PLAIN_ARCH,
        "optim_class": "torch.optim.SGD",
        "optim_kwargs": {"momentum": 0.9},
        "learning_rate": 0.1,
        "num_epochs": 4,
        "class_weights": balanced,
        "max_grad_norm": 0.5,
    }
    parts = trainer_of(dataset, **common, batch_size=48, gradient_accumulation_steps=3)
    whole = trainer_of(dataset, **common, batch_size=144)
    alone = trainer_of(dataset, **common, batch_size=48)

    assert epochs(parts, 4) == pytest.approx(epochs(whole, 4), rel=1e-4)
    assert (parts.position.step, whole.position.step) == (8, 8)
    for one, other in zip(weights(parts), weights(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    epochs(alone, 4)
    assert not torch.allclose(weights(alone)[0], weights(whole)[0], atol=1e-2)


def _one_hot_loss(logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
    each: Tensor = nn.BCEWithLogitsLoss(reduction="none")(logits, nn.functional.one_hot(labels, 10).float()).mean(dim=1)
    if weight is None:
        return each.mean()
    return torch.sum(each * weight[labels]) / weight[labels].sum()


def _expected_loss(loss: dict[str, Any], logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
    name, kwargs = loss["class"].rpartition(".")[2], loss.get("kwargs", {})
    if name == "BCEWithLogitsLoss":
        return _one_hot_loss(logits, labels, weight)
    computed: Tensor = getattr(nn, name)(weight=weight, reduction="none", **kwargs)(logits, labels)
    if name == "CrossEntropyLoss":  # torch's own weighted mean
        result: Tensor = nn.CrossEntropyLoss(weight=weight, **kwargs)(logits, labels)
        return result
    return computed.mean() if weight is None else computed.sum() / weight[labels].sum()


LOSSES: list[dict[str, Any]] = [
    {"class": "torch.nn.CrossEntropyLoss"},
    {"class": "torch.nn.CrossEntropyLoss", "kwargs": {"label_smoothing": 0.2}},
    {"class": "torch.nn.BCEWithLogitsLoss"},
    {"class": "torch.nn.MultiMarginLoss", "kwargs": {"margin": 0.5, "p": 2}},
]
each_loss = pytest.mark.parametrize(
    "loss", LOSSES, ids=lambda loss: loss["class"].rpartition(".")[2] + "".join(loss.get("kwargs", {}))
)


@each_loss
@pytest.mark.parametrize("weighing", [None, [0.5, 1, 2, 3, 1, 1, 0.25, 1, 4, 1], "balanced"], ids=str)
def test_a_loss_is_torchs_own(dataset: Path, loss: dict[str, Any], weighing: Any) -> None:
    trainer = trainer_of(dataset, **{**ONE_STEP, "batch_size": 64}, loss=loss, class_weights=weighing)
    trainer.optimiser.param_groups[0]["lr"] = 0.0  # so that the epoch's loss is that of the first weights
    images, labels = whole_batch(trainer)
    weight = None if weighing is None else torch.tensor(weighing if isinstance(weighing, list) else [1.0] * 10)
    if weighing == "balanced":
        weight = len(labels) / (10 * torch.bincount(labels).float())
    with torch.no_grad():
        expected = _expected_loss(loss, trainer.network(images), labels, weight)

    (found,) = epochs(trainer, 1)

    assert found == pytest.approx(float(expected), rel=1e-5)


@each_loss
def test_a_loss_trains(dataset: Path, loss: dict[str, Any]) -> None:
    trainer = trainer_of(dataset, loss=loss, num_epochs=8)
    losses = epochs(trainer, 8)
    assert losses[-1] < 0.7 * losses[0]
    assert trainer.best.accuracy > 0.75
    predictions = trainer.predict_with_best()
    assert trainer.best.loss == pytest.approx(predictions.losses.mean())


def test_the_best_epochs_predictions_are_made_once(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations: list[Group] = []

    def counted(*arguments: Any, **options: Any) -> Predictions:
        evaluations.append(arguments[4])
        return evaluated(*arguments, **options)

    monkeypatch.setattr("components.train.trainer.evaluated", counted)
    trainer = trainer_of(dataset, num_epochs=3)
    epochs(trainer, 2)
    trainer.train_epoch(lambda: None)  # whose weights are others than those evaluated
    kept = trainer.predict_with_best()
    assert len(evaluations) == 2
    with trainer.best_network():
        again = trainer.predict(every_class=True)
    for name in ("labels", "predicted", "losses", "probabilities"):
        assert np.array_equal(getattr(kept, name), getattr(again, name))


SPLITS: tuple[tuple[SplitName, slice, slice], ...] = (
    ("train", slice(4), slice(100)),
    ("test", slice(50, None), slice(120, None)),
)


def test_balanced_weights_find_a_rare_class(tmp_path: Path) -> None:
    images, labels = digits()
    rare, common = images[labels == 9], images[labels == 8]
    with DatasetWriter(tmp_path / "data", ["eight", "nine"], (8, 8, 1)) as writer:
        for split, few, many in SPLITS:
            images_of = np.concatenate([common[many], rare[few]])
            writer.add(split, images_of, np.array([0] * len(common[many]) + [1] * len(rare[few])))
        writer.commit(source="IDX files", test_split="held out", manual_seed=0, unreadable=[])
    recall = {}
    for weighing in (None, "balanced"):
        changes = {**ONE_STEP, "batch_size": 104, "learning_rate": 0.02, "n_classes": 2, "num_epochs": 20}
        trainer = trainer_of(tmp_path / "data", **changes, class_weights=weighing)
        epochs(trainer, 20)
        said = trainer.predict()
        recall[weighing] = float((said.predicted[said.labels == 1] == 1).mean())
    assert recall["balanced"] > recall[None] + 0.3


def test_the_average_is_kept_by_hand_evaluated_and_saved(dataset: Path, tmp_path: Path) -> None:
    params = {"ema_decay": 0.8, "num_epochs": 1, "learning_rate": 0.05}
    trainer = trainer_of(dataset, **params)
    kept: list[Tensor] = []

    def after_step() -> None:
        new = [value.detach().clone() for value in trainer.network.state_dict().values()]
        if not kept:
            kept.extend(new)
            return
        for average, value in zip(kept, new, strict=True):
            average.copy_(0.8 * average + (1 - 0.8) * value if value.is_floating_point() else value)

    trainer.train_epoch(after_step)
    assert trainer.average is not None
    averaged = dict(trainer.average.module.state_dict())
    for (name, value), expected in zip(averaged.items(), kept, strict=True):
        if value.is_floating_point():
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=name)
    assert not torch.allclose(averaged["classifier.weight"], trainer.network.state_dict()["classifier.weight"])

    record, _ = trainer.end_epoch()
    by_hand = copy.deepcopy(trainer.network)
    by_hand.load_state_dict(averaged)
    said = predict(by_hand, trainer.held_out.images, trainer.held_out.labels, trainer.normalise)
    assert record.loss == said.metrics().loss
    last = predict(trainer.network, trainer.held_out.images, trainer.held_out.labels, trainer.normalise)
    assert record.loss != last.metrics().loss

    train(dataset=dataset, model=tmp_path / "model", params=small(**params))
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in averaged.items())
