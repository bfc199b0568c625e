"""How fast training was: images a second, where its time went, and how near it came to its own step's bound.

Two measurements minutes apart, on a machine that does other things too, compare nothing. So training's own steps and
the bound are measured after training, by turns, and what the rounds do not agree on is not reported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from statistics import median

import torch

from components.classifier.device import is_out_of_memory, time_when_done
from components.classifier.images import ResidentImages
from components.shared.artifacts.model import TIME_SHARES, Speed
from components.shared.seeds import derived_seed
from components.train.step_graph import NotCapturedError
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
# Steps of one side before it is the other's turn: so short that what disturbs one disturbs the other; but more than are
# read ahead (2), or data would cost nothing, and on a GPU more than a wait for it costs.
_TURN = 10
# Parts of the time that most runs do not have.
_RARE = {"captured_step", "compiling"}
BOUND = "of_constant_tensor"  # the figure of `Speed` that may be missing


def measure_speed(trainer: Trainer) -> Speed:
    """Measure how near training came to its bound: its own step, fed one batch that is there already.

    Every process of a group calls this. The trainer is of no more use afterwards, but for its history, its best weights
    and its seconds.
    """
    seconds, step_s = trainer.group.from_first(
        (sum(trainer.timing.seconds.values()), max(trainer.timing.training / max(trainer.position.step, 1), 1e-9))
    )
    report = Speed(
        samples_per_second=trainer.images_per_second,
        precision=trainer.precision.name,
        compiled=trainer.compiled,
        captured=trainer.is_captured,
        data="resident" if isinstance(trainer.training.images, ResidentImages) else "mapped",
        shares=trainer.timing.shares(),
        processes=trainer.group.size,
    )
    budget_s = min(LONGEST_S, SHARE * seconds)
    # The first round warms up; each begins on either side with one step that is not timed; a fifth is kept in hand.
    planned = (int(0.8 * budget_s / (rounds + 1) / step_s) // 2 - 1 for rounds in (MOST_ROUNDS, FEWEST_ROUNDS))
    steps = min(MOST_STEPS, next((steps for steps in planned if steps > 0), 0))
    if seconds < SHORTEST_S:
        return _without_bound(report, f"not measured with less than {SHORTEST_S:g} s of steps and evaluations")
    if steps == 0:
        return _without_bound(
            report, f"not measurable here (a step takes {step_s:.3g} s, too long for {budget_s:.3g} s)"
        )
    try:
        with _unchanging(trainer):
            rounds = list(_rounds(trainer, steps, budget_s))
    except NotCapturedError as error:
        return _without_bound(report, f"not measurable here (its step is not captured: {error})")
    except (RuntimeError, MemoryError) as error:  # a finished training is not lost for it
        if not is_out_of_memory(error):
            raise
        return _without_bound(report, "not measurable here (it does not fit in memory)")
    found = compared([own / bound for own, bound in rounds])
    if isinstance(found, str):
        return _without_bound(report, found)
    return report.model_copy(
        update={
            BOUND: found[0],
            f"{BOUND}_range": list(found[1:]),
            "constant_tensor_samples_per_second": median(bound for _, bound in rounds),
            "rounds": len(rounds),
        }
    )


def _without_bound(report: Speed, why: str) -> Speed:
    return report.model_copy(update={"why_not": {BOUND: why}})


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
    trainer.timing = trainer.training_step.timing = Timing(trainer.device)
    for group in trainer.optimiser.param_groups:
        group["lr"] = 0 * group["lr"]
    try:
        trainer.network.train()
        yield
    finally:
        trainer.timing = trainer.training_step.timing = timing
        for group, rate_before in zip(trainer.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate_before


def _rounds(trainer: Trainer, steps: int, budget_s: float) -> Iterator[tuple[float, float]]:
    """Images a second of training's own steps and of those on one random batch, by round, while there is time."""
    begun = time.perf_counter()
    reads_ahead = not isinstance(trainer.training.images, ResidentImages)
    turn = _TURN if reads_ahead or trainer.device.type == "cuda" else 1
    constant = _constant_step(trainer)
    for number in range(MOST_ROUNDS + 1):
        images, seconds = [0, 0], [0.0, 0.0]
        with ExitStack() as stack:
            both = (_training_steps(trainer), _constant_steps(trainer, constant))
            sides = [stack.enter_context(closing(side)) for side in both]
            for side in sides:
                next(side)  # training's own waits for its first batch
            for count, done in enumerate(range(0, steps, turn)):
                # As the first process of the group has it: one that left would be waited for.
                if trainer.group.from_first(time.perf_counter() - begun > 0.9 * budget_s):
                    return  # steps take longer than they did in training
                for index in (1, 0) if count % 2 else (0, 1):
                    start = time_when_done(trainer.device)
                    images[index] += sum(islice(sides[index], min(turn, steps - done)))
                    seconds[index] += time_when_done(trainer.device) - start
        if number > 0:
            own, bound = (done / max(taken, 1e-9) for done, taken in zip(images, seconds, strict=True))
            yield own, bound


def _training_steps(trainer: Trainer) -> Generator[int]:
    """Training's own steps, all of equally many images, outside of any epoch and schedule; yields the images of each.

    They change weights, sums and generators, and the position not.
    """
    sizes = [trainer.slices[end - 1].stop - trainer.slices[begin].start for begin, end in trainer.steps]
    steps = [step for step, size in zip(trainer.steps, sizes, strict=True) if size == sizes[0]]
    while True:
        order = trainer.epoch_order()
        labels = trainer.labels_of(order, 0)
        with closing(trainer.read_batches(order, 0, steps[-1][1])) as batches:
            for begin, end in steps:
                trainer.take_step(batches, labels, begin, end)
                yield sizes[0]


def _constant_step(trainer: Trainer) -> Callable[[], object]:
    """The same step, each batch of which is one of random values: of equal ones some kernels make less work."""
    step, own, (begin, end) = trainer.training_step, trainer.group.own(trainer.slices[0]), trainer.steps[0]
    draws = torch.Generator(trainer.device).manual_seed(derived_seed(trainer.params.manual_seed, "speed"))
    shape = (own.stop - own.start, *trainer.params.image_shape)
    images = torch.randint(256, shape, dtype=torch.uint8, device=trainer.device, generator=draws)
    labels = torch.randint(trainer.params.n_classes, shape[:1], device=trainer.device, generator=draws)
    prepared = trainer.normalise(images)
    weight = trainer.criterion.weight_of(labels) * ((end - begin) * trainer.group.size)

    def take() -> None:
        for index in range(begin, end):
            step.backward(prepared, labels, weight, is_last=index == end - 1)
        step.change_weights(is_averaged=True)

    return trainer.captured.capture(take) if trainer.captured is not None and trainer.is_captured else take


def _constant_steps(trainer: Trainer, take: Callable[[], object]) -> Generator[int]:
    begin, end = trainer.steps[0]
    while True:
        take()
        yield (end - begin) * (trainer.slices[0].stop - trainer.slices[0].start)


def speed_facts(speed: Speed) -> list[tuple[str, str]]:
    """What training did, and what part of its bound that is, or why that is not known."""
    from components.shared.html.page import percent, rate  # Jinja2, when it is needed

    data = {"resident": "on the device", "mapped": "on the host's disk, mapped"}.get(speed.data, speed.data)
    made = f"{'' if speed.compiled else 'not '}compiled{', captured' if speed.captured else ''}"
    how = f"{speed.precision}, {made}, images {data}, processes: {speed.processes}"
    bound, part, spread = speed.constant_tensor_samples_per_second, speed.of_constant_tensor, ""
    if speed.of_constant_tensor_range is not None:  # of a version that measured once there is none
        lowest, highest = (percent(share, 1) for share in speed.of_constant_tensor_range)
        spread = f" ({lowest} to {highest} in {speed.rounds} rounds)"
    reached = speed.why_not.get(BOUND, "–") if part is None else f"{percent(part, 1)}{spread} of {rate(bound)} images/s"
    return [
        ("training", f"{rate(speed.samples_per_second)} images/s ({how})"),
        ("of the same step fed one random batch", reached),
    ]


def time_shares(speed: Speed) -> list[tuple[str, float]]:
    """Parts of the wall time by name, in the order of a step; those of `_RARE` only where they took any."""
    names = {"forward_backward": "forward and backward", "captured_step": "captured step"}
    shown = [name for name in TIME_SHARES if speed.shares.get(name, 0.0) or name in speed.shares.keys() - _RARE]
    return [(names.get(name, name), speed.shares[name]) for name in shown]


def speed_lines(speed: Speed) -> list[str]:
    """The report in two lines, for a log; one where the parts of the wall time are not known."""
    from components.shared.html.page import percent  # Jinja2, when it is needed

    shares = ", ".join(f"{name} {percent(share, 1)}" for name, share in time_shares(speed))
    report = "; ".join(" ".join(fact) for fact in speed_facts(speed))
    return [f"speed: {report}", *([f"time: {shares}"] if shares else [])]
