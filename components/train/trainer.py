"""The trainer: one run's network, data, optimiser and everything between two steps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from components.classifier.augmentation import Augmentation, random_flips
from components.classifier.images import ImageStore, Normaliser, batch_slices
from components.classifier.inference import Predictions
from components.classifier.losses import Criterion, counts_of
from components.classifier.network import Network
from components.classifier.optimisers import build_optimiser
from components.classifier.rates import rehearse
from components.classifier.schedules import Schedules
from components.shared.artifacts.model import EpochRecord, StartedFrom
from components.shared.errors import ParamsError, Problem
from components.shared.params.params import Params
from components.shared.seeds import derived_seed
from components.train.evaluating import evaluated
from components.train.group import ALONE, Group
from components.train.mixup import Mixed, Mixing
from components.train.nan_checks import diverged
from components.train.position import Best, Position, weights_of
from components.train.precision import choose_precision
from components.train.timing import Timing

# Steps between two looks at the loss: each makes the host wait for the device.
LOOK_EVERY = 100


@dataclass(frozen=True)
class Labelled:
    """A split on the device.

    Attributes:
        images: Where its images are.
        labels: int64, shape (images,), on the device.
    """

    images: ImageStore
    labels: Tensor


class Trainer:
    """One training run: network, data and the state between steps.

    Args:
        network: On `device`, initialised.
        training: The training split.
        held_out: The split that is evaluated every ``eval_freq`` epochs.
        params: The run's options.
        normalise: From stored images to network input.
        device: Where everything is.
        group: The processes that train together.
        compiled: Whether the network is compiled.

    Raises:
        ParamsError: Optimiser, schedules, loss or transforms cannot be built, or there are too few images.
    """

    def __init__(
        self,
        network: Network,
        training: Labelled,
        held_out: Labelled,
        params: Params,
        normalise: Normaliser,
        device: torch.device,
        group: Group = ALONE,
        *,
        compiled: bool = False,
    ) -> None:
        self.network = network
        self.training = training
        self.held_out = held_out
        self.params = params
        self.normalise = normalise
        self.device = device
        self.group = group
        self.precision = choose_precision(params, device)
        self.criterion = Criterion(params, counts_of(training.labels.cpu(), params.n_classes), device)
        self.optimiser = build_optimiser(params, network.parameters())
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.slices = list(batch_slices(len(training.images), params.batch_size, at_least=2 * group.size))
        if self.slices[0].stop < group.size:
            message = (
                f"gives batches of {self.slices[0].stop}, which {group.size} processes cannot share; "
                "use fewer processes or a larger batch"
            )
            raise ParamsError([Problem("batch_size", message)])
        self._groups = _grouped(len(self.slices), params.gradient_accumulation_steps)
        rehearsal = rehearse(params, len(self._groups))
        if rehearsal.problems:
            raise ParamsError(rehearsal.problems)
        self.notes = rehearsal.notes
        self.schedules = Schedules(params, self.optimiser, len(self._groups))
        self.transforms: Augmentation | None = None
        if params.additional_transforms:
            self.transforms = Augmentation(params.additional_transforms, params.image_shape, device)
        # On the CPU, so that the order is the same on every device.
        self.shuffling = torch.Generator().manual_seed(derived_seed(params.manual_seed, "shuffle"))
        self.flipping = torch.Generator(device).manual_seed(derived_seed(params.manual_seed, "flip"))
        # Of this process alone: what others draw is for other images.
        stream = f"augment/{group.rank}" if group.rank else "augment"
        self.augmenting = torch.Generator(device).manual_seed(derived_seed(params.manual_seed, stream))
        self.mixing = Mixing(params, random.Random(derived_seed(params.manual_seed, "mix")))  # noqa: S311 - no secret
        self.average: AveragedModel | None = None
        if params.ema_decay:
            decay = get_ema_multi_avg_fn(params.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(network, device, multi_avg_fn=decay, use_buffers=True)
            # It is asked at every step whether there was one before: on a GPU the host would wait for the answer.
            self.average.n_averaged = self.average.n_averaged.cpu()
        self.compiled = self._is_to_compile = compiled
        self._model: Callable[[Tensor], Tensor] = network
        self._unsynced: Callable[[], Any] = nullcontext
        self._is_connected = False
        self.history: list[EpochRecord] = []
        self.best = Best()
        self.position = Position()
        self.timing = Timing(device)
        self.started_from: StartedFrom | None = None
        self.begin_epoch()

    def _connect(self) -> None:
        """Make the network what a step calls; in a group this waits for the others, so it is done last."""
        if self._is_connected:
            return
        model: Any = self.network
        if self.group.size > 1:
            on = [self.device] if self.device.type == "cuda" else None
            # Before each forward pass the buffers become rank 0's.
            model = DistributedDataParallel(self.network, device_ids=on)
            self._unsynced = model.no_sync
        self._model = torch.compile(model) if self.compiled else model
        self._is_connected = True

    def _share_buffers(self) -> None:
        """Make the batch statistics rank 0's: what is evaluated and kept is one network, not one a process."""
        self.group.share(self.network.buffers())
        if self.average is not None:
            self.group.share(self.average.module.buffers())

    def begin_epoch(self) -> None:
        """Have nothing summed up yet, and remember where the order of the coming epoch is drawn from."""
        self.order_state = self.shuffling.get_state()
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.weight_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.right = torch.zeros((), dtype=torch.int64, device=self.device)
        self.learning_rate = self._rate
        self.rates: tuple[float, float] | None = (math.inf, -math.inf)
        self.epoch_seconds = 0.0

    @property
    def _rate(self) -> float:
        return float(self.optimiser.param_groups[0]["lr"])

    @property
    def evaluated_network(self) -> Network:
        """What is evaluated and kept: the average of the weights where there is one."""
        return cast("Network", self.average.module) if self.average is not None else self.network

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.position.stopped or self.position.epoch > self.params.num_epochs

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimiser in one epoch."""
        return len(self._groups)

    @property
    def images_trained(self) -> int:
        """Images of all batches that were trained so far."""
        done = self.slices[self.position.batch - 1].stop if self.position.batch else 0
        return len(self.history) * len(self.training.images) + done

    @property
    def images_per_second(self) -> float:
        """Training images per second of training time so far, evaluation not counted."""
        return self.images_trained / max(self.timing.training, 1e-9)

    def epoch_order(self) -> Tensor:
        """Indices of the training images in the order of the coming epoch; int64, on the CPU."""
        count = len(self.training.images)
        if self.params.shuffle_dataset:
            return torch.randperm(count, generator=self.shuffling)
        return torch.arange(count)

    def prepared(self, images: Tensor, of: int, begin: int = 0) -> Tensor:
        """Network input, float32 (batch, channels, height, width), of stored training images.

        Args:
            images: uint8, shape (batch, height, width, channels): this process's of a batch.
            of: How many images the whole batch has.
            begin: Which of them is the first of these.
        """
        if self.params.flip_images:
            images = random_flips(images, self.params.flip_probability, self.flipping, of=of, begin=begin)
        if self.transforms is not None:
            return self.normalise.of_unit(self.transforms(images, self.augmenting))
        return self.normalise(images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Network input and labels of some training images, as a step would get them."""
        images = self.training.images.take(indices)
        return self.prepared(images, len(indices)), self.training.labels[indices.to(self.device)]

    def train_rest(self, after_step: Callable[[], None]) -> None:
        """Train what is left of the epoch.

        Args:
            after_step: Called after every step of the optimiser; may raise, and the position is then that step's.
        """
        self._connect()
        self.network.train()
        first = self.position.batch
        order = self.epoch_order()
        labels = self.training.labels[order.to(self.device)]
        own = [self.group.own(part) for part in self.slices]
        with closing(self.training.images.batches(order, own[first:])) as images:
            self.timing.begin()
            for begin, end in self._groups:
                if end <= first:
                    continue
                seconds = self.timing.training
                self.timing.begin_step()
                self._gradients(images, labels, own, begin, end)
                self._step()
                self.position.batch = end
                self.position.step += 1
                self.epoch_seconds += self.timing.training - seconds
                after_step()

    def step_alone(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of the optimiser outside of any epoch, group and schedule; the mean loss of its images before it.

        For trials: what is summed up of the epoch is of no more use afterwards.

        Args:
            images: Network input, float32, shape (batch, channels, height, width).
            labels: int64, shape (batch,).
        """
        weight, before = self.criterion.weight_of(labels), self.loss_sum.clone()
        mixed = self.mixing(images, labels) if self.mixing.is_on else None
        self._backward(images, labels, mixed, weight, is_last=True, model=self.network)
        self._update()
        return (self.loss_sum - before) / weight

    def _gradients(self, images: Iterator[Tensor], labels: Tensor, own: Sequence[slice], begin: int, end: int) -> None:
        """Add the gradients of the batches that make one step."""
        weight = self.criterion.weight_of(labels[self.slices[begin].start : self.slices[end - 1].stop])
        for index in range(begin, end):
            whole, part = self.slices[index], own[index]
            prepared = self.prepared(next(images), whole.stop - whole.start, part.start - whole.start)
            self._accumulate(prepared, labels[part], weight, is_last=index == end - 1)

    def _accumulate(self, images: Tensor, labels: Tensor, weight: Tensor | int, *, is_last: bool) -> None:
        """Add a batch's gradients; `weight` is of all batches that make one step."""
        mixed = self.mixing(images, labels) if self.mixing.is_on else None
        self.timing.lap("data")
        self._backward(images, labels, mixed, weight, is_last=is_last)
        # The first call compiles, which no later one does.
        self.timing.lap("other" if self._is_to_compile else "forward_backward")
        self._is_to_compile = False

    def _backward(
        self,
        images: Tensor,
        labels: Tensor,
        mixed: Mixed | None,
        weight: Tensor | int,
        *,
        is_last: bool,
        model: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        with nullcontext() if is_last else self._unsynced():
            with self.precision.autocast(self.device):
                logits = (model or self._model)(images if mixed is None else mixed.images).float()
            losses = self.criterion(logits, labels)
            if mixed is not None:
                losses = torch.lerp(self.criterion(logits, mixed.others), losses, mixed.share)
                labels = labels if mixed.share >= 0.5 else mixed.others
            loss = losses.sum()
            # Averaged over the processes by the gradients' exchange, and meant to be summed.
            (loss * (self.group.size / weight)).backward()  # type: ignore[no-untyped-call]
        # Sums stay on the device: reading a value here would make the host wait for every step.
        self.loss_sum += loss.detach()
        self.right += (logits.detach().argmax(dim=1) == labels).sum()
        if is_last:
            self.weight_sum += weight

    def timed_steps(self, count: int, resident: tuple[Tensor, Tensor] | None = None) -> Generator[int]:
        """Steps of the optimiser outside of any epoch and schedule; for measurements after training.

        They change weights, sums and generators, and the position not.

        Args:
            count: How many, all of equally many batches.
            resident: Network input and labels that every batch is then; None: training images, by training's own path.

        Yields:
            Images of the step, those of all processes, when the host is done with it.
        """
        groups = [pair for pair in self._groups if self._images_of(pair) == self._images_of(self._groups[0])]
        together = groups[0][1] - groups[0][0]
        if resident is not None:
            images, labels = resident
            weight = self.criterion.weight_of(labels) * (together * self.group.size)
            for _ in range(count):
                for index in range(together):
                    self._backward(images, labels, None, weight, is_last=index == together - 1)
                self._update()
                yield together * (self.slices[0].stop - self.slices[0].start)
            return
        own = [self.group.own(part) for part in self.slices]
        while count > 0:
            order, used = self.epoch_order(), groups[:count]
            labels = self.training.labels[order.to(self.device)]
            with closing(self.training.images.batches(order, own[: used[-1][1]])) as batches:
                for begin, end in used:
                    self._gradients(batches, labels, own, begin, end)
                    self._update()
                    yield self._images_of((begin, end))
            count -= len(used)

    def _images_of(self, group: tuple[int, int]) -> int:
        """Images of the batches that make one step."""
        return int(self.slices[group[1] - 1].stop - self.slices[group[0]].start)

    def _step(self) -> None:
        if self.rates is not None:  # of an epoch that a version began which did not keep them
            lowest, highest = self.rates
            self.rates = min(lowest, self._rate), max(highest, self._rate)
        self._update()
        self.schedules.step_batch()
        self.timing.lap("optimiser")

    def _update(self) -> None:
        if self.params.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.params.max_grad_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.network)
            for average, value in zip(self.average.module.buffers(), self.network.buffers(), strict=True):
                if not value.is_floating_point():  # counters: an average of them would be cut off to whole numbers
                    average.copy_(value)

    @property
    def loss_so_far(self) -> float:
        """Mean loss of the epoch so far, of this process's images; the host waits for the device."""
        loss = float((self.loss_sum * self.group.size / self.weight_sum).item())
        self.epoch_seconds += self._waited()
        return loss

    def end_epoch(self, poll: Callable[[], None] = lambda: None) -> tuple[EpochRecord, Predictions | None]:
        """Evaluate if it is due, step the schedules, and go on to the next epoch.

        Args:
            poll: Called between chunks of the evaluation; may raise, and the epoch then has not ended.

        Returns:
            The epoch's record, and what the evaluation predicted.

        Raises:
            DivergedError: A loss is no longer a number.
        """
        epoch = self.position.epoch
        self.timing.begin()
        sums = self.group.summed(torch.stack((self.loss_sum, self.right.to(torch.float64))))
        loss, right = (sums / torch.stack((self.weight_sum, torch.full_like(self.weight_sum, self._count)))).tolist()
        self.epoch_seconds += self._waited()
        if not math.isfinite(loss):
            raise diverged(self, f"the training loss became {loss}")
        record = EpochRecord(
            epoch=epoch,
            learning_rate=self.learning_rate,
            lowest_learning_rate=self.rates[0] if self.rates is not None else None,
            highest_learning_rate=self.rates[1] if self.rates is not None else None,
            train_loss=loss,
            train_accuracy=right,
            images_per_second=self._count / max(self.epoch_seconds, 1e-9),
        )
        self._share_buffers()
        predictions = None
        if epoch % self.params.eval_freq == 0 or epoch == self.params.num_epochs:
            predictions = self.predictions(poll=poll)
            metrics = predictions.metrics()
            self.timing.lap("evaluation")
            if not math.isfinite(metrics.loss):
                raise diverged(self, f"the evaluated loss became {metrics.loss}")
            record = record.model_copy(update=metrics.as_dict())
            better = self.best.offer(epoch, metrics.accuracy, metrics.loss, self.evaluated_network)
            self.position.stale = 0 if better else self.position.stale + 1
            self.position.stopped = self.position.stale == self.params.early_stopping_patience
        self.schedules.step(record.loss, record.accuracy)
        self.history.append(record)
        self.position.epoch, self.position.batch = epoch + 1, 0
        self.begin_epoch()
        self.timing.lap("other")
        return record, predictions

    @property
    def _count(self) -> int:
        return len(self.training.images)

    def _waited(self) -> float:
        """Seconds that the device still took for the steps once the host had asked for their sums."""
        before = self.timing.training
        self.timing.lap("forward_backward")
        return self.timing.training - before

    def predictions(self, *, every_class: bool = False, poll: Callable[[], None] = lambda: None) -> Predictions:
        """What the network says of the held-out images, each counted once whoever computed it."""
        with self.precision.autocast(self.device):
            return evaluated(
                self.evaluated_network,
                self.held_out.images,
                self.held_out.labels,
                self.normalise,
                self.group,
                every_class=every_class,
                poll=poll,
            )

    def predict_with_best(self) -> Predictions:
        """What the best weights say of the held-out images, with every class's probability."""
        network = self.evaluated_network
        last = weights_of(network)
        network.load_state_dict(self.best.weights)
        predictions = self.predictions(every_class=True)
        network.load_state_dict(last)
        return predictions


def _grouped(batches: int, together: int) -> Sequence[tuple[int, int]]:
    """First and last-but-one batch of each step of the optimiser."""
    bounds = [*range(0, batches, together), batches]
    return list(pairwise(bounds))
