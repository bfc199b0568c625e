"""What the components leave on Kubeflow: metadata that its launcher takes, and addresses that others can open."""

# No postponed annotations here: kfp reads the artifact types from them.
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from kfp.dsl import Model, Output, OutputPath

from components.data_prep.component import data_prep
from components.evaluate.component import evaluate
from components.publish.component import publish
from components.shared.artifacts.dataset import open_dataset
from components.shared.events.data import Checkpoint, Failed, Succeeded
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE
from components.shared.step import StepFailed, scalars
from components.train.component import train
from tests.examples import DIGITS, SMALL, write_digits
from tests.peers.kfp_launcher import LauncherRefusedError
from tests.peers.kfp_pod import Pod
from tests.peers.kfp_pod import pod as pod
from tests.pipelines.conftest import Environment

FROM_PREP = {"dataset": "data-prep"}


def params(**changes: Any) -> str:
    return json.dumps({**SMALL, "num_epochs": 1, **changes})


def with_dataset(pod: Pod) -> Pod:
    """A pod into which the launcher has fetched a dataset."""
    write_digits(pod.path("data-prep", "dataset"))
    return pod


def artifacts_of(pod: Pod, step: str) -> dict[str, str]:
    """What the step's last event says that it made."""
    (data,) = [event.data for event in pod.events if event.step == step and isinstance(event.data, Succeeded)]
    return data.artifacts


def test_every_step_names_artifacts_by_their_uris_and_publishes_scalars(pod: Pod) -> None:
    given = params(gate={"accuracy": {"min": 0.1}}, publish_uri=str(pod.folder / "published"))
    pod.run(data_prep, params=given, data=str(DIGITS))
    pod.run(train, params=given, inputs=FROM_PREP)
    written = pod.run(evaluate, params=given, inputs={**FROM_PREP, "model": "train"})
    # As the launcher reads a boolean, and the condition behind it.
    assert (written["parameterValues"], (pod.folder / "outputs/passed").read_text()) == ({"Output": True}, "true")
    pod.run(publish, params=given, inputs={"evaluation": "evaluate", "model": "train"})
    (version,) = (pod.folder / "published").iterdir()
    assert (pod.folder / "outputs/published").read_text() == str(version)
    assert pod.path("publish", "model_card").read_text() == (version / "model_card.md").read_text()

    reported = [file.read_text() for folder in ("events", "steps") for file in (pod.folder / folder).glob("*.json*")]
    assert len(reported) >= 6
    for text in (*reported, json.dumps(pod.made)):
        assert str(pod.mount) not in text
    model, evaluation = pod.uri("train", "model"), pod.uri("evaluate", "evaluation")
    dataset = pod.uri("data-prep", "dataset")
    assert artifacts_of(pod, "data-prep") == {"dataset": dataset, "quality": f"{dataset}/quality.html"}
    page = pod.path("data-prep", "report").read_bytes()
    assert page == (pod.path("data-prep", "dataset") / "quality.html").read_bytes()
    # Nobody outside the pod can open what no volume or bucket was named for.
    assert artifacts_of(pod, "train") == {"model": model, "checkpoints": "pod:/model-checkpoints"}
    assert artifacts_of(pod, "evaluate") == {"evaluation": evaluation, "report": f"{evaluation}/report.html"}
    (saved,) = [event.data.uri for event in pod.events if isinstance(event.data, Checkpoint)]
    assert saved == "pod:/model-checkpoints/epoch-00002-batch-000000.json"
    assert pod.record("train")["report"]["model"] == model

    published = {
        f"{step}/{name}": pod.metadata(step, name) for step, one in pod.made.items() for name in one["artifacts"]
    }
    assert published["data-prep/dataset"].keys() == {
        "dataset", "quality_file", "source", "test_split", "unreadable", "seconds", "events", "undelivered",
    }  # fmt: skip
    assert published["train/model"].keys() == {
        "model", "best_epoch", "selected_on", "train_loss", "epochs", "parameters", "images_per_second", "device",
        "framework", "seconds", "events", "undelivered",
    }  # fmt: skip
    assert published["evaluate/evaluation"].keys() == {
        "evaluation", "report_file", "predictions_file", "split", "images", "selected_epoch", "selected_on",
        "optimistic", "passed", "publish", "device", "images_per_second", "seconds", "events", "undelivered",
    }  # fmt: skip
    assert published["evaluate/evaluation"]["report_file"] == f"{evaluation}/report.html"
    assert published["train/metrics"].keys() == {"loss", "accuracy"}
    names = {"log_loss", "accuracy", "precision_macro", "recall_macro", "f1_macro"}
    assert published["evaluate/metrics"].keys() >= names
    # Classes of kfp's own.
    assert published.pop("evaluate/confusion").keys() == {"confusionMatrix"}
    (curve,) = published.pop("evaluate/roc").values()
    assert len(curve) == 101
    assert {type(value) for point in curve for value in point.values()} == {float}
    assert [curve[0]["falsePositiveRate"], curve[-1]["recall"], curve[-1]["falsePositiveRate"]] == [0, 1, 1]
    assert published["evaluate/metrics"].keys() >= {"recall[0]", "f1[9]"}
    assert pod.path("evaluate", "summary").read_text().startswith("# ✓ Passed")
    predictions = pod.path("evaluate", "predictions").read_bytes()
    assert predictions == (pod.path("evaluate", "evaluation") / "predictions.csv").read_bytes()
    assert {type(value) for one in published.values() for value in one.values()} <= {str, int, float, bool}
    # What is no scalar is in the artifact's own files.
    manifest = open_dataset(pod.path("data-prep", "dataset")).manifest
    report = pod.record("data-prep")["report"]
    assert report["classes"] == manifest.classes
    assert report["image_shape"] == list(manifest.image.as_tuple())
    counts = {name: sum(shard.count for shard in split.images) for name, split in manifest.splits.items()}
    assert report["counts"] == counts


def test_an_error_names_an_artifact_by_its_uri(pod: Pod) -> None:
    with_dataset(pod)
    pod.path("train", "model").mkdir(parents=True)

    with pytest.raises(StepFailed) as failed:
        pod.run(evaluate, params=params(), inputs={**FROM_PREP, "model": "train"})

    assert failed.value.record.error is not None
    message = failed.value.record.error.message
    assert message.startswith(f"{pod.uri('train', 'model')}: is not a complete model")
    assert [event.data.error.message for event in pod.events if isinstance(event.data, Failed)] == [message]


def test_all_runs_share_a_location_for_checkpoints_and_the_same_run_goes_on(pod: Pod) -> None:
    shared = pod.folder / "shared"

    def trained(**changes: Any) -> str | None:
        """Where the training went on."""
        pod.run(train, params=params(**changes), inputs=FROM_PREP, checkpoints=str(shared))
        return pod.record("train")["report"]["resumed_from"]  # type: ignore[no-any-return]

    with_dataset(pod)
    assert trained() is None
    assert trained(learning_rate=0.02) is None
    # Who is reported, and how much is kept, changes nothing of what is computed.
    assert trained(keep_checkpoints=1, checkpoint_minutes=5) == "its end, after epoch 1"
    assert len(list(shared.iterdir())) == 2
    write_digits(pod.path("data-prep", "dataset"), 600)
    assert trained() is None
    assert len(list(shared.iterdir())) == 3
    (started,) = {Path(event.data.uri).parents[1] for event in pod.events if isinstance(event.data, Checkpoint)}
    assert started == shared


def test_the_attempts_before_are_learned_where_the_checkpoints_are(pod: Pod, monkeypatch: Environment) -> None:
    """Without a folder for all steps and without Kafka."""
    with_dataset(pod)
    monkeypatch.delenv(EVENTS_VARIABLE)
    for _ in range(2):
        pod.run(train, params=params(), inputs=FROM_PREP, checkpoints=str(pod.folder / "shared"))
    started = [event for event in events_in(pod.folder / "shared" / "events") if event.state == "started"]
    assert [(event.step, event.attempt) for event in started] == [("train", 0), ("train", 1)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"resumed_from": None, "classes": ["0"], "metrics": {"loss": 0.1}}, {}),
        ({"loss": float("nan"), "least": -float("inf")}, {"loss": "nan", "least": "-inf"}),
        ({"done": True, "epochs": 20, "loss": 0.25}, {"done": True, "epochs": 20, "loss": 0.25}),
        ({"seed": 2**53 + 1}, {"seed": "9007199254740993"}),  # a double would round it
        ({"model": "/minio/mlpipeline/x/model", "checkpoints": "pod:/model-checkpoints"}, {}),
        ({"model": "minio://mlpipeline/x/model"}, {"model": "minio://mlpipeline/x/model"}),
        ({"name": os.fsdecode(b"\xff")}, {"name": "\\udcff"}),
    ],
)  # fmt: skip
def test_metadata_is_what_the_launcher_can_store(values: dict[str, Any], expected: dict[str, Any]) -> None:
    assert scalars(values) == expected


# What 0.5.0 did, and what else the launcher refuses; none of it is refused by kfp's executor.


def reports_as_before(model: Output[Model]) -> None:
    """As train of 0.5.0, its report as it was."""
    report = {"model": model.path, "resumed_from": None, "best_epoch": 20, "metrics": {"loss": 0.001}}
    model.metadata.update(report | {"framework": "pytorch", "seconds": 13.4, "status": {"events": 23, "spool": None}})
    Path(model.path).write_text("weights")


def makes_nothing(model: Output[Model], model_sha256: OutputPath(str)) -> None:  # type: ignore[valid-type]
    pass


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (reports_as_before, r"^model\.metadata\.resumed_from: unknown/unsupported value type .*NullValue$"),
        (makes_nothing, "output parameter model_sha256: there is no .*; output artifact model: there is no "),
    ],
)  # fmt: skip
def test_what_the_launcher_refuses_fails_a_test(pod: Pod, function: Callable[..., None], message: str) -> None:
    component = dsl.component(function, base_image="none")
    with pytest.raises(LauncherRefusedError, match=message):
        pod.run(component)
