"""Data prep in four shards, executed from the compiled file: the dataset of a single step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from components.data_prep.__main__ import main as data_prep
from components.shared.events.data import PipelineStarted
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE
from tests.data_prep.building import files_of
from tests.examples import DIGITS, write_params
from tests.pipelines.test_executed import EVENTS, SUCCEEDED, compile_for, ends, execute, only_data_prep, outcomes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("capfd")]
PARTS = [f"data-prep-part-{number}" for number in range(4)]


@pytest.fixture(autouse=True)
def _shared_events(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps share a directory of events, as a volume is on a cluster."""
    monkeypatch.setenv(EVENTS_VARIABLE, str(here / EVENTS))


def test_four_shards_make_the_dataset_that_a_single_step_makes() -> None:
    params = str(write_params(Path("params.json"), num_epochs=1))
    assert data_prep(["--data", str(DIGITS), "--dataset", "single", "--params", params]) == 0
    file = only_data_prep(compile_for("kubeflow", "--params", params, **{"data-prep": {"shards": 4, "cache": True}}))

    for _ in range(2):
        assert execute(file, caching=True) is None

    assert len(list(Path("root").glob("*/for-loop-*-iteration-*/data-prep-part/part/part.json"))) == 4, "and cached"
    (dataset,) = Path("root").glob("*/data-prep/dataset")
    assert files_of(dataset) == files_of(Path("single"))
    first, second = ends()
    assert {step: outcomes(first)[step] for step in (*PARTS, "data-prep")} == dict.fromkeys(
        [*PARTS, "data-prep"], "succeeded"
    )
    assert outcomes(second)["data-prep"] == "cached"
    began = [event for event in events_in(EVENTS) if isinstance(event.data, PipelineStarted)]
    (run,) = (event.run for event in began if event.data.steps == [*PARTS, *SUCCEEDED])
    ended = Counter(event.step for event in events_in(EVENTS) if event.run == run and event.is_terminal)
    assert ended == Counter([*PARTS, "data-prep", "pipeline"])
    assert len(began) == 2, "the second run, all of it cached, reports its end alone"


def test_a_part_that_fails_ends_the_pipeline_by_name(here: Path) -> None:
    file = only_data_prep(
        compile_for("kubeflow", **{"every-step": {"retry": {"times": 0}}, "data-prep": {"shards": 2}})
    )

    assert execute(file, data=here / "nowhere") is not None

    (end,) = ends()
    assert end.outcome == "failed"
    assert "data-prep-part-0: " in end.reason
    assert "nowhere" in end.reason
    assert outcomes(end)["data-prep"] == "not started"
