"""``shutterline validate`` of a compiled pipeline, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cli import main
from tests.pipelines.lint.bases import Pipeline, env, image

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return Pipeline("kubeflow").write(tmp_path / "sound.yaml")


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    pipeline = Pipeline("kubeflow")
    image("registry.example/train:1.0")(pipeline)
    env("KAFKA_SASL_PASSWORD", "hunter2!")(pipeline)
    return pipeline.write(tmp_path / "wrong.yaml")


def test_a_sound_pipeline_ends_with_0_and_one_line(sound: Path, capsys: Printed) -> None:
    assert main(["validate", str(sound)]) == 0
    assert capsys.readouterr() == (f"{sound}: this pipeline is sound, looked at for Kubeflow Pipelines\n", "")
    assert main(["validate", str(sound), "--json", "--strict"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "valid"


def test_an_error_ends_with_2_and_says_where_what_and_what_to_do(wrong: Path, capsys: Printed) -> None:
    assert main(["validate", str(wrong)]) == 2
    secret, image, verdict = capsys.readouterr().out.splitlines()
    assert secret.startswith("error: train: KAFKA_SASL_PASSWORD holds a secret's value; remove it")
    assert image.startswith("warning: train: the image has a tag, which may be moved, and no digest: registry.example")
    assert verdict == f"{wrong}: 1 error and 1 warning, looked at for Kubeflow Pipelines"


def test_warnings_fail_only_if_asked_for(tmp_path: Path, capsys: Printed) -> None:
    image("registry.example/train:1.0")(pipeline := Pipeline("kubeflow"))
    doubtful = str(pipeline.write(tmp_path / "doubtful.yaml"))
    assert main(["validate", doubtful]) == 0
    assert "sound with 1 warning" in capsys.readouterr().out
    assert main(["validate", doubtful, "--strict"]) == 2
    assert "1 warning, looked at" in capsys.readouterr().out


def test_findings_as_json(wrong: Path, capsys: Printed) -> None:
    assert main(["validate", str(wrong), "--json"]) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    findings = document.pop("findings")
    assert err == ""
    assert "hunter2!" not in out
    counts = {"errors": 1, "warnings": 1}
    assert document == {"status": "failed", "pipeline": str(wrong), "target": "kubeflow"} | counts
    assert [finding["rule"] for finding in findings] == ["secret-value", "unpinned-image"]
    assert set(findings[0]) == {"rule", "severity", "steps", "where", "message", "advice"}


def test_the_target_can_be_another_than_the_files_or_any(sound: Path, tmp_path: Path, capsys: Printed) -> None:
    assert main(["validate", str(sound), "--target", "vertex"]) == 2
    assert "looked at for Vertex AI" in capsys.readouterr().out
    file = tmp_path / "pipeline.yaml"
    assert main(["compile", "-o", str(file)]) == 0
    capsys.readouterr()
    assert main(["validate", str(file)]) == 0
    assert "--target" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("text", ["# of ours\ntarget: kubeflow\ntrain: {nodes: 2}\n", '{"target": "vertex"}'])
def test_settings_are_checked_by_another_command(tmp_path: Path, capsys: Printed, text: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    assert main(["validate", str(file)]) == 2
    assert "is a settings file; `shutterline settings --target" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipelineInfo: {name: [", "is not YAML"),
        ("pipelineInfo: {name: x}\n", "has no deploymentSpec.executors"),
        ("a: {pipelineInfo: 3}\n", "is not a compiled pipeline"),
    ],
)
def test_a_damaged_pipeline_is_refused_in_one_line(tmp_path: Path, capsys: Printed, text: str, message: str) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    assert main(["validate", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_nothing_of_a_file_steers_the_terminal(tmp_path: Path, capsys: Printed) -> None:
    image("\x1b[2Jregistry.example/train\x07:1.0")(pipeline := Pipeline("kubeflow"))
    pipeline.container("train")["env"].append({"name": "A\x1b[31m_PASSWORD", "value": "hunter2!"})
    assert main(["validate", str(pipeline.write(tmp_path / "pipeline.yaml"))]) == 2
    out = capsys.readouterr().out
    assert "registry.example/train" in out
    assert not {"\x1b", "\x07"} & set(out)


def test_options_of_params_and_of_pipelines_are_for_these_alone(sound: Path, capsys: Printed) -> None:
    assert main(["validate", str(sound), "--set", "num_epochs=3"]) == 2
    assert "is a compiled pipeline" in capsys.readouterr().err
    for option in (["--strict"], ["--target", "vertex"]):
        assert main(["validate", "pipelines/examples/digits.json", *option]) == 2
        assert "--target is for compiled pipelines, --strict for TrainJobs too" in capsys.readouterr().err
