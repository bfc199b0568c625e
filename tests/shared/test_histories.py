"""Random runs on a platform: what is reported of each is true, or says that it does not know."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.events.data import Error, EventData, Failed, StepOutcome, Succeeded
from components.shared.events.history import History
from components.shared.events.runs import fold
from components.shared.events.spool import events_in
from components.shared.kubeflow.report import RunReport, TaskReport, TaskState
from components.shared.pipeline_end import Outcome, end_after_retry, pipeline_end
from components.shared.status import PIPELINE_STEPS
from tests.exit_step.ends import CANCELLED, FAILED, RUN, STARTED, SUCCEEDED, Told, spool

# By what happens to a step: the events of its process.
EVENTS: dict[str, tuple[Told, ...]] = {
    "succeeded": (STARTED, SUCCEEDED),
    "failed": (STARTED, FAILED),
    "killed": (STARTED,),
    "cancelled": (STARTED, CANCELLED),
    "cached": (),
    "not started": (),
}
TASKS: dict[str, TaskState] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "killed": "failed",
    "cancelled": "cancelled",
    "cached": "cached",
    "not started": "skipped",
}


@dataclass(frozen=True)
class Run:
    """What happened, what can be seen of it, and what the platform says: Kubeflow, as it was seen (2.16.1, 2.17.0)."""

    steps: dict[str, str]
    history: History
    platform: RunReport | None
    state: str

    @property
    def truth(self) -> Outcome:
        last = next((fate for fate in self.steps.values() if fate not in ("cached", "succeeded")), "succeeded")
        return "failed" if last == "killed" else "cancelled" if last == "cancelled" else last  # type: ignore[return-value]


@st.composite
def runs(draw: st.DrawFn) -> Run:
    # Steps are cached from the first on; the first that does not succeed is the last.
    cached = draw(st.integers(0, 3))
    last = draw(st.sampled_from(["succeeded", "failed", "killed", "cancelled"]))
    ends_at = draw(st.integers(cached, 2)) if cached < 3 else 3
    steps = {}
    for index, step in enumerate(PIPELINE_STEPS):
        if index < cached:
            steps[step] = "cached"
        elif last == "succeeded" or index < ends_at:
            steps[step] = "succeeded"
        else:
            steps[step] = last if index == ends_at else "not started"
    whole = draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder:
        for step, fate in steps.items():
            told = EVENTS[fate]
            if told:  # a broker that is away has the first events of a process, or none
                spool(Path(folder), step, *(told if whole else told[: draw(st.integers(0, len(told)))]))
        history = History(fold(RUN, list(events_in(Path(folder), RUN))), whole)
    run = Run(steps, history, None, "")
    # The state handed to the exit task is RUNNING where all came from the cache and where the run was terminated.
    is_odd = run.truth == "cancelled" or set(steps.values()) == {"cached"}
    state = "RUNNING" if is_odd else "COMPLETE" if run.truth == "succeeded" else "FAILED"
    tasks = {step: TaskReport(step, TASKS[fate], message="main: Error") for step, fate in steps.items()}
    platform = RunReport("cancelling" if run.truth == "cancelled" else "running", tasks, body=run.truth)
    return Run(steps, history, platform if draw(st.booleans()) else None, state)


def is_true(found: StepOutcome, fate: str, run: Run) -> bool:
    if found.outcome in (fate, "unknown"):
        return True
    # A process that was killed and one whose last event is lost look alike to the platform, and one that was terminated
    # looks killed to whoever reads its events alone.
    if {found.outcome, fate} == {"failed", "killed"} or (found.outcome, fate) == ("killed", "cancelled"):
        return True
    # Of a run that was terminated, as RUNNING says where the API is silent, a step that began counts as killed.
    return found.outcome == "killed" and run.state == "RUNNING" and run.platform is None


@settings(max_examples=300, deadline=None)
@given(runs())
def test_every_end_is_told_as_it_was_or_as_unknown(run: Run) -> None:
    end = pipeline_end(PIPELINE_STEPS, run.history, platform=run.platform, state=run.state)
    # Without Kubeflow's API a run that was terminated may look failed.
    allowed = {run.truth, "unknown"} | ({"failed"} if run.truth == "cancelled" and run.platform is None else set())
    assert end.outcome in allowed, end
    wrong = {step.step: step.outcome for step in end.steps if not is_true(step, run.steps[step.step], run)}
    assert not wrong, (run.steps, end)
    if run.history.is_whole and run.platform is not None:
        assert end.outcome == run.truth


@settings(max_examples=100, deadline=None)
@given(runs(), st.sampled_from(PIPELINE_STEPS), st.booleans())
def test_after_a_retry_the_last_step_to_run_decides(run: Run, step: str, is_success: bool) -> None:
    data: EventData = Succeeded(1.0) if is_success else Failed(1.0, Error("DataError", "no room"))
    own = StepOutcome(step, "unknown", 1, None, "source")
    end = end_after_retry(PIPELINE_STEPS, run.history, run.platform, own, data)
    index = PIPELINE_STEPS.index(step)
    assert end.outcome == ("succeeded" if is_success else "failed")
    assert end.steps[index].outcome == end.outcome
    assert [each.outcome for each in end.steps[index + 1 :]] == ["not started"] * (2 - index)
    assert is_success or end.reason.endswith(f"{step}: no room")
