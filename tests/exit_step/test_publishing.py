"""The end of a pipeline that publishes its model, as Kubeflow's API tells it and after a retry by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.shared.events.data import Error, EventData, Failed, StepOutcome, Succeeded
from components.shared.events.history import History
from components.shared.events.runs import RunView, fold
from components.shared.events.spool import events_in
from components.shared.kubeflow.report import RunReport, TaskReport, TaskState
from components.shared.pipeline_end import end_after_retry, pipeline_end
from components.shared.status import PIPELINE_STEPS
from tests.exit_step.ends import RUN, STARTED, SUCCEEDED, Told, spool


def history(folder: Path, *, publishes: bool = True, published: tuple[Told, ...] = ()) -> History:
    for step in ("data-prep", "train"):
        spool(folder, step, STARTED, SUCCEEDED)
    spool(folder, "evaluate", STARTED, ("succeeded", Succeeded(1.0, publishes=publishes)))
    if published:
        spool(folder, "publish", *published)
    return History(fold(RUN, list(events_in(folder, RUN))), True)


@pytest.mark.parametrize(
    ("task", "outcome", "steps"),
    [
        ("succeeded", "succeeded", ["publish"]),
        ("cached", "cached", ["publish"]),
        ("failed", "failed", ["publish"]),
        ("skipped", "", []),  # the model did not pass
        (None, "", []),
    ],
)
def test_kubeflows_task_is_listed_where_it_ran(task: TaskState | None, outcome: str, steps: list[str]) -> None:
    tasks = {step: TaskReport(step, "succeeded") for step in PIPELINE_STEPS}
    if task is not None:
        tasks["publish"] = TaskReport("publish", task, message="main: Error (exit code 1)")
    report = RunReport("running", tasks, body="failed" if task == "failed" else "succeeded")

    end = pipeline_end(PIPELINE_STEPS, History(RunView(RUN)), platform=report, state="RUNNING")

    assert [step.step for step in end.steps] == [*PIPELINE_STEPS, *steps]
    assert end.outcome == ("failed" if task == "failed" else "succeeded")
    assert not steps or end.steps[-1].outcome == outcome


def test_without_a_model_that_passes_nothing_is_published(tmp_path: Path) -> None:
    end = pipeline_end(PIPELINE_STEPS, history(tmp_path, publishes=False), state="COMPLETE")
    assert (end.outcome, [step.outcome for step in end.steps]) == ("succeeded", ["succeeded"] * 3)


@pytest.mark.parametrize(
    ("data", "outcome"), [(Succeeded(1.0), "succeeded"), (Failed(1.0, Error("DataError", "no room")), "failed")]
)
def test_after_a_retry_publishing_decides(tmp_path: Path, data: EventData, outcome: str) -> None:
    own = StepOutcome("publish", "unknown", 1, None, "source")
    end = end_after_retry(PIPELINE_STEPS, history(tmp_path), None, own, data)
    assert [step.outcome for step in end.steps] == [*["succeeded"] * 3, outcome]
    assert end.outcome == outcome
