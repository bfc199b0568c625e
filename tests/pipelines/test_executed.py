"""Compiled files executed: what is uploaded is what the Python pipeline does."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components, local
from kfp.local.config import LocalExecutionConfig

from components.shared.events.data import PipelineEnded
from components.shared.events.event import StepEvent
from components.shared.events.spool import events_in
from components.shared.run import EVENTS_VARIABLE
from pipelines.cli import main
from pipelines.compiled import PLATFORMS, PlatformName
from tests.examples import DIGITS, write_params
from tests.pipelines.conftest import Capsys, Environment

PAUSE_S = 1


@pytest.fixture
def events(tmp_path: Path, monkeypatch: Environment) -> Path:
    """A directory that all steps share, as a volume is on a cluster."""
    directory = tmp_path / "events"
    monkeypatch.setenv(EVENTS_VARIABLE, str(directory))
    return directory


def compile_for(target: PlatformName, tmp_path: Path, settings: dict[str, Any] | None = None) -> Path:
    """Compile a small run for a platform, on the CPU, with short pauses."""
    write_params(tmp_path / "params.json", num_epochs=1)
    # No location for events: the environment's is for every step.
    written = {"target": target, "events": None, "every-step": {"retry": {"pause_s": PAUSE_S}}, **(settings or {})}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(written))
    file = tmp_path / f"{target}.yaml"
    options = ["--params", tmp_path / "params.json", "--settings", tmp_path / "settings.yaml", "-o", file]
    assert main(["compile", "--target", target, *map(str, options)]) == 0
    return file


def execute(file: Path, root: Path, *, data: Path = DIGITS, caching: bool = False) -> Exception | None:
    """Run a compiled file as kfp's local runner reads it; what kfp says went wrong is returned."""
    with local_kfp(root, caching=caching):
        try:
            components.load_component_from_file(str(file))(data=str(data))
        except RuntimeError as error:
            return error
    return None


@contextmanager
def local_kfp(root: Path, *, caching: bool) -> Iterator[None]:
    before = LocalExecutionConfig.instance
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kfp doubts images whose name does not say "python"
            runner = local.SubprocessRunner(use_venv=False)
            local.init(runner=runner, pipeline_root=str(root), enable_caching=caching)
            yield
    finally:
        LocalExecutionConfig.instance = before


def ends(events: Path) -> list[PipelineEnded]:
    """What the exit steps told, in order."""
    found = [event for event in events_in(events) if isinstance(event.data, PipelineEnded)]
    return [
        event.data for event in sorted(found, key=lambda event: event.time) if isinstance(event.data, PipelineEnded)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("target", PLATFORMS)
def test_a_compiled_file_gives_the_bytes_that_the_python_pipeline_gives(
    tmp_path: Path, target: PlatformName, events: Path, capfd: Capsys
) -> None:
    file = compile_for(target, tmp_path)
    assert main(["run", "--params", str(tmp_path / "params.json"), "--out", str(tmp_path / "python")]) == 0

    assert execute(file, tmp_path / "root") is None

    (model,) = (tmp_path / "root").glob("*/train/model")
    made = tmp_path / "python" / "model"
    for name in ("model.safetensors", "last.safetensors"):
        assert (model / name).read_bytes() == (made / name).read_bytes()
    ours, theirs = (json.loads((path / "model.json").read_text())["history"] for path in (model, made))
    for record in (*ours, *theirs):
        del record["images_per_second"]  # no two runs are equally fast
    assert ours == theirs
    assert (model.parent / "learning_curves").read_bytes() == (model / "learning-curves.html").read_bytes()
    assert ends(events)[-1].outcome == "succeeded"


@pytest.mark.slow
def test_a_second_run_is_served_from_the_cache_and_its_events_say_so(
    tmp_path: Path, events: Path, capfd: Capsys
) -> None:
    file = compile_for("kubeflow", tmp_path, {"data-prep": {"cache": True}})

    assert execute(file, tmp_path / "root", caching=True) is None
    assert execute(file, tmp_path / "root", caching=True) is None

    first, second = ends(events)
    assert {step.step: step.outcome for step in first.steps} == dict.fromkeys(
        ["data-prep", "train", "evaluate"], "succeeded"
    )
    assert second.outcome == "succeeded"
    assert {step.step: step.outcome for step in second.steps} == dict.fromkeys(
        ["data-prep", "train", "evaluate"], "cached"
    )
    assert len(list((tmp_path / "root").glob("*/train/model"))) == 1


@pytest.mark.slow
def test_data_prep_is_not_cached_unless_asked_because_data_may_change_in_its_place(
    tmp_path: Path, events: Path, capfd: Capsys
) -> None:
    file = compile_for("kubeflow", tmp_path)

    for _ in range(2):
        assert execute(file, tmp_path / "root", caching=True) is None

    assert [step.outcome for step in ends(events)[-1].steps if step.step == "data-prep"] == ["succeeded"]


@pytest.mark.slow
def test_a_step_that_fails_is_repeated_and_the_pipeline_goes_on(tmp_path: Path, events: Path, capfd: Capsys) -> None:
    file = compile_for("kubeflow", tmp_path)

    def arrive() -> None:
        while not any(event.step == "data-prep" and event.state == "failed" for event in events_in(events)):
            time.sleep(0.05)
        (tmp_path / "late").symlink_to(DIGITS)

    arrival = threading.Thread(target=arrive, daemon=True)
    arrival.start()
    trouble = execute(file, tmp_path / "root", data=tmp_path / "late")

    arrival.join()
    assert trouble is None
    assert [event.state for event in told(events, "data-prep")] == ["failed", "succeeded"]
    assert ends(events)[-1].outcome == "succeeded"


def test_a_step_that_goes_on_failing_ends_the_pipeline_after_its_retries(
    tmp_path: Path, events: Path, capfd: Capsys
) -> None:
    file = compile_for("vertex", tmp_path)

    trouble = execute(file, tmp_path / "root", data=tmp_path / "nowhere")

    assert trouble is not None
    assert [event.state for event in told(events, "data-prep")] == ["failed"] * 3
    (end,) = ends(events)
    assert end.outcome == "failed"
    assert "nowhere" in end.reason
    assert {step.step: step.outcome for step in end.steps} == {
        "data-prep": "failed",
        "train": "not started",
        "evaluate": "not started",
    }


def told(events: Path, step: str) -> list[StepEvent]:
    """How each attempt of a step ended, in order."""
    ended = [event for event in events_in(events) if event.step == step and event.state in ("failed", "succeeded")]
    return sorted(ended, key=lambda event: event.time)


def test_a_dataset_other_than_the_one_that_was_made_is_refused(tmp_path: Path, events: Path, capfd: Capsys) -> None:
    file = compile_for("kubeflow", tmp_path, {"every-step": {"retry": {"times": 0}}})
    document, *platforms = yaml.safe_load_all(file.read_text())
    train = document["components"]["comp-exit-handler-1"]["dag"]["tasks"]["train"]
    train["inputs"]["parameters"]["dataset_sha256"] = {"runtimeValue": {"constant": "0" * 64}}
    file.write_text(yaml.safe_dump_all([document, *platforms]))

    trouble = execute(file, tmp_path / "root")

    assert trouble is not None
    (end,) = ends(events)
    assert "the dataset that arrived is not the one that was made" in end.reason
    assert {step.step: step.outcome for step in end.steps} == {
        "data-prep": "succeeded",
        "train": "failed",
        "evaluate": "not started",
    }
