"""The settings among the examples: sound, complete, and all of them told of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.compiled import read_compiled
from tests.pipelines.settings.compiling import EXAMPLES, compile_file, example_files, places_of, platform_of, printed
from tests.pipelines.test_golden import GOLDEN

# The others are compiled by tests/pipelines/test_golden.py.
COMPILED_HERE = [file for file in example_files() if file.stem not in GOLDEN]


def leaves(value: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of a document that is no mapping, with its way."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*way, key))
    else:
        yield way, value


@pytest.mark.parametrize("file", COMPILED_HERE, ids=lambda file: str(file.stem))
def test_an_example_compiles(tmp_path: Path, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    pipeline = read_compiled(compile_file(platform_of(file), file, tmp_path / "pipeline.yaml"))
    assert pipeline.target == platform_of(file)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("file", example_files(), ids=lambda file: str(file.stem))
def test_all_that_an_example_says_is_what_its_steps_get(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    said = yaml.safe_load(file.read_text())
    steps = printed(platform_of(file), capsys, "--settings", file)
    common = dict(leaves(said.pop("every-step", {})))
    for step in ("data-prep", "train", "evaluate", "exit"):
        for way, value in {**common, **dict(leaves(said.get(step, {})))}.items():
            got = steps[step]
            for part in way:
                got = got[part]
            if isinstance(value, list):
                assert all(any(wanted == {key: entry.get(key) for key in wanted} for entry in got)
                           if isinstance(wanted, dict) else wanted in got for wanted in value)  # fmt: skip
            else:
                assert got == value, f"{step}.{'.'.join(way)}"
    beside = {key: value for key, value in said.items() if not isinstance(value, dict)}
    assert beside == {key: steps[key] for key in beside}
    assert said["target"] == platform_of(file)


def test_there_is_an_example_for_each_card_and_for_a_stock_installation_spot_capacity_nodes_and_secrets() -> None:
    cards = {
        f"{target}-{card}" for target in ("kubeflow", "vertex") for card in ("t4", "l4", "a100", "h100", "secrets")
    }
    more = {"kubeflow-nodes", "kubeflow-spot", "kubeflow-standard", "vertex-nodes"}
    assert {file.stem for file in example_files()} == cards | more


def test_on_a_stock_installation_checkpoints_and_events_are_beside_the_artifacts(tmp_path: Path) -> None:
    standard = EXAMPLES / "kubeflow-standard.yaml"
    pipeline = read_compiled(compile_file("kubeflow", standard, tmp_path / "pipeline.yaml"))
    assert pipeline.inputs["checkpoints"]["defaultValue"] == "auto"
    for step in ("data-prep", "train", "evaluate", "exit"):
        places = places_of(pipeline, step)
        assert places["environment"]["SHUTTERLINE_EVENTS"] == "auto"
        assert places["environment"]["AWS_ENDPOINT_URL"].startswith("http://seaweedfs.kubeflow.svc:")
        assert {
            (entry["secretName"], pair["secretKey"], pair["envVar"])
            for entry in places["kubernetes"]["secretAsEnv"]
            for pair in entry["keyToEnv"]
        } == {
            ("mlpipeline-minio-artifact", "accesskey", "AWS_ACCESS_KEY_ID"),
            ("mlpipeline-minio-artifact", "secretkey", "AWS_SECRET_ACCESS_KEY"),
        }


def test_every_example_says_why_and_stands_in_the_readme() -> None:
    readme = (example_files()[0].parents[1] / "README.md").read_text()
    for file in example_files():
        assert file.read_text().startswith("# "), f"{file.name} does not say what it is for"
        assert f"`settings/{file.name}`" in readme, f"pipelines/examples/README.md says nothing of {file.name}"
