"""What is said in several places is said alike: params, command lines, components, settings and documents."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from components.shared.command import CommandParser
from components.shared.container_images import NODES_IMAGES, PIPELINE_IMAGES
from components.shared.params.params import Params
from components.shared.pipeline_end import PUBLISH
from components.shared.status import PIPELINE_STEPS
from components.shared.step import StepName
from pipelines.cli import main
from pipelines.compiled import PLATFORMS, CompiledPipeline, PlatformName, read_compiled
from pipelines.lint.findings import Rule
from pipelines.lint.rules import RULES
from pipelines.lint.train_job_rules import TRAIN_JOB_RULES
from pipelines.settings.common import STEP_FIELDS
from pipelines.settings.read import SETTINGS, STEPS
from tests.pipelines.command_line import commands
from tests.pipelines.conftest import ROOT, Environment
from tests.pipelines.settings.compiling import compiled_with
from tests.pipelines.settings_tables import tables

GUIDE = (ROOT / "pipelines" / "README.md").read_text()
# What only a person says on a step's command line; and what only a pipeline can hand a step.
PERSONS = {
    *("help", "version", "json", "set", "find_learning_rate", "follow_links", "processes", "restarts", "smoke"),
    *("start_over", "layout", "merge", "reuse", "shard"),
}
PAGES = {"metrics", "learning_curves", "confusion", "roc", "report", "summary", "predictions", "model_card"}
PIPELINES = {"dataset_sha256", "model_sha256", "job_id", "job_name", "status"}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[PlatformName, CompiledPipeline]:
    found, file = {}, tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    for target in PLATFORMS:
        assert main(["compile", "--target", target, "-o", str(file)]) == 0
        found[target] = read_compiled(file)
    return found


def table(name: str) -> list[str]:
    found = re.findall(rf"<!-- {name}: [^\n]*-->\n(.*?)\n<!-- end -->", GUIDE, re.DOTALL)
    assert len(found) == 1, name
    rows: list[str] = found[0].split("\n")
    return rows


@pytest.mark.parametrize("name", tables())
def test_the_guide_has_every_setting_in_its_own_words(name: str) -> None:
    assert table(name) == list(tables()[name])


@pytest.mark.parametrize(("name", "rules"), [("lint", RULES), ("lint of TrainJobs", TRAIN_JOB_RULES)])
def test_the_guide_has_every_finding(name: str, rules: Sequence[Rule[Any]]) -> None:
    rows = [f"| `{rule.id}` | {rule.title.replace('``', '`')} |" for rule in rules]
    assert table(name) == ["| finding | looks for |", "|---|---|", *rows]


def test_the_settings_in_the_guide_compile(tmp_path: Path) -> None:
    blocks: list[str] = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert {yaml.safe_load(block)["target"] for block in blocks} == set(PLATFORMS)
    for block in blocks:
        compiled_with(tmp_path, yaml.safe_load(block)["target"], block)


@pytest.mark.parametrize("target", PLATFORMS)
def test_every_setting_says_what_it_means(target: PlatformName) -> None:
    def undescribed(schema: dict[str, Any]) -> list[str]:
        own = [key for key, value in schema.get("properties", {}).items() if not value.get("description")]
        return own + [f"{name}.{key}" for name, inner in schema.get("$defs", {}).items() for key in undescribed(inner)]

    assert undescribed(SETTINGS[target].model_json_schema(by_alias=True)) == []
    assert {field.alias or name for name, field in SETTINGS[target].model_fields.items()} >= set(STEP_FIELDS)
    for name in STEP_FIELDS.values():
        model, *_ = get_args(SETTINGS[target].model_fields[name].annotation)
        assert issubclass(model, STEPS[target])
        assert model is STEPS[target] or name in ("data_prep", "train")


def test_the_steps_are_the_same_everywhere(pipelines: dict[PlatformName, CompiledPipeline]) -> None:
    steps = set(get_args(StepName)) - {"predict"}
    assert set(STEP_FIELDS) == steps == {*PIPELINE_STEPS, PUBLISH, "exit"}
    assert set(PIPELINE_IMAGES) == steps - {"exit", "publish"}
    assert set(NODES_IMAGES) == {*PIPELINE_IMAGES, "train-job"}
    for pipeline in pipelines.values():
        labels = {label.removeprefix("exec-").removesuffix("-step") for label in pipeline.executors}
        assert labels == steps


def test_the_pipelines_inputs_are_options_of_compile_and_submit(
    pipelines: dict[PlatformName, CompiledPipeline],
) -> None:
    for pipeline in pipelines.values():
        assert set(pipeline.inputs) == {"params", "data", "checkpoints"}
        for name in ("compile", "submit"):
            assert set(pipeline.inputs) <= {parameter.name for parameter in commands()[name].params}, name
        assert Params.load(pipeline.inputs["params"]["defaultValue"]).n_classes == 10
        assert all(definition.get("description") for definition in pipeline.inputs.values())


@pytest.mark.parametrize("component", ["data-prep", "train", "evaluate", "publish", "exit-step"])
def test_a_component_takes_what_its_command_line_takes(
    component: str, pipelines: dict[PlatformName, CompiledPipeline], monkeypatch: Environment
) -> None:
    definition = pipelines["kubeflow"].spec["components"][f"comp-{component}"]
    inputs, outputs = definition["inputDefinitions"], definition.get("outputDefinitions", {})
    taken = {*inputs.get("parameters", {}), *inputs.get("artifacts", {})}
    # Figures and pages travel inside the model or the evaluation directory where no platform asks for them.
    made = {*outputs.get("artifacts", {})} - PAGES

    reported = command_line(f"components.{component.replace('-', '_')}.__main__", monkeypatch) - PERSONS

    if component == "exit-step":
        assert reported == {"params", "state", "message"}  # of the platform's status
        assert taken == {"params", "job_id", "job_name", "status"}
    else:
        assert (taken | made) - PIPELINES == reported
    for kind in ("parameters", "artifacts"):
        assert all(entry.get("description") for entry in inputs.get(kind, {}).values())


def command_line(module: str, monkeypatch: Environment) -> set[str]:
    """The options of a step's command line, as its parser has them when it begins to parse."""
    seen: list[argparse.ArgumentParser] = []

    def parse(parser: argparse.ArgumentParser, *_: object) -> None:
        seen.append(parser)
        raise SystemExit

    monkeypatch.setattr(CommandParser, "parse_args", parse)
    with pytest.raises(SystemExit):
        importlib.import_module(module).main([])
    return {option.replace("-", "_") for option in re.findall(r"--([a-z-]+)", seen[0].format_usage())}
