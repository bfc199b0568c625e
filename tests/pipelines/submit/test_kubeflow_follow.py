"""``shutterline submit --follow`` on Kubeflow."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any

import pytest

from pipelines.submit import follow
from tests.peers.http_faults import Hold, LoseAnswer, Refuse, Request
from tests.peers.kfp_api import Act, KfpApi, node
from tests.pipelines.submit.conftest import Submit, Told, unresolved


def lines(err: str) -> list[str]:
    """What was told, without the time of day."""
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in err.splitlines()]


# As Argo's nodes look for an exit handler around two tasks, of which the first came from the cache.
DRIVERS = [
    node("shutterline-x7k2m", "RUNNING", "root-driver"),
    node("root-driver", "SUCCEEDED", "root"),
    node("root", "RUNNING", "exit-handler-1-driver", "exit-step"),
    node("exit-handler-1-driver", "SUCCEEDED", "data-prep-driver", minute=1),
    node("data-prep-driver", "SUCCEEDED", "data-prep", minute=2),
    node("data-prep", "SUCCEEDED", "executor", "train-driver", minute=3),
    node("executor", "SKIPPED", minute=4),
    node("train-driver", "SUCCEEDED", "train", minute=5),
]
TRAINING = [*DRIVERS, node("train", "RUNNING", minute=6)]
TRAINED = [*DRIVERS, node("train", "SUCCEEDED", minute=6), node("exit-step", "SUCCEEDED", minute=7)]
FAILED = [*DRIVERS, node("train", "FAILED", minute=6, error="exit code 1: CUDA out of memory")]


def test_every_change_is_told_once_until_the_run_is_done(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.script = [Act("PENDING"), Act("PENDING"), Act("RUNNING", TRAINING), Act("RUNNING", TRAINING)]
    kfp_api.script.append(Act("SUCCEEDED", TRAINED))
    assert submit("--follow", "--name", "night") == 0
    out, err = capsys.readouterr()
    assert out == f"submitted night: {kfp_api.url}/#/runs/details/{kfp_api.runs[0].run_id}\n"
    assert lines(err) == [
        "night pending",
        "data-prep cached",
        "train running",
        "night running",
        "train succeeded",
        "exit-step succeeded",
        "night succeeded",
    ]


@pytest.mark.parametrize(("state", "word"), [("FAILED", "failed"), ("CANCELED", "cancelled")])
def test_a_run_that_does_not_succeed_ends_with_the_platforms_error(
    kfp_api: KfpApi, submit: Submit, capsys: Told, state: str, word: str
) -> None:
    kfp_api.script = [Act(state, FAILED)]
    assert submit("--follow", "--name", "night", "--json") == 1
    out, err = capsys.readouterr()
    why = "train: exit code 1: CUDA out of memory"
    assert lines(err)[-1].startswith(f"error: night {word}: {why}; see http://")
    document = json.loads(out)
    assert (document["status"], document["run"]["state"], document["error"]) == (word, word, why)
    assert document["tasks"] == {"data-prep": "cached", "train": "failed"}


def test_a_run_that_says_nothing_of_its_failure(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.script = [Act("FAILED")]
    assert submit("--follow", "--name", "night") == 1
    assert "error: night failed; the platform does not say why; see http://" in capsys.readouterr().err


def test_an_outage_is_told_once_and_waited_for(
    kfp_api: KfpApi, submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "0.05")
    monkeypatch.setattr(follow, "_LONGEST_PAUSE_S", 0.001)
    assert submit("--name", "night") == 0
    capsys.readouterr()
    kfp_api.script = [Act("RUNNING", TRAINING), Act("SUCCEEDED", TRAINED)]
    fault = kfp_api.inject(Refuse(503), "read", skip=1, times=100)
    kfp_api.inject(LoseAnswer(), "read", times=2)
    assert submit("--name", "night", "--follow") == 0
    assert fault.happened == 100
    told = lines(capsys.readouterr().err)
    assert sum("; night is asked for again" in line for line in told) == 1
    assert told[-1] == "night succeeded"
    assert "the platform answers again" in told


def test_an_outage_is_told_when_it_begins(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.script = [Act("SUCCEEDED", TRAINED)]
    kfp_api.inject(Refuse(503), "read", times=3)
    assert submit("--name", "night", "--follow") == 0
    told = lines(capsys.readouterr().err)
    assert told[:2] == [
        f"{kfp_api.url} answers 503: not now; night is asked for again",
        "the platform answers again",
    ]


@pytest.mark.parametrize("number", [socket.EAI_AGAIN, socket.EAI_NONAME])
def test_a_name_that_is_lost_on_the_way_is_an_outage(
    kfp_api: KfpApi, submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def lose(request: Request, run: str) -> Any:
        monkeypatch.setattr(kfp_api, "_get_run", get_run)
        unresolved(monkeypatch, number, times=3)
        return get_run(request, run)

    get_run = kfp_api._get_run
    monkeypatch.setattr(kfp_api, "_get_run", lose)
    kfp_api.script = [Act("SUCCEEDED", TRAINED)]
    kfp_api.inject(LoseAnswer(), "read")
    assert submit("--name", "night", "--follow") == 0
    told = lines(capsys.readouterr().err)
    assert sum("night is asked for again" in line for line in told) == 1
    assert told[-1] == "night succeeded"


def test_a_quota_is_an_outage_too(
    kfp_api: KfpApi, submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "0.1")
    kfp_api.script = [Act("RUNNING", TRAINING)]
    kfp_api.inject(Refuse(429), "read", times=None)
    assert submit("--name", "night", "--follow", "--timeout", "0.5") == 1
    assert "error: night is not done after 0.5 s (--timeout)" in capsys.readouterr().err


def test_a_request_that_is_held_does_not_outlast_the_timeout(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.inject(Hold(), "read", times=None)
    began = time.monotonic()
    assert submit("--name", "night", "--follow", "--timeout", "0.3") == 1
    assert time.monotonic() - began < 20  # and not the 30 s of a request, or the 60 s of a call
    assert "error: night is not done after 0.3 s (--timeout); it goes on: http://" in capsys.readouterr().err


def test_a_timeout_ends_the_following_and_not_the_run(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.script = [Act("RUNNING", TRAINING)]
    assert submit("--follow", "--name", "night", "--timeout", "0.2", "--json") == 1
    out, err = capsys.readouterr()
    assert "error: night is not done after 0.2 s (--timeout); it goes on: http://" in err
    document = json.loads(out)
    assert (document["status"], document["run"]["state"]) == ("timeout", "running")
    assert not any("terminate" in sent.path for sent in kfp_api.sent)


def test_ctrl_c_ends_the_following_and_not_the_run(
    kfp_api: KfpApi, submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    kfp_api.script = [Act("RUNNING", TRAINING)]
    monkeypatch.setattr("pipelines.submit.follow.time.sleep", interrupt)
    assert submit("--follow", "--name", "night") == 130
    assert lines(capsys.readouterr().err)[-1].startswith("no longer followed; night goes on: http://")
    assert kfp_api.runs[0].state == "RUNNING"
    assert [sent.method for sent in kfp_api.sent].count("POST") == 4


def test_a_run_that_is_there_is_followed_too(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    assert submit("--name", "night") == 0
    kfp_api.script = [Act("SUCCEEDED", TRAINED)]
    assert submit("--name", "night", "--follow") == 0
    assert len(kfp_api.runs) == 1


def test_a_token_that_expires_ends_the_following_and_says_that_the_run_goes_on(
    kfp_api: KfpApi, submit: Submit, capsys: Told
) -> None:
    kfp_api.inject(Refuse(401), "read")
    assert submit("--name", "night", "--follow") == 2
    assert "wants to know who asks (401)" in (err := capsys.readouterr().err)
    assert f"; night goes on: {kfp_api.url}/#/runs/details/" in err
