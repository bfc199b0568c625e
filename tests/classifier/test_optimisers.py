"""Optimiser and schedules: built as the params say, rates as plain Python has them, and what is refused of both."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations_with_replacement, product
from typing import Any, NamedTuple

import pytest
import torch
from torch.optim import Optimizer

from components.classifier.optimisers import Schedules, build_optimiser
from components.classifier.rates import rehearse
from components.shared.errors import ParamsError
from components.shared.params.allowed_classes import SCHEDULERS
from components.shared.params.params import Params
from tests.configs import Entry, check_dict, refused, schedule, small

RATE, EPOCHS, STEPS = 0.1, 12, 3


@pytest.fixture(autouse=True)
def no_optimiser_steps() -> Iterator[None]:
    """torch warns where schedules step and the optimiser does not; that is what these tests do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        yield


class Member(NamedTuple):
    """A schedule, and what it is in plain Python.

    Attributes:
        entry: Of ``learning_rate_schedule``.
        rate: Its rate alone, of steps done (epochs, or with interval: batch steps) and of how many there are.
        multiplies: Whether that is RATE times a factor, so that it may act beside others.
    """

    entry: Entry
    rate: Callable[[int, int], float]
    multiplies: bool = True


def cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def one_cycle(t: int, steps: int) -> float:
    top = 0.3 * steps - 1
    if t <= top:
        return cosine(0.2 / 25, 0.2, t / top)
    return cosine(0.2, 0.2 / 25 / 1e4, (t - top) / (steps - 1 - top))


def triangle(t: int, _steps: int) -> float:
    return 0.01 + 0.19 * (1 - abs((t % 6) - 3) / 3)


MEMBERS = {
    "constant": Member(schedule("ConstantLR", factor=0.5, total_iters=4), lambda t, _: RATE * (0.5 if t < 4 else 1)),
    "linear": Member(schedule("LinearLR", start_factor=0.25), lambda t, _: RATE * (0.25 + 0.75 * min(t, 5) / 5)),
    "exponential": Member(schedule("ExponentialLR", gamma=0.9), lambda t, _: RATE * 0.9**t),
    "step": Member(schedule("StepLR", step_size=3, gamma=0.5), lambda t, _: RATE * 0.5 ** (t // 3)),
    "multistep": Member(
        schedule("MultiStepLR", milestones=[2, 7]), lambda t, _: RATE * 0.1 ** sum(t >= step for step in (2, 7))
    ),
    "polynomial": Member(schedule("PolynomialLR"), lambda t, n: RATE * (1 - t / n)),
    "square": Member(schedule("PolynomialLR", power=2.0), lambda t, n: RATE * (1 - t / n) ** 2),
    "cosine": Member(schedule("CosineAnnealingLR"), lambda t, n: cosine(RATE, 0, t / n)),
    "plateau": Member(  # the loss stands still: the third evaluation is the second in a row that is no better
        schedule("ReduceLROnPlateau", patience=1, factor=0.5), lambda t, _: RATE * 0.5 ** max(0, (t - 1) // 2)
    ),
    "exponential by batch": Member(
        {**schedule("ExponentialLR", gamma=0.97), "interval": "batch"}, lambda t, _: RATE * 0.97**t
    ),
    "cosine by batch": Member(
        {**schedule("CosineAnnealingLR"), "interval": "batch"}, lambda t, n: cosine(RATE, 0, t / n)
    ),
    "cosine to a floor": Member(
        schedule("CosineAnnealingLR", eta_min=0.01), lambda t, n: cosine(RATE, 0.01, t / n), multiplies=False
    ),
    "cosine that rises again": Member(
        schedule("CosineAnnealingLR", T_max=4), lambda t, _: cosine(RATE, 0, t / 4), multiplies=False
    ),
    "warm restarts": Member(
        schedule("CosineAnnealingWarmRestarts", T_0=4), lambda t, _: cosine(RATE, 0, t % 4 / 4), multiplies=False
    ),
    "cyclic": Member(schedule("CyclicLR", base_lr=0.01, max_lr=0.2, step_size_up=3), triangle, multiplies=False),
    "one cycle": Member(schedule("OneCycleLR", max_lr=0.2), one_cycle, multiplies=False),
    "one cycle by batch": Member(
        {**schedule("OneCycleLR", max_lr=0.2), "interval": "batch"}, one_cycle, multiplies=False
    ),
}


def config_of(names: Sequence[str], **changes: Any) -> Entry:
    entries = [{**MEMBERS[name].entry, "name": None} for name in names]
    config: Entry = {
        "optim_class": "torch.optim.SGD",
        "optim_kwargs": {"momentum": 0.9},
        "learning_rate": RATE,
        "num_epochs": EPOCHS,
        "learning_rate_schedule": entries,
    }
    return small(**{**config, **changes})


def rates_of(params: Params) -> list[float]:
    """The rate of every step, as training steps them; every epoch is evaluated, and the loss stands still."""
    optimiser = build_optimiser(params, [torch.nn.Parameter(torch.zeros(1))])
    schedules = Schedules(params, optimiser, STEPS)
    found = []
    for _ in range(params.num_epochs):
        for _ in range(STEPS):
            found.append(optimiser.param_groups[0]["lr"])
            schedules.step_batch()
        schedules.step(loss=1.0, accuracy=0.5)
    return found


def alone(name: str, epochs: int = EPOCHS) -> list[float]:
    """The rate of every step in plain Python."""
    member = MEMBERS[name]
    if member.entry.get("interval") == "batch":
        return [member.rate(step, epochs * STEPS) for step in range(epochs * STEPS)]
    return [member.rate(epoch, epochs) for epoch in range(epochs) for _ in range(STEPS)]


def accepted(config: Entry) -> Params | None:
    try:
        params = Params.from_dict(config)
    except ParamsError:
        return None
    return None if rehearse(params, STEPS).problems else params


@pytest.mark.parametrize("name", MEMBERS)
def test_each_alone_has_the_rates_of_plain_python(name: str) -> None:
    params = accepted(config_of([name]))
    assert params is not None
    assert rates_of(params) == pytest.approx(alone(name), rel=1e-9, abs=1e-12)


def test_every_class_that_is_allowed_is_among_them() -> None:
    assert {member.entry["class"] for member in MEMBERS.values()} == set(SCHEDULERS.full_names())


@pytest.mark.parametrize(("count", "warmup"), [(2, 0), (1, 2), (2, 2)])
def test_together_they_are_refused_or_multiply(count: int, warmup: int) -> None:
    taken = 0
    rising = [0.01 + 0.99 * min(1.0, step / (warmup * STEPS)) if warmup else 1.0 for step in range(EPOCHS * STEPS)]
    for names in combinations_with_replacement(MEMBERS, count):
        params = accepted(config_of(names, warmup_epochs=warmup))
        assert (params is not None) == all(MEMBERS[name].multiplies for name in names), names
        if params is None:
            continue
        taken += 1
        expected = [
            RATE * factor * math.prod(rate / RATE for rate in rates)
            for factor, *rates in zip(rising, *(alone(name) for name in names), strict=True)
        ]
        assert rates_of(params) == pytest.approx(expected, rel=1e-9, abs=1e-12), names
    assert taken == math.comb(11 + count - 1, count)


def test_with_milestones_each_has_its_own_epochs() -> None:
    for names in product(MEMBERS, repeat=2):
        params = accepted(config_of(names, milestones=[5]))
        assert params is not None, names
        expected = alone(names[0], 5) + alone(names[1], EPOCHS - 5)
        assert rates_of(params) == pytest.approx(expected, rel=1e-9, abs=1e-12), names
    for names in (("linear", "cosine to a floor", "plateau"), ("one cycle", "warm restarts", "one cycle by batch")):
        params = accepted(config_of(names, milestones=[5, 6.0]))
        assert params is not None
        expected = [rate for name, epochs in zip(names, (5, 1, 6), strict=True) for rate in alone(name, epochs)]
        assert rates_of(params) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_milestone_gives_back_the_optimisers_own_momentum() -> None:
    params = Params.from_dict(config_of(["one cycle", "step"], milestones=[4]))
    optimiser = build_optimiser(params, [torch.nn.Parameter(torch.zeros(1))])
    schedules = Schedules(params, optimiser)
    momenta = []
    for _ in range(5):
        momenta.append(optimiser.param_groups[0]["momentum"])
        schedules.step(1.0, 0.5)
    assert momenta[0] == 0.95
    assert momenta[4] == 0.9
    assert "max_lr" not in optimiser.param_groups[0]


@pytest.mark.parametrize("names", [("one cycle by batch", "cyclic", "plateau"), ("linear", "warm restarts", "cosine")])
def test_a_state_goes_on_where_it_was(names: tuple[str, ...]) -> None:
    params = Params.from_dict(config_of(names, milestones=[3, 7]))

    def fresh() -> tuple[Schedules, Optimizer]:
        optimiser = build_optimiser(params, [torch.nn.Parameter(torch.zeros(1))])
        return Schedules(params, optimiser, STEPS), optimiser

    def go(schedules: Schedules, optimiser: Optimizer, epochs: int) -> list[tuple[float, float]]:
        seen = []
        for _ in range(epochs):
            for _ in range(STEPS):
                seen.append((optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["momentum"]))
                schedules.step_batch()
            schedules.step(1.0, 0.5)
        return seen

    whole = go(*fresh(), EPOCHS)
    for ended in range(EPOCHS):
        schedules, optimiser = fresh()
        go(schedules, optimiser, ended)
        again, optimiser_again = fresh()
        again.load_state_dict(schedules.state_dict(), ended)
        optimiser_again.load_state_dict(optimiser.state_dict())
        assert go(again, optimiser_again, EPOCHS - ended) == whole[ended * STEPS :]


def started(*schedules: Entry, **changes: Any) -> tuple[Schedules, Optimizer]:
    """The schedules over an SGD that starts at 1."""
    config = config_of([], learning_rate=1.0, optim_kwargs={}, **changes)
    params = Params.from_dict(config | {"learning_rate_schedule": list(schedules)})
    optimiser = build_optimiser(params, [torch.nn.Parameter(torch.zeros(2))])
    return Schedules(params, optimiser), optimiser


def rate(optimiser: Optimizer) -> float:
    return float(optimiser.param_groups[0]["lr"])


def test_the_optimiser_has_its_class_its_kwargs_and_its_learning_rate() -> None:
    kwargs = {"betas": [0.8, 0.9], "weight_decay": 1, "amsgrad": True}
    params = Params.from_dict(small(optim_class=torch.optim.Adam, optim_kwargs=kwargs, learning_rate=0.25))
    weights = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]
    optimiser = build_optimiser(params, iter(weights))

    assert (isinstance(optimiser, torch.optim.Adam), type(optimiser).__name__) == (True, "Adam")
    (group,) = optimiser.param_groups
    assert group["params"] == weights
    assert (group["lr"], group["betas"], group["weight_decay"], group["amsgrad"]) == (0.25, (0.8, 0.9), 1.0, True)


@pytest.mark.parametrize(
    ("mode", "losses", "accuracies", "expected"),
    [
        ("min", [1.0, 1.0], [0.4, 0.5], 0.1),
        ("min", [None, None], [0.5, 0.5], 1.0),
        ("max", [1.0, 0.9], [0.5, 0.5], 0.1),
        ("max", [0.5, 0.5, 0.5], [0.1, 0.2, 0.3], 1.0),
    ],
)
def test_a_plateau_takes_the_loss_or_the_accuracy_of_evaluated_epochs(
    mode: str, losses: list[float | None], accuracies: list[float | None], expected: float
) -> None:
    schedules, optimiser = started(schedule("ReduceLROnPlateau", mode=mode, patience=0, factor=0.1))
    for loss, accuracy in zip(losses, accuracies, strict=True):
        schedules.step(loss, accuracy)
    assert rate(optimiser) == pytest.approx(expected)


def test_patience_counts_evaluated_epochs_only() -> None:
    schedules, optimiser = started(schedule("ReduceLROnPlateau", patience=1, factor=0.1))
    for evaluated in (True, False, False, False, True, False, False):
        schedules.step(1.0 if evaluated else None, 0.5 if evaluated else None)
    assert rate(optimiser) == 1.0
    schedules.step(1.0, 0.5)
    assert rate(optimiser) == pytest.approx(0.1)


def test_a_given_length_is_kept() -> None:
    for name, length, kwargs in (
        ("CosineAnnealingLR", {"T_max": 3}, {}),
        ("OneCycleLR", {"total_steps": 20}, {"max_lr": 1.0}),
        ("PolynomialLR", {"total_iters": 7}, {}),
    ):
        schedules, _ = started(schedule(name, **length, **kwargs))
        (scheduler,) = schedules.by_epoch
        assert vars(scheduler).items() >= length.items()


def test_what_works_is_accepted() -> None:
    for changes, *entries in (
        ({}, schedule("OneCycleLR", max_lr=0.1, total_steps=12)),
        ({"warmup_epochs": 2.5}, schedule("CosineAnnealingLR")),
        ({"optim_class": "torch.optim.Adam", "optim_kwargs": {}}, schedule("CyclicLR", base_lr=0.01, max_lr=0.1)),
        ({"optim_kwargs": {}}, schedule("CyclicLR", base_lr=0.01, max_lr=0.1, cycle_momentum=False)),
        ({}, schedule("ExponentialLR", gamma=0.9, last_epoch=-1)),
        ({"num_epochs": 2**31 - 1}, schedule("ReduceLROnPlateau")),
    ):
        params = Params.from_dict(config_of([], **changes) | {"learning_rate_schedule": entries})
        assert rehearse(params).problems == []


def test_a_rehearsal_leaves_no_trace() -> None:
    before = torch.random.get_rng_state()
    add_param_group, step = torch.optim.SGD.add_param_group, torch.optim.SGD.step
    rehearse(Params.from_dict(config_of(["step"])))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.optim.SGD.add_param_group is add_param_group
    assert torch.optim.SGD.step is step


class OwnAdam(torch.optim.Adam):
    """An operator's own optimiser, which takes less than torch's."""

    def __init__(self, params: Any, lr: float, beta1: float) -> None:
        super().__init__(params, lr=lr, betas=(beta1, 0.999))


def test_an_operators_optimiser_gets_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTTERLINE_MODULES", __name__)
    params = Params.from_dict(small(optim_class=f"{__name__}.OwnAdam", optim_kwargs={"beta1": 0.8}))
    assert rehearse(params).problems == []
    optimiser = build_optimiser(params, [torch.nn.Parameter(torch.zeros(2))])
    assert isinstance(optimiser, OwnAdam)
    assert optimiser.defaults["betas"] == (0.8, 0.999)


ONE, TWO = "learning_rate_schedule[0]", "learning_rate_schedule[1]"
CYCLIC = schedule("CyclicLR", base_lr=0.01, max_lr=0.1)
STEP = MEMBERS["step"].entry
BY_MILESTONES = "give each its own epochs by milestones, or leave one out"
# Entries, other keys, and how the messages begin.
REFUSED: list[tuple[list[Entry], dict[str, Any], dict[str, str]]] = [
    (
        [schedule("OneCycleLR", max_lr=0.1, total_steps=5)],
        *({}, {f"{ONE}.kwargs": "torch.optim.lr_scheduler.OneCycleLR fails in epoch 6 of 12: Tried to step 6 times. "}),
    ),
    (
        [CYCLIC],
        {"optim_kwargs": {}, "optim_class": "torch.optim.Rprop"},
        {f"{ONE}.kwargs": "CyclicLR refuses them: op"},
    ),
    (
        [schedule("ExponentialLR", gamma=0.9, last_epoch=3)],
        {},
        {f"{ONE}.kwargs.last_epoch": "must be -1: a run starts"},
    ),
    (
        [{**schedule("ReduceLROnPlateau"), "interval": "batch"}],
        {},
        {f"{ONE}.interval": "must be epoch: ReduceLROnPlat"},
    ),
    (
        [schedule("ReduceLROnPlateau", factor=1.5)],
        {},
        {f"{ONE}.kwargs": "ReduceLROnPlateau refuses them: Factor shoul"},
    ),
    ([schedule("ReduceLROnPlateau", min_lr=[0.1, 0.2])], {}, {f"{ONE}.kwargs": "ReduceLROnPlateau refuses them: expe"}),
    ([], {"optim_kwargs": {"momentum": -1}}, {"optim_kwargs": "SGD refuses them: Invalid momentum value: -1"}),
    (
        [],
        {"optim_class": "torch.optim.RMSprop", "learning_rate": 1e300},
        {"optim_class": "torch.optim.RMSprop fails at a step with learning_rate 1e+300 and these optim_kwargs: value"},
    ),
    (
        [],
        {"optim_kwargs": {"momentun": 0.9, "nesterov": 1}},
        {
            "optim_kwargs.momentun": "SGD has no such argument; did you",
            "optim_kwargs.nesterov": "must be true or false",
        },
    ),
    (
        [],
        {"optim_class": "torch.optim.Adam", "optim_kwargs": {"betas": [0.9]}},
        {"optim_kwargs.betas": "must be [a number, a number], got a list"},
    ),
    (
        [schedule("StepLR"), schedule("CosineAnnealingLR", Tmax=3)],
        {},
        {
            f"{ONE}.kwargs.step_size": "is required by StepLR",
            f"{TWO}.kwargs.Tmax": "CosineAnnealingLR has no such argument; did you mean T_max?",
        },
    ),
    ([schedule("ConstantLR", factor=0, total_iters=20)], {}, {ONE[:-3]: "the learning rate is 0 in every epoch"}),
    (
        [schedule("ExponentialLR", gamma=-0.5)],
        {},
        {f"{ONE}.kwargs": "ExponentialLR makes the learning rate -0.05 in e"},
    ),
    ([schedule("ExponentialLR", gamma=1e38)], {}, {f"{ONE}.kwargs": "ExponentialLR makes the learning rate inf in ep"}),
    ([schedule("StepLR", step_size=-1)], {}, {f"{ONE}.kwargs.step_size": "step_size must be at least 1, got -1"}),
    ([schedule("LinearLR", total_iters=0)], {}, {f"{ONE}.kwargs.total_iters": "total_iters must be at least 1, got 0"}),
    (
        [schedule("CosineAnnealingLR", eta_min=1)],
        {},
        {f"{ONE}.kwargs.eta_min": "must be at most learning_rate, 0.1, w"},
    ),
    ([schedule("MultiStepLR", milestones=[1.5])], {}, {f"{ONE}.kwargs.milestones": "must be whole numbers"}),
    (
        [schedule("CyclicLR", base_lr=0.1, max_lr=1, step_size_up=-2, step_size_down=1)],
        {},
        {f"{ONE}.kwargs": "step_size_up + step_size_down must be at least 1, got -1"},
    ),
    (
        [MEMBERS["warm restarts"].entry, MEMBERS["linear"].entry],
        {},
        {
            f"{ONE}.class": "CosineAnnealingWarmRestarts sets the learning rate whatever it was, and would undo the "
            f"other schedules; {BY_MILESTONES}"
        },
    ),
    (
        [STEP, MEMBERS["cosine to a floor"].entry],
        {},
        {
            f"{TWO}.class": f"CosineAnnealingLR with eta_min 0.01 sets the learning rate whatever {ONE} made it; give "
            "each schedule its own epochs by milestones, or leave one out"
        },
    ),
    ([STEP], {"milestones": [2]}, {"milestones": "must be one fewer than the 1 schedules"}),
    ([], {"milestones": [2]}, {"milestones": "must be one fewer than the 0 schedules"}),
    ([STEP] * 3, {"milestones": [4, 4]}, {"milestones[1]": "must be later than the one before, 4, got 4"}),
    ([STEP] * 2, {"milestones": [12]}, {"milestones[0]": "must be less than num_epochs, 12, for the last"}),
    ([STEP] * 2, {"milestones": [0]}, {"milestones[0]": "must be at least 1, got 0"}),
    ([STEP] * 2, {"milestones": 5}, {"milestones": "must be a list"}),
    (
        [STEP] * 2,
        {"milestones": [2], "warmup_epochs": 3},
        {"warmup_epochs": "must end by the first of milestones, 2, where another schedule takes over; got 3"},
    ),
    (
        [MEMBERS["one cycle"].entry, STEP],
        {"milestones": [5], "warmup_epochs": 1},
        {f"{ONE}.class": "OneCycleLR sets the learning rate whatever it was; set warmup_epochs to 0"},
    ),
    (
        [STEP, MEMBERS["cyclic"].entry],
        {"milestones": [5], "optim_class": "torch.optim.RMSprop", "optim_kwargs": {}},
        {ONE[:-3]: "torch.optim.RMSprop fails in epoch 6 of 12: no 'momentum_buffer' in the"},
    ),
]


@pytest.mark.parametrize(("entries", "changes", "found"), REFUSED)
def test_what_would_fail_or_is_not_meant_is_refused(
    entries: list[Entry], changes: dict[str, Any], found: dict[str, str]
) -> None:
    named = [{**entry, "name": None} for entry in entries]
    problems = refused(check_dict, config_of([], **changes) | {"learning_rate_schedule": named})
    assert problems.keys() == found.keys()
    for path, text in found.items():
        assert problems[path].startswith(text)
        assert "\n" not in problems[path]


def test_a_refused_warm_up_names_what_works() -> None:
    cosine = schedule("CosineAnnealingLR", eta_min=1e-6)
    config = config_of([]) | {"learning_rate_schedule": [cosine], "warmup_epochs": 1.5}
    (told,) = refused(check_dict, config).values()
    assert told == (
        "CosineAnnealingLR with eta_min 1e-06 sets the learning rate whatever warmup_epochs made it; put a LinearLR "
        "with start_factor 0.01 and total_iters 2 before it (learning_rate_schedule: [LinearLR, CosineAnnealingLR] "
        "with milestones: [2]), and set warmup_epochs to 0"
    )
    rise = schedule("LinearLR", start_factor=0.01, total_iters=2)
    accepted(config | {"learning_rate_schedule": [rise, cosine], "milestones": [2], "warmup_epochs": 0})


@pytest.mark.parametrize("given", [{"total_steps": 5}, {"epochs": 2, "steps_per_epoch": 3}])
def test_a_one_cycle_that_is_too_short_may_leave_its_length_out(given: dict[str, int]) -> None:
    config = config_of([]) | {"learning_rate_schedule": [schedule("OneCycleLR", max_lr=0.2, **given)]}
    (told,) = refused(check_dict, config).values()
    assert told.endswith(f"; leave {' and '.join(given)} out, and it lasts as long as its epochs")


def test_rates_of_next_to_nothing_are_noted() -> None:
    entry = {**schedule("StepLR", step_size=1), "interval": "batch"}
    params = Params.from_dict(config_of([], num_epochs=8) | {"learning_rate_schedule": [entry]})
    assert rehearse(params, 3).notes == [
        "learning_rate_schedule: the learning rate is below a millionth of its highest, 0.1, in epochs 4 to 8, at last "
        "1e-24: next to nothing is trained"
    ]
    assert rehearse(params.model_copy(update={"num_epochs": 2}), 3).notes == []


# An entry, other keys, and how the notes end.
NOTED: list[tuple[Entry, dict[str, Any], list[str]]] = [
    (schedule("StepLR", step_size=30), {}, ["StepLR): has no effect in its 12 epochs: the rate stays 0.1"]),
    (schedule("MultiStepLR", milestones=[6, 30, 60]), {}, ["milestones 30, 60 are not reached in its 12 epochs"]),
    (schedule("LinearLR", total_iters=20), {}, ["total_iters 20 is longer than its 12 epochs; the rate ends at 0.07"]),
    (
        schedule("CosineAnnealingLR", T_max=4),
        {},
        [
            "CosineAnnealingLR): T_max 4 is shorter than its 12 epochs; the rate rises again in epoch 6",
            "the learning rate is 0 in epoch 5: nothing is trained",
        ],
    ),
    (schedule("PolynomialLR", total_iters=5), {}, ["the learning rate is 0 in epochs 6 to 12: nothing is trained"]),
    (
        schedule("ReduceLROnPlateau", patience=10),
        {"eval_freq": 5},
        ["patience 10 asks for 12 evaluations before the last of its 12 epochs, and eval_freq 5 makes 2"],
    ),
    (
        schedule("OneCycleLR", max_lr=0.2),
        {},
        [
            "OneCycleLR): learning_rate 0.1 has no effect; the rates are its own, 8e-07 to 0.1989",
            "OneCycleLR): moves the optimiser's momentum, 0.9, between 0.8506 and 0.95; cycle_momentum: false keeps it",
        ],
    ),
    (schedule("ExponentialLR", gamma=0.9), {}, []),
    (schedule("CosineAnnealingLR"), {}, []),
    # By batch nothing can be said before the data is there.
    (schedule("StepLR", step_size=30) | {"interval": "batch"}, {}, []),
]


@pytest.mark.parametrize(("entry", "changes", "notes"), NOTED)
def test_what_has_no_effect_is_noted(entry: Entry, changes: dict[str, Any], notes: list[str]) -> None:
    config = config_of([], **changes) | {"learning_rate_schedule": [entry]}
    told = check_dict(config).notes
    assert len(told) == len(notes)
    for line, note in zip(told, notes, strict=True):
        assert line.startswith("learning_rate_schedule")
        assert line.endswith(note)


def test_steps_that_are_known_are_looked_at() -> None:
    entry = {**schedule("StepLR", step_size=30), "interval": "batch"}
    params = Params.from_dict(config_of([]) | {"learning_rate_schedule": [entry]})
    assert rehearse(params, 3).notes == []
    assert rehearse(params, 2).notes == [
        "learning_rate_schedule[0] (StepLR): has no effect in its 24 steps: the rate stays 0.1"
    ]


def test_a_floor_of_a_plateau_is_the_rates() -> None:
    entries = [schedule("ReduceLROnPlateau", patience=0, factor=0.1, min_lr=0.01), schedule("ExponentialLR", gamma=0.9)]
    params = Params.from_dict(config_of([]) | {"learning_rate_schedule": entries})
    assert rehearse(params).problems == []
    assert [note for note in rehearse(params).notes if "min_lr 0.01 is compared with what all schedules make" in note]
    expected, rate = [], RATE
    for epoch in range(EPOCHS):
        expected.append(rate)
        if epoch and rate > max(rate * 0.1, 0.01) + 1e-8:
            rate = max(rate * 0.1, 0.01)
        rate *= 0.9
    assert rates_of(params)[::STEPS] == pytest.approx(expected)


def test_a_name_is_optional() -> None:
    entry = schedule("StepLR", step_size=3)
    del entry["name"]
    params = Params.from_dict(config_of([]) | {"learning_rate_schedule": [entry, entry]})
    assert [spec.name for spec in params.learning_rate_schedule] == [None, None]
    assert Params.load(params.to_json()) == params
    assert Params.load(params.to_form()) == params
