"""Compiled files executed: what is uploaded is what the Python pipeline does."""

from __future__ import annotations

import json
import logging
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components, local
from kfp.local.config import LocalExecutionConfig

from components.shared.artifacts.model import open_model
from components.shared.events.data import PipelineEnded
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE
from pipelines.cli import main
from pipelines.compiled import PlatformName
from tests.examples import DIGITS, write_params
from tests.pipelines.conftest import SEED, FinishedRun

EVENTS = Path("events")
SUCCEEDED = dict.fromkeys(["data-prep", "train", "evaluate"], "succeeded")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("capfd")]


@pytest.fixture(autouse=True)
def _shared_events(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps share a directory of events, as a volume is on a cluster."""
    monkeypatch.setenv(EVENTS_VARIABLE, str(here / EVENTS))


def compile_for(target: PlatformName, *options: str, **settings: Any) -> Path:
    """Compile for a platform, with short pauses and no location for events: the environment's is for every step."""
    file = Path("pipeline.yaml")
    if not options:
        options = ("--params", str(write_params(Path("params.json"), num_epochs=1)))
    written = {"target": target, "events": None, "every-step": {"retry": {"pause_s": 1}}, **settings}
    Path("settings.yaml").write_text(yaml.safe_dump(written))
    options = (*options, "--target", target, "--settings", "settings.yaml")
    assert main(["compile", "-o", str(file), *options]) == 0
    return file


def only_data_prep(file: Path) -> Path:
    """A compiled file without the steps that follow."""
    document, *platforms = yaml.safe_load_all(file.read_text())
    tasks = document["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    for name in [name for name in tasks if not name.startswith(("for-loop", "data-prep"))]:
        del tasks[name]
    file.write_text(yaml.safe_dump_all([document, *platforms]))
    return file


def execute(file: Path, *, data: Path = DIGITS, caching: bool = False) -> Exception | None:
    """Run a compiled file as kfp's local runner reads it; what kfp says went wrong is returned."""
    before, level, handlers = LocalExecutionConfig.instance, logging.root.level, logging.root.handlers[:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kfp doubts images whose name does not say "python"
            runner = local.SubprocessRunner(use_venv=False)
            local.init(runner=runner, pipeline_root=str(Path("root").resolve()), enable_caching=caching)
            components.load_component_from_file(str(file))(data=str(data))
    except RuntimeError as error:
        return error
    finally:
        LocalExecutionConfig.instance = before
        # Two iterations of a loop leave it a handler of the other (kfp.local.logging_utils.local_logger_context).
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    return None


def ends() -> list[PipelineEnded]:
    """What the exit steps reported, in order."""
    found = sorted(events_in(EVENTS), key=lambda event: event.time)
    return [event.data for event in found if isinstance(event.data, PipelineEnded)]


def outcomes(end: PipelineEnded) -> dict[str, str]:
    return {step.step: step.outcome for step in end.steps}


def states(step: str) -> list[str]:
    """How each attempt of a step ended, in order."""
    ended = [event for event in events_in(EVENTS) if event.step == step and event.state in ("failed", "succeeded")]
    return [event.state for event in sorted(ended, key=lambda event: event.time)]


def history(model: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads((model / "model.json").read_text())["history"]
    return [record | {"images_per_second": None} for record in records]  # no two runs are equally fast


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_a_compiled_file_gives_the_bytes_that_the_python_pipeline_gives(
    target: PlatformName, finished: FinishedRun
) -> None:
    file = compile_for(target, "--params", str(finished.folder / "params.json"), *finished.changes)

    assert execute(file) is None

    (model,) = Path("root").glob("*/train/model")
    made = finished.out / "model"
    for name in ("model.safetensors", "model.onnx"):
        assert (model / name).read_bytes() == (made / name).read_bytes()
    assert history(model) == history(made)
    assert open_model(model).manifest.provenance.params["manual_seed"] == SEED
    assert (model.parent / "learning_curves").read_bytes() == (model / "learning-curves.html").read_bytes()
    assert outcomes(ends()[-1]) == SUCCEEDED


def test_data_prep_is_repeated_when_it_failed_and_not_cached_unless_asked(here: Path) -> None:
    """Data may change in their place."""
    file, late = only_data_prep(compile_for("kubeflow")), here / "late"

    def arrive() -> None:
        while "failed" not in states("data-prep"):
            time.sleep(0.05)
        late.symlink_to(DIGITS)

    arrival = threading.Thread(target=arrive, daemon=True)
    arrival.start()
    assert execute(file, data=late, caching=True) is None
    arrival.join()
    assert states("data-prep") == ["failed", "succeeded"]
    assert outcomes(ends()[-1])["data-prep"] == "succeeded"

    assert execute(file, data=late, caching=True) is None
    assert outcomes(ends()[-1])["data-prep"] == "succeeded"


def test_a_step_that_goes_on_failing_ends_the_pipeline_after_its_retries(here: Path) -> None:
    assert execute(compile_for("vertex"), data=here / "nowhere") is not None

    assert states("data-prep") == ["failed"] * 3
    (end,) = ends()
    assert end.outcome == "failed"
    assert "nowhere" in end.reason
    assert outcomes(end) == {"data-prep": "failed", "train": "not started", "evaluate": "not started"}


def test_a_dataset_other_than_the_one_that_was_made_is_refused() -> None:
    file = compile_for("kubeflow", **{"every-step": {"retry": {"times": 0}}})
    document, *platforms = yaml.safe_load_all(file.read_text())
    train = document["components"]["comp-exit-handler-1"]["dag"]["tasks"]["train"]
    train["inputs"]["parameters"]["dataset_sha256"] = {"runtimeValue": {"constant": "0" * 64}}
    file.write_text(yaml.safe_dump_all([document, *platforms]))

    assert execute(file) is not None

    (end,) = ends()
    assert "the dataset that arrived is not the one that was made" in end.reason
    assert outcomes(end) == {"data-prep": "succeeded", "train": "failed", "evaluate": "not started"}
