"""Out of memory in training: which batch size would have fitted is tried out and reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from components.classifier.device import describe_device, free_unused, is_out_of_memory
from components.classifier.inference import chunk_size
from components.shared.cropping import central_crop
from components.shared.errors import ParamsError, Problem
from components.shared.text import first_line
from components.train.trainer import Trainer

T = TypeVar("T")

# Of a CPU's library where its own memory is refused, and of other faults as well: it counts only in the trials.
_REFUSED_IN_TRIALS = "could not create a primitive"


def explaining_out_of_memory(trainer: Trainer, work: Callable[[], T], *, is_evaluation: bool = False) -> T:
    """Do some steps, or evaluate; what does not fit in memory is a `ParamsError` that says what would."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error).rpartition("DefaultCPUAllocator: ")[2]
    # Here the error is gone, and with its traceback everything that the step held on to.
    raise ParamsError([_evaluation_problem(trainer, reason) if is_evaluation else step_problem(trainer, reason)])


def _evaluation_problem(trainer: Trainer, reason: str) -> Problem:
    count = min(chunk_size(trainer.evaluated_network), len(trainer.held_out.images))
    what = f"evaluation puts {count} images at once through this network, which do not fit in {_memory(trainer)}"
    return Problem("net_arch", f"{what}; make the network smaller, or give it more memory ({reason})")


def step_problem(trainer: Trainer, reason: str) -> Problem:
    """What is to be changed in the params after a step that did not fit; `reason` is torch's."""
    params, size, memory = trainer.params, trainer.group.size, _memory(trainer)
    whole = max(trainer.slices, key=lambda part: part.stop - part.start)
    images, own = whole.stop - whole.start, trainer.group.own(whole)
    largest = own.stop - own.start
    found = largest // 2  # the first of the halves, quarters, …
    while found >= 1 and not _fits(trainer, found):
        found //= 2
    if found < 1:
        smallest = "not even a step on one image fits" if largest > 1 else "a step on one image does not fit"
        return Problem("net_arch", f"{smallest} in {memory} with this network; make it smaller ({reason})")
    among = f" shared by {size} processes" if size > 1 else ""
    batch_size = found * size
    steps = -(-images // batch_size) * params.gradient_accumulation_steps
    return Problem(
        "batch_size",
        f"{images} images{among} do not fit in {memory}; {batch_size} would (tried): set batch_size to {batch_size}, "
        f"and gradient_accumulation_steps to {steps} to keep steps of {images * params.gradient_accumulation_steps} "
        f"images ({reason})",
    )


def _memory(trainer: Trainer) -> str:
    return f"the memory of {'this machine' if trainer.device.type == 'cpu' else describe_device(trainer.device)}"


def _fits(trainer: Trainer, count: int) -> bool:
    """Whether steps on so many black images fit. Two: what the optimiser keeps is there only after the first."""
    trainer.optimiser.zero_grad(set_to_none=True)  # what a step that failed has left
    free_unused(trainer.device)
    try:
        for _ in range(2):
            stored = torch.zeros(count, *trainer.params.stored_shape, dtype=torch.uint8, device=trainer.device)
            labels = torch.zeros(count, dtype=torch.int64, device=trainer.device)
            trainer.step_alone(trainer.normalise(central_crop(stored, trainer.params.image_shape)), labels)
            if trainer.device.type == "cuda":
                torch.cuda.synchronize(trainer.device)
    except (RuntimeError, MemoryError, ValueError) as error:
        is_statistics = isinstance(error, ValueError) and count == 1  # BatchNorm refuses those of a single value
        if not (is_out_of_memory(error) or _REFUSED_IN_TRIALS in str(error) or is_statistics):
            raise
        return False
    finally:
        trainer.optimiser.zero_grad(set_to_none=True)
        free_unused(trainer.device)
    return True
