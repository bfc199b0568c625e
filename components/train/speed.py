"""The speed-of-light report: what training achieved, beside what its step and its device can do at best.

Two measurements minutes apart, on a machine that does other things too, compare nothing: 0.5.0 printed 131 % to 2592 %
of what is possible. So both sides are measured after training, in rounds by turns, with weights that stay as they are,
and what the rounds do not agree on is not reported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor

from components.classifier.device import is_out_of_memory
from components.classifier.images import ResidentImages
from components.shared.artifacts.model import Speed
from components.shared.seeds import derived_seed
from components.train.timing import Timing
from components.train.trainer import Trainer

T = TypeVar("T")

# In a shorter run 3 % is too little to measure in, and most of the time is the start of everything.
SHORTEST_S = 30.0
# Of the run's seconds, which all of the measuring may take; more than 10 s better no figure, and SIGTERM would wait.
SHARE, LONGEST_S = 0.03, 10.0
# Of three, one may be a disturbance; more than five narrow no range, which is that of the worst.
FEWEST_ROUNDS, MOST_ROUNDS = 3, 5
_MOST_STEPS = 200

# At a quarter more from the lowest ratio to the highest the median may be an eighth off on either side: 80 % of what is
# possible is then no other finding than 70 % or 90 %.
WIDEST = 1.25
# What a clock's and a machine's noise may add to 1; more than that is no part of a bound.
HIGHEST = 1.05

# Sides of the square matrices: far beyond what caches hold, and some hundredths of a second.
_SIDES = {"cpu": 1024, "cuda": 8192}
_PRODUCTS = 5
# Steps of one side before it is the other's turn: so short that what disturbs one disturbs the other; but more than are
# read ahead (2), or data would cost nothing, and on a GPU more than a wait for it costs.
_TURN = 10


def measure_speed(trainer: Trainer, flops_per_image: int) -> Speed:
    """Measure what is possible, and compare.

    Args:
        trainer: Has trained; its weights are written, for what it holds is of no more use afterwards, except for its
            history, its best weights and its seconds. Every process of a group calls this.
        flops_per_image: Of one image's forward and backward pass, a multiply-add as two; 0: not known.
    """
    achieved, group = trainer.images_per_second, trainer.group
    seconds, step_s = group.from_first(
        (sum(trainer.timing.seconds.values()), trainer.timing.training / max(trainer.position.step, 1))
    )
    report = Speed(
        samples_per_second=achieved,
        flops_per_second=achieved * flops_per_image if flops_per_image else None,
        precision=trainer.precision.name,
        compiled=trainer.compiled,
        data="resident" if isinstance(trainer.training.images, ResidentImages) else "mapped",
        shares=trainer.timing.shares(),
        processes=group.size,
    )
    if seconds < SHORTEST_S:
        why = f"not measured in a run under {SHORTEST_S:g} s"
        return report.model_copy(update={"why_not": {"of_constant_tensor": why, "of_matmul": why}})
    with _unchanging(trainer):
        rounds = _Measurement(trainer, min(LONGEST_S, SHARE * seconds), step_s).rounds()
    return report.model_copy(update=_figures(rounds, flops_per_image))


@dataclass
class Rounds:
    """What the rounds measured, each rate by round and of all processes together.

    Attributes:
        training: Images a second of training's own steps.
        resident: Images a second of steps on one random batch.
        products: Floating-point operations a second of matrix products; empty where they were not measured.
        why_not: Why something was not measured, by the figure of :class:`Speed`.
    """

    training: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)
    why_not: dict[str, str] = field(default_factory=dict)


def compared(ratios: Sequence[float]) -> tuple[float, float, float] | str:
    """Median, lowest and highest of the rounds' ratios; or, in words, why they are no measurement."""
    if len(ratios) < FEWEST_ROUNDS or not all(math.isfinite(ratio) and ratio > 0 for ratio in ratios):
        return f"not measurable here ({len(ratios)} rounds)"
    middle, lowest, highest = median(ratios), min(ratios), max(ratios)
    if highest > WIDEST * lowest or middle > HIGHEST:
        beyond = ", and 1 is the most that is possible" if lowest > 1 else ""
        return f"not measurable here (ratios {lowest:.3g} to {highest:.3g}{beyond})"
    return middle, lowest, highest


def _figures(rounds: Rounds, flops_per_image: int) -> dict[str, object]:
    """The fields of :class:`Speed` that the rounds give."""
    figures: dict[str, object] = {"rounds": len(rounds.training)}
    why_not = dict(rounds.why_not)
    if not flops_per_image:
        why_not.setdefault("of_matmul", "not known (no operation's cost is)")
    for name, bound, rate, scale in (
        ("of_constant_tensor", rounds.resident, "constant_tensor_samples_per_second", 1),
        ("of_matmul", rounds.products, "matmul_flops_per_second", flops_per_image),
    ):
        if name not in why_not:
            ratios = [own * scale / limit for own, limit in zip(rounds.training, bound, strict=True)]
            found = compared(ratios)
            if isinstance(found, str):
                why_not[name] = found
            else:
                figures |= {name: found[0], f"{name}_range": list(found[1:]), rate: median(bound)}
    return figures | {"why_not": why_not}


@contextmanager
def _unchanging(trainer: Trainer) -> Iterator[None]:
    """Within, the trainer's seconds are kept, and its steps change no weight: those of a finished training stay so.

    A network that goes on to learn one batch by heart has gradients of almost nothing, which a CPU takes many times as
    long for.
    """
    kept, rates = trainer.timing, [group["lr"] for group in trainer.optimiser.param_groups]
    trainer.timing = Timing(trainer.device)
    for group in trainer.optimiser.param_groups:
        group["lr"] = 0 * group["lr"]
    try:
        trainer.network.train()
        yield
    finally:
        trainer.timing = kept
        for group, rate in zip(trainer.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate


class _OverTimeError(Exception):
    """What is measured takes longer than it did in training."""


class _Measurement:
    """Rounds of steps and products within a time.

    Args:
        trainer: Whose steps.
        budget_s: Seconds for all of it.
        step_s: Seconds that a step took in training.
    """

    def __init__(self, trainer: Trainer, budget_s: float, step_s: float) -> None:
        self._trainer = trainer
        self._group = trainer.group
        self._device = trainer.device
        self._budget_s = budget_s
        self._step_s = max(step_s, 1e-9)
        self._begun = time.perf_counter()
        self._found = Rounds()

    def rounds(self) -> Rounds:
        """Measure as many rounds as there is time for."""
        found = self._found
        products = self._where_it_fits(self._products, "of_matmul")
        self._where_it_fits(lambda: self._measure(products), "of_constant_tensor", "of_matmul")
        done = min(len(found.training), len(found.resident))
        for rates in (found.training, found.resident, found.products):
            del rates[done:]
        if done < FEWEST_ROUNDS:
            for name in ("of_constant_tensor", "of_matmul"):
                found.why_not.setdefault(name, f"not measurable here ({done} rounds in {self._budget_s:.3g} s)")
        return found

    def _measure(self, products: _Products | None) -> None:
        product_s = products.seconds if products is not None else 0.0
        try:
            self._warm_up()
        except _OverTimeError:
            return
        steps = self._group.from_first(self._steps(MOST_ROUNDS, product_s) or self._steps(FEWEST_ROUNDS, product_s))
        if not steps:
            why = f"not measurable here (a step takes {self._step_s:.3g} s, too long for {self._budget_s:.3g} s)"
            self._found.why_not |= {"of_constant_tensor": why, "of_matmul": why}
            return
        batch = self._random_batch()
        for number in range(MOST_ROUNDS):
            if number:  # as long as those before it, or shorter ones where the fewest would not end in time
                self._step_s = self._used_s / number / (2 * steps + 2)
                rest = max(1, FEWEST_ROUNDS - number)
                steps = self._group.from_first(min(steps, self._steps(rest, 0.0)))
            if not steps:
                return
            try:
                self._round(steps, batch, products)
            except _OverTimeError:
                return

    def _warm_up(self) -> None:
        """Train until three steps in a row are about as fast as before, for a third of the time at most.

        Where other programs are at work, the threads of a step share a core for some seconds after anything that one
        thread does alone, such as the export: steps then took ten times as long on two cores.
        """
        alike = 0
        if 12 * self._step_s > self._budget_s:  # which is too little for the rounds, too
            return
        with closing(self._trainer.timed_steps(_MOST_STEPS)) as steps:
            while alike < 3 and self._group.from_first(self._used_s < self._budget_s / 3):
                step = _Side(self._device)
                step.add(lambda: self._take(steps, 1))
                alike = self._group.from_first(alike + 1 if step.seconds < 1.5 * self._step_s else 0)

    def _round(self, steps: int, batch: tuple[Tensor, Tensor], products: _Products | None) -> None:
        """Steps of both sides, and products, by turns, every other one the other way round."""
        own, resident, product = _Side(self._device), _Side(self._device), _Side(self._device)
        with (
            closing(self._trainer.timed_steps(steps + 1)) as of_own,
            closing(self._trainer.timed_steps(steps + 1, batch)) as of_resident,
        ):
            # The first one is not timed: training's own waits for its first batch.
            self._take(of_own, 1)
            self._take(of_resident, 1)
            turns = [
                lambda count: own.add(lambda: self._take(of_own, count)),
                lambda count: resident.add(lambda: self._take(of_resident, count)),
            ]
            reads_ahead = not isinstance(self._trainer.training.images, ResidentImages)
            length = _TURN if reads_ahead or self._device.type == "cuda" else 1
            for number, done in enumerate(range(0, steps, length)):
                for turn in reversed(turns) if number % 2 else turns:
                    turn(min(length, steps - done))
                if products is not None and number < products.count:
                    products.multiply()
                    product.add(products.multiply)
        self._found.training.append(own.rate)
        self._found.resident.append(resident.rate)
        if products is not None:
            self._found.products.append(self._group.size * product.rate)

    def _take(self, steps: Iterator[int], count: int) -> int:
        """Images of the next steps."""
        images = 0
        for of_step in islice(steps, count):
            images += of_step
            # A process of a group that left would be waited for.
            if self._group.size == 1 and self._used_s > 0.9 * self._budget_s:
                raise _OverTimeError
        return images

    @property
    def _used_s(self) -> float:
        return time.perf_counter() - self._begun

    def _steps(self, rounds: int, product_s: float) -> int:
        """How many steps each side may take in so many rounds, a fifth of the time in hand; 0: there is no time."""
        left = 0.8 * (self._budget_s - self._used_s) / rounds - product_s
        # Both sides begin with a step that is not timed.
        return max(0, min(_MOST_STEPS, int(left / self._step_s) // 2 - 1))

    def _random_batch(self) -> tuple[Tensor, Tensor]:
        """Network input and labels of random values: of equal ones some kernels make less work."""
        trainer = self._trainer
        own = self._group.own(trainer.slices[0])
        draws = torch.Generator(self._device).manual_seed(derived_seed(trainer.params.manual_seed, "speed"))
        shape = (own.stop - own.start, *trainer.params.image_shape)
        images = torch.randint(256, shape, dtype=torch.uint8, device=self._device, generator=draws)
        labels = torch.randint(trainer.params.n_classes, shape[:1], device=self._device, generator=draws)
        return trainer.normalise(images), labels

    def _products(self) -> _Products | None:
        """Matrix products that are small enough a part of the time; None: a single one is not."""
        side = _SIDES[self._device.type]
        dtype = torch.bfloat16 if self._trainer.precision.name == "bf16" else torch.float32
        # A quarter of the side is a 64th of the time. The products may have a third of all that there is.
        probe = _Products(side // 4, 1, self._device, dtype)
        tries = [_Side(self._device) for _ in range(4)]  # the first one loads the library
        for each in tries:
            each.add(probe.multiply)
        one_s = self._group.from_first(64 * min(each.seconds for each in tries))
        count = min(_PRODUCTS, int(self._budget_s / 3 / MOST_ROUNDS / one_s) // 2)
        if count >= 1:
            return _Products(side, count, self._device, dtype, seconds=2 * count * one_s)
        self._found.why_not["of_matmul"] = f"not measurable here (a matrix product takes {one_s:.3g} s)"
        return None

    def _where_it_fits(self, work: Callable[[], T], *figures: str) -> T | None:
        """What work gives, or None where it does not fit in memory: a finished training is not lost for it."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._found.why_not |= dict.fromkeys(figures, "not measurable here (it does not fit in memory)")
            return None


class _Side:
    """What one side of a comparison has done, and in how long."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._done = self.seconds = 0.0

    def add(self, work: Callable[[], float]) -> None:
        """Time some work, which returns how much it is."""
        _wait(self._device)
        start = time.perf_counter()
        self._done += work()
        _wait(self._device)
        self.seconds += time.perf_counter() - start

    @property
    def rate(self) -> float:
        """So much a second."""
        return self._done / max(self.seconds, 1e-9)


class _Products:
    """Products of two random square matrices: `count` for a round, which is expected to take `seconds` for them."""

    def __init__(
        self, side: int, count: int, device: torch.device, dtype: torch.dtype, *, seconds: float = 0.0
    ) -> None:
        self.count = count
        self.seconds = seconds
        self._one, self._other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def multiply(self) -> float:
        """Multiply; returns floating-point operations, a multiply-add as two."""
        self._one @ self._other
        return 2.0 * len(self._one) ** 3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
