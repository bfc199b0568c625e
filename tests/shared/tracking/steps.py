"""Steps that are recorded, and what MLflow has of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shared.events.data import Emit, Progress, Succeeded
from components.shared.params.params import Params
from components.shared.run import step_run
from components.shared.step import StepRecord, run_step
from components.train.step import train_step
from tests.examples import SMALL

EPOCHS = 3


@dataclass(frozen=True)
class Result:
    """What a step gives, without an artifact."""

    figures: dict[str, Any] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        return self.figures

    def event(self, seconds: float) -> Succeeded:
        return Succeeded(seconds, {"accuracy": 0.5})


def epoch_of(number: int) -> Progress:
    """Progress at the end of an epoch of ten batches."""
    losses, metrics = {"train": 1 / number, "validation": 2 / number}, {"train_accuracy": 0.5, "accuracy": 0.25}
    return Progress(number * 10, EPOCHS * 10, "batches", number, EPOCHS, 100.0, dict(losses), dict(metrics), 0.1)


def three_epochs(params: Params, emit: Emit) -> Result:
    """A step's work: three epochs, and progress within them."""
    for number in range(1, EPOCHS + 1):
        emit(Progress(number * 10 - 5, EPOCHS * 10, "batches", number, EPOCHS, losses={"train": 9.0}))
        emit(epoch_of(number))
    return Result()


def small_params(**changes: Any) -> Params:
    """Params of a training of seconds; MLflow gets all the time that a busy machine needs."""
    return Params.from_dict({**SMALL, "num_epochs": EPOCHS, "TIMEOUT": 60.0, **changes})


def train_recorded(dataset: Path, model: Path, params: Params) -> StepRecord:
    """Train in the frame of the step, as a part of no pipeline."""
    _, record = run_step(
        "train",
        params,
        lambda params, emit: train_step(dataset=dataset, model=model, params=params, emit=emit),
        lambda: step_run(model),
    )
    return record


def curve(client: Any, run: str, name: str) -> list[tuple[int, float]]:
    """A metric's values by step, as MLflow has them."""
    return sorted((point.step, point.value) for point in client.get_metric_history(run, name))


def files_of(client: Any, run: str, folder: str | None = None) -> list[str]:
    """The files of an MLflow run."""
    found: list[str] = []
    for each in client.list_artifacts(run, folder):
        found += files_of(client, run, each.path) if each.is_dir else [each.path]
    return sorted(found)


def only_run(client: Any) -> Any:
    """The one run of our experiment."""
    (experiment,) = (each for each in client.search_experiments() if each.name == "shutterline")
    (run,) = client.search_runs([experiment.experiment_id])
    return run
