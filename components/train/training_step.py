"""One step of the optimiser: from the images of its batches to new weights, their average, and the epoch's sums."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from components.classifier.crops import random_crops
from components.classifier.device import is_out_of_memory
from components.classifier.images import Normaliser, random_flips
from components.classifier.losses import Criterion
from components.classifier.network import Network
from components.classifier.optimisers import build_optimiser
from components.classifier.parameter_groups import parameter_groups
from components.shared.errors import ParamsError, Problem
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.seeds import derived_seed
from components.shared.text import shortened
from components.train.compiling import Compiled
from components.train.group import Group
from components.train.mixup import Mixed, Mixing, mix_by
from components.train.precision import choose_precision
from components.train.recomputing import Recomputing
from components.train.timing import Timing

if TYPE_CHECKING:
    from components.classifier.augmentation import Augmentation

_log = step_logger("train")

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)  # none of their subclasses


class TrainingStep:
    """What a step of the optimiser needs, and the step. The network is on `device`.

    Attributes:
        loss_sum: Of the epoch so far, of this process's images; float64, (). As all sums, one tensor for the whole run.
        weight_sum: What the loss is divided by, of all processes; float64, ().
        right: How many of this process's images were classified right; int64, ().
        compiled: Whether the network is to be compiled, and from :meth:`connect` on whether it is.

    Raises:
        ParamsError: Optimiser, loss or transforms cannot be built.
    """

    def __init__(
        self,
        network: Network,
        class_counts: list[int],
        params: Params,
        normalise: Normaliser,
        device: torch.device,
        group: Group,
        *,
        compiled: bool = False,
    ) -> None:
        self.network, self.params, self.normalise = network, params, normalise
        self.device, self.group = device, group
        self.precision = choose_precision(params, device)
        self.criterion = Criterion(params, class_counts, device)
        self.optimiser = build_optimiser(params, parameter_groups(network, params))
        self.transforms: Augmentation | None = None
        if specs := params.additional_transforms:
            # torchvision costs seconds, and most runs name no transform.
            from components.classifier.augmentation import Augmentation

            self.transforms = Augmentation(specs, params.stored_shape, device, params.image_shape)
        seed = params.manual_seed
        self.flipping = torch.Generator(device).manual_seed(derived_seed(seed, "flip"))
        # Of this process alone: what others draw is for other images.
        stream = f"augment/{group.rank}" if group.rank else "augment"
        self.augmenting = torch.Generator(device).manual_seed(derived_seed(seed, stream))
        self.mixing = Mixing(params, random.Random(derived_seed(seed, "mix")))  # noqa: S311 - no secret
        self.average: AveragedModel | None = None
        if params.ema_decay:
            self._average_in: Any = get_ema_multi_avg_fn(params.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(network, device, use_buffers=True)
            # It is asked at every step whether there was one before: on a GPU the host would wait for the answer.
            self.average.n_averaged = self.average.n_averaged.cpu()
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.weight_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.right = torch.zeros((), dtype=torch.int64, device=device)
        self.timing = Timing(device)
        self.recomputing = Recomputing(network) if params.gradient_checkpointing else None
        self._recomputed: Callable[[], AbstractContextManager[None]] = (
            nullcontext if self.recomputing is None else self.recomputing.forward_pass
        )
        self.compiled = compiled
        self._model: Callable[[Tensor], Tensor] | None = None  # what a step calls
        self._unsynced: Callable[[], Any] = nullcontext

    def connect(self, batch: slice) -> None:
        """Make the network what a step calls; in a group this waits for the others, so it is done last.

        `batch` says which of an epoch's images a whole batch has; the network is compiled for such batches.

        Raises:
            ParamsError: It must be compiled, and does not compile.
        """
        if self._model is not None:
            return
        model: Any = self.network
        if self.group.size > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            model = DistributedDataParallel(self.network, device_ids=devices, gradient_as_bucket_view=True)
            # Before each forward pass the buffers become rank 0's, unless they are wanted for evaluation alone.
            model.broadcast_buffers = not _only_statistics(self.network)
            self._unsynced = model.no_sync
        self._model = model
        if self.compiled:
            own = self.group.own(batch)
            self.timing.begin()
            self._compile(model, own.stop - own.start)
            self.timing.lap("compiling")

    def _compile(self, model: Any, count: int) -> None:
        """Compile what a step calls for batches of `count` images, in every process of a group or in none."""
        height, width, channels = self.params.image_shape
        compiled = Compiled(model, (count, channels, height, width))

        def compile_alone() -> None:
            with self._unsynced():  # an exchange of gradients would wait for a process that has failed
                compiled.compile(self.device, self.precision.autocast(self.device))

        try:
            self.group.together(compile_alone)
            self._model = compiled
        except Exception as error:  # torch's compiler, Triton's and C++'s have no type in common
            if is_out_of_memory(error):
                raise
            reason = shortened(" ".join(str(error).split()), 300)
            if self.params.compile == "always":
                message = f'is "always", and the network does not compile: {reason}; set "auto" or "never"'
                raise ParamsError([Problem("compile", message)]) from error
            self.compiled = self.group.ends_together = False
            if self.group.is_first:  # all have the same reason
                _log.warning("not compiled from here on, the network does not compile: %s", reason)

    def reset_sums(self) -> None:
        """Have nothing summed up yet."""
        for total in (self.loss_sum, self.weight_sum, self.right):
            total.zero_()

    def __call__(self, images: Iterator[Tensor], labels: Tensor, batches: Sequence[slice]) -> None:
        """Take one step.

        Args:
            images: This process's images of each batch, as :meth:`prepare` takes them.
            labels: The epoch's, in its order; int64, shape (images of the epoch,).
            batches: Which of the epoch's images each batch has, in all processes.
        """
        self.add_gradients(images, labels, batches)
        self.update()

    def add_gradients(
        self, images: Iterator[Tensor], labels: Tensor, batches: Sequence[slice], mixtures: Tensor | None = None
    ) -> None:
        """Add the gradients of a step's batches.

        `mixtures` says how each batch is mixed, as :func:`mix_by` takes it: float64, (batches, NUMBERS); by default
        that is drawn.
        """
        weight = self.criterion.weight_of(labels[batches[0].start : batches[-1].stop])
        for index, whole in enumerate(batches):
            part = self.group.own(whole)
            prepared, own = self.prepare(next(images), whole.stop - whole.start, part.start - whole.start), labels[part]
            mixed = self._mix(prepared, own) if mixtures is None else mix_by(mixtures[index], prepared, own)
            self.backward(prepared, own, weight, is_last=whole is batches[-1], mixed=mixed)
            self.timing.lap("forward_backward")

    def _mix(self, images: Tensor, labels: Tensor) -> Mixed | None:
        return self.mixing(images, labels) if self.mixing.is_on else None

    def prepare(self, images: Tensor, of: int, begin: int = 0) -> Tensor:
        """Network input, float32 (batch, channels, height, width), of uint8 images (batch, height, width, channels).

        Images are as they are stored. They are those from `begin` of the `of` images that the whole batch has.
        """
        if self.params.flip_images:
            images = random_flips(images, self.params.flip_probability, self.flipping, of=of, begin=begin)
        if self.transforms is not None:
            return self.normalise.of_unit(self.transforms(images, self.augmenting))
        if self.params.stored_shape != self.params.image_shape:
            images = random_crops(images, *self.params.image_shape[:2], self.augmenting)
        return self.normalise(images)

    def backward(
        self, images: Tensor, labels: Tensor, weight: Tensor | int, *, is_last: bool, mixed: Mixed | None = None
    ) -> None:
        """Add a batch's gradients, and its loss to the epoch's.

        Args:
            images: Network input, float32, shape (batch, channels, height, width).
            labels: int64, shape (batch,).
            weight: Of all batches that make one step, in all processes.
            is_last: Whether the processes exchange gradients after it.
            mixed: The same, mixed, where they are.
        """
        given = images if mixed is None else mixed.images
        self.timing.lap("data")
        model = self.network if self._model is None else self._model
        with nullcontext() if is_last else self._unsynced():
            with self.precision.autocast(self.device), self._recomputed():
                logits = model(given).float()
            losses = self.criterion(logits, labels)
            if mixed is not None:
                others, share = mixed.others, mixed.share
                # Not by lerp, whose gradients are other bits by a tensor than by the same number.
                losses = self.criterion(logits, others) * (1 - share) + losses * share
                if isinstance(share, Tensor):
                    labels = torch.where(share >= 0.5, labels, others)
                else:
                    labels = labels if share >= 0.5 else others
            loss = losses.sum()
            # Averaged over the processes by the gradients' exchange, and meant to be summed.
            (loss * (self.group.size / weight)).backward()  # type: ignore[no-untyped-call]
        # Sums stay on the device: reading a value here would make the host wait for every step.
        self.loss_sum += loss.detach()
        self.right += (logits.detach().argmax(dim=1) == labels).sum()
        if is_last:
            self.weight_sum += weight

    def update(self) -> None:
        """Have the optimiser take its step, and the average follow."""
        self.change_weights(is_averaged=self.average is not None and bool(self.average.n_averaged))
        self.count()

    def change_weights(self, *, is_averaged: bool) -> None:
        """What of an update is the device's; `is_averaged` says whether there is an average yet, or it begins here."""
        if self.params.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.params.max_grad_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            averages, values, copied = self._averaged
            if is_averaged:
                self._average_in(averages, values, None)
            else:
                copied = [*zip(averages, values, strict=True), *copied]
            with torch.no_grad():
                for average, value in copied:
                    average.copy_(value)

    def count(self) -> None:
        """What of an update is the host's."""
        if self.average is not None:
            self.average.n_averaged += 1

    @cached_property
    def _averaged(self) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Averages of floats, what they are of, and each counter's with its own, whose average would be cut off."""
        assert self.average is not None  # noqa: S101 - for mypy
        pairs = [
            pair
            for name in ("parameters", "buffers")
            for pair in zip(getattr(self.average.module, name)(), getattr(self.network, name)(), strict=True)
        ]
        floats = [pair for pair in pairs if pair[1].is_floating_point()]
        counters = [pair for pair in pairs if not pair[1].is_floating_point()]
        return [average for average, _ in floats], [value for _, value in floats], counters

    def alone(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step outside of any epoch, group and schedule, for trials; the mean loss of its images before it.

        Network input and labels are as :meth:`backward` takes them.
        """
        weight, before, model = self.criterion.weight_of(labels), self.loss_sum.clone(), self._model
        self._model = None
        self.backward(images, labels, weight, is_last=True, mixed=self._mix(images, labels))
        self._model = model
        self.update()
        return (self.loss_sum - before) / weight


def _only_statistics(network: Network) -> bool:
    """Whether all buffers are torch's BatchNorm's, which never reads them where it changes them."""
    statistics = {
        id(buffer) for module in network.modules() if type(module) in _BATCH_NORMS for buffer in module.buffers()
    }
    return all(id(buffer) in statistics for buffer in network.buffers())
