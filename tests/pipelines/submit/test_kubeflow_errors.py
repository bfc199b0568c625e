"""What ``shutterline upload`` and ``submit`` say when Kubeflow refuses or does not answer."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.cli import main
from pipelines.submit import patience
from tests.peers.http_faults import LoseAnswer, Refuse
from tests.peers.kfp_api import KfpApi
from tests.peers.ports import claim_port
from tests.peers.tcp import Relay
from tests.peers.tls import Certificates
from tests.peers.vertex_proxy import hangs_up
from tests.pipelines.submit.conftest import Submit, Told, unresolved

LOGIN = "<!doctype html><html><title>Sign in – ÿ</title></html>"


def told(capsys: Told) -> str:
    """The one line that a refusal is."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("ftp://kubeflow", "ftp:// is not spoken there"),
        ("http://", "is no address"),
        ("http://host:port", "is no address"),
        ("http://host:99999", "is no address"),
        ("http://a b", "is no address"),
        ("http://host/pipeline/#/runs", "is the address of a page; leave out what follows ? and #"),
        ("http://host/?ns=me", "is the address of a page"),
        ("http://me:hunter22@host", "credentials do not belong into an address"),
        ("http://a..b", "is no address: between its dots are 1 to 63 characters"),
        (f"http://{'a' * 64}.example.com", "is no address: between its dots are 1 to 63 characters"),
    ],
)
def test_a_bad_host(kubeflow_file: Path, capsys: Told, host: str, why: str) -> None:
    assert main(["upload", str(kubeflow_file), "--host", host]) == 2
    message = told(capsys)
    assert "--host '" in message
    assert why in message
    assert "hunter22" not in message


def test_a_missing_host_says_where_it_is_found(kubeflow_file: Path, capsys: Told) -> None:
    assert main(["upload", str(kubeflow_file)]) == 2
    message = told(capsys)
    assert "--host is missing" in message
    assert "kubectl port-forward" in message


def test_a_host_of_no_such_name(kubeflow_file: Path, capsys: Told) -> None:
    assert main(["upload", str(kubeflow_file), "--host", "http://nowhere.invalid"]) == 2
    assert "http://nowhere.invalid: there is no host of that name (--host)" in told(capsys)


def test_a_user_interface_that_is_no_address(submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "http://me:hunter22@ui")
    assert submit("--dry-run") == 2
    message = told(capsys)
    assert "KF_PIPELINES_UI_ENDPOINT 'http://[redacted]@ui': credentials do not belong into an address" in message


def test_a_name_that_is_not_resolved_for_now_is_asked_for_again(
    kfp_api: KfpApi, upload: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = unresolved(monkeypatch, socket.EAI_AGAIN, times=3)
    assert upload() == 0
    assert failures == []
    assert len(kfp_api.versions) == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "0.2")


@pytest.mark.usefixtures("impatient")
def test_a_host_where_nobody_listens(kubeflow_file: Path, capsys: Told) -> None:
    assert main(["upload", str(kubeflow_file), "--host", f"http://127.0.0.1:{claim_port()}"]) == 1
    message = told(capsys)
    assert "does not answer: Connection refused; gave up after 0.2 s (SHUTTERLINE_SUBMIT_TIMEOUT" in message


@pytest.mark.usefixtures("impatient")
def test_a_host_that_accepts_and_never_answers(kubeflow_file: Path, capsys: Told) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert main(["upload", str(kubeflow_file), "--host", f"http://127.0.0.1:{silent.getsockname()[1]}"]) == 1
    assert "does not answer: " in told(capsys)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
@pytest.mark.parametrize("status", [200, 302, 404, 405, 500, 503])
@pytest.mark.usefixtures("impatient")
def test_a_page_where_the_api_should_be(
    kfp_api: KfpApi, submit: Submit, capsys: Told, status: int, encoding: str
) -> None:
    kfp_api.page = (status, LOGIN.encode(encoding))
    assert submit() == (1 if status >= 500 else 2)
    message = told(capsys)
    assert "Sign in" not in message
    if status >= 500:
        assert f"{kfp_api.url} answers {status}" in message
        assert ("; gave up" in message) == (status == 503)
    else:
        assert f"{kfp_api.url}: is no Kubeflow Pipelines API" in message
        assert f"below /pipeline: {kfp_api.url}/pipeline" in message
        assert "set SHUTTERLINE_KFP_TOKEN, name a file by --token-file" in message
    assert kfp_api.runs == []


def test_who_is_not_signed_in_is_told_how(
    kfp_api: KfpApi, submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp_api.token = "the-right-token"  # noqa: S105 - a test's
    assert submit() == 2
    message = told(capsys)
    assert "wants to know who asks (401)" in message
    assert "set SHUTTERLINE_KFP_TOKEN, name a file by --token-file, or set SHUTTERLINE_KFP_COOKIE" in message
    monkeypatch.setenv("SHUTTERLINE_KFP_TOKEN", "a-wrong-token")
    assert submit() == 2
    assert "does not accept the token (401)" in told(capsys)


def test_a_namespace_of_others_that_is_not_there_or_not_named(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.namespaces, kfp_api.forbidden = ["me", "others"], ["others"]
    assert submit("--namespace", "others") == 2
    message = told(capsys)
    assert "may not do that in namespace others (403)" in message
    assert "choose another by --namespace" in message
    assert submit("--namespace", "typo") == 2
    assert "Namespace typo not found; is --namespace typo right?" in told(capsys)
    assert submit() == 2
    assert "must have a namespace in multi-user mode.; name yours by --namespace" in told(capsys)
    kfp_api.namespaces = []
    assert submit("--namespace", "me") == 2
    assert "In single-user mode, a request cannot have a namespace." in told(capsys)


def test_a_name_that_is_taken_by_what_cannot_be_seen(kfp_api: KfpApi, upload: Submit, capsys: Told) -> None:
    kfp_api.inject(Refuse(409), "write", r"/pipelines$", times=None)
    assert upload() == 2
    assert "the name of pipeline shutterline-image-classifier is taken by something that you cannot see" in told(capsys)


def test_an_archived_experiment_takes_no_runs(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    assert submit() == 0
    kfp_api.experiments[0].storage_state = "ARCHIVED"
    capsys.readouterr()
    assert submit("--again") == 2
    assert "experiment shutterline is archived and takes no runs; restore it, or choose another" in told(capsys)


@pytest.mark.usefixtures("impatient")
def test_a_quota_that_lasts(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.inject(Refuse(429, retry_after=0), "write", r"/runs$", times=None)
    assert submit() == 2
    message = told(capsys)
    assert "a quota is used up (429): quota exceeded: RESOURCE_EXHAUSTED; gave up after 0.2 s" in message
    assert kfp_api.runs == []


@pytest.mark.usefixtures("impatient")
def test_a_retry_after_that_is_longer_than_our_patience_is_not_waited_for(
    kfp_api: KfpApi, submit: Submit, capsys: Told
) -> None:
    fault = kfp_api.inject(Refuse(503, retry_after=3600), times=None)
    assert submit() == 1
    assert fault.happened == 1
    assert "answers 503: not now; gave up after 0.2 s" in told(capsys)


def test_one_more_attempt_is_made_when_the_next_pause_would_end_too_late(
    kfp_api: KfpApi, upload: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "30")
    for name in ("_FIRST_PAUSE_S", "_LONGEST_PAUSE_S"):
        monkeypatch.setattr(patience, name, 100.0)
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append)
    monkeypatch.setattr(patience, "time", clock)
    kfp_api.inject(Refuse(503), "list")
    assert upload() == 0
    assert pauses == [15.0]
    kfp_api.inject(Refuse(503), "list", times=None)
    assert upload() == 1
    assert pauses == [15.0, 15.0]


@pytest.mark.usefixtures("impatient")
def test_what_was_only_asked_for_was_not_made(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.inject(LoseAnswer(), "list", times=None)
    assert submit() == 1
    assert "Check the network, and try again" in told(capsys)


@pytest.mark.usefixtures("impatient")
def test_what_may_have_been_done_is_told(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.inject(LoseAnswer(), "write", r"/runs$")
    kfp_api.inject(Refuse(503), "list", r"/runs$", skip=1, times=None)
    assert submit("--name", "night") == 1
    assert "Whether run night was made is not known; to repeat this is harmless" in told(capsys)
    kfp_api.clear()
    assert submit("--name", "night") == 0
    assert len(kfp_api.runs) == 1


def test_a_server_that_fails(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.inject(Refuse(500), "write", r"/upload_version$")
    assert submit() == 1
    assert f"{kfp_api.url} answers 500: not now" in told(capsys)


def test_what_the_api_refuses_keeps_its_words(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.inject(Refuse(400), "write", r"/runs$")
    assert submit() == 2
    assert f"{kfp_api.url}: refuses that (400): not now" in told(capsys)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf"])
def test_a_timeout_that_is_none(submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", text)
    assert submit() == 2
    assert "SHUTTERLINE_SUBMIT_TIMEOUT: must be a number of seconds above 0" in told(capsys)


def test_tls_is_trusted_by_the_named_authority_alone(
    kfp_api: KfpApi, kubeflow_file: Path, certificates: Certificates, capsys: Told, tmp_path: Path
) -> None:
    with Relay(kfp_api.port, tls=certificates.server_context()) as relay:
        upload = ["upload", str(kubeflow_file), "--host", f"https://127.0.0.1:{relay.port}"]
        assert main(upload) == 2
        message = told(capsys)
        assert "TLS fails: " in message
        assert "name its authority's certificate by --ca-file" in message
        assert main([*upload, "--ca-file", str(certificates.ca_file)]) == 0
    assert len(kfp_api.versions) == 1
    capsys.readouterr()
    assert main(["upload", str(kubeflow_file), "--host", f"https://127.0.0.1:{kfp_api.port}"]) == 2
    assert "does not speak TLS; write http://" in told(capsys)
    for name, why in (("nowhere.pem", "cannot be read"), ("empty.pem", "holds no certificates")):
        (tmp_path / "empty.pem").write_text("")
        assert main([*upload, "--ca-file", str(tmp_path / name)]) == 2
        assert why in told(capsys)


@pytest.mark.usefixtures("impatient")
def test_a_connection_that_ends_within_tls_may_do_better(kubeflow_file: Path, capsys: Told) -> None:
    with hangs_up() as port:
        assert main(["upload", str(kubeflow_file), "--host", f"https://127.0.0.1:{port}"]) == 1
    message = told(capsys)
    assert f"https://127.0.0.1:{port} does not answer: " in message
    assert "gave up after 0.2 s" in message
