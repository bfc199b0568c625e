"""The pipeline of several nodes executed: its training step has an API server of ours run two nodes that train."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from components.shared.artifacts.artifact import manifest_digest, read_manifest
from components.shared.artifacts.evaluation import EVALUATION
from components.shared.artifacts.model import MODEL, open_model
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE
from tests.examples import write_params
from tests.peers.fixtures import certificates as certificates
from tests.peers.fixtures import trainer_api as trainer_api
from tests.peers.trainer.api import TrainerApi
from tests.peers.trainer.cluster import Cluster
from tests.pipelines.test_executed import EVENTS, SUCCEEDED, compile_for, ends, execute, outcomes

pytestmark = pytest.mark.slow


def test_two_nodes_train_the_model_that_is_evaluated(
    trainer_api: TrainerApi, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(trainer_api.kubeconfig))
    monkeypatch.setenv(EVENTS_VARIABLE, str(here / EVENTS))  # shared, as a volume is on a cluster
    params = write_params(Path("params.json"), num_epochs=2)
    file = compile_for("kubeflow", "--params", str(params), train={"nodes": 2, "gpu": None, "shm": None})

    with Cluster(trainer_api, here / "nodes"):
        assert execute(file) is None

    (job,) = trainer_api.store.select("trainjobs")
    assert (job["spec"]["trainer"]["numNodes"], job["status"]["conditions"][-1]["type"]) == (2, "Complete")
    (trained,) = Path("root").glob("*/train")
    model = open_model(trained / "model")
    told = capfd.readouterr().out
    assert told.count("images on the device, processes: 2") == 1, "the log of the pod that reports is the step's"
    assert (trained / "model_sha256").read_text() == model.manifest.weights.sha256
    assert (trained / "learning_curves").read_bytes() == (trained / "model" / "learning-curves.html").read_bytes()
    evaluation = read_manifest(trained.parent / "evaluate" / "evaluation", EVALUATION)
    assert evaluation.model_sha256 == manifest_digest(trained / "model", MODEL)
    assert (trained.parent / "evaluate" / "report").stat().st_size > 10_000
    assert outcomes(ends()[-1]) == SUCCEEDED
    events = list(events_in(EVENTS))
    assert len({event.identity for event in events}) == len(events)
    states = Counter((event.step, event.state) for event in events)
    assert {step: states[step, "succeeded"] for step in SUCCEEDED} == dict.fromkeys(SUCCEEDED, 1)
    assert (states["train", "started"], states["train", "checkpoint"]) == (1, 1)
    assert states["train", "progress"] >= 2
    assert len({event.source for event in events if event.step == "train"}) == 1, "the pods tell the log alone"
    assert json.loads((trained / "metrics").read_text()).keys() == {"loss", "accuracy"}
