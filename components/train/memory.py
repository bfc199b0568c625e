"""Out of memory in training: what batch size would have fitted is tried out and told."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from components.classifier.device import describe_device, is_out_of_memory
from components.classifier.inference import chunk_size
from components.shared.errors import ParamsError, Problem
from components.shared.params.types import first_line
from components.train.trainer import Trainer

T = TypeVar("T")

# Of a CPU's library where its own memory is refused, and of other faults as well: it counts only in the trials.
_SAID_IN_TRIALS = "could not create a primitive"


def answering_out_of_memory(trainer: Trainer, train: Callable[[], T]) -> T:
    """Do some steps of training; where they do not fit in memory, find out which batch size does.

    Args:
        trainer: Of no use any more after an error.
        train: Makes its steps.

    Raises:
        ParamsError: A step does not fit; the message says which batch size does.
    """
    try:
        return train()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = _told(error)
    # Here the error is gone, and with its traceback everything that the step held on to.
    raise ParamsError([problem_of(trainer, said)])


def answering_evaluation(trainer: Trainer, evaluate: Callable[[], T]) -> T:
    """Evaluate; where that does not fit in memory, say so. No setting changes how many images that takes at once.

    Args:
        trainer: Of no use any more after an error.
        evaluate: Evaluates it.

    Raises:
        ParamsError: The evaluation does not fit.
    """
    try:
        return evaluate()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = _told(error)
    count = min(chunk_size(trainer.evaluated_network), len(trainer.held_out.images))
    message = (
        f"evaluation puts {count} images at once through this network, which do not fit in the memory of "
        f"{_memory(trainer)}; make the network smaller, or give it more memory ({said})"
    )
    raise ParamsError([Problem("net_arch", message)])


def _told(error: BaseException) -> str:
    """What torch said, without where in its code it did."""
    return first_line(error).rpartition("DefaultCPUAllocator: ")[2]


def _memory(trainer: Trainer) -> str:
    return "this machine" if trainer.device.type == "cpu" else describe_device(trainer.device)


def problem_of(trainer: Trainer, said: str) -> Problem:
    """What is to be changed in the params after a step that did not fit.

    Args:
        trainer: Whose step it was.
        said: What torch said of it.
    """
    params, size = trainer.params, trainer.group.size
    whole = max(trainer.slices, key=lambda part: part.stop - part.start)
    images, own = whole.stop - whole.start, trainer.group.own(whole)
    largest = own.stop - own.start
    memory = _memory(trainer)
    among = f" shared by {size} processes" if size > 1 else ""
    found = largest_that_fits(lambda count: _fits(trainer, count), largest)
    if found is None:
        smallest = "not even a step on one image fits" if largest > 1 else "a step on one image does not fit"
        message = f"{smallest} in the memory of {memory} with this network; make it smaller ({said})"
        return Problem("net_arch", message)
    batch_size = found * size
    steps = -(-images // batch_size) * params.gradient_accumulation_steps
    return Problem(
        "batch_size",
        f"{images} images{among} do not fit in the memory of {memory}; {batch_size} would (tried): set "
        f"batch_size to {batch_size}, and gradient_accumulation_steps to {steps} to keep steps of "
        f"{images * params.gradient_accumulation_steps} images ({said})",
    )


def largest_that_fits(fits: Callable[[int], bool], too_many: int) -> int | None:
    """The first of the halves, quarters, … of a number of images that fits; None if not even one image does."""
    count = too_many // 2
    while count >= 1:
        if fits(count):
            return count
        count //= 2
    return None


def _fits(trainer: Trainer, count: int) -> bool:
    """Whether steps on so many images fit. Two: what the optimiser keeps is there only after the first."""
    _give_back(trainer)
    try:
        for _ in range(2):
            _step(trainer, count)
    except (RuntimeError, MemoryError, ValueError) as error:
        is_statistics = isinstance(error, ValueError) and count == 1  # BatchNorm refuses those of a single value
        if not (is_out_of_memory(error) or _SAID_IN_TRIALS in str(error) or is_statistics):
            raise
        return False
    finally:
        _give_back(trainer)
    return True


def _step(trainer: Trainer, count: int) -> None:
    """A step on black images."""
    stored = torch.zeros(count, *trainer.params.image_shape, dtype=torch.uint8, device=trainer.device)
    labels = torch.zeros(count, dtype=torch.int64, device=trainer.device)
    trainer.step_alone(trainer.normalise(stored), labels)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)


def _give_back(trainer: Trainer) -> None:
    """Free what a step that failed has left: gradients, cycles, and the blocks that torch keeps for later."""
    trainer.optimiser.zero_grad(set_to_none=True)
    gc.collect()
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()
