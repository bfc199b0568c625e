"""The speed-of-light report: what training achieved, beside what its step and its device can do at best."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

from components.classifier.batches import ResidentImages
from components.classifier.out_of_memory import is_out_of_memory
from components.shared.model import Speed
from components.train.trainer import Trainer

# Seconds that measuring may take: a small part of the training, and never long.
_SHARE = 0.03
_LONGEST_S = 1.0
_FEWEST, _MOST = 2, 200

# Sides of the square matrices: far beyond what caches hold, and some hundredths of a second.
_SIDES = {"cpu": 1024, "cuda": 8192}
_PRODUCTS = 3


def measure_speed(trainer: Trainer, flops_per_image: int) -> Speed:
    """Measure what is possible, and compare.

    Args:
        trainer: Has trained; its weights are written, for they are other ones afterwards. Every process of a group
            calls this.
        flops_per_image: Of one image's forward and backward pass, a multiply-add as two; 0: not known.
    """
    achieved = trainer.images_per_second
    shares = trainer.stopwatch.shares()
    constant = _where_it_fits(lambda: _constant_rate(trainer))
    single = _where_it_fits(lambda: matmul_rate(trainer.device, trainer.precision.name))
    products = single * trainer.group.size if single is not None else None
    flops = achieved * flops_per_image if flops_per_image else None
    return Speed(
        samples_per_second=achieved,
        flops_per_second=flops,
        constant_tensor_samples_per_second=constant,
        of_constant_tensor=achieved / constant if constant is not None else None,
        matmul_flops_per_second=products,
        of_matmul=flops / products if flops is not None and products is not None else None,
        precision=trainer.precision.name,
        compiled=trainer.compiled,
        data="resident" if isinstance(trainer.training.images, ResidentImages) else "mapped",
        shares=shares,
        processes=trainer.group.size,
    )


def _where_it_fits(measured: Callable[[], float]) -> float | None:
    """A measurement, or None where it does not fit in memory: a finished training is not lost for it."""
    try:
        return measured()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _constant_rate(trainer: Trainer) -> float:
    """Images a second of the same step fed one constant batch, of all processes together."""
    group, whole = trainer.group, trainer.slices[0]
    own = group.own(whole)
    images, labels = trainer.batch(torch.arange(own.start, own.stop))
    trainer.network.train()

    def seconds(steps: int) -> float:
        _wait(trainer.device)
        start = time.perf_counter()
        for _ in range(steps):
            trainer.constant_step(images, labels)
        _wait(trainer.device)
        return time.perf_counter() - start

    seconds(1)
    budget = min(_LONGEST_S, _SHARE * trainer.stopwatch.training)
    # As many in every process: they wait for each other.
    steps = group.from_first(max(_FEWEST, min(_MOST, int(budget / max(seconds(1), 1e-9)))))
    images_in_all = steps * (whole.stop - whole.start) * trainer.params.gradient_accumulation_steps
    return float(images_in_all / max(seconds(steps), 1e-9))


@cache
def matmul_rate(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of a device in large matrix products, a multiply-add as two; the best of 3."""
    side = _SIDES[device.type]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    one @ other
    best = float("inf")
    for _ in range(_PRODUCTS):
        _wait(device)
        start = time.perf_counter()
        one @ other
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * side * side * side / max(best, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
