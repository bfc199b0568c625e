"""``shutterline submit`` to a Kubeflow Pipelines API."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.shared.params.params import Params
from pipelines.cli import main
from pipelines.compiled import read_compiled
from tests.examples import write_params
from tests.peers.http_faults import Hold, LoseAnswer, Refuse
from tests.peers.kfp_api import KfpApi
from tests.pipelines.submit.compiled import write_compiled
from tests.pipelines.submit.conftest import Submit, Told

RUNS = r"/runs$"


def names(api: KfpApi) -> list[str]:
    return [run.display_name for run in api.runs]


def parameters(api: KfpApi) -> dict[str, Any]:
    """The values of the last run's inputs."""
    found: dict[str, Any] = api.runs[-1].runtime_config.parameters
    return found


def test_a_run_refers_to_the_uploaded_version_and_keeps_the_files_defaults(
    kfp_api: KfpApi, submit: Submit, capsys: Told
) -> None:
    assert submit("--json") == 0
    (run,), (version,), (experiment,) = kfp_api.runs, kfp_api.versions, kfp_api.experiments
    document = json.loads(capsys.readouterr().out)
    assert document == {
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
    assert parameters(kfp_api) == {}
    assert run.service_account is None


def test_values_travel_as_the_options_say(kfp_api: KfpApi, submit: Submit, tmp_path: Path) -> None:
    params = write_params(tmp_path / "other.json", num_epochs=7, manual_seed=2**62 + 1)
    options = ("--data", "s3://bucket/images", "--checkpoints", "auto", "--experiment", "nightly")
    assert submit("--params", str(params), "--set", "batch_size=16", *options, "--service-account", "trainer") == 0
    sent = parameters(kfp_api)
    assert (sent["data"], sent["checkpoints"]) == ("s3://bucket/images", "auto")
    assert Params.load(sent["params"]) == Params.load(params, ["batch_size=16"])
    assert "{{" not in sent["params"]
    assert kfp_api.experiments[0].display_name == "nightly"
    assert kfp_api.runs[0].service_account == "trainer"


def test_set_alone_changes_the_params_in_the_file(kfp_api: KfpApi, submit: Submit, kubeflow_file: Path) -> None:
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


def test_what_decides_what_a_run_does_decides_its_name(kfp_api: KfpApi, submit: Submit, tmp_path: Path) -> None:
    other = write_compiled(tmp_path, "kubeflow", data="gs://bucket/others")
    for options in ([], ["--no-cache"], ["--data", "gs://bucket/b"], ["--data", "gs://bucket/c"]):
        assert submit(*options) == 0
    assert main(["submit", str(other), "--host", kfp_api.url]) == 0
    assert len(set(names(kfp_api))) == 5
    assert submit("--experiment", "second") == 0
    assert names(kfp_api)[-1] == names(kfp_api)[0]
    for account in ("trainer", "tester", "trainer"):
        assert submit("--service-account", account) == 0
    assert len(set(names(kfp_api))) == 7
    assert [run.service_account for run in kfp_api.runs[-2:]] == ["trainer", "tester"]


def test_a_name_belongs_to_one_request(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    assert submit("--name", "night", "--data", "gs://bucket/a") == 0
    assert submit("--name", "night", "--data", "gs://bucket/b") == 2
    assert "--name night: another run has that name, of another pipeline or with other" in capsys.readouterr().err
    assert submit("--name", "night", "--no-cache", "--data", "gs://bucket/a") == 2
    assert len(kfp_api.runs) == 1


def test_a_name_belongs_to_one_account(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    assert submit("--name", "night") == 0
    kfp_api.runs[0].service_account = "pipeline-runner"  # the deployment's own, as the server says it
    assert submit("--name", "night") == 0
    assert submit("--name", "night", "--service-account", "pipeline-runner") == 0
    assert submit("--name", "night", "--service-account", "trainer") == 2
    assert "another run has that name, of another pipeline or with other values or account" in capsys.readouterr().err
    kfp_api.runs[0].service_account = None  # a server that does not say it
    assert submit("--name", "night", "--service-account", "trainer") == 0
    assert len(kfp_api.runs) == 1


def test_ctrl_c_while_the_run_is_made_says_that_it_may_go_on(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    hold = Hold(answer=True)
    kfp_api.inject(hold, "write", RUNS)
    document, err = interrupted(hold, lambda: submit("--name", "night", "--json"), capsys)
    assert document == {"status": "interrupted", "target": "kubeflow", "run": {"name": "night"}}
    assert err == "interrupted; night may have been started, and goes on then; to repeat the command is harmless\n"
    kfp_api.clear()
    assert submit("--name", "night") == 0
    assert len(kfp_api.runs) == 1
    hold = Hold()
    kfp_api.inject(hold, "list")
    _, err = interrupted(hold, lambda: submit("--name", "night", "--json", "--again"), capsys)
    assert err == "interrupted; night may have been started, and goes on then; --again would start another\n"


def test_ctrl_c_while_the_version_is_made(kfp_api: KfpApi, upload: Submit, capsys: Told) -> None:
    hold = Hold()
    kfp_api.inject(hold, "write")
    document, err = interrupted(hold, lambda: upload("--version-name", "v1", "--json"), capsys)
    assert document == {
        "status": "interrupted",
        "target": "kubeflow",
        "pipeline": "shutterline-image-classifier",
        "version": "v1",
    }
    assert err == "interrupted; v1 may have been uploaded; to repeat the command is harmless\n"


def interrupted(hold: Hold, command: Callable[[], int], capsys: Told) -> tuple[Any, str]:
    """What is printed where Ctrl-C comes while an answer is held."""

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
    return json.loads(out), err


def test_without_cache_every_task_is_told_so_also_inside_the_exit_handler(kfp_api: KfpApi, submit: Submit) -> None:
    def cached(version: Any) -> dict[str, bool]:
        spec = version.pipeline_spec["pipeline_spec"]
        groups = [spec["root"], *spec["components"].values()]
        tasks = [entry for group in groups for entry in group.get("dag", {}).get("tasks", {}).items()]
        return {name: task.get("cachingOptions", {}).get("enableCache", False) for name, task in tasks}

    assert submit() == 0
    assert submit("--no-cache") == 0
    usual, without = kfp_api.versions
    assert cached(usual)["train"]
    assert cached(usual)["evaluate"]
    assert not any(cached(without).values())
    assert cached(without).keys() == cached(usual).keys() >= {"data-prep", "train", "evaluate", "exit-step"}
    assert kfp_api.runs[1].pipeline_version_reference.pipeline_version_id == without.pipeline_version_id
    assert without.pipeline_spec["platform_spec"] == usual.pipeline_spec["platform_spec"]


@pytest.mark.parametrize("name", [r"/experiments$", RUNS])
def test_what_was_made_although_its_answer_was_lost_is_not_made_twice(
    kfp_api: KfpApi, submit: Submit, name: str, capsys: Told
) -> None:
    fault = kfp_api.inject(LoseAnswer(), "write", name)
    assert submit() == 0
    assert fault.happened == 1
    assert capsys.readouterr().out.startswith("submitted ")
    assert (len(kfp_api.experiments), len(kfp_api.runs)) == (1, 1)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_is_busy_is_asked_again_after_a_look(kfp_api: KfpApi, submit: Submit, status: int) -> None:
    fault = kfp_api.inject(Refuse(status), "write", RUNS, times=2)
    assert submit() == 0
    assert fault.happened == 2
    assert len(kfp_api.runs) == 1
    asked = [(sent.method, sent.status) for sent in kfp_api.sent if sent.path.endswith("/runs")]
    assert asked == [("GET", 200)] * 3 + [("POST", 200)]


@pytest.mark.parametrize("name", ["lr+aug", "50% data", "a%2Bb", 'say "more" \\ less', "größer & = ; #"])
def test_any_name_is_found_again(kfp_api: KfpApi, submit: Submit, upload: Submit, name: str) -> None:
    for _ in range(2):
        assert submit("--name", name, "--experiment", name) == 0
        assert upload("--name", name, "--version-name", name) == 0
    assert (names(kfp_api), [each.display_name for each in kfp_api.experiments]) == ([name], [name])
    assert kfp_api.pipelines[-1].name == kfp_api.versions[-1].name == name
    assert len(kfp_api.pipelines) == len(kfp_api.versions) == 2


def test_many_runs_are_looked_through(kfp_api: KfpApi, submit: Submit) -> None:
    kfp_api.page_size = 1
    for number in range(4):
        assert submit("--name", f"run-{number}") == 0
    for number in range(4):
        assert submit("--name", f"run-{number}") == 0
    assert len(kfp_api.runs) == 4


def test_a_dry_run_shows_what_a_first_submission_sends_and_sends_nothing(
    kfp_api: KfpApi, submit: Submit, capsys: Told
) -> None:
    options = ("--data", "gs://bucket/b", "--no-cache", "--service-account", "trainer", "--name", "night")
    assert submit("--dry-run", *options) == 0
    assert kfp_api.sent == []
    *_, experiment, run = json.loads(capsys.readouterr().out)["requests"]
    assert submit(*options) == 0
    posts = {sent.path: sent for sent in kfp_api.sent if sent.method == "POST"}
    assert posts[experiment["url"].removeprefix(kfp_api.url)].document == experiment["body"]
    made = kfp_api.runs[0]
    text = json.dumps(run["body"])
    for placeholder, found in (
        ("{experiment_id}", made.experiment_id),
        ("{pipeline_id}", kfp_api.pipelines[0].pipeline_id),
        ("{pipeline_version_id}", kfp_api.versions[0].pipeline_version_id),
    ):
        assert placeholder in text
        text = text.replace(placeholder, found)
    assert posts[run["url"].removeprefix(kfp_api.url)].document == json.loads(text)


def test_the_variables_of_kfps_client_count(
    kfp_api: KfpApi, kubeflow_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp_api.url)
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example.com/_/pipeline")
    monkeypatch.setenv("KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", "usual")
    assert main(["submit", str(kubeflow_file)]) == 0
    assert ": https://kubeflow.example.com/_/pipeline/#/runs/details/" in capsys.readouterr().out
    assert main(["submit", str(kubeflow_file), "--experiment", "mine"]) == 0
    monkeypatch.setenv("KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME", "theirs")
    assert main(["submit", str(kubeflow_file), "--experiment", "mine"]) == 0
    assert [each.display_name for each in kfp_api.experiments] == ["usual", "mine", "theirs"]


@pytest.mark.parametrize("name", ["DEFAULT", "OVERRIDE"])
def test_a_variable_at_fault_is_named(submit: Submit, monkeypatch: pytest.MonkeyPatch, capsys: Told, name: str) -> None:
    monkeypatch.setenv(f"KF_PIPELINES_{name}_EXPERIMENT_NAME", "e" * 129)
    assert submit("--dry-run") == 2
    assert f"error: KF_PIPELINES_{name}_EXPERIMENT_NAME: must be 1 to 128" in capsys.readouterr().err
