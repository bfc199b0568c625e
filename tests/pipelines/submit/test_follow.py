"""``shutterline submit --follow`` and ``--status RUN`` on Kubeflow."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.submit import follow
from pipelines.submit.kubeflow import KubeflowPlatform
from pipelines.submit.kubeflow_access import Access
from pipelines.submit.platform import Submitted
from tests.peers.http_faults import Hold, LoseAnswer, Refuse
from tests.peers.kfp_api import KfpApi, Moment, bare, moment
from tests.pipelines.submit.conftest import Submit, Told, refusal, unresolved
from tests.pipelines.submit.transcripts import KEPT, document
from tests.pipelines.terminal import OnTerminal


def lines(err: str) -> list[str]:
    """What was told, without the time of day."""
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in err.splitlines()]


def test_what_is_told_of_the_recorded_runs_is_what_is_kept(kubeflow_file: Path) -> None:
    """After a change of words, what the module prints replaces what is kept."""
    assert document(kubeflow_file) == KEPT.read_text("utf-8")


def test_a_run_that_is_retried_while_it_is_followed_again_tells_the_first_attempts_end_once(
    kfp_api: KfpApi, submit: Submit, capsys: Told
) -> None:
    kfp_api.script = [moment("failed")]
    assert submit("--follow", "--name", "night") == 1
    kfp_api.script = [moment("retrying"), moment("retried")]
    capsys.readouterr()
    run = Submitted(kfp_api.runs[0].run_id, "night", "running", "", True)
    assert follow.follow(KubeflowPlatform(Access(), host=kfp_api.url), run, None).exit_code == 0
    told = lines(capsys.readouterr().err)
    assert told.count("train attempt 1 failed") == 1
    assert told[-1] == "night succeeded after a Retry"


def test_json_has_each_steps_state_and_its_attempts(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.script = [moment("oom-killed")]
    assert submit("--follow", "--name", "night", "--json") == 1
    out, err = capsys.readouterr()
    why = "train: OOMKilled (exit code 1)"
    assert lines(err)[-1].startswith(
        f"error: night failed: {why}; raise the step's memory in the settings; see http://"
    )
    document = json.loads(out)
    assert (document["status"], document["run"]["state"], document["error"]) == ("failed", "failed", why)
    tasks = {"data-prep": "succeeded", "train": "failed", "evaluate": "skipped", "exit-step": "succeeded"}
    assert document["tasks"] == tasks
    train = document["steps"]["train"]
    assert train["attempts"] == [
        {
            "number": 0,
            "pod": "shutterline-image-classifier-9vrr8-retry-system-container-impl-460352997",
            "state": "failed",
            "message": "main: OOMKilled (exit code 1)",
            "started": "2026-11-28T06:31:32+00:00",
            "finished": "2026-11-28T06:31:37+00:00",
        }
    ]
    assert train["log"] == {"lines": [], "launcher": "failed to execute component: signal: killed", "succeeded": False}


def test_a_run_that_says_nothing_of_its_failure(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.script = [bare("FAILED")]
    assert submit("--follow", "--name", "night") == 1
    assert "error: night failed; the platform does not say why; see http://" in capsys.readouterr().err


@pytest.mark.parametrize("refusal", [Refuse(403), Refuse(404), Refuse(501), LoseAnswer(), "page", "large"])
def test_without_logs_what_is_known_is_shown(
    kfp_api: KfpApi, submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch, refusal: Any
) -> None:
    kfp_api.script = [failed := moment("failed")]
    if refusal == "page":
        kfp_api.log_type, failed.logs["train"] = "text/html", "<p>"
    elif refusal == "large":
        failed.logs["train"] = "x" * 100_000
        monkeypatch.setattr("pipelines.submit.kubeflow.LARGEST_LOG", 99_999)
    else:
        kfp_api.inject(refusal, "other", skip=1, times=None)  # the workflow is there, the log is not
    assert submit("--follow", "--name", "night") == 1
    err = capsys.readouterr().err
    assert "train failed after 8 s: Error (exit code 1)" in err
    assert "last lines" not in err
    assert err.count("#/runs/details/") == 1


@pytest.mark.parametrize("status", [404, 503])
def test_without_workflows_steps_are_shown_all_the_same(
    kfp_api: KfpApi, submit: Submit, capsys: Told, status: int
) -> None:
    kfp_api.script = [moment("pod-deleted-pending"), moment("terminating"), moment("terminated")]
    kfp_api.inject(Refuse(status), "other", times=None)
    assert submit("--follow", "--name", "night") == 1
    err = capsys.readouterr().err
    assert "train cancelled" in err
    assert "asked for again" not in err


def test_a_workflow_that_was_there_is_waited_for(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.script = [moment("pod-deleted-pending"), moment("oom-killed")]
    kfp_api.inject(Refuse(503), "other", skip=1, times=3)
    assert submit("--follow", "--name", "night") == 1
    err = capsys.readouterr().err
    assert err.count("is asked for again") == 1
    assert "OOMKilled" in err


def test_nothing_that_a_terminal_obeys_comes_from_the_platform(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    task = {"display_name": "\x1b[31mtr\x1b[0main", "state": "FAILED", "error": {"message": "\x1b[2Jboom"}}
    kfp_api.script = [Moment({"state": "FAILED", "run_details": {"task_details": [task]}})]
    for command in (["--follow"], ["--follow", "--json"]):
        assert submit("--name", "night", *command) == 1
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err
        assert "train failed: boom" in err
        assert "error: night" in err


def test_what_the_launcher_failed_at_is_told_behind_the_steps_own_lines(
    kfp_api: KfpApi, submit: Submit, capsys: Told
) -> None:
    kfp_api.script = [failed := moment("failed")]
    fatal = "F1128 06:36:53.119872      15 main.go:59] "
    for why, told in {
        "failed to upload: AccessDenied": ["its launcher: failed to upload: AccessDenied"],
        "failed to execute component: exit status 3": [],
    }.items():
        failed.logs["train"] = f"ours\n{fatal}{why}\n"
        submit("--name", "night", "--again", "--follow")
        err = capsys.readouterr().err
        assert [line for line in err.splitlines() if "launcher" in line] == told
        assert "  | ours\n" in err


def test_of_a_key_that_begins_above_the_last_lines_none_is_shown(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.script = [failed := moment("failed")]
    key = ["-----BEGIN RSA PRIVATE KEY-----", *["MIIEvQIBADANBgkq"] * 50, "-----END RSA PRIVATE KEY-----"]
    failed.logs["train"] = "\n".join([*key, "boom", ""])
    assert submit("--follow", "--name", "night") == 1
    err = capsys.readouterr().err
    assert "  | boom" in err
    assert "MIIE" not in err


def test_the_end_of_a_long_log_is_what_counts(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.script = [failed := moment("failed")]
    failed.logs["train"] = "".join(f"line {number}\n" for number in range(300_000)) + "\x1b[31mlast\n"
    assert submit("--follow", "--name", "night") == 1
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  | ")]
    assert shown == [*(f"  | line {number}" for number in range(299_981, 300_000)), "  | last"]


def test_on_a_terminal_each_step_is_one_row_that_is_drawn_again(
    kfp_api: KfpApi, kubeflow_file: Path, tmp_path: Path
) -> None:
    kfp_api.script = [moment("pod-deleted-running"), moment("oom-killed")]
    command = [sys.executable, "-m", "pipelines.cli", "submit", str(kubeflow_file), "--host", kfp_api.url]
    terminal = OnTerminal([*command, "--name", "night", "--follow"], {}, size=(160, 40))
    assert terminal.ended(60) == 1
    text = terminal.screen.text
    rows = [" ".join(line.split()[:4]) for line in text.splitlines() if re.match(r"  \S", line)]
    assert rows == [
        "data-prep succeeded in 4",
        "train failed after 5",
        "evaluate not started",
        "exit-step succeeded in 7",
    ]
    assert "train wrote nothing of its own; its launcher: failed to execute component: signal: killed" in text
    assert "attempt 2 running for " in terminal.raw
    assert text.index("error: night failed: train: OOMKilled (exit code 1)") > text.index("exit-step")


@pytest.mark.parametrize("refusal", [Refuse(503), Refuse(500), Refuse(429), LoseAnswer()], ids=str)
def test_an_outage_is_logged_once_when_it_begins_and_waited_for(
    kfp_api: KfpApi, submit: Submit, capsys: Told, refusal: Any
) -> None:
    kfp_api.script = [moment("pod-deleted-pending"), moment("succeeded")]
    fault = kfp_api.inject(refusal, "read", skip=1, times=20)
    assert submit("--name", "night", "--follow") == 0
    assert fault.happened == 20
    shown = lines(capsys.readouterr().err)
    assert sum("; night is asked for again" in line for line in shown) == 1
    assert shown[-1] == "night succeeded"
    assert "the platform answers again" in shown


@pytest.mark.parametrize("number", [socket.EAI_AGAIN, socket.EAI_NONAME])
def test_a_name_that_is_lost_on_the_way_is_an_outage(
    kfp_api: KfpApi, submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def lose() -> None:
        kfp_api.before_run_is_told = lambda: None
        unresolved(monkeypatch, number, times=3)

    kfp_api.before_run_is_told = lose
    kfp_api.script = [moment("succeeded")]
    kfp_api.inject(LoseAnswer(), "read")
    assert submit("--name", "night", "--follow") == 0
    shown = lines(capsys.readouterr().err)
    assert sum("night is asked for again" in line for line in shown) == 1
    assert shown[-1] == "night succeeded"


@pytest.mark.parametrize("is_held", [False, True])
def test_a_timeout_ends_the_following_and_not_the_run(
    kfp_api: KfpApi, submit: Submit, capsys: Told, is_held: bool
) -> None:
    kfp_api.script = [moment("pod-deleted-pending")]
    if is_held:
        kfp_api.inject(Hold(), "read", skip=1, times=None)
    assert submit("--follow", "--name", "night", "--timeout", "0.2", "--json") == 1
    out, err = capsys.readouterr()
    assert "error: night is not done after 0.2 s (--timeout); it goes on: http://" in err
    document = json.loads(out)
    assert (document["status"], document["run"]["state"]) == ("timeout", "running")
    assert not any("terminate" in sent.path for sent in kfp_api.sent)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_ends_the_following_and_not_the_run(
    kfp_api: KfpApi, submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    kfp_api.script = [moment("pod-deleted-pending")]
    monkeypatch.setattr(time, "sleep", lambda seconds: os.kill(os.getpid(), number))
    assert submit("--follow", "--name", "night") == code
    assert lines(capsys.readouterr().err)[-1].startswith("no longer followed; night goes on: http://")
    assert kfp_api.runs[0].state == "RUNNING"
    assert [sent.method for sent in kfp_api.sent].count("POST") == 4


def test_a_run_that_is_there_is_followed_too(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    assert submit("--name", "night") == 0
    kfp_api.script = [moment("succeeded")]
    assert submit("--name", "night", "--follow") == 0
    assert len(kfp_api.runs) == 1


def test_a_token_that_expires_ends_the_following_and_says_that_the_run_goes_on(
    kfp_api: KfpApi, submit: Submit, capsys: Told
) -> None:
    kfp_api.inject(Refuse(401), "read")
    assert submit("--name", "night", "--follow") == 2
    assert "it wants to know who asks" in (err := capsys.readouterr().err)
    assert f"; night goes on: {kfp_api.url}/#/runs/details/" in err


def status(api: KfpApi, run: str, *options: str) -> int:
    return main(["submit", "--status", run, "--host", api.url, *options])


@pytest.fixture
def night(kfp_api: KfpApi, submit: Submit, capsys: Told) -> str:
    """The id of a run of the name night, which is not the first of that name."""
    assert submit("--name", "night", "--experiment", "other") == submit("--name", "night") == 0
    capsys.readouterr()
    return str(kfp_api.runs[-1].run_id)


@pytest.mark.parametrize(
    ("name", "code"),
    [("succeeded", 0), ("unschedulable", 0), ("terminating", 0), ("terminated", 1), ("failed", 1), ("cached", 0)],
)
def test_the_exit_code_of_a_status_is_1_where_the_run_ended_badly(
    kfp_api: KfpApi, night: str, name: str, code: int, capsys: Told
) -> None:
    kfp_api.script, kfp_api.sent = [moment(name)], []
    for run in (night, "night"):
        assert status(kfp_api, run) == code
        out, err = capsys.readouterr()
        assert re.match(rf"night \w+: {kfp_api.url}/#/runs/details/{night}\n  data-prep  ", out)
        assert err.startswith("error: night ") == bool(code)
    assert {sent.method for sent in kfp_api.sent} == {"GET"}


def test_the_json_of_a_status_is_the_document_of_follow(
    kfp_api: KfpApi, night: str, submit: Submit, capsys: Told
) -> None:
    kfp_api.script = [moment("oom-killed")]
    assert status(kfp_api, night, "--json") == 1
    looked = json.loads(capsys.readouterr().out)
    assert submit("--name", "night", "--follow", "--json") == 1
    followed = json.loads(capsys.readouterr().out)
    assert looked["run"].keys() == followed["run"].keys()
    assert looked | {"run": {}} == followed | {"run": {}}


def test_a_run_that_is_not_there(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    assert status(kfp_api, "day") == 2
    assert "there is no run of the name or id day" in refusal(capsys)
    assert status(kfp_api, "00000000-0000-0000-0000-00000000abcd") == 2
    assert "answers 404: Run 00000000-0000-0000-0000-00000000abcd not found" in refusal(capsys)
    kfp_api.namespaces = ["team"]
    assert submit("--name", "night", "--namespace", "team") == 0
    kfp_api.script = [moment("succeeded")]
    assert status(kfp_api, "night", "--namespace", "team") == 0
    capsys.readouterr()
    assert status(kfp_api, "day", "--namespace", "team") == 2
    assert "there is no run of the name or id day in namespace team" in refusal(capsys)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--follow"], "--follow"),
        (["pipeline.yaml"], "PIPELINE.yaml"),
        (["--again", "--set", "num_epochs=1"], "--set, --again"),
        (["--timeout", "3"], "--timeout"),
        (["--dry-run"], "--dry-run"),
    ],
)
def test_a_status_takes_no_options_of_a_start(kfp_api: KfpApi, capsys: Told, options: list[str], wrong: str) -> None:
    assert status(kfp_api, "night", *options) == 2
    assert refusal(capsys) == f"error: --status: looks at a run that is there, and takes no {wrong}\n"


def test_the_name_of_a_run_is_not_empty(kfp_api: KfpApi, capsys: Told) -> None:
    assert status(kfp_api, " ") == 2
    assert refusal(capsys) == "error: --status: must be the name or id of a run\n"
