from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from components.shared.artifacts.artifact import ArtifactWriter
from components.shared.artifacts.model import LEARNING_CURVES, MODEL
from components.shared.events.event import StepEvent
from components.shared.events.spool import events_in
from components.shared.files import sha256_of
from components.shared.kubeflow.train_job import NodeSpec
from components.shared.step import StepFailed, StepRecord
from components.train_job.api import Pace
from components.train_job.step import TrainJobStep
from tests.examples import SMALL, write_digits
from tests.peers.fixtures import certificates, trainer_api
from tests.peers.trainer.api import TrainerApi
from tests.train.manifests import history_of, manifest_of
from tests.train_job.nodes import Nodes

__all__ = ["certificates", "trainer_api"]

# Seconds of the real pace are hundredths here; a busy machine may answer late.
FAST = Pace(
    poll_s=0.03,
    answer_s=10.0,
    setup_s=20.0,
    refused_s=0.3,
    gone_s=1.0,
    stop_s=10.0,
    silence_s=10.0,
    drain_s=10.0,
    quiet_s=0.5,
    pauses_s=(0.01, 0.1),
)


@dataclass
class Training:
    """A step on several nodes, to be run: the dataset is there, and the model is written by `publish`."""

    step: TrainJobStep
    folder: Path
    nodes: Nodes
    dataset_sha256: str

    @property
    def model(self) -> Path:
        return Path(self.step.model_uri)

    def publish(self) -> None:
        """Write what the nodes would: a model of this dataset, with learning curves."""
        made = manifest_of(history_of(3))
        made = made.model_copy(
            update={"provenance": made.provenance.model_copy(update={"dataset_sha256": self.dataset_sha256})}
        )
        with ArtifactWriter(self.model, MODEL) as writer:
            file = writer.new_file(LEARNING_CURVES)
            file.write_text("<html>curves</html>", encoding="utf-8")
            weights = writer.new_file("model.safetensors")
            weights.write_bytes(b"w")
            writer.commit(
                made.model_copy(update={"learning_curves": writer.record(file), "weights": writer.record(weights)})
            )

    def run(self, **changes: Any) -> StepRecord:
        """The record of the step, however it ended."""
        try:
            return replace(self.step, **changes).run()
        except StepFailed as failed:
            return failed.record

    def events(self) -> list[StepEvent]:
        """All of the step's, the newest attempt's last."""
        found = events_in(self.folder / "run" / "train" / "events")
        return sorted(found, key=lambda event: (event.attempt, event.sequence))

    def states(self) -> list[str]:
        """Of its events, in order."""
        return [event.state for event in self.events()]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset to be read alone."""
    return write_digits(tmp_path_factory.mktemp("dataset") / "dataset", 30)


@pytest.fixture
def training(tmp_path: Path, dataset: Path, trainer_api: TrainerApi, monkeypatch: pytest.MonkeyPatch) -> Training:
    monkeypatch.setenv("KUBECONFIG", str(trainer_api.kubeconfig))
    sha256 = sha256_of(dataset / "dataset.json")
    location = tmp_path / "dataset_location.json"
    location.write_text(json.dumps({"uri": str(dataset), "sha256": sha256}), encoding="utf-8")
    model = tmp_path / "run" / "train" / "model"
    model.parent.mkdir(parents=True)
    step = TrainJobStep(
        params=json.dumps(SMALL),
        dataset_location=str(location),
        model=str(model),
        model_uri=str(model),
        nodes=NodeSpec(image="shutterline/train:1", nodes=2).to_json(),
        dataset_sha256=sha256,
        metrics=str(tmp_path / "metrics.json"),
        learning_curves=str(tmp_path / "curves.html"),
        model_sha256=str(tmp_path / "model_sha256"),
        pace=FAST,
    )
    return Training(step, tmp_path, Nodes(trainer_api), sha256)
