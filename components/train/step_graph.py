"""A step of the optimiser as a graph: what it reads, how it is proved against the plain step, and its replay."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.classifier.device import free_unused
from components.classifier.graphs import Graphs, Replay, reason_of
from components.classifier.images import ImageStore, LabelledImages, ResidentImages
from components.shared.logs import step_logger
from components.train.generators import set_shared_states, shared_states
from components.train.mixup import NUMBERS
from components.train.timing import Timing
from components.train.training_step import TrainingStep

_log = step_logger("train")

# Batches of one step, each of which is a part of its graph.
MOST_BATCHES = 32
# Steps of each size that are made both ways, each at another rate: one that is baked in differs from the second on.
_RATES = (1.0, 0.75, 0.5)
# How far replayed weights may be from those of plain steps, as a share of what the steps changed. Rates that are baked
# in differ by a third. What differs by right is how some optimisers round where they are captured; after that, weights
# whose gradient is nothing but rounding go anywhere, by a whole rate each with Adam.
_TOLERANCE = 0.1
_LOSS_TOLERANCE = 0.01
# State of an optimiser that is on the host where its step is not captured.
_ON_HOST = ("step", "mu_product")


class NotCapturedError(RuntimeError):
    """Why work is not captured."""


class _DifferenceError(Exception):
    """What replays give is not what plain steps give."""


class CapturedStep:
    """Replays a run's steps from graphs, one for each size of a step; before that it proves that they may be.

    Not for the first step of a run, in which optimisers and averages begin otherwise than they go on.

    Attributes:
        outcome: "graph" once steps are replayed, "eager" once they are found not to be; None before the first.
    """

    def __init__(
        self, step: TrainingStep, training: LabelledImages[ImageStore], steps: Sequence[Sequence[slice]], graphs: Graphs
    ) -> None:
        """`steps` are an epoch's: which of its images the batches of each have."""
        self.outcome: str | None = None
        self._step, self._training, self._graphs = step, training, graphs
        self._examples: dict[tuple[int, ...], list[Sequence[slice]]] = {}
        for batches in steps:
            self._examples.setdefault(_sizes(batches), []).append(batches)
        device, groups = step.device, len(step.optimiser.param_groups)
        # Where in the epoch's order the coming step begins, and the order.
        self._cursor = torch.zeros((), dtype=torch.int64, device=device)
        self._order = torch.arange(len(training.labels), device=device)
        # What changes from step to step and is the host's: each group's rate, and how each batch is mixed.
        together = step.params.gradient_accumulation_steps if step.mixing.is_on else 0
        self._numbers = torch.zeros(groups + together * NUMBERS, dtype=torch.float64, device=device)
        self._sent: list[float] = []
        # The fused optimisers read float32 on a GPU, float64 on the CPU.
        kind = torch.float32 if device.type == "cuda" else torch.float64
        self._rates = [torch.zeros((), dtype=kind, device=device) for _ in range(groups)]
        self._inputs: list[Tensor] = []  # of images that come from the host
        self._replays: dict[tuple[int, ...], Replay] = {}

    def begin_epoch(self, order: Tensor, first: int) -> None:
        """Have an epoch's order, int64, (images,), and where in it the coming step begins."""
        self._order.copy_(order)
        self._cursor.fill_(first)

    def __call__(self, images: Iterator[Tensor], batches: Sequence[slice]) -> bool:
        """Take the coming step; false where it is to be taken without a graph, and nothing has been done.

        `images` are those of each batch, which are taken where they come from the host only.
        """
        if self.outcome is None:
            self._cursor.fill_(batches[0].start)  # behind steps that were taken without a graph
            self._prove()
            self._step.timing.lap("compiling")
        if self.outcome == "eager":
            return False
        self._replay(_sizes(batches), images)
        self._step.count()
        return True

    def capture(self, work: Callable[[], object]) -> Replay:
        """A graph of other work on the step's network and optimiser, at the rates that they have now.

        Raises:
            NotCapturedError: There can be none.
        """
        self._send(self._host_numbers(0))

        def record() -> None:
            self._set_rates()
            work()

        try:
            return self._captured(record)
        except Exception as error:  # whatever keeps it from being captured
            raise NotCapturedError(reason_of(error)) from error

    def _replay(self, sizes: tuple[int, ...], images: Iterator[Tensor]) -> None:
        if not isinstance(self._training.images, ResidentImages):
            for held, batch in zip(self._inputs, islice(images, len(sizes)), strict=False):
                held[: len(batch)].copy_(batch)
        self._send(self._host_numbers(len(sizes)))
        self._replays[sizes]()

    def _host_numbers(self, batches: int) -> list[float]:
        step, (height, width, _) = self._step, self._step.params.image_shape
        numbers = [float(group["lr"]) for group in step.optimiser.param_groups]
        for _ in range(batches if step.mixing.is_on else 0):
            numbers += step.mixing.draw(height, width).numbers()
        return numbers

    def _send(self, numbers: list[float]) -> None:
        if numbers != self._sent[: len(numbers)]:
            # Pinned anew each time: the copy may wait for steps that the device has not made yet.
            on_gpu = self._numbers.is_cuda
            values = torch.tensor(numbers, dtype=torch.float64, pin_memory=on_gpu)
            self._numbers[: len(numbers)].copy_(values, non_blocking=on_gpu)
            self._sent = numbers

    def _set_rates(self) -> None:
        for index, rate in enumerate(self._rates):
            rate.copy_(self._numbers[index])

    def _record(self, sizes: tuple[int, ...]) -> None:
        """The step, from tensors that keep their address."""
        step, store, total = self._step, self._training.images, sum(sizes)
        self._set_rates()
        where = torch.arange(total, device=step.device) + self._cursor
        # Within the order also where a capture is tried at its end: a wrong index is the end of a GPU's context.
        chosen = self._order.index_select(0, where.remainder_(len(self._order)))
        batches, start = [], 0
        for size in sizes:
            batches.append(slice(start, start + size))
            start += size
        if isinstance(store, ResidentImages):
            images = (store.images.index_select(0, chosen[part]) for part in batches)
        else:
            images = (held[:size] for held, size in zip(self._inputs, sizes, strict=False))
        mixtures = self._numbers[len(self._rates) :].view(-1, NUMBERS) if step.mixing.is_on else None
        step.add_gradients(images, self._training.labels.index_select(0, chosen), batches, mixtures)
        step.change_weights(is_averaged=True)
        self._cursor += total

    def _captured(self, work: Callable[[], object]) -> Replay:
        """A graph of `work`, in which the optimiser's rates are tensors; schedules have them as floats again then."""
        step, groups = self._step, self._step.optimiser.param_groups
        before: list[dict[str, Any]] = [
            {key: group[key] for key in ("lr", "capturable") if key in group} for group in groups
        ]
        timing, step.timing = step.timing, Timing(torch.device("cpu"))  # which records no events
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # optimisers that may be captured warn where they are not
                for group, rate in zip(groups, self._rates, strict=True):
                    group["lr"] = rate
                    if "capturable" in group:
                        group["capturable"] = True
                return self._graphs.capture(work, [step.flipping, step.augmenting])
        finally:
            step.timing = timing
            for group, kept in zip(groups, before, strict=True):
                group.update(kept)
            step.optimiser.zero_grad(set_to_none=True)

    def _prove(self) -> None:
        """Make steps of each size with and without a graph, from the present state, which is then as it was."""
        moved, begun, failure = self._state_to_device(), None, None
        try:
            begun = _Snapshot(self._step, self._cursor)
            self._make_inputs()
            # All plain steps first: their memory is given back before the graphs take theirs.
            plain = {sizes: self._rehearsed(sizes, self._plain_step, begun) for sizes in self._examples}
            for sizes, made in plain.items():
                self._cursor.fill_(self._examples[sizes][0][0].start)
                self._replays[sizes] = self._captured(partial(self._record, sizes))
                begun.restore()
                _require_equal(made, self._rehearsed(sizes, self._replayed_step, begun), begun.outcome)
        except Exception as error:  # whatever keeps a step from being captured, the plain step does without
            failure = reason_of(error)
        # Here the error is gone, and with it everything that it held on to.
        if begun is not None:
            begun.restore()
        self._sent = []
        if failure is None:
            self.outcome = "graph"
            images = " and ".join(str(sum(sizes)) for sizes in self._examples)
            _log.info("step: captured; replayed steps of %s images are as the plain step makes them", images)
            return
        self.outcome, self._replays, self._inputs = "eager", {}, []
        for state, key, value in moved:
            state[key] = state[key].to(value.device)
        free_unused(self._step.device)
        _log.warning("step: eager from here on, a captured step could not be relied on: %s", failure)

    def _make_inputs(self) -> None:
        store, device = self._training.images, self._step.device
        if isinstance(store, ResidentImages):
            return
        shape = store.take(torch.zeros(1, dtype=torch.int64)).shape[1:]
        for sizes in self._examples:
            for index, size in enumerate(sizes):
                if index == len(self._inputs):
                    self._inputs.append(torch.empty(0, dtype=torch.uint8, device=device))
                if size > len(self._inputs[index]):
                    self._inputs[index] = torch.empty((size, *shape), dtype=torch.uint8, device=device)

    def _state_to_device(self) -> list[tuple[dict[str, Any], str, Tensor]]:
        """Put on the device what optimisers keep on the host for steps that are not captured; returns what moved."""
        moved = []
        for group in self._step.optimiser.param_groups:
            for state in (self._step.optimiser.state.get(parameter, {}) for parameter in group["params"]):
                for key in _ON_HOST:
                    if isinstance(value := state.get(key), Tensor) and value.device.type != self._step.device.type:
                        state[key] = value.to(self._step.device)
                        moved.append((state, key, value))
        return moved

    def _rehearsed(self, sizes: tuple[int, ...], take: Callable[[Sequence[slice]], None], begun: _Snapshot) -> _Outcome:
        """What some steps make of the state, which is then as it was."""
        groups, examples = self._step.optimiser.param_groups, self._examples[sizes]
        rates = [group["lr"] for group in groups]
        timing, self._step.timing = self._step.timing, Timing(torch.device("cpu"))
        try:
            for index, factor in enumerate(_RATES):
                batches = examples[index % len(examples)]
                for group, rate in zip(groups, rates, strict=True):
                    group["lr"] = float(np.float32(rate * factor))  # which either kind of step has exactly
                self._cursor.fill_(batches[0].start)
                take(batches)
            return _Outcome(self._step, self._cursor)
        finally:
            self._step.timing = timing
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            begun.restore()

    def _images_of(self, batches: Sequence[slice]) -> Iterator[Tensor]:
        return (self._training.images.take(self._order[part]) for part in batches)

    def _plain_step(self, batches: Sequence[slice]) -> None:
        self._step.add_gradients(self._images_of(batches), self._training.labels[self._order], batches)
        self._step.change_weights(is_averaged=True)
        self._cursor += batches[-1].stop - batches[0].start

    def _replayed_step(self, batches: Sequence[slice]) -> None:
        self._replay(_sizes(batches), self._images_of(batches))


def _sizes(batches: Sequence[slice]) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in batches)


class _Outcome:
    """What steps have come to, on the host."""

    def __init__(self, step: TrainingStep, cursor: Tensor) -> None:
        self.parts = {name: [value.to("cpu", copy=True) for value in part] for name, part in _parts(step).items()}
        self.loss, self.weight, self.right = float(step.loss_sum), float(step.weight_sum), int(step.right)
        self.cursor = int(cursor)
        self.shared = shared_states(step.device)
        of_torch = [state for state in self.shared.values() if isinstance(state, Tensor)]
        self.generators = [step.flipping.get_state(), step.augmenting.get_state(), *of_torch]
        self.draws = step.mixing.draws.getstate()


def _parts(step: TrainingStep) -> dict[str, list[Tensor]]:
    models: dict[str, torch.nn.Module] = {"": step.network}
    if step.average is not None:
        models["averaged "] = step.average.module
    found = {}
    for of, model in models.items():
        found[f"{of}weights"] = [value.detach() for value in model.parameters()]
        found[f"{of}batch statistics"] = [value for value in model.buffers() if value.is_floating_point()]
        found[f"{of}counters"] = [value for value in model.buffers() if not value.is_floating_point()]
    return found


class _Snapshot:
    """All that a step changes, as it is now, on the host."""

    def __init__(self, step: TrainingStep, cursor: Tensor) -> None:
        self._step, self.outcome = step, _Outcome(step, cursor)
        kept = [value for state in step.optimiser.state.values() for value in state.values()]
        self._tensors = [value for value in kept if isinstance(value, Tensor)]
        self._tensors += [step.loss_sum, step.weight_sum, step.right, cursor]
        self._values = [tensor.to("cpu", copy=True) for tensor in self._tensors]

    def restore(self) -> None:
        """Have it all as it was."""
        step, outcome = self._step, self.outcome
        step.optimiser.zero_grad(set_to_none=True)
        now = [value for part in _parts(step).values() for value in part]
        before = [value for part in outcome.parts.values() for value in part]
        for tensor, value in zip([*now, *self._tensors], [*before, *self._values], strict=True):
            tensor.copy_(value)
        step.flipping.set_state(outcome.generators[0])
        step.augmenting.set_state(outcome.generators[1])
        set_shared_states(outcome.shared, step.device)
        step.mixing.draws.setstate(outcome.draws)


def _require_equal(made: _Outcome, given: _Outcome, begun: _Outcome) -> None:
    """Raise an error where what replays have given is not what plain steps have made of the state `begun`."""
    for name, before in begun.parts.items():
        change = difference = 0.0
        for old, one, other in zip(before, made.parts[name], given.parts[name], strict=True):
            change += float((one.double() - old.double()).square().sum())
            difference += float((one.double() - other.double()).square().sum())
        if not difference <= _TOLERANCE**2 * change:
            raise _DifferenceError(f"its {name} differ from those of the plain step")
    images = made.cursor - begun.cursor
    if made.cursor != given.cursor or abs(made.right - given.right) > 1 + 0.01 * abs(images):
        raise _DifferenceError("it counts other images than the plain step")
    for of in ("loss", "weight"):
        was, plain, replayed = (getattr(outcome, of) for outcome in (begun, made, given))
        if not abs(plain - replayed) <= _LOSS_TOLERANCE * abs(plain - was):
            raise _DifferenceError(f"it sums up another {of} than the plain step")
    if made.draws != given.draws or not all(map(torch.equal, made.generators, given.generators)):
        raise _DifferenceError("it draws other random numbers than the plain step")
