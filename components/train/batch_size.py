"""``batch_size: auto``: how many images a batch has, chosen once, before a run's first step.

At most a twentieth of the training images, so that a schedule has steps to act in, and 8 to 4,096 in any case.
On a GPU the sizes below are tried by real steps on copies of the run's network, and the run's generators are put back;
on a CPU the size follows from the network's cost. The learning rate is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple

import torch

from components.classifier.device import free_bytes, free_unused, is_out_of_memory, time_when_done
from components.classifier.images import ImageStore, LabelledImages, Normaliser
from components.classifier.losses import counts_of
from components.classifier.network import LayerTable, Network
from components.shared.params.params import Params
from components.train.compiling import flops_of_training
from components.train.generators import generators_kept
from components.train.group import Group
from components.train.training_step import TrainingStep

LARGEST, SMALLEST, FEWEST_STEPS = 4096, 8, 20
# The first that is tried on a GPU; below it a step's time is the host's.
_FIRST_TRIED = 32
# A doubling is worth it that trains so many times as many images a second.
_GROWTH = 1.1
# Steps that are not timed, since kernels are chosen in them, and steps that are.
_WARM, _TIMED = 2, 5
# Of a GPU's memory, that what comes after the trial has left: blocks of other sizes, evaluation, a last smaller batch.
_ROOM = 0.1
# Floating-point operations of a step, 10 to 50 ms on a core of today: what a step costs besides is under a hundredth.
_WORTH_A_STEP = 1e9
# Values of a layer are kept for the backward pass and have gradients, float32 each.
_BYTES_PER_VALUE = 8


class ChosenBatchSize(NamedTuple):
    """A batch size, of all processes together, and why it is that one, for the log."""

    size: int
    reason: str


def largest_batch(images: int, params: Params, processes: int = 1) -> ChosenBatchSize:
    """The largest power of two that leaves an epoch enough steps, whatever the device."""
    share = images // (FEWEST_STEPS * params.gradient_accumulation_steps)
    least = max(SMALLEST, 2 * processes)
    if share < least:
        return ChosenBatchSize(_power_of_two(least), f"the least that auto takes, for {images:,} images")
    if share >= LARGEST:
        return ChosenBatchSize(LARGEST, "the most that auto takes")
    return ChosenBatchSize(_power_of_two(share), f"so that an epoch of {images:,} images has {FEWEST_STEPS} steps")


def _power_of_two(count: int) -> int:
    """The largest that is at most `count`."""
    return 1 << (count.bit_length() - 1)


def on_cpu(table: LayerTable, largest: ChosenBatchSize, free: int) -> ChosenBatchSize:
    """By the cost of one image, forth and back, and what it keeps in memory; `free` is in bytes."""
    flops = flops_of_training(table)
    size = SMALLEST
    while size * flops < _WORTH_A_STEP and size < largest.size:
        size *= 2
    fits = free // 2 // max(1, table.values * _BYTES_PER_VALUE)
    if fits < size:
        return ChosenBatchSize(_power_of_two(max(1, fits)), f"what it keeps fits in half of {free / 1e9:,.1f} GB")
    if size == largest.size:
        return largest
    return ChosenBatchSize(size, f"on a CPU a step of {size * flops:.1e} FLOP is large enough")


def on_gpu(
    network: Network,
    data: LabelledImages[ImageStore],
    normalise: Normaliser,
    params: Params,
    device: torch.device,
    largest: ChosenBatchSize,
    group: Group,
) -> ChosenBatchSize:
    """By steps of rising size on a copy of the network; the generators that all share are as before."""
    sizes = [min(_FIRST_TRIED, largest.size)]
    while sizes[-1] < largest.size:
        sizes.append(2 * sizes[-1])
    rates: list[float] = []
    for size in sizes:
        rate = images_a_second(network, data, normalise, params, device, -(-size // group.size))
        rates.append(rate)
        if _is_too_large(rates):
            break
    return decided(sizes[: len(rates)], rates, largest)


def decided(sizes: Sequence[int], rates: Sequence[float], largest: ChosenBatchSize) -> ChosenBatchSize:
    """The size to take where those of `sizes`, each twice the one before, train so many images a second; 0: none fits.

    The last is the one that was the first to not fit, to be hardly faster than half of it, or the largest allowed.
    """
    if not _is_too_large(rates):
        return ChosenBatchSize(sizes[-1], f"tried, {rates[-1]:,.0f} images/s; {largest.reason}")
    why = f"is hardly faster, {rates[-1]:,.0f}" if rates[-1] else "does not fit in memory"
    if len(rates) == 1:
        return ChosenBatchSize(max(1, sizes[0] // 2), f"tried, {sizes[0]} {why}")
    return ChosenBatchSize(sizes[-2], f"tried, {rates[-2]:,.0f} images/s; {sizes[-1]} {why}")


def _is_too_large(rates: Sequence[float]) -> bool:
    """Whether the size of the last rate does not fit, or is hardly faster than half of it."""
    return not rates[-1] or (len(rates) > 1 and rates[-1] < _GROWTH * rates[-2])


def images_a_second(
    network: Network,
    data: LabelledImages[ImageStore],
    normalise: Normaliser,
    params: Params,
    device: torch.device,
    count: int,
) -> float:
    """Images a second of steps on the first `count` images; 0 where they do not fit, or leave too little memory."""

    def seconds_of_timed() -> float:
        classes = counts_of(data.labels.cpu(), params.n_classes)
        # Alone: the processes of a group, each of which tries, wait for no other.
        step = TrainingStep(deepcopy(network), classes, params, normalise, device, Group())
        step.network.train()
        chosen = torch.arange(count) % len(data.images)
        images, labels = data.images.take(chosen), data.labels[chosen.to(device)]
        for steps in (_WARM, _TIMED):
            begun = time_when_done(device)
            for _ in range(steps):
                step.alone(step.prepare(images, count), labels)
        return time_when_done(device) - begun

    seconds, has_room = 0.0, False
    with generators_kept(device):
        try:
            seconds = seconds_of_timed()
            has_room = device.type != "cuda" or free_bytes(device) >= _ROOM * torch.cuda.mem_get_info(device)[1]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    # Here the error is gone, and with its traceback what the step held on to.
    free_unused(device)
    return count * _TIMED / max(seconds, 1e-9) if has_room else 0.0
