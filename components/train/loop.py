"""The training loop: epochs of batches, with nothing between two steps that waits for the device."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from components.classifier.augment import PerImageTransforms, random_flips
from components.classifier.batches import ImageStore, Normaliser, batch_slices
from components.classifier.inference import Predictions, predict
from components.classifier.network import Network
from components.classifier.optimisers import Schedules, build_optimiser, build_schedules
from components.shared.errors import DivergedError
from components.shared.model import EpochRecord
from components.shared.params import Params
from components.shared.seeds import derived_seed
from components.train.progress import Progress

State = dict[str, Tensor]


@dataclass(frozen=True)
class Labelled:
    """A split on the device.

    Attributes:
        images: Where its images are.
        labels: int64, shape (images,), on the device.
    """

    images: ImageStore
    labels: Tensor


@dataclass
class Best:
    """The best evaluated epoch so far: highest accuracy, then lowest loss, then earliest."""

    epoch: int = 0
    accuracy: float = -1.0
    loss: float = math.inf
    weights: State = field(default_factory=dict)

    def offer(self, epoch: int, accuracy: float, loss: float, network: Network) -> None:
        """Take an evaluated epoch if it is better."""
        if (accuracy, -loss) > (self.accuracy, -self.loss):
            self.epoch, self.accuracy, self.loss = epoch, accuracy, loss
            self.weights = weights_of(network)


def weights_of(network: Network) -> State:
    """A copy of a network's weights and buffers, on its device."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


class Trainer:
    """One training run: network, data and the state between epochs.

    Args:
        network: On `device`, initialised.
        training: The training split.
        held_out: The split that is evaluated every ``eval_freq`` epochs.
        params: The run's options.
        normalise: From stored images to network input.
        device: Where everything is.

    Raises:
        ParamsError: Optimiser, schedules or transforms cannot be built.
    """

    def __init__(
        self,
        network: Network,
        training: Labelled,
        held_out: Labelled,
        params: Params,
        normalise: Normaliser,
        device: torch.device,
    ) -> None:
        self.network = network
        self.training = training
        self.held_out = held_out
        self.params = params
        self.normalise = normalise
        self.device = device
        self.optimiser = build_optimiser(params, network.parameters())
        self.schedules: Schedules = build_schedules(params, self.optimiser)
        self.transforms = (
            PerImageTransforms(params.additional_transforms, params.image_shape)
            if params.additional_transforms
            else None
        )
        self.shuffling = self._generator("shuffle")
        self.flipping = self._generator("flip")
        self.slices = list(batch_slices(len(training.images), params.batch_size))
        self.history: list[EpochRecord] = []
        self.best = Best()
        self.seconds_training = 0.0

    def _generator(self, stream: str) -> torch.Generator:
        generator = torch.Generator(self.device)
        generator.manual_seed(derived_seed(self.params.manual_seed, stream))
        return generator

    @property
    def images_per_second(self) -> float:
        """Training images per second of training time so far, evaluation not counted."""
        return len(self.history) * len(self.training.images) / max(self.seconds_training, 1e-9)

    def epoch_order(self) -> Tensor:
        """Indices of the training images in the order of the coming epoch."""
        count = len(self.training.images)
        if self.params.shuffle_dataset:
            return torch.randperm(count, generator=self.shuffling, device=self.device)
        return torch.arange(count, device=self.device)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Network input, float32 (batch, channels, height, width), and labels, for some training images."""
        images = self.training.images.take(indices)
        if self.params.flip_images:
            images = random_flips(images, self.params.flip_probability, self.flipping)
        labels = self.training.labels.index_select(0, indices)
        if self.transforms is not None:
            return self.normalise.of_unit(self.transforms(images)), labels
        return self.normalise(images), labels

    def run_epoch(self, epoch: int, progress: Progress) -> tuple[EpochRecord, Predictions | None]:
        """Train one epoch, evaluate if it is due, step the schedules.

        Returns:
            The epoch's record, and what the evaluation predicted.

        Raises:
            DivergedError: The training loss is no longer a number.
        """
        learning_rate = float(self.optimiser.param_groups[0]["lr"])
        start = time.perf_counter()
        loss, accuracy = self._train_epoch(progress)
        self.seconds_training += time.perf_counter() - start
        if not math.isfinite(loss):
            raise DivergedError(
                f"the training loss became {loss} in epoch {epoch} of {self.params.num_epochs}; a lower learning_rate "
                f"(now {learning_rate:g}) or normalise_images: true usually helps"
            )
        record = EpochRecord(epoch=epoch, learning_rate=learning_rate, train_loss=loss, train_accuracy=accuracy)
        predictions = None
        if epoch % self.params.eval_freq == 0 or epoch == self.params.num_epochs:
            predictions = predict(self.network, self.held_out.images, self.held_out.labels, self.normalise)
            metrics = predictions.metrics()
            if not math.isfinite(metrics.loss):
                raise DivergedError(f"the evaluated loss became {metrics.loss} in epoch {epoch}")
            record = record.model_copy(update=metrics.as_dict())
            self.best.offer(epoch, metrics.accuracy, metrics.loss, self.network)
        self.schedules.step(record.loss, record.accuracy)
        self.history.append(record)
        return record, predictions

    def _train_epoch(self, progress: Progress) -> tuple[float, float]:
        """One pass over the training images; mean loss and accuracy as the network was when it saw each batch."""
        self.network.train()
        order = self.epoch_order()
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for part in self.slices:
            images, labels = self.batch(order[part])
            self.optimiser.zero_grad(set_to_none=True)
            logits = self.network(images)
            loss = F.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            # Sums stay on the device: reading a value here would make the host wait for every step.
            loss_sum += loss.detach() * len(labels)
            right += (logits.detach().argmax(dim=1) == labels).sum()
            progress.step()
        count = len(self.training.images)
        return loss_sum.item() / count, right.item() / count

    def predict_with_best(self) -> Predictions:
        """What the best weights say of the held-out images, with every class's probability."""
        last = weights_of(self.network)
        self.network.load_state_dict(self.best.weights)
        predictions = predict(
            self.network, self.held_out.images, self.held_out.labels, self.normalise, every_class=True
        )
        self.network.load_state_dict(last)
        return predictions

    def state(self, epoch: int) -> dict[str, Any]:
        """Everything a run is after an epoch, as tensors and plain data."""
        return {
            "epoch": epoch,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedules": self.schedules.state_dict(),
            "best": {
                "epoch": self.best.epoch,
                "accuracy": self.best.accuracy,
                "loss": self.best.loss,
                "weights": self.best.weights,
            },
            "history": [record.model_dump() for record in self.history],
            "generators": {
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
                "shuffle": self.shuffling.get_state(),
                "flip": self.flipping.get_state(),
            },
        }
