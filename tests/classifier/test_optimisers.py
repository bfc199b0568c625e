"""Optimiser and schedules: built as the params say, stepped as the key list says, rehearsed before a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from components.classifier.optimisers import Schedules, build_optimiser
from components.classifier.rates import rehearse
from components.shared.errors import Problem
from components.shared.params.params import Params
from tests.configs import Entry, check_dict, refused, schedule, small


@pytest.fixture(autouse=True)
def no_optimiser_steps() -> Iterator[None]:
    """torch warns where schedules step and the optimiser does not; that is what these tests do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        yield


def started(*schedules: Entry, steps_per_epoch: int = 1, **changes: Any) -> tuple[Schedules, Optimizer]:
    """The schedules over an SGD that starts at 1."""
    params = Params.from_dict(
        small(
            optim_class="torch.optim.SGD",
            learning_rate=1.0,
            num_epochs=10,
            learning_rate_schedule=list(schedules),
            **changes,
        )
    )
    optimiser = build_optimiser(params, [torch.nn.Parameter(torch.zeros(2))])
    return Schedules(params, optimiser, steps_per_epoch), optimiser


def rate(optimiser: Optimizer) -> float:
    return float(optimiser.param_groups[0]["lr"])


def test_the_optimiser_has_its_class_its_kwargs_and_its_learning_rate() -> None:
    params = Params.from_dict(
        small(
            optim_class=torch.optim.Adam,
            optim_kwargs={"betas": [0.8, 0.9], "weight_decay": 1, "amsgrad": True},
            learning_rate=0.25,
        )
    )
    weights = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]
    optimiser = build_optimiser(params, iter(weights))

    assert type(optimiser) is torch.optim.Adam
    (group,) = optimiser.param_groups
    assert group["params"] == weights
    assert (group["lr"], group["betas"], group["weight_decay"], group["amsgrad"]) == (0.25, (0.8, 0.9), 1.0, True)


@pytest.mark.parametrize(
    ("mode", "losses", "accuracies", "expected"),
    [
        ("min", [1.0, 1.0], [0.4, 0.5], 0.1),
        ("min", [None, None], [0.5, 0.5], 1.0),
        ("min", [0.9, 0.8, 0.7], [0.5, 0.5, 0.5], 1.0),
        ("max", [1.0, 0.9], [0.5, 0.5], 0.1),
        ("max", [1.0, 1.0], [None, None], 1.0),
        ("max", [0.5, 0.5, 0.5], [0.1, 0.2, 0.3], 1.0),
        ("max", [0.1, 0.2, 0.3], [0.5, 0.5, 0.5], 0.01),
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


def test_the_state_of_schedules_is_plain_data() -> None:
    schedules, _ = started(schedule("StepLR", step_size=3), schedule("ReduceLROnPlateau", patience=0))
    schedules.step(0.5, 0.5)
    first, second = schedules.state_dict()
    assert (first["last_epoch"], second["best"]) == (1, 0.5)


def test_schedules_of_a_batch_step_apart_from_those_of_an_epoch() -> None:
    by_batch = {**schedule("ExponentialLR", gamma=0.5), "interval": "batch"}
    schedules, optimiser = started(schedule("StepLR", step_size=1, gamma=0.1), by_batch)
    rates = []
    for step in (schedules.step_batch, schedules.step_batch, lambda: schedules.step(None, None)):
        step()
        rates.append(rate(optimiser))
    assert rates == pytest.approx([0.5, 0.25, 0.025])
    assert [type(scheduler).__name__ for scheduler in schedules.by_epoch] == ["StepLR"]
    assert [type(scheduler).__name__ for scheduler in schedules.by_batch] == ["ExponentialLR"]


def test_a_given_length_is_kept() -> None:
    for name, length, kwargs in (
        ("CosineAnnealingLR", {"T_max": 3}, {}),
        ("OneCycleLR", {"total_steps": 20}, {"max_lr": 1.0}),
        ("PolynomialLR", {"total_iters": 7}, {}),
    ):
        schedules, _ = started(schedule(name, **length, **kwargs))
        (scheduler,) = schedules.by_epoch
        assert vars(scheduler).items() >= length.items()


def rehearsed(*schedules: Entry, **changes: Any) -> list[Problem]:
    config: dict[str, Any] = {"optim_class": "torch.optim.SGD", "learning_rate": 0.1, "num_epochs": 10}
    return rehearse(Params.from_dict(small(learning_rate_schedule=list(schedules), **{**config, **changes}))).problems


def test_a_rehearsal_of_what_works_finds_nothing() -> None:
    assert rehearsed() == []
    assert rehearsed(schedule("OneCycleLR", max_lr=0.1, total_steps=10)) == []
    assert rehearsed(schedule("OneCycleLR", max_lr=0.1)) == []
    assert rehearsed({**schedule("OneCycleLR", max_lr=0.1), "interval": "batch"}, warmup_epochs=0) == []
    assert rehearsed(schedule("CosineAnnealingLR"), warmup_epochs=2.5) == []
    assert rehearsed(schedule("CyclicLR", base_lr=0.01, max_lr=0.1), optim_class="torch.optim.Adam") == []
    assert rehearsed(schedule("CyclicLR", base_lr=0.01, max_lr=0.1, cycle_momentum=False)) == []
    assert rehearsed(schedule("ExponentialLR", gamma=0.9, last_epoch=-1)) == []
    assert rehearsed(schedule("ReduceLROnPlateau"), num_epochs=2**31 - 1) == []


@pytest.mark.parametrize(
    ("schedules", "changes", "path", "message"),
    [
        (
            [schedule("OneCycleLR", max_lr=0.1, total_steps=5)],
            {},
            "learning_rate_schedule[0].kwargs",
            "torch.optim.lr_scheduler.OneCycleLR fails in epoch 6 of 10: Tried to step 6 times. The specified number",
        ),
        (
            [schedule("CyclicLR", base_lr=0.01, max_lr=0.1)],
            {"optim_class": "torch.optim.Rprop"},
            "learning_rate_schedule[0].kwargs",
            "CyclicLR refuses them: optimizer must support momentum",
        ),
        (
            [schedule("ExponentialLR", gamma=0.9, last_epoch=3)],
            {},
            "learning_rate_schedule[0].kwargs.last_epoch",
            "must be -1: a run starts its schedules anew",
        ),
        (
            [{**schedule("ReduceLROnPlateau"), "interval": "batch"}],
            {},
            "learning_rate_schedule[0].interval",
            "must be epoch: ReduceLROnPlateau takes evaluations",
        ),
        (
            [schedule("StepLR", step_size=0)],
            {},
            "learning_rate_schedule[0].kwargs.step_size",
            "step_size must be at least 1, got 0",
        ),
        (
            [schedule("ReduceLROnPlateau", factor=1.5)],
            {},
            "learning_rate_schedule[0].kwargs",
            "ReduceLROnPlateau refuses them: Factor should be < 1.0",
        ),
        (
            [schedule("ReduceLROnPlateau", min_lr=[0.1, 0.2])],
            {},
            "learning_rate_schedule[0].kwargs",
            "ReduceLROnPlateau refuses them: expected 1 min_lrs, got 2",
        ),
        ([], {"optim_kwargs": {"momentum": -1}}, "optim_kwargs", "SGD refuses them: Invalid momentum value: -1"),
        ([], {"optim_kwargs": {"nesterov": True}}, "optim_kwargs", "SGD refuses them: Nesterov momentum requires"),
        (
            [],
            {"optim_class": "torch.optim.RMSprop", "learning_rate": 1e300},
            "optim_class",
            "torch.optim.RMSprop fails at a step with learning_rate 1e+300 and these optim_kwargs: value cannot be",
        ),
    ],
)
def test_a_rehearsal_finds_what_would_fail_in_mid_training(
    schedules: list[Entry], changes: dict[str, Any], path: str, message: str
) -> None:
    found = rehearsed(*schedules, **changes)
    (problem,) = found
    assert problem.path == path
    assert problem.message.startswith(message)
    assert "\n" not in problem.message


def test_a_check_rehearses() -> None:
    config = small(num_epochs=10, learning_rate_schedule=[schedule("OneCycleLR", max_lr=0.1, total_steps=5)])
    assert "OneCycleLR fails in epoch 6 of 10" in refused(check_dict, config)["learning_rate_schedule[0].kwargs"]
    # What is wrong with the optimiser's own arguments is told once.
    assert set(refused(check_dict, {**config, "optim_kwargs": {"momentun": 1}})) == {"optim_kwargs.momentun"}


def test_a_rehearsal_leaves_no_trace() -> None:
    before = torch.random.get_rng_state()
    add_param_group, step = torch.optim.SGD.add_param_group, torch.optim.SGD.step
    rehearsed(schedule("StepLR", step_size=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.optim.SGD.add_param_group is add_param_group
    assert torch.optim.SGD.step is step


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"optim_class": "torch.optim.SGD", "optim_kwargs": {"momentun": 0.9, "lr": 0.1}},
            {"optim_kwargs.lr": "must not be given here; set learning_rate instead"},
        ),
        (
            {"optim_class": "torch.optim.SGD", "optim_kwargs": {"momentun": 0.9, "nesterov": 1}},
            {
                "optim_kwargs.momentun": "SGD has no such argument; did you mean momentum?",
                "optim_kwargs.nesterov": "must be true or false, got 1",
            },
        ),
        (
            {"optim_class": "torch.optim.Adam", "optim_kwargs": {"betas": [0.9]}},
            {"optim_kwargs.betas": "must be [a number, a number], got a list"},
        ),
        (
            {"optim_kwargs": {"amount": 1}},
            {
                "optim_kwargs.amount": "AdamW has no such argument; it takes betas, eps, weight_decay, amsgrad, "
                "maximize, foreach, capturable, differentiable, fused"
            },
        ),
        (
            {"learning_rate_schedule": [schedule("StepLR"), schedule("CosineAnnealingLR", Tmax=3)]},
            {
                "learning_rate_schedule[0].kwargs.step_size": "is required by StepLR",
                "learning_rate_schedule[1].kwargs.Tmax": "CosineAnnealingLR has no such argument; did you mean T_max?",
            },
        ),
    ],
)
def test_a_check_names_every_argument_that_does_not_fit(changes: dict[str, Any], found: dict[str, str]) -> None:
    assert refused(check_dict, small(**changes)) == found


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
