"""What ``precision: auto`` is on a GPU: before a run's first step some passes of each precision, and what they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from copy import deepcopy
from statistics import median

import torch
from torch import Tensor

from components.classifier.building import is_known
from components.classifier.device import free_unused, is_out_of_memory, time_when_done
from components.shared.seeds import derived_seed
from components.train.generators import generators_kept
from components.train.precision import Measured, Precision, PrecisionName, best_of, candidates, unmeasured
from components.train.recomputing import Recomputing
from components.train.trainer import Trainer

# Of the time that the run's passes take, which measuring may take.
SHARE = 0.01
# Passes in a precision's turn, and turns: of three rates one may be a disturbance.
_PASSES, _ROUNDS = 3, 3
# A precision that takes so many times as long as the fastest has no further turn.
_FAR_SLOWER = 1.5
# In fewer it does not begin: it makes some 30 passes, some of them five times as long as others (fp32 without TF32
# beside bf16, of a ResNet-50 on an H100).
FEWEST_BATCHES = 5_000


def precision_of_run(trainer: Trainer) -> Precision:
    """The precision of a run that begins: as its params say, or measured where that may pay.

    Every process of a group calls this; the first measures. The trainer is left as it was, generators included.
    """
    params, device = trainer.params, trainer.device
    if params.precision != "auto":
        return trainer.precision
    own = candidates(device)
    names = tuple(name for name in own if all(name in each for each in trainer.group.gathered(own)))
    if len(names) == 1:
        return trainer.precision if names == own else Precision("fp32", "the GPUs of other processes have no more")
    batches = (params.num_epochs - trainer.position.epoch + 1) * len(trainer.slices)
    if why := _hindrance(trainer, batches):
        return unmeasured(device, why)
    found = trainer.group.on_first(lambda: measure(trainer, names, SHARE * batches, time_when_done))
    return unmeasured(device, found) if isinstance(found, str) else best_of(found)


def _hindrance(trainer: Trainer, batches: int) -> str:
    """Why nothing is measured; empty: nothing hinders it."""
    if trainer.params.step == "graph":
        # On an H100 bf16 was the faster one, captured: 608,000 images/s of small images after 547,000.
        return "steps are captured, and passes that are not would show the host"
    if batches < FEWEST_BATCHES:
        return f"the run has {batches:,} batches, and it pays from {FEWEST_BATCHES:,}"
    if trainer.params.sync_batch_norm and trainer.group.size > 1:
        return "batch statistics of all processes would need all of them"
    if not all(is_known(layer) for layer in trainer.network.features):
        return "layers of other modules than torch's and torchvision's may keep state"
    return ""


def measure(
    trainer: Trainer,
    names: tuple[PrecisionName, ...],
    passes: float,
    now: Callable[[torch.device], float],
) -> dict[PrecisionName, Measured] | str:
    """Measure precisions by forward and backward passes of a copy of the trainer's network, or say why not.

    Args:
        trainer: At its beginning or between two steps; it is left as it is, generators included.
        names: What to measure, fp32 among them.
        passes: How many passes of the fastest precision all of it may take as long as.
        now: The time in seconds, once the device has done its work.
    """
    try:
        step = trainer.training_step
        with generators_kept(trainer.device, step.flipping, step.augmenting):
            return _Passes(trainer, now).measured(names, passes)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    free_unused(trainer.device)
    return "it does not fit in memory"


class _Passes:
    """Forward and backward passes of a copy of a run's network, on a batch of its training images."""

    def __init__(self, trainer: Trainer, now: Callable[[torch.device], float]) -> None:
        self._trainer, self._step, self._now = trainer, trainer.training_step, now
        self._network = deepcopy(trainer.network).train()
        self._recomputed: Callable[[], AbstractContextManager[None]] = nullcontext
        if trainer.params.gradient_checkpointing:
            self._recomputed = Recomputing(self._network).forward_pass
        draws = torch.Generator().manual_seed(derived_seed(trainer.params.manual_seed, "precision"))
        order = torch.randperm(len(trainer.training.images), generator=draws)
        whole = trainer.slices[0]
        own = trainer.group.own(whole)
        with closing(trainer.read_batches(order, 0, 1)) as batches:
            self._images = self._step.prepare(next(batches), whole.stop - whole.start, own.start - whole.start)
        self._labels = trainer.training.labels[order[own].to(trainer.device)]

    def measured(self, names: tuple[PrecisionName, ...], passes: float) -> dict[PrecisionName, Measured] | str:
        begun = self._time()
        seconds: dict[PrecisionName, list[float]] = {name: [] for name in names}
        losses: dict[PrecisionName, Tensor] = {}
        for name in names * _ROUNDS:
            taken = seconds[name]
            if taken and min(taken) > _FAR_SLOWER * _shortest(seconds):
                continue
            if not taken:  # the first pass in a precision loads its kernels
                torch.manual_seed(0)  # layers draw the same in each; `generators_kept` puts back what was
                losses[name] = self._pass(name)
            start = self._time()
            for _ in range(_PASSES):
                self._pass(name)
            end = self._time()
            taken.append((end - start) / _PASSES)
            if end - begun > passes * _shortest(seconds):
                if not all(seconds.values()):
                    return f"it would take more than {SHARE:.0%} of the run"
                break
        exact = losses["fp32"]
        changes = {name: float((of - exact).square().mean().sqrt() / exact.std()) for name, of in losses.items()}
        images = len(exact) * self._trainer.group.size
        return {name: Measured(images / max(median(taken), 1e-9), changes[name]) for name, taken in seconds.items()}

    def _time(self) -> float:
        return self._now(self._trainer.device)

    def _pass(self, name: PrecisionName) -> Tensor:
        """The losses of the images, float64, (images,), of a forward pass that a backward pass has followed."""
        precision, step = Precision(name, ""), self._step
        precision.set_flags()
        self._network.zero_grad(set_to_none=True)
        with precision.autocast(self._trainer.device), self._recomputed():
            logits = self._network(self._images).float()
        losses = step.criterion(logits, self._labels)
        (losses.sum() / step.criterion.weight_of(self._labels)).backward()  # type: ignore[no-untyped-call]
        return losses.detach().double()


def _shortest(seconds: Mapping[PrecisionName, Sequence[float]]) -> float:
    return min(each for taken in seconds.values() for each in taken)
