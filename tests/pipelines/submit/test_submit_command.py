"""The options of ``shutterline upload`` and ``shutterline submit``, whatever the platform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.shared.version import __version__
from pipelines.cli import main
from pipelines.compiled import read_compiled
from pipelines.submit.names import run_name, version_name
from pipelines.vertex_limits import JOB_ID
from tests.pipelines.submit.compiled import write_compiled
from tests.pipelines.submit.conftest import Told

KUBEFLOW = ["--host", "http://kubeflow.example.com"]
VERTEX = ["--project", "vision-1", "--location", "europe-west4", "--staging-bucket", "gs://bucket"]


def refused(capsys: Told, *arguments: object) -> str:
    """The message of a command line that ends with exit code 2; with --json it is the same."""
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert main([*[str(word) for word in arguments], "--json"]) == 2
    assert f"error: {json.loads(capsys.readouterr().out)['error']['message']}\n" == err
    return err


def requests(capsys: Told, *arguments: object) -> list[dict[str, Any]]:
    """What would be sent."""
    capsys.readouterr()
    assert main([*[str(word) for word in arguments], "--dry-run"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "dry run"
    found: list[dict[str, Any]] = document["requests"]
    return found


@pytest.mark.parametrize("command", ["upload", "submit"])
def test_a_file_with_errors_does_not_leave_the_desk_unless_told(
    command: str, kubeflow_file: Path, tmp_path: Path, capsys: Told
) -> None:
    text, file = kubeflow_file.read_text(), tmp_path / "wrong.yaml"
    file.write_text(text.replace(f"image: shutterline/train:{__version__}", "image: shutterline/train:latest"))
    assert file.read_text() != text

    message = refused(capsys, command, file, *KUBEFLOW)

    assert "not sent (--unchecked sends it all the same)" in message
    assert "shutterline/train:latest" in message
    assert "unpinned-image" in message
    assert requests(capsys, command, file, *KUBEFLOW, "--unchecked")


@pytest.mark.parametrize("command", ["upload", "submit"])
def test_the_file_says_its_target_and_an_option_must_agree(
    command: str, kubeflow_file: Path, vertex_file: Path, tmp_path: Path, capsys: Told
) -> None:
    assert requests(capsys, command, kubeflow_file, *KUBEFLOW)[0]["url"].startswith("http://kubeflow.example.com/")
    assert "compiled for Vertex AI; compile it with --target kubeflow" in refused(
        capsys, command, vertex_file, "--target", "kubeflow", *KUBEFLOW
    )
    assert "compiled for Kubeflow Pipelines; compile it with --target vertex" in refused(
        capsys, command, kubeflow_file, "--target", "vertex", *VERTEX
    )
    plain = write_compiled(tmp_path, data="gs://bucket/digits")
    assert "does not say for which platform it is; say --target kubeflow or vertex" in refused(capsys, command, plain)
    assert requests(capsys, command, plain, "--target", "kubeflow", *KUBEFLOW)


@pytest.mark.parametrize("command", ["upload", "submit"])
def test_options_of_the_other_platform_are_refused(
    command: str, kubeflow_file: Path, vertex_file: Path, capsys: Told
) -> None:
    assert "--project, --location, --staging-bucket: for Vertex AI; the target is Kubeflow Pipelines" in refused(
        capsys, command, kubeflow_file, *KUBEFLOW, *VERTEX
    )
    for option in (["--host", "http://x"], ["--namespace", "n"], ["--token-file", "f"], ["--ca-file", "f"]):
        assert f"{option[0]}: for Kubeflow Pipelines; the target is Vertex AI" in refused(
            capsys, command, vertex_file, *VERTEX, *option
        )
    assert "--location, --staging-bucket: needed for Vertex AI" in refused(
        capsys, command, vertex_file, "--project", "vision-1"
    )


@pytest.mark.parametrize("command", ["upload", "submit"])
def test_a_file_that_is_no_compiled_pipeline(command: str, kubeflow_file: Path, tmp_path: Path, capsys: Told) -> None:
    assert "there is no such file" in refused(capsys, command, tmp_path / "nowhere.yaml", *KUBEFLOW)
    document, platforms = yaml.safe_load_all(kubeflow_file.read_text())
    document["surprise"] = 1
    (tmp_path / "other.yaml").write_text(yaml.safe_dump_all([document, platforms]))
    message = refused(capsys, command, tmp_path / "other.yaml", *KUBEFLOW, "--dry-run", "--unchecked")
    assert "is no pipeline spec that kfp understands" in message
    assert "surprise" in message


def test_values_that_the_pipeline_cannot_take_are_refused(kubeflow_file: Path, tmp_path: Path, capsys: Told) -> None:
    document, platforms = yaml.safe_load_all(kubeflow_file.read_text())
    inputs = document["root"]["inputDefinitions"]["parameters"]
    del inputs["checkpoints"], inputs["data"]["defaultValue"], inputs["params"]["defaultValue"]
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump_all([document, platforms]))
    kubeflow = [*KUBEFLOW, "--unchecked"]
    needs_data = refused(capsys, "submit", file, *kubeflow)
    assert f"{file}: its input data has no value and no default; give it by --data" in needs_data
    assert "--checkpoints: " in refused(capsys, "submit", file, *kubeflow, "--checkpoints", "auto")
    assert "has no input checkpoints; its inputs are: data, params" in refused(
        capsys, "submit", file, *kubeflow, "--checkpoints", "auto"
    )
    assert "has no params of its own to change; name some by --params" in refused(
        capsys, "submit", file, *kubeflow, "--set", "num_epochs=1"
    )
    inputs["data"]["parameterType"] = "NUMBER_INTEGER"
    file.write_text(yaml.safe_dump_all([document, platforms]))
    assert "is no STRING, but NUMBER_INTEGER" in refused(capsys, "submit", file, *kubeflow, "--data", "gs://b/c")


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    "option",
    ["--experiment", "--service-account", "--project", "--location", "--staging-bucket", "--network", "--endpoint"],
)
def test_an_option_for_vertex_ai_holds_no_secret(
    option: str, dry: list[str], vertex_file: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hunter2hunter2")
    message = refused(capsys, "submit", vertex_file, *VERTEX, option, "hunter2hunter2", *dry)
    assert f"{option}: holds a secret, or what looks like one" in message
    assert "hunter2" not in message


def test_params_are_checked_as_by_compile(kubeflow_file: Path, capsys: Told) -> None:
    assert "num_epochs: must be at least 1" in refused(
        capsys, "submit", kubeflow_file, *KUBEFLOW, "--set", "num_epochs=0"
    )
    # A network that does not fit is found by torch.
    assert "net_arch[0]" in refused(
        capsys, "submit", kubeflow_file, *KUBEFLOW, "--set", "net_arch[0].kwargs.in_channels=3"
    )


@pytest.mark.parametrize("option", ["--data", "--checkpoints"])
def test_a_place_must_be_one_that_the_steps_see(option: str, kubeflow_file: Path, capsys: Told) -> None:
    assert "would be looked for inside the steps' containers" in refused(
        capsys, "submit", kubeflow_file, *KUBEFLOW, option, "images"
    )
    assert "ftp:// is not known here" in refused(capsys, "submit", kubeflow_file, *KUBEFLOW, option, "ftp://a/b")
    for place in ("/mnt/images", "gs://bucket/images", "s3://bucket/images"):
        run = requests(capsys, "submit", kubeflow_file, *KUBEFLOW, option, place)[-1]
        assert run["body"]["runtime_config"]["parameters"] == {option[2:]: place}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--timeout", "3"], "--timeout: says for how long to --follow"),
        (["--follow", "--timeout", "0"], "--timeout: must be a number of seconds greater than 0"),
        (["--follow", "--timeout", "nan"], "--timeout: must be a number of seconds greater than 0"),
        (["--follow", "--dry-run"], "--follow: there is nothing to follow in a --dry-run"),
        (["--name", ""], "--name: must be 1 to 123 printable characters"),
        (["--name", "a\nb"], "--name: must be 1 to 123 printable characters"),
        (["--name", "a" * 124], "--name: must be 1 to 123 printable characters"),
        (["--experiment", " "], "--experiment: must be 1 to 128 printable characters"),
    ],
)
def test_options_that_make_no_sense(options: list[str], why: str, kubeflow_file: Path, capsys: Told) -> None:
    assert why in refused(capsys, "submit", kubeflow_file, *KUBEFLOW, *options)


@pytest.mark.parametrize("name", ["Night", "1st", "a_b", "-a", "a.b"])
def test_a_run_of_vertex_ai_is_named_as_its_jobs_are(name: str, vertex_file: Path, capsys: Told) -> None:
    assert "--name: on Vertex AI a run's name is a small letter, then small letters, digits and dashes" in refused(
        capsys, "submit", vertex_file, *VERTEX, f"--name={name}"
    )


@pytest.mark.parametrize("name", ["x" * 200, "Größe", "9 lives", "ends-", "a.b_c"])
def test_names_of_our_own_suit_both_platforms(name: str, kubeflow_file: Path, tmp_path: Path) -> None:
    document, platforms = yaml.safe_load_all(kubeflow_file.read_text())
    document["pipelineInfo"]["name"] = name
    (tmp_path / "other.yaml").write_text(yaml.safe_dump_all([document, platforms]))
    pipeline = read_compiled(tmp_path / "other.yaml")
    assert JOB_ID.fullmatch(f"{run_name(pipeline, {}, None)}-9999")
    assert version_name(pipeline).rpartition("-")[2] == pipeline.digest[:12]


def test_vertex_ai_is_submitted_to_by_the_same_command(vertex_file: Path, capsys: Told) -> None:
    _, run = requests(capsys, "submit", vertex_file, *VERTEX, "--data", "gs://bucket/b")
    name = run_name(read_compiled(vertex_file), {"data": "gs://bucket/b"}, None, staging_bucket="gs://bucket")
    assert run["url"].endswith(f"/projects/vision-1/locations/europe-west4/pipelineJobs?pipelineJobId={name}")
    assert run["body"]["runtimeConfig"]["parameterValues"]["data"] == "gs://bucket/b"
    others = (
        ["--service-account", "me@vision-1.iam.gserviceaccount.com"],
        ["--service-account", "you@vision-1.iam.gserviceaccount.com"],
        ["--network", "projects/1/global/networks/one"],
        ["--staging-bucket", "gs://bucket/elsewhere"],
    )
    urls = [requests(capsys, "submit", vertex_file, *VERTEX, *options)[-1]["url"] for options in ([], *others)]
    assert len(set(urls)) == 5
    (upload,) = requests(capsys, "upload", vertex_file, *VERTEX, "--version-name", "v1")
    assert "v1" in json.dumps(upload)
