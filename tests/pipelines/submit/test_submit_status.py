"""``shutterline submit --status RUN``; what it prints of recorded runs is in transcripts.txt."""

from __future__ import annotations

import json
import re

import pytest

from pipelines.cli import main
from tests.peers.kfp_api import KfpApi, moment
from tests.pipelines.submit.conftest import Submit, Told


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
def test_the_exit_code_is_1_where_the_run_ended_badly(
    kfp_api: KfpApi, night: str, name: str, code: int, capsys: Told
) -> None:
    kfp_api.script, kfp_api.sent = [moment(name)], []
    for run in (night, "night"):
        assert status(kfp_api, run) == code
        out, err = capsys.readouterr()
        assert re.match(rf"night \w+: {kfp_api.url}/#/runs/details/{night}\n  data-prep  ", out)
        assert err.startswith("error: night ") == bool(code)
    assert {sent.method for sent in kfp_api.sent} == {"GET"}


def test_json_is_the_document_of_follow(kfp_api: KfpApi, night: str, submit: Submit, capsys: Told) -> None:
    kfp_api.script = [moment("oom-killed")]
    assert status(kfp_api, night, "--json") == 1
    looked = json.loads(capsys.readouterr().out)
    assert submit("--name", "night", "--follow", "--json") == 1
    followed = json.loads(capsys.readouterr().out)
    assert looked["run"].keys() == followed["run"].keys()
    assert looked | {"run": {}} == followed | {"run": {}}


@pytest.mark.parametrize("run", ["day", "00000000-0000-0000-0000-00000000abcd"])
def test_a_run_that_is_not_there(kfp_api: KfpApi, capsys: Told, run: str) -> None:
    assert status(kfp_api, run) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(r"error: http://\S+: (there is no run of the name or id day|not found \(404\))", err)


def test_a_namespace_is_looked_in(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.namespaces = ["team"]
    assert submit("--name", "night", "--namespace", "team") == 0
    kfp_api.script = [moment("succeeded")]
    assert status(kfp_api, "night", "--namespace", "team") == 0
    assert status(kfp_api, "day", "--namespace", "team") == 2
    assert "there is no run of the name or id day in namespace team" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--follow"], "--follow"),
        (["pipeline.yaml"], "PIPELINE.yaml"),
        (["--again", "--set", "num_epochs=1"], "--again, --set"),
        (["--timeout", "3"], "--timeout"),
        (["--dry-run"], "--dry-run"),
    ],
)
def test_options_of_a_start_are_refused(kfp_api: KfpApi, capsys: Told, options: list[str], wrong: str) -> None:
    assert status(kfp_api, "night", *options) == 2
    err = capsys.readouterr().err
    assert err == f"error: --status: looks at a run that is there, and takes no {wrong}\n"


def test_without_a_file_and_a_run_there_is_nothing_to_do(capsys: Told) -> None:
    assert main(["submit", "--host", "http://localhost:1"]) == 2
    assert "Missing argument 'PIPELINE.yaml', or --status RUN." in capsys.readouterr().err


def test_an_empty_name_is_refused(kfp_api: KfpApi, capsys: Told) -> None:
    assert status(kfp_api, " ") == 2
    assert capsys.readouterr().err == "error: --status: must be the name or id of a run\n"
