"""What `validate` reports of what Kubeflow does with retries, spot nodes and its cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipelines.cli import main
from tests.examples import write_params
from tests.pipelines.conftest import Capsys

README = (Path(__file__).parents[2] / "pipelines" / "README.md").read_text(encoding="utf-8")


def compiled(folder: Path, capsys: Capsys, settings: dict[str, Any], *options: str) -> tuple[dict[str, Any], str]:
    """The compiled file's tasks, and what `validate` prints of it."""
    (folder / "settings.yaml").write_text(yaml.safe_dump({"target": "kubeflow", **settings}))
    params, file = write_params(folder / "params.json"), folder / "pipeline.yaml"
    given = ["--params", str(params), "--settings", str(folder / "settings.yaml"), "-o", str(file), *options]
    assert main(["compile", "--target", "kubeflow", *given]) == 0
    capsys.readouterr()
    assert main(["validate", str(file)]) == 0
    document = next(yaml.safe_load_all(file.read_text()))
    return document["components"]["comp-exit-handler-1"]["dag"]["tasks"], " ".join(capsys.readouterr().out.split())


def test_retries_are_reported_to_be_for_pods_that_are_lost(tmp_path: Path, capsys: Capsys) -> None:
    _, reported = compiled(tmp_path, capsys, {"train": {"timeout_s": 600}})
    assert "an attempt that its time limit ends is not repeated by a stock Kubeflow Pipelines 2.17" in reported
    assert "`retryPolicy: OnError`" in README
    _, reported = compiled(tmp_path, capsys, {"every-step": {"retry": {"times": 0}}, "train": {"timeout_s": 600}})
    assert "is not repeated" not in reported


def test_a_pod_is_reported_to_get_no_time_to_save(tmp_path: Path, capsys: Capsys) -> None:
    spot = {"train": {"node_selector": {"cloud.google.com/gke-spot": "true"}}}
    _, reported = compiled(tmp_path, capsys, spot)
    assert "gets no time to save when its pod is deleted" in reported
    assert "30 s" not in README
    _, reported = compiled(tmp_path, capsys, spot, "--set", "checkpoint_minutes=2")
    assert "no time to save" not in reported


def test_what_is_cached_and_what_must_be_for_that(tmp_path: Path, capsys: Capsys) -> None:
    tasks, _ = compiled(tmp_path, capsys, {})
    assert not tasks["data-prep"]["cachingOptions"].get("enableCache")
    tasks, reported = compiled(tmp_path, capsys, {}, "--cache")
    assert all(tasks[step]["cachingOptions"]["enableCache"] for step in ("data-prep", "train", "evaluate"))
    assert "data prep is cached by the name of the location it reads, whatever is there now" in reported
    assert "only served behind a data prep that was served itself" in " ".join(README.split())
