"""The trainer: an epoch, and in it one step of the optimiser; everything a run is between two steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from components.classifier.graphs import GraphedCalls, Graphs
from components.classifier.images import ImageStore, LabelledImages, Normaliser, StoredImages, batch_slices
from components.classifier.inference import Predictions
from components.classifier.losses import counts_of
from components.classifier.network import Network
from components.classifier.optimisers import Schedules
from components.classifier.rates import rehearse
from components.shared.artifacts.model import EpochRecord, StartedFrom
from components.shared.errors import DivergedError, ParamsError, Problem
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.seeds import derived_seed
from components.train.group import Group, evaluated
from components.train.precision import Precision
from components.train.step_graph import CapturedStep
from components.train.step_mode import choose_step_mode
from components.train.training_step import TrainingStep

_log = step_logger("train")

# Probabilities of the best evaluation that are kept until the end, 32 MiB; of more, the best weights make them again.
_KEPT_VALUES = 2**22


@dataclass
class Best:
    """The best evaluated epoch so far: highest accuracy, then lowest loss, then earliest; weights on the CPU."""

    epoch: int = 0
    accuracy: float = -1.0
    loss: float = math.inf
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Position:
    """How far a run is."""

    epoch: int = 1  # that is being trained; one more than there are when all are done
    batch: int = 0  # batches of it that are done
    step: int = 0  # steps of the optimiser so far
    stale: int = 0  # evaluations in a row that were not better than the best
    stopped: bool = False  # early


class Trainer:
    """One training run: network, data and the state between steps.

    Network and splits are on `device`; `held_out` is evaluated every ``eval_freq`` epochs. By default `group` is this
    process alone. `graphs` makes the graphs of a step that is captured; without it none is.

    Raises:
        ParamsError: Optimiser, schedules, loss or transforms cannot be built, or there are too few images.
    """

    def __init__(
        self,
        network: Network,
        training: LabelledImages[ImageStore],
        held_out: LabelledImages[StoredImages],
        params: Params,
        normalise: Normaliser,
        device: torch.device,
        group: Group | None = None,
        *,
        compiled: bool = False,
        graphs: Graphs | None = None,
    ) -> None:
        self.network, self.training, self.held_out = network, training, held_out
        self.params, self.normalise, self.device = params, normalise, device
        self.group = group = group or Group()
        counts = counts_of(training.labels.cpu(), params.n_classes)
        self.training_step = step = TrainingStep(network, counts, params, normalise, device, group, compiled=compiled)
        self.timing = step.timing
        self.criterion, self.optimiser, self.average = step.criterion, step.optimiser, step.average
        self.loss_sum, self.weight_sum, self.right = step.loss_sum, step.weight_sum, step.right
        self.slices = list(batch_slices(len(training.images), params.images_per_batch, at_least=2 * group.size))
        if (size := self.slices[0].stop) < group.size:
            message = f"gives batches of {size}, which {group.size} processes cannot share"
            raise ParamsError([Problem("batch_size", f"{message}; use fewer processes or a larger batch")])
        together = params.gradient_accumulation_steps
        # First and last-but-one batch of each step of the optimiser.
        self.steps = list(pairwise([*range(0, len(self.slices), together), len(self.slices)]))
        rehearsal = rehearse(params, len(self.steps))
        if rehearsal.problems:
            raise ParamsError(rehearsal.problems)
        self.notes = rehearsal.notes
        if step.recomputing is not None and step.recomputing.note:
            self.notes.append(step.recomputing.note)
        self.schedules = Schedules(params, self.optimiser, len(self.steps))
        self.step_mode = choose_step_mode(step, has_graphs=graphs is not None)
        self.captured: CapturedStep | None = None
        self._graphed: GraphedCalls | None = None
        if graphs is not None and self.step_mode.is_captured:
            batches = [self.slices[begin:end] for begin, end in self.steps]
            self.captured = CapturedStep(step, training, batches, graphs)
            self._graphed = GraphedCalls(graphs, partial(_log.warning, "evaluation: eager, it is not captured: %s"))
        # On the CPU, so that the order is the same on every device.
        self.shuffling = torch.Generator().manual_seed(derived_seed(params.manual_seed, "shuffle"))
        self.history: list[EpochRecord] = []
        self.best = Best()
        self._of_best: Predictions | None = None  # where this attempt has evaluated the best epoch
        self.position = Position()
        self.started_from: StartedFrom | None = None
        self.begin_epoch()

    @property
    def evaluated_network(self) -> Network:
        """What is evaluated and kept: the average of the weights where there is one."""
        return cast("Network", self.average.module) if self.average is not None else self.network

    @property
    def precision(self) -> Precision:
        """What training and evaluation compute in."""
        return self.training_step.precision

    @property
    def rate(self) -> float:
        """The learning rate of the coming step."""
        return float(self.optimiser.param_groups[0]["lr"])

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.position.stopped or self.position.epoch > self.params.num_epochs

    @property
    def images_per_second(self) -> float:
        """Training images per second of training time so far, evaluation not counted."""
        done = self.slices[self.position.batch - 1].stop if self.position.batch else 0
        images = len(self.history) * len(self.training.images) + done
        return images / max(self.timing.training, 1e-9)

    @property
    def loss_so_far(self) -> float:
        """Mean loss of the epoch so far, of this process's images; the host waits for the device."""
        loss = float((self.loss_sum * self.group.size / self.weight_sum).item())
        self._count_wait()
        return loss

    @property
    def compiled(self) -> bool:
        """Whether the network is compiled, once a step was taken."""
        return self.training_step.compiled

    @property
    def is_captured(self) -> bool:
        """Whether steps are replayed from graphs."""
        return self.captured is not None and self.captured.outcome == "graph"

    def begin_epoch(self) -> None:
        """Have nothing summed up yet, and remember where the order of the coming epoch is drawn from."""
        self.order_state = self.shuffling.get_state()
        self.training_step.reset_sums()
        self.learning_rate = self.rate
        self.rates = (math.inf, -math.inf)  # the lowest and the highest
        self.epoch_seconds = 0.0

    def train_epoch(self, after_step: Callable[[], None]) -> None:
        """Train what is left of the epoch; `after_step` may raise, and the position is then that of its step."""
        self.network.train()
        self.training_step.connect(self.slices[0])
        first = self.position.batch
        order = self.epoch_order()
        labels = self.labels_of(order, first)
        with closing(self.read_batches(order, first, len(self.slices))) as images:
            self.timing.begin()
            for begin, end in [step for step in self.steps if step[1] > first]:
                seconds = self.timing.training
                self.timing.begin_step()
                self.rates = min(self.rates[0], self.rate), max(self.rates[1], self.rate)
                part = self.take_step(images, labels, begin, end)
                self.schedules.step_batch()
                self.timing.lap(part)
                self.position.batch = end
                self.position.step += 1
                self.epoch_seconds += self.timing.training - seconds
                after_step()

    def epoch_order(self) -> Tensor:
        """Indices of the training images in the order of the coming epoch; int64, on the CPU."""
        count = len(self.training.images)
        return torch.randperm(count, generator=self.shuffling) if self.params.shuffle_dataset else torch.arange(count)

    def labels_of(self, order: Tensor, first: int) -> Tensor:
        """Labels of an epoch in its order, of which the steps from batch `first` on are to be taken."""
        if self.captured is not None:
            done = self.slices[first - 1].stop if first else 0
            self.captured.begin_epoch(order, done)
        return self.training.labels[order.to(self.device)]

    def take_step(self, images: Iterator[Tensor], labels: Tensor, begin: int, end: int) -> str:
        """Take the step of the batches from `begin` to before `end`; returns what of the time its end belongs to."""
        # Optimisers and averages begin otherwise than they go on: the first step of a run is no example of the others.
        if self.captured is not None and self.position.step and self.captured(images, self.slices[begin:end]):
            return "captured_step"
        self.training_step(images, labels, self.slices[begin:end])
        return "optimiser"

    def read_batches(self, order: Tensor, first: int, end: int) -> Any:
        """This process's images of the batches from `first` to before `end`; to be closed."""
        return self.training.images.batches(order, [self.group.own(part) for part in self.slices[first:end]])

    def step_alone(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step outside of any epoch, group and schedule, for trials; the mean loss of its images before it."""
        return self.training_step.alone(images, labels)

    def end_epoch(self, poll: Callable[[], None] = lambda: None) -> tuple[EpochRecord, Predictions | None]:
        """Evaluate if it is due, step the schedules, and go on to the next epoch; `poll` is called between chunks."""
        position, count = self.position, len(self.training.images)
        epoch = position.epoch
        self.timing.begin()
        sums = self.group.summed(torch.stack((self.loss_sum, self.right.to(torch.float64))))
        loss, right = (sums / torch.stack((self.weight_sum, torch.full_like(self.weight_sum, count)))).tolist()
        self._count_wait()
        if not math.isfinite(loss):
            raise self.diverged(f"the training loss became {loss}")
        record = EpochRecord(
            epoch=epoch,
            learning_rate=self.learning_rate,
            lowest_learning_rate=self.rates[0],
            highest_learning_rate=self.rates[1],
            train_loss=loss,
            train_accuracy=right,
            images_per_second=count / max(self.epoch_seconds, 1e-9),
        )
        predictions = None
        if epoch % self.params.eval_freq == 0 or epoch == self.params.num_epochs:
            # The batch statistics become rank 0's: what is evaluated and kept is one network, not one a process.
            averaged = self.average.module.buffers() if self.average is not None else ()
            self.group.share([*self.network.buffers(), *averaged])
            values = len(self.held_out.images) * self.params.n_classes
            predictions = self.predict(every_class=values <= _KEPT_VALUES, poll=poll)
            metrics = predictions.metrics()
            self.timing.lap("evaluation")
            if not math.isfinite(metrics.loss):
                raise self.diverged(f"the evaluated loss became {metrics.loss}")
            record = record.model_copy(update=metrics.as_dict())
            position.stale += 1
            if (metrics.accuracy, -metrics.loss) > (self.best.accuracy, -self.best.loss):
                self.best = Best(epoch, metrics.accuracy, metrics.loss, _copied_weights(self.evaluated_network))
                self._of_best = predictions
                position.stale = 0
            position.stopped = position.stale == self.params.early_stopping_patience
        self.schedules.step(record.loss, record.accuracy)
        self.history.append(record)
        position.epoch, position.batch = epoch + 1, 0
        self.begin_epoch()
        self.timing.lap("other")
        return record, predictions

    def _count_wait(self) -> None:
        """Count what the device still took for the steps once the host had asked for their sums."""
        before = self.timing.training
        self.timing.lap("captured_step" if self.is_captured else "forward_backward")
        self.epoch_seconds += self.timing.training - before

    def predict(self, *, every_class: bool = False, poll: Callable[[], None] = lambda: None) -> Predictions:
        """What the network predicts of the held-out images, each counted once whichever process computed it."""
        with self.precision.autocast(self.device):
            return evaluated(
                self.evaluated_network,
                self.held_out.images,
                self.held_out.labels,
                self.normalise,
                self.group,
                every_class=every_class,
                poll=poll,
                graphed=self._graphed if self.is_captured else None,
            )

    def predict_with_best(self) -> Predictions:
        """What the best weights predict of the held-out images, with every class's probability."""
        if self._of_best is not None and self._of_best.probabilities is not None:
            return self._of_best
        with self.best_network():
            return self.predict(every_class=True)

    @contextmanager
    def best_network(self) -> Iterator[Network]:
        """The network with its best weights, while this is open."""
        network = self.evaluated_network
        last = _copied_weights(network)
        network.load_state_dict(self.best.weights)
        try:
            yield network
        finally:
            network.load_state_dict(last)

    def require_finite_loss(self) -> None:
        """Raise `DivergedError` where the loss is no number in some process; the host waits for the device."""
        losses = self.group.gathered(self.loss_so_far) if self.position.batch else []
        if wrong := [loss for loss in losses if not math.isfinite(loss)]:
            raise self.diverged(f"the training loss became {wrong[0]}")

    def require_finite_weights(self) -> None:
        """Raise `DivergedError` where what a checkpoint would keep is not worth keeping."""
        self.require_finite_loss()
        norm = torch.nn.utils.get_total_norm(self.network.parameters())
        if not all(self.group.gathered(bool(norm.isfinite()))):
            raise self.diverged("a weight became NaN or infinite")

    def diverged(self, what: str) -> DivergedError:
        """The error of a run that has left the numbers, and what usually helps."""
        self.group.ends_together = True  # what it follows from is the same in every process
        position, params = self.position, self.params
        where = f"epoch {position.epoch} of {params.num_epochs}, batch {position.batch} of {len(self.slices)}"
        advice = [f"a lower learning_rate (now {self.rate:g})"]
        advice += [] if params.normalise_images else ["normalise_images: true"]
        advice += [] if params.max_grad_norm else ["max_grad_norm: 1.0"]
        advice += [] if params.warmup_epochs else ["warmup_epochs: 1"]
        return DivergedError(f"{what} in {where}; {' or '.join(advice)} usually helps")


def _copied_weights(network: Network) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}
