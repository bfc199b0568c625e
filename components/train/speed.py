"""The speed-of-light report: what training achieved, beside what its step and its device can do at best.

Two measurements minutes apart, on a machine that does other things too, compare nothing. So both sides are measured
after training, in rounds by turns, with weights that stay as they are, and what the rounds do not agree on is not
reported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from statistics import median

import torch
from torch import Tensor

from components.classifier.device import is_out_of_memory
from components.classifier.images import ResidentImages
from components.shared.artifacts.model import TIME_SHARES, Speed
from components.shared.html.page import rate
from components.shared.seeds import derived_seed
from components.train.timing import Timing
from components.train.trainer import Trainer

# In a shorter run 3 % is too little to measure in, and most of the time is the start of everything.
SHORTEST_S = 30.0
# Of the run's seconds, which all of the measuring may take; more than 10 s better no figure, and SIGTERM would wait.
SHARE, LONGEST_S = 0.03, 10.0
# Of three, one may be a disturbance; more than five narrow no range, which is that of the worst.
FEWEST_ROUNDS, MOST_ROUNDS = 3, 5
MOST_STEPS = 200
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

_STEPS, _MATMUL = "of_constant_tensor", "of_matmul"  # the figures of `Speed`


def measure_speed(trainer: Trainer, flops_per_image: int) -> Speed:
    """Measure what is possible, and compare; every process of a group calls this.

    Args:
        trainer: Has trained; of no more use afterwards, but for its history, its best weights and its seconds.
        flops_per_image: Of one image's forward and backward pass, a multiply-add as two; 0: not known.
    """
    achieved = trainer.images_per_second
    seconds, step_s = trainer.group.from_first(
        (sum(trainer.timing.seconds.values()), trainer.timing.training / max(trainer.position.step, 1))
    )
    report = Speed(
        samples_per_second=achieved,
        flops_per_second=achieved * flops_per_image if flops_per_image else None,
        precision=trainer.precision.name,
        compiled=trainer.compiled,
        data="resident" if isinstance(trainer.training.images, ResidentImages) else "mapped",
        shares=trainer.timing.shares(),
        processes=trainer.group.size,
    )
    if seconds < SHORTEST_S:
        why = f"not measured in a run under {SHORTEST_S:g} s"
        return report.model_copy(update={"why_not": {_STEPS: why, _MATMUL: why}})
    with _unchanging(trainer):
        rounds = _Rounds(trainer, min(LONGEST_S, SHARE * seconds), max(step_s, 1e-9))
    why_not = rounds.why_not
    figures: dict[str, object] = {"rounds": len(rounds.training)}
    if not flops_per_image:
        why_not.setdefault(_MATMUL, "not known (no operation's cost is)")
    for name, bounds, bound, scale in (
        (_STEPS, rounds.resident, "constant_tensor_samples_per_second", 1),
        (_MATMUL, rounds.products, "matmul_flops_per_second", flops_per_image),
    ):
        if name in why_not:
            continue
        found = compared([own * scale / limit for own, limit in zip(rounds.training, bounds, strict=True)])
        if isinstance(found, str):
            why_not[name] = found
        else:
            figures |= {name: found[0], f"{name}_range": list(found[1:]), bound: median(bounds)}
    return report.model_copy(update=figures | {"why_not": why_not})


def compared(ratios: Sequence[float]) -> tuple[float, float, float] | str:
    """Median, lowest and highest of the rounds' ratios; or why they are no measurement."""
    if len(ratios) < FEWEST_ROUNDS or not all(math.isfinite(ratio) and ratio > 0 for ratio in ratios):
        return f"not measurable here ({len(ratios)} rounds)"
    middle, lowest, highest = median(ratios), min(ratios), max(ratios)
    if highest > WIDEST * lowest or middle > HIGHEST:
        beyond = ", and 1 is the most that is possible" if lowest > 1 else ""
        return f"not measurable here (ratios {lowest:.3g} to {highest:.3g}{beyond})"
    return middle, lowest, highest


@contextmanager
def _unchanging(trainer: Trainer) -> Iterator[None]:
    """Within, the trainer's seconds are kept, and its steps change no weight: those of a finished training stay so.

    A network that goes on to learn one batch by heart has gradients of almost nothing, which a CPU takes many times as
    long for.
    """
    timing, rates = trainer.timing, [group["lr"] for group in trainer.optimiser.param_groups]
    trainer.timing = Timing(trainer.device)
    for group in trainer.optimiser.param_groups:
        group["lr"] = 0 * group["lr"]
    try:
        trainer.network.train()
        yield
    finally:
        trainer.timing = timing
        for group, rate_before in zip(trainer.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate_before


class _Rounds:
    """What rounds within a time measured, each rate by round and of all processes together.

    Attributes:
        training: Images a second of training's own steps.
        resident: Images a second of steps on one random batch.
        products: Floating-point operations a second of matrix products; empty where they were not measured.
        why_not: Why something was not measured, by the figure of `Speed`.
    """

    def __init__(self, trainer: Trainer, budget_s: float, step_s: float) -> None:
        self.training: list[float] = []
        self.resident: list[float] = []
        self.products: list[float] = []
        self.why_not: dict[str, str] = {}
        self._trainer, self._group, self._device = trainer, trainer.group, trainer.device
        self._budget_s, self._step_s, self._begun = budget_s, step_s, time.perf_counter()
        try:
            self._multiply, self._product_s = self._choose_products()
            self._measure()
        except (RuntimeError, MemoryError) as error:  # a finished training is not lost for it
            if not is_out_of_memory(error):
                raise
            self._leave_out("not measurable here (it does not fit in memory)")
        done = min(len(self.training), len(self.resident))
        for rates in (self.training, self.resident, self.products):
            del rates[done:]
        if done < FEWEST_ROUNDS:
            self._leave_out(f"not measurable here ({done} rounds in {budget_s:.3g} s)")

    def _leave_out(self, why: str) -> None:
        self.why_not = {_STEPS: why, _MATMUL: why} | self.why_not

    @property
    def _used_s(self) -> float:
        return time.perf_counter() - self._begun

    def _measure(self) -> None:
        self._warm_up()
        steps = 0
        for rounds in (MOST_ROUNDS, FEWEST_ROUNDS):
            # Both sides of a round begin with a step that is not timed; a fifth of the time is kept in hand.
            left = 0.8 * (self._budget_s - self._used_s) / rounds - self._product_s
            steps = steps or self._group.from_first(max(0, min(MOST_STEPS, int(left / self._step_s) // 2 - 1)))
        if steps < 1:
            self._leave_out(
                f"not measurable here (a step takes {self._step_s:.3g} s, too long for {self._budget_s:.3g} s)"
            )
            return
        batch, begun = self._random_batch(), self._used_s
        for number in range(MOST_ROUNDS):
            round_s = (self._used_s - begun) / max(number, 1)
            if number >= FEWEST_ROUNDS and self._is_over(self._used_s + round_s > 0.8 * self._budget_s):
                return
            if not self._round(steps, batch):
                return

    def _warm_up(self) -> None:
        """Train until three steps in a row are about as fast as before, for a third of the time at most.

        Where other programs are at work, the threads of a step share a core for some seconds after anything that one
        thread does alone, such as the export: steps then took ten times as long on two cores.
        """
        alike = 0
        if 12 * self._step_s > self._budget_s:  # which is too little for the rounds, too
            return
        with closing(_training_steps(self._trainer, MOST_STEPS)) as steps:
            while alike < 3 and not self._is_over(self._used_s > self._budget_s / 3):
                step = _Side(self._device)
                step.add(lambda: next(steps, 0))
                alike = self._group.from_first(alike + 1 if step.seconds < 1.5 * self._step_s else 0)

    def _round(self, steps: int, batch: tuple[Tensor, Tensor]) -> bool:
        """Steps of both sides, and products, by turns, every other one the other way round; whether there was time."""
        own, resident, product = _Side(self._device), _Side(self._device), _Side(self._device)
        with (
            closing(_training_steps(self._trainer, steps + 1)) as own_steps,
            closing(_steps_on(self._trainer, steps + 1, *batch)) as resident_steps,
        ):
            # The first one is not timed: training's own waits for its first batch.
            next(own_steps)
            next(resident_steps)
            turns = [(own, own_steps), (resident, resident_steps)]
            reads_ahead = not isinstance(self._trainer.training.images, ResidentImages)
            length = _TURN if reads_ahead or self._device.type == "cuda" else 1
            for number, done in enumerate(range(0, steps, length)):
                if self._is_over(self._used_s > 0.9 * self._budget_s):  # steps take longer than they did in training
                    return False
                count = min(length, steps - done)
                for side, side_steps in reversed(turns) if number % 2 else turns:
                    side.add(partial(sum, islice(side_steps, count)))
                if self._multiply is not None and number < _PRODUCTS:
                    self._multiply()  # not timed: it loads what steps have displaced
                    product.add(self._multiply)
        self.training.append(own.rate)
        self.resident.append(resident.rate)
        if self._multiply is not None:
            self.products.append(self._group.size * product.rate)
        return True

    def _is_over(self, is_over: bool) -> bool:
        """As the first process of the group has it: one that left would be waited for."""
        return self._group.from_first(is_over)

    def _random_batch(self) -> tuple[Tensor, Tensor]:
        """Network input and labels of random values: of equal ones some kernels make less work."""
        trainer, own = self._trainer, self._group.own(self._trainer.slices[0])
        draws = torch.Generator(self._device).manual_seed(derived_seed(trainer.params.manual_seed, "speed"))
        shape = (own.stop - own.start, *trainer.params.image_shape)
        images = torch.randint(256, shape, dtype=torch.uint8, device=self._device, generator=draws)
        labels = torch.randint(trainer.params.n_classes, shape[:1], device=self._device, generator=draws)
        return trainer.normalise(images), labels

    def _choose_products(self) -> tuple[Callable[[], float] | None, float]:
        """A matrix product, and the seconds that a round's take; None where those take over a third of the time."""
        side = _SIDES[self._device.type]
        dtype = torch.bfloat16 if self._trainer.precision.name == "bf16" else torch.float32
        probe = _product(side // 4, self._device, dtype)  # a 64th of the time
        tries = [_Side(self._device) for _ in range(4)]  # the first one loads the library
        for one in tries:
            one.add(probe)
        one_s = self._group.from_first(64 * min(one.seconds for one in tries))
        seconds = 2 * _PRODUCTS * one_s
        if seconds * MOST_ROUNDS <= self._budget_s / 3:
            return _product(side, self._device, dtype), seconds
        self.why_not[_MATMUL] = f"not measurable here (a matrix product takes {one_s:.3g} s)"
        return None, 0.0


def _training_steps(trainer: Trainer, count: int) -> Generator[int]:
    """Training's own steps, all of equally many images, outside of any epoch and schedule; yields the images of each.

    They change weights, sums and generators, and the position not.
    """
    sizes = [trainer.slices[end - 1].stop - trainer.slices[begin].start for begin, end in trainer.steps]
    steps = [step for step, size in zip(trainer.steps, sizes, strict=True) if size == sizes[0]]
    while count > 0:
        order, used = trainer.epoch_order(), steps[:count]
        labels = trainer.training.labels[order.to(trainer.device)]
        with closing(trainer.read_batches(order, 0, used[-1][1])) as batches:
            for begin, end in used:
                trainer.add_gradients(batches, labels, begin, end)
                trainer.update()
                yield sizes[0]
        count -= len(used)


def _steps_on(trainer: Trainer, count: int, images: Tensor, labels: Tensor) -> Generator[int]:
    """The same steps, each batch of which is this network input with these labels."""
    begin, end = trainer.steps[0]
    weight = trainer.criterion.weight_of(labels) * ((end - begin) * trainer.group.size)
    for _ in range(count):
        for index in range(begin, end):
            trainer.backward(images, labels, weight, is_last=index == end - 1, is_mixed=False)
        trainer.update()
        yield (end - begin) * (trainer.slices[0].stop - trainer.slices[0].start)


def _product(side: int, device: torch.device, dtype: torch.dtype) -> Callable[[], float]:
    """Multiplies two random square matrices; gives its floating-point operations, a multiply-add as two."""
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> float:
        one @ other
        return 2.0 * side**3

    return multiply


class _Side:
    """What one side of a comparison has done, and in how many seconds."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._done = self.seconds = 0.0

    def add(self, work: Callable[[], float]) -> None:
        """Time some work, which returns how much it is."""
        self._wait()
        start = time.perf_counter()
        self._done += work()
        self._wait()
        self.seconds += time.perf_counter() - start

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    @property
    def rate(self) -> float:
        """So much a second."""
        return self._done / max(self.seconds, 1e-9)


def speed_rows(speed: Speed) -> list[tuple[str, str, str]]:
    """What training did, and each bound: what it is, its rate or why there is none, what part of it was reached."""
    own, flops = f"{rate(speed.samples_per_second)} images/s", _flops(speed.flops_per_second)
    bound = speed.constant_tensor_samples_per_second
    data = {"resident": "on the device", "mapped": "on the host's disk, mapped"}.get(speed.data, speed.data)
    how = (
        f"{speed.precision}, {'' if speed.compiled else 'not '}compiled, images {data}, processes: {speed.processes:,}"
    )
    return [
        (f"training ({how})", own if flops is None else f"{own}, {flops}", ""),
        (
            "the same step fed one random batch",
            speed.why_not.get(_STEPS) or ("–" if bound is None else f"{rate(bound)} images/s"),
            _part(speed.of_constant_tensor, speed.of_constant_tensor_range, speed.rounds),
        ),
        (
            "matrix products on this device",
            speed.why_not.get(_MATMUL) or _flops(speed.matmul_flops_per_second) or "–",
            _part(speed.of_matmul, speed.of_matmul_range, speed.rounds),
        ),
    ]


def time_shares(speed: Speed) -> list[tuple[str, float]]:
    """Parts of the wall time by name, in the order of a step."""
    order = [*TIME_SHARES, *sorted(speed.shares.keys() - TIME_SHARES)]
    return [(name.replace("_", " and "), speed.shares[name]) for name in order if name in speed.shares]


def speed_lines(speed: Speed) -> list[str]:
    """The report in two lines, for a log: rates, and parts of the wall time where they are known."""
    reasons = [*dict.fromkeys(speed.why_not.values())]
    rows = [f"{name} {value}{f', reached {part}' if part else ''}" for name, value, part in speed_rows(speed)]
    report = reasons[0] if len(reasons) == 1 and len(speed.why_not) == 2 else "; ".join(rows)
    shares = ", ".join(f"{name} {_percent(share)}" for name, share in time_shares(speed))
    return [f"speed: {report}", *([f"time: {shares}"] if shares else [])]


def speed_markdown(speed: Speed) -> str:
    """The report as tables in Markdown, for TensorBoard."""
    rates = [("of", "rate", "reached"), ("---", "--:", "--:"), *speed_rows(speed)]
    shares = [("time", "share"), ("---", "--:"), *((name, _percent(share)) for name, share in time_shares(speed))]
    return "\n\n".join("\n".join(f"| {' | '.join(row)} |" for row in rows) for rows in (rates, shares))


def _flops(value: float | None) -> str | None:
    """Operations a second with a prefix: 1.23 TFLOP/s."""
    if value is None:
        return None
    power = min(6, max(0, int(math.log10(max(abs(value), 1) * 1.0005) // 3)))
    return f"{value / 1000**power:.3g} {' kMGTPE'[power].strip()}FLOP/s"


def _part(share: float | None, spread: list[float] | None, rounds: int) -> str:
    if share is None or spread is None:  # not measured, or of a version that measured once
        return "" if share is None else _percent(share)
    return f"{_percent(share)} ({_percent(spread[0])} to {_percent(spread[1])} in {rounds} rounds)"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if abs(share) < 1e4 else f"{100 * share:.3g} %"
