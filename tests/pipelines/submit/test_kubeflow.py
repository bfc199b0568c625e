"""``shutterline upload`` and ``submit`` to a Kubeflow Pipelines API."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.shared.params.params import Params
from components.shared.version import __version__
from pipelines.cli import main
from pipelines.compiled import read_compiled
from tests.examples import write_params
from tests.peers.http_faults import Hold
from tests.peers.kfp_api import KfpApi
from tests.pipelines.submit.conftest import Submit, Told


def names(api: KfpApi) -> list[str]:
    return [run.display_name for run in api.runs]


def parameters(api: KfpApi) -> dict[str, Any]:
    """The values of the last run's inputs."""
    found: dict[str, Any] = api.runs[-1].runtime_config.parameters
    return found


def test_the_first_upload_makes_a_pipeline_and_a_version_of_both_documents(
    kfp_api: KfpApi, upload: Submit, kubeflow_file: Path, capsys: Told
) -> None:
    assert upload("--json") == 0
    pipeline = read_compiled(kubeflow_file)
    version = f"{__version__}-{pipeline.digest[:12]}"
    (parent,), (made,) = kfp_api.pipelines, kfp_api.versions
    assert json.loads(capsys.readouterr().out) == {
        "status": "uploaded",
        "target": "kubeflow",
        "pipeline": "shutterline-image-classifier",
        "version": version,
        "place": f"{kfp_api.url}/#/pipelines/details/{parent.pipeline_id}/version/{made.pipeline_version_id}",
        "existed": False,
    }
    assert (parent.name, made.name) == ("shutterline-image-classifier", version)
    assert parent.description == made.description == pipeline.description
    assert made.pipeline_spec["platform_spec"] == {"platforms": pipeline.platforms}
    assert made.pipeline_spec["pipeline_spec"]["deploymentSpec"] == pipeline.spec["deploymentSpec"]


def test_to_repeat_an_upload_is_harmless_whatever_the_files_formatting(
    kfp_api: KfpApi, upload: Submit, kubeflow_file: Path, plain_file: Path, tmp_path: Path, capsys: Told
) -> None:
    assert upload() == 0
    assert capsys.readouterr().out.startswith("uploaded: shutterline-image-classifier, version ")
    other = tmp_path / "pipeline.txt"
    documents = yaml.safe_load_all(kubeflow_file.read_text())
    other.write_text(yaml.safe_dump_all(documents, default_flow_style=True))
    for file in (kubeflow_file, other):
        assert main(["upload", str(file), "--host", f"{kfp_api.url}/"]) == 0
        assert capsys.readouterr().out.startswith("is there already: shutterline-image-classifier, version ")
    assert [sent.method for sent in kfp_api.sent].count("POST") == 2
    assert main(["upload", str(plain_file), "--target", "kubeflow", "--host", kfp_api.url]) == 0
    assert kfp_api.versions[-1].pipeline_spec["root"] == read_compiled(plain_file).spec["root"]


def test_a_version_with_other_content_is_never_replaced(
    kfp_api: KfpApi, upload: Submit, other_file: Path, capsys: Told
) -> None:
    assert upload("--version-name", "v1") == 0
    capsys.readouterr()
    assert main(["upload", str(other_file), "--host", kfp_api.url, "--version-name", "v1"]) == 2
    assert capsys.readouterr().err.endswith(
        f"version v1 of pipeline shutterline-image-classifier is there with other content than {other_file} has; "
        "choose another name by --version-name\n"
    )
    for content in (1, {"pipeline_spec": 1}, {"pipeline_spec": {}, "platform_spec": "x"}):
        kfp_api.versions[0].pipeline_spec = content
        assert upload("--version-name", "v1") == 2
        assert "is there with other content" in capsys.readouterr().err
    assert len(kfp_api.versions) == 1


def test_names_are_as_long_as_kubeflow_keeps_them(kfp_api: KfpApi, upload: Submit, capsys: Told) -> None:
    assert upload("--name", "n" * 128, "--version-name", "v" * 127) == 0
    assert (len(kfp_api.pipelines[0].name), len(kfp_api.versions[0].name)) == (128, 127)
    assert upload("--version-name", "v" * 128) == 2
    assert "--version-name: must be 1 to 127 printable characters" in capsys.readouterr().err
    assert upload("--name", "n" * 129) == 2
    assert "--name: must be 1 to 128 printable characters" in capsys.readouterr().err


def test_each_namespace_has_pipelines_of_its_own(kfp_api: KfpApi, upload: Submit) -> None:
    kfp_api.namespaces = ["team-a", "team-b"]
    for _ in range(2):
        for namespace in kfp_api.namespaces:
            assert upload("--namespace", namespace) == 0
    assert [each.namespace for each in kfp_api.pipelines] == ["team-a", "team-b"]
    assert len(kfp_api.versions) == 2


@pytest.mark.parametrize("what", ["pipeline", "version"])
def test_somebody_else_who_makes_it_first_is_no_error(kfp_api: KfpApi, upload: Submit, what: str) -> None:
    assert upload() == 0
    kfp_api.hidden_once.append(what)
    assert upload() == 0
    assert kfp_api.hidden_once == []
    assert len(kfp_api.pipelines) == len(kfp_api.versions) == 1


def test_a_run_refers_to_the_uploaded_version_and_keeps_the_files_defaults(
    kfp_api: KfpApi, submit: Submit, capsys: Told
) -> None:
    assert submit("--json") == 0
    (run,), (version,), (experiment,) = kfp_api.runs, kfp_api.versions, kfp_api.experiments
    assert json.loads(capsys.readouterr().out) == {
        "status": "submitted",
        "target": "kubeflow",
        "run": {
            "id": run.run_id,
            "name": run.display_name,
            "state": "pending",
            "url": f"{kfp_api.url}/#/runs/details/{run.run_id}",
            "existed": False,
        },
    }
    assert run.display_name.startswith("shutterline-image-classifier-")
    assert run.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert (experiment.display_name, run.experiment_id) == ("shutterline", experiment.experiment_id)
    assert (parameters(kfp_api), run.service_account) == ({}, None)


def test_values_travel_as_the_options_say(kfp_api: KfpApi, submit: Submit, kubeflow_file: Path, tmp_path: Path) -> None:
    params = write_params(tmp_path / "other.json", num_epochs=7, manual_seed=2**62 + 1)
    options = ("--data", "s3://bucket/images", "--checkpoints", "auto", "--experiment", "nightly")
    assert submit("--params", str(params), "--set", "batch_size=16", *options, "--service-account", "trainer") == 0
    sent = parameters(kfp_api)
    assert (sent["data"], sent["checkpoints"]) == ("s3://bucket/images", "auto")
    assert Params.load(sent["params"]) == Params.load(params, ["batch_size=16"])
    assert "{{" not in sent["params"]
    assert (kfp_api.experiments[0].display_name, kfp_api.runs[0].service_account) == ("nightly", "trainer")
    assert submit("--set", "num_epochs=9") == 0
    own = read_compiled(kubeflow_file).inputs["params"]["defaultValue"]
    assert Params.load(parameters(kfp_api)["params"]) == Params.load(own, ["num_epochs=9"])
    assert parameters(kfp_api).keys() == {"params"}


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "SUCCEEDED", "PAUSED"])
def test_to_repeat_a_submission_finds_the_run(kfp_api: KfpApi, submit: Submit, state: str, capsys: Told) -> None:
    assert submit() == 0
    capsys.readouterr()
    kfp_api.runs[0].state = state
    assert submit() == 0
    (run,) = kfp_api.runs
    assert capsys.readouterr().out == (
        f"{run.display_name} is there already, {state.lower()}: {kfp_api.url}/#/runs/details/{run.run_id}; "
        "start another by --again or --name\n"
    )
    assert len(kfp_api.versions) == len(kfp_api.experiments) == 1


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "CANCELING"])
def test_a_run_that_failed_or_was_cancelled_is_started_anew(kfp_api: KfpApi, submit: Submit, state: str) -> None:
    for _ in range(3):
        assert submit("--name", "night") == 0
        kfp_api.runs[-1].state = state
    assert names(kfp_api) == ["night", "night-2", "night-3"]
    kfp_api.runs[-1].state = "SUCCEEDED"
    assert submit("--name", "night") == 0
    assert len(kfp_api.runs) == 3


def test_again_starts_the_next_number_whatever_became_of_the_others(kfp_api: KfpApi, submit: Submit) -> None:
    for state in ("SUCCEEDED", "RUNNING", "FAILED", "PENDING"):
        assert submit("--again") == 0
        kfp_api.runs[-1].state = state
    first = names(kfp_api)[0]
    assert names(kfp_api) == [first, f"{first}-2", f"{first}-3", f"{first}-4"]


def test_what_decides_what_a_run_does_decides_its_name(kfp_api: KfpApi, submit: Submit, other_file: Path) -> None:
    for options in ([], ["--no-cache"], ["--data", "gs://bucket/b"], ["--data", "gs://bucket/c"]):
        assert submit(*options) == 0
    assert main(["submit", str(other_file), "--host", kfp_api.url]) == 0
    assert len(set(names(kfp_api))) == 5
    assert submit("--experiment", "second") == 0
    assert names(kfp_api)[-1] == names(kfp_api)[0]
    for account in ("trainer", "tester", "trainer"):
        assert submit("--service-account", account) == 0
    assert len(set(names(kfp_api))) == 7
    assert [run.service_account for run in kfp_api.runs[-2:]] == ["trainer", "tester"]


def test_a_name_belongs_to_one_request_and_account(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    assert submit("--name", "night", "--data", "gs://bucket/a") == 0
    assert submit("--name", "night", "--data", "gs://bucket/b") == 2
    assert "--name night: another run has that name, of another pipeline or with other" in capsys.readouterr().err
    assert submit("--name", "night", "--no-cache", "--data", "gs://bucket/a") == 2
    kfp_api.runs[0].service_account = "pipeline-runner"  # the deployment's own, as the server says it
    same = ("--name", "night", "--data", "gs://bucket/a")
    assert submit(*same) == submit(*same, "--service-account", "pipeline-runner") == 0
    assert submit(*same, "--service-account", "trainer") == 2
    kfp_api.runs[0].service_account = None  # a server that does not say it
    assert submit(*same, "--service-account", "trainer") == 0
    assert len(kfp_api.runs) == 1


def interrupted(hold: Hold, command: Callable[[], int], capsys: Told) -> str:
    """What is told where Ctrl-C comes while an answer is held."""

    def interrupt() -> None:
        hold.reached.wait()
        os.kill(os.getpid(), signal.SIGINT)

    capsys.readouterr()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    try:
        assert command() == 130
    finally:
        signal.signal(signal.SIGINT, before)
        hold.release.set()
    out, err = capsys.readouterr()
    assert json.loads(out) == {"status": "interrupted"}
    return str(err)


def test_ctrl_c_says_what_may_go_on(kfp_api: KfpApi, submit: Submit, upload: Submit, capsys: Told) -> None:
    kfp_api.inject(hold := Hold(), "write")
    told = interrupted(hold, lambda: upload("--version-name", "v1", "--json"), capsys)
    assert told == "v1 may have been uploaded; to repeat the command is harmless\ninterrupted\n"
    kfp_api.clear()
    kfp_api.inject(hold := Hold(answer=True), "write", r"/runs$")
    told = interrupted(hold, lambda: submit("--name", "night", "--json"), capsys)
    assert told == ("night may have been started, and goes on then; to repeat the command is harmless\ninterrupted\n")
    kfp_api.clear()
    assert submit("--name", "night") == 0
    assert len(kfp_api.runs) == 1
    kfp_api.inject(hold := Hold(), "list")
    told = interrupted(hold, lambda: submit("--name", "night", "--json", "--again"), capsys)
    assert told == "night may have been started, and goes on then; --again would start another\ninterrupted\n"


def test_without_cache_no_task_is_served_from_it_also_inside_the_exit_handler(kfp_api: KfpApi, submit: Submit) -> None:
    def cached(version: Any) -> dict[str, bool]:
        spec = version.pipeline_spec["pipeline_spec"]
        groups = [spec["root"], *spec["components"].values()]
        tasks = [entry for group in groups for entry in group.get("dag", {}).get("tasks", {}).items()]
        return {name: task.get("cachingOptions", {}).get("enableCache", False) for name, task in tasks}

    assert submit() == submit("--no-cache") == 0
    usual, without = kfp_api.versions
    assert cached(usual)["train"]
    assert not any(cached(without).values())
    assert cached(without).keys() == cached(usual).keys() >= {"data-prep", "train", "evaluate", "exit-step"}
    assert kfp_api.runs[1].pipeline_version_reference.pipeline_version_id == without.pipeline_version_id
    assert without.pipeline_spec["platform_spec"] == usual.pipeline_spec["platform_spec"]


@pytest.mark.parametrize("name", ["lr+aug", "50% data", "a%2Bb", 'say "more" \\ less', "größer & = ; #"])
def test_any_name_is_found_again(kfp_api: KfpApi, submit: Submit, upload: Submit, name: str) -> None:
    for _ in range(2):
        assert submit("--name", name, "--experiment", name) == 0
        assert upload("--name", name, "--version-name", name) == 0
    assert (names(kfp_api), [each.display_name for each in kfp_api.experiments]) == ([name], [name])
    assert kfp_api.pipelines[-1].name == kfp_api.versions[-1].name == name
    assert len(kfp_api.pipelines) == len(kfp_api.versions) == 2


def test_the_variables_of_kfps_client_count(
    kfp_api: KfpApi, kubeflow_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp_api.url)
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example.com/_/pipeline")
    assert main(["submit", str(kubeflow_file)]) == 0
    assert ": https://kubeflow.example.com/_/pipeline/#/runs/details/" in capsys.readouterr().out
