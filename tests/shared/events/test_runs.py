"""What is known of a run from its events, whatever order they arrive in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.events.data import (
    Cancelled,
    Checkpoint,
    Failed,
    PipelineEnded,
    PipelineStarted,
    StepOutcome,
    StepStarted,
    Succeeded,
)
from components.shared.events.event import PIPELINE, StepEvent
from components.shared.events.runs import SILENCE, RunView, StepView, fold
from tests.shared.events.sample_events import (
    A_SECOND,
    END,
    START,
    STEPS,
    Ending,
    EventSequence,
    a_pipeline,
    a_step,
    parsed,
    progress,
)

ENDINGS: list[Ending] = ["succeeded", "failed", "cancelled"]
IN_PIPELINE = StepStarted("1.0", "pod-1", None, "image-classifier")
BY_ITSELF = StepStarted("1.0", "pod-1")
BEGUN = PipelineStarted("image-classifier", list(STEPS), "1.0", "pod-1")


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(START // A_SECOND, UTC) + timedelta(seconds=seconds)


def attempt(number: int, *told: Any, step: str = "train", begin_s: int = 0, process: str = "pod-1") -> list[StepEvent]:
    """The events of one attempt, a second apart, from what it told."""
    voice = EventSequence("run-1", step, number, START + begin_s * A_SECOND, process)
    states = {StepStarted: "started", PipelineStarted: "started", Checkpoint: "checkpoint"}
    ends = {Succeeded: "succeeded", Failed: "failed", Cancelled: "cancelled"}
    names: dict[type, Any] = {**states, **ends}
    return parsed([voice.next(names.get(type(data), "progress"), data) for data in told])


def ended(outcome: Ending | Literal["unknown"], *outcomes: StepOutcome, begin_s: int = 0) -> list[StepEvent]:
    end = PipelineEnded("image-classifier", outcome, outcome.upper(), "", list(outcomes))
    voice = EventSequence("run-1", PIPELINE, begin=START + begin_s * A_SECOND)
    voice.next("started", BEGUN)
    return parsed([voice.next(outcome, end)])


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_pipeline_is_what_it_says_at_its_end(ending: Ending) -> None:
    events = parsed(a_pipeline("run-1", ending))
    view = fold("run-1", events)
    assert (view.state, view.is_done, view.began) == (ending, True, BEGUN)
    assert view.ended == events[-1].data
    assert list(view.steps) == (["data-prep", "train", "evaluate"] if ending == "succeeded" else ["data-prep", "train"])
    assert view.steps["train"] == StepView(
        "train", 0, ending, at(4), at(0), progress(3, 3), None, END[ending], in_pipeline=True
    )
    before = fold("run-1", events[:-1])
    assert (before.state, before.is_done) == ("running", False)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_step_that_was_run_by_itself_is_all_of_its_run(ending: Ending) -> None:
    events = parsed(a_step("run-1", ending, epochs=1))
    assert fold("run-1", events) == RunView(
        "run-1",
        {
            "train": StepView(
                "train", 0, ending, at(3), at(0), progress(1, 1), Checkpoint(1, 1, "gs://bucket/last"), END[ending]
            )
        },
        state=ending,
        last=at(3),
    )
    assert [fold("run-1", events[:count]).state for count in range(5)] == ["running"] * 4 + [ending]


def test_the_next_step_that_is_run_by_itself_goes_on_with_the_run() -> None:
    first = attempt(0, BY_ITSELF, END["succeeded"], step="data-prep")
    view = fold("run-1", [*first, *attempt(0, BY_ITSELF, begin_s=9)])
    assert (view.state, {name: step.state for name, step in view.steps.items()}) == (
        "running",
        {"data-prep": "succeeded", "train": "started"},
    )


def test_a_retry_starts_its_step_anew_in_its_old_place_with_what_was_saved() -> None:
    prepared = attempt(0, IN_PIPELINE, END["succeeded"], step="data-prep")
    failed = attempt(0, IN_PIPELINE, progress(2, 3), Checkpoint(2, 3, "gs://b/2"), END["failed"])
    evaluated = attempt(0, IN_PIPELINE, step="evaluate")
    again = attempt(1, IN_PIPELINE, begin_s=60)
    view = fold("run-1", [*prepared, *failed, *evaluated, *again])
    assert list(view.steps) == ["data-prep", "train", "evaluate"]
    assert view.steps["train"] == StepView(
        "train", 1, "started", at(60), at(60), checkpoint=Checkpoint(2, 3, "gs://b/2"), in_pipeline=True
    )
    assert view.last == at(60)


def test_late_words_of_an_older_attempt_change_nothing_but_the_time() -> None:
    late = attempt(0, BY_ITSELF, progress(2, 3), END["failed"], begin_s=100)
    again = attempt(1, BY_ITSELF, progress(1, 3))
    view, without = fold("run-1", [*again, *late]), fold("run-1", again)
    assert view.steps == without.steps
    assert (view.state, view.last) == ("running", at(102))


def test_nothing_follows_the_last_word_of_an_attempt() -> None:
    told = attempt(0, BY_ITSELF, END["cancelled"], progress(1, 3), END["succeeded"])
    view = fold("run-1", told)
    assert (view.state, view.steps["train"].state, view.steps["train"].progress) == ("cancelled", "cancelled", None)


@pytest.mark.parametrize(
    "end",
    [Cancelled(1.0, "SIGTERM", 143, starts_again=True), Failed(1.0, END["failed"].error, 1, starts_again=True)],
)
def test_a_step_that_is_likely_to_start_again_has_time_for_it(end: Cancelled | Failed) -> None:
    ending = "cancelled" if isinstance(end, Cancelled) else "failed"
    view = fold("run-1", attempt(0, BY_ITSELF, progress(1, 3), end))
    assert (view.state, view.is_done, view.starting_again) == ("running", False, view.steps["train"])
    assert view.steps["train"].state == ending
    for seconds, state in ((0, "running"), (60, "running"), (899, "running"), (901, ending)):
        assert view.state_at(at(2 + seconds)) == state
        assert view.end_at(at(2 + seconds)) == (None if state == "running" else state)

    # The next one is a process of its own, also where it could not learn that there was one before.
    again = attempt(0, BY_ITSELF, progress(2, 3), begin_s=30, process="pod-2")
    for event in again:
        view.add(event)
    assert (view.state, view.starting_again, view.steps["train"].attempt) == ("running", None, 1)
    assert view.end_at(at(9_999)) is None
    view.add(attempt(0, BY_ITSELF, progress(2, 3), END["succeeded"], begin_s=30, process="pod-2")[-1])
    assert (view.end_at(at(34)), view.steps["train"].progress) == ("succeeded", progress(2, 3))

    pipeline = fold("run-1", attempt(0, IN_PIPELINE, end))
    assert (pipeline.state, pipeline.starting_again) == ("running", None)  # its own end decides


def test_other_runs_are_passed_over() -> None:
    mine, others = parsed(a_step("run-1")), parsed(a_pipeline("run-2", "failed"))
    assert fold("run-1", [*others, *mine, *others]) == fold("run-1", mine)
    assert fold("run-3", mine) == RunView("run-3")


def streams_of(ending: Ending) -> list[list[StepEvent]]:
    """A pipeline with a retried training: what is said in order, attempt by attempt."""
    return [
        ended(ending, begin_s=100),
        attempt(0, IN_PIPELINE, progress(1, 1), END["succeeded"], step="data-prep"),
        attempt(0, IN_PIPELINE, progress(1, 3), Checkpoint(1, 3, "gs://b/1"), END["failed"], begin_s=10),
        attempt(1, IN_PIPELINE, progress(1, 3), Checkpoint(1, 3, "gs://b/again"), END[ending], begin_s=20),
        attempt(0, IN_PIPELINE, END["succeeded"], step="evaluate", begin_s=40),
    ]


@given(st.sampled_from(ENDINGS), st.randoms(use_true_random=False))
def test_the_steps_events_may_arrive_in_any_order_that_keeps_each_steps_own(ending: Ending, chosen: Any) -> None:
    streams = streams_of(ending)
    expected = fold("run-1", [event for stream in streams for event in stream])
    assert expected.state == ending
    left = [list(stream) for stream in streams]
    arrived = []
    while any(left):
        arrived.append(chosen.choice([stream for stream in left if stream]).pop(0))
    assert fold("run-1", arrived) == expected


def test_the_fold_can_be_looked_at_after_every_event() -> None:
    events = parsed(a_pipeline("run-1"))
    view = RunView("run-1")
    for count, event in enumerate(events, 1):
        view.add(event)
        assert view == fold("run-1", events[:count])
    times = [event.time for event in events]
    assert any(later < earlier for earlier, later in pairwise(times))  # the steps' clocks overlap here
    assert view.last == max(times)


def test_events_from_before_a_pipelines_end_that_arrive_late_change_nothing() -> None:
    late = attempt(0, IN_PIPELINE, progress(1, 3), begin_s=-50)
    view = fold("run-1", [*ended("cancelled"), *late])
    assert (view.state, view.is_done, view.steps["train"].state) == ("cancelled", True, "progress")


def test_a_step_that_starts_after_the_pipelines_end_goes_on_with_the_run() -> None:
    retried = attempt(0, IN_PIPELINE, progress(1, 3), begin_s=50)
    view = fold("run-1", [*ended("failed"), *retried])
    assert (view.state, view.is_done) == ("running", False)
    assert fold("run-1", [*ended("failed"), *retried, *ended("succeeded", begin_s=90)]).state == "succeeded"


def test_a_step_that_the_end_counts_does_not_go_on_with_the_run_whatever_its_nodes_clock_says() -> None:
    evaluated = attempt(0, IN_PIPELINE, END["succeeded"], step="evaluate", begin_s=50)
    counted = StepOutcome("evaluate", "succeeded", 0, None, evaluated[0].source)
    assert fold("run-1", [*evaluated, *ended("succeeded", counted)]).state == "succeeded"


def test_the_newest_of_two_ends_counts_in_whatever_order_they_arrive() -> None:
    first, second = ended("failed"), ended("succeeded", begin_s=60)
    assert fold("run-1", [*first, *second]).state == fold("run-1", [*second, *first]).state == "succeeded"


def test_a_pipeline_whose_end_is_unknown_is_over() -> None:
    view = fold("run-1", ended("unknown"))
    assert (view.state, view.is_done) == ("unknown", True)


def test_a_new_process_is_a_new_attempt_although_it_could_not_learn_of_the_one_before() -> None:
    """Kubeflow's Retry: the same attempt number 0, the same pod name, another process."""
    first = attempt(0, IN_PIPELINE, Checkpoint(2, 3, "gs://b/2"), END["failed"], process="uid-1")
    again = attempt(0, IN_PIPELINE, progress(3, 3), END["succeeded"], begin_s=60, process="uid-2")
    for events in ([*first, *again], [*again, *first], [first[0], *again, *first[1:]]):
        view = fold("run-1", events).steps["train"]
        assert (view.attempt, view.state, view.started) == (1, "succeeded", at(60))
    retried = attempt(2, IN_PIPELINE, begin_s=30, process="uid-3")  # a platform's third, before the retry by hand
    assert fold("run-1", [*first, *retried, *again]).steps["train"].attempt == 3


def test_after_a_long_silence_nobody_knows_whether_a_run_goes_on() -> None:
    view = fold("run-1", attempt(0, IN_PIPELINE, progress(1, 3)))
    assert view.last is not None
    assert view.state_at(view.last + SILENCE) == "running"
    assert view.state_at(view.last + SILENCE * 1.1) == "unknown"
    done = fold("run-1", ended("failed"))
    assert done.state_at(at(10**6)) == "failed"
