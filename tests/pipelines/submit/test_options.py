"""The options of ``shutterline upload`` and ``shutterline submit``, whatever the platform; nothing is sent here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.shared.version import __version__
from pipelines.cli import main
from pipelines.compiled import read_compiled
from pipelines.submit.inputs import run_name, version_name
from pipelines.vertex_limits import JOB_ID
from tests.examples import SMALL
from tests.pipelines.submit.conftest import Told, refusal

KUBEFLOW = ["--host", "http://kubeflow.example.com"]
VERTEX = ["--project", "vision-1", "--location", "europe-west4", "--staging-bucket", "gs://bucket"]


def refused(capsys: Told, *arguments: object) -> str:
    """The message of a command line that ends with exit code 2; with --json it is the same."""
    command = [str(word) for word in arguments]
    capsys.readouterr()
    assert main([*command, "--json"]) == 2
    out, message = capsys.readouterr()
    assert f"error: {json.loads(out)['error']['message']}\n" == message
    return message


def dry_run(capsys: Told, *arguments: object) -> dict[str, Any]:
    """What would be sent."""
    capsys.readouterr()
    assert main([*[str(word) for word in arguments], "--dry-run", "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["status"] == "dry run"
    return document


def changed(file: Path, directory: Path, **inputs: Any) -> Path:
    """The compiled file with other definitions of its inputs; None: without that input."""
    document, *platforms = yaml.safe_load_all(file.read_text())
    parameters = document["root"]["inputDefinitions"]["parameters"]
    for name, definition in inputs.items():
        parameters[name] = definition
    document["root"]["inputDefinitions"]["parameters"] = {name: each for name, each in parameters.items() if each}
    other = directory / "other.yaml"
    other.write_text(yaml.safe_dump_all([document, *platforms]))
    return other


@pytest.mark.parametrize("command", ["upload", "submit"])
def test_a_file_with_errors_is_not_sent_unless_unchecked(
    command: str, kubeflow_file: Path, tmp_path: Path, capsys: Told
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(
        kubeflow_file.read_text().replace(f"image: shutterline/train:{__version__}", "image: shutterline/train:latest")
    )
    message = refused(capsys, command, file, *KUBEFLOW)
    assert "not sent (--unchecked sends it all the same)" in message
    assert "shutterline/train:latest" in message
    assert "unpinned-image" in message
    assert dry_run(capsys, command, file, *KUBEFLOW, "--unchecked")
    assert "there is no such file" in refused(capsys, command, tmp_path / "nowhere.yaml", *KUBEFLOW)
    document, platforms = yaml.safe_load_all(kubeflow_file.read_text())
    file.write_text(yaml.safe_dump_all([document | {"surprise": 1}, platforms]))
    message = refused(capsys, command, file, *KUBEFLOW, "--unchecked", "--dry-run")
    assert "is no pipeline spec that kfp understands" in message
    assert "surprise" in message


@pytest.mark.parametrize("command", ["upload", "submit"])
def test_the_file_says_its_target_and_options_must_agree(
    command: str, kubeflow_file: Path, vertex_file: Path, plain_file: Path, capsys: Told
) -> None:
    assert dry_run(capsys, command, kubeflow_file, *KUBEFLOW)["target"] == "kubeflow"
    assert "compiled for Vertex AI; compile it with --target kubeflow" in refused(
        capsys, command, vertex_file, "--target", "kubeflow", *KUBEFLOW
    )
    assert "compiled for Kubeflow Pipelines; compile it with --target vertex" in refused(
        capsys, command, kubeflow_file, "--target", "vertex", *VERTEX
    )
    assert "does not say for which platform it is; say --target kubeflow or vertex" in refused(
        capsys, command, plain_file
    )
    assert dry_run(capsys, command, plain_file, "--target", "kubeflow", *KUBEFLOW)
    assert "--project, --location, --staging-bucket: for Vertex AI; the target is Kubeflow Pipelines" in refused(
        capsys, command, kubeflow_file, *KUBEFLOW, *VERTEX
    )
    for option in (["--host", "http://x"], ["--namespace", "n"], ["--token-file", "f"], ["--ca-file", "f"]):
        assert f"{option[0]}: for Kubeflow Pipelines; the target is Vertex AI" in refused(
            capsys, command, vertex_file, *VERTEX, *option
        )
    missing = refused(capsys, command, vertex_file, "--project", "vision-1")
    assert "--location, --staging-bucket: needed for Vertex AI" in missing


def test_values_that_the_pipeline_cannot_take_are_refused(kubeflow_file: Path, tmp_path: Path, capsys: Told) -> None:
    text = {"parameterType": "STRING"}
    submit = ["submit", changed(kubeflow_file, tmp_path, checkpoints=None, data=text, params=text), *KUBEFLOW]
    submit.append("--unchecked")
    assert "its input data has no value and no default; give it by --data" in refused(capsys, *submit)
    assert "has no input checkpoints; its inputs are: data, params" in refused(capsys, *submit, "--checkpoints", "auto")
    assert "has no params of its own to change; name some by --params" in refused(
        capsys, *submit, "--set", "num_epochs=1"
    )
    changed(kubeflow_file, tmp_path, data={"parameterType": "NUMBER_INTEGER"})
    assert "is no STRING, but NUMBER_INTEGER" in refused(capsys, *submit, "--data", "gs://b/c")


@pytest.mark.parametrize("kind", ["py", "json", "yaml"])
def test_a_file_that_a_pipeline_names_in_the_place_of_its_params_is_not_read(
    kubeflow_file: Path, tmp_path: Path, capsys: Told, kind: str
) -> None:
    ran, named = tmp_path / "ran", tmp_path / f"params.{kind}"
    code = f"from pathlib import Path\nPath({str(ran)!r}).touch()\nparams = {SMALL!r}\n"
    named.write_text(code if kind == "py" else json.dumps(SMALL))
    file = changed(kubeflow_file, tmp_path, params={"parameterType": "STRING", "defaultValue": str(named)})
    capsys.readouterr()
    assert main(["submit", str(file), *KUBEFLOW, "--set", "num_epochs=7", "--unchecked", "--dry-run"]) == 2
    assert refusal(capsys).startswith(f"error: {file}: its params: is not JSON: ")
    assert not ran.exists()


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
    submit = ["submit", kubeflow_file, *KUBEFLOW, "--set"]
    assert "num_epochs: must be at least 1" in refused(capsys, *submit, "num_epochs=0")
    # A network that does not fit is found by torch.
    assert "net_arch[0]" in refused(capsys, *submit, "net_arch[0].kwargs.in_channels=3")


@pytest.mark.parametrize("option", ["--data", "--checkpoints"])
def test_a_path_must_be_one_that_the_steps_see(option: str, kubeflow_file: Path, capsys: Told) -> None:
    submit = ["submit", kubeflow_file, *KUBEFLOW, option]
    assert "would be looked for inside the steps' containers" in refused(capsys, *submit, "images")
    assert "ftp:// is not known here" in refused(capsys, *submit, "ftp://a/b")
    for path in ("/mnt/images", "gs://bucket/images", "s3://bucket/images"):
        assert dry_run(capsys, *submit, path)["run"]["inputs"] == {option[2:]: path}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--timeout", "3"], "--timeout: says for how long to --follow"),
        (["--follow", "--timeout", "0"], "--timeout: must be a number of seconds greater than 0"),
        (["--follow", "--timeout", "nan"], "--timeout: must be a number of seconds greater than 0"),
        (["--follow", "--dry-run"], "--follow: there is nothing to follow in a --dry-run"),
        (["--name", ""], "--name: must be 1 to 123 printable characters"),
        (["--name", "a\nb"], "--name: must be 1 to 123 printable characters"),
        (["--name", "x" * 124], "--name: must be 1 to 123 printable characters"),
        (["--experiment", ""], "--experiment: must be 1 to 128 printable characters"),
    ],
)
def test_options_that_cannot_be(kubeflow_file: Path, capsys: Told, options: list[str], why: str) -> None:
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
    assert JOB_ID.fullmatch(f"{run_name(pipeline, {})}-9999")
    assert version_name(pipeline).rpartition("-")[2] == pipeline.digest[:12]


def test_a_dry_run_prints_a_summary_and_with_json_the_whole(kubeflow_file: Path, capsys: Told) -> None:
    pipeline = read_compiled(kubeflow_file)
    options = ("--data", "gs://bucket/b", "--name", "night", "--no-cache", "--service-account", "trainer")
    capsys.readouterr()
    assert main(["submit", str(kubeflow_file), *KUBEFLOW, *options, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = dry_run(capsys, "submit", kubeflow_file, *KUBEFLOW, *options)
    assert lines == [
        f"dry run: nothing is sent; --json prints the whole of {kubeflow_file}",
        f"upload           shutterline-image-classifier, version {shown['version']}",
        "to               Kubeflow Pipelines, http://kubeflow.example.com",
        "start            run night, cache off",
        "experiment       shutterline",
        "service account  trainer",
        "input            data = gs://bucket/b",
    ]
    assert shown["run"] == {"name": "night", "inputs": {"data": "gs://bucket/b"}, "cache": "off"}
    assert shown["documents"][1] == {"platforms": pipeline.platforms}
    uploaded = dry_run(capsys, "upload", kubeflow_file, *KUBEFLOW)
    assert (uploaded["documents"], uploaded["version"]) == (
        [pipeline.spec, shown["documents"][1]],
        version_name(pipeline),
    )


def test_vertex_ai_is_submitted_to_by_the_same_command(vertex_file: Path, capsys: Told) -> None:
    submit = ["submit", vertex_file, *VERTEX]
    plan = dry_run(capsys, *submit, "--data", "gs://bucket/b")
    pipeline = read_compiled(vertex_file)
    name = run_name(pipeline, {"data": "gs://bucket/b"}, staging_bucket="gs://bucket")
    assert plan["run"] == {"name": name, "inputs": {"data": "gs://bucket/b"}, "cache": "as the file says"}
    assert (plan["project"], plan["location"], plan["documents"]) == ("vision-1", "europe-west4", [pipeline.spec])
    assert plan["place"] == f"gs://bucket/pipelines/{pipeline.name}/{version_name(pipeline)}/pipeline.yaml"
    others = (
        ["--service-account", "me@vision-1.iam.gserviceaccount.com"],
        ["--service-account", "you@vision-1.iam.gserviceaccount.com"],
        ["--network", "projects/1/global/networks/one"],
        ["--staging-bucket", "gs://bucket/elsewhere"],
    )
    names = [dry_run(capsys, *submit, *options)["run"]["name"] for options in ([], *others)]
    assert len(set(names)) == 5
