"""What ``shutterline upload`` and ``submit`` say when Kubeflow refuses, does not answer, or is something else."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from tests.peers.http_faults import LoseAnswer, Refuse
from tests.peers.http_proxy import HttpProxy
from tests.peers.kfp_api import KfpApi
from tests.peers.ports import claim_port
from tests.peers.tcp import Relay
from tests.peers.tls import Certificates
from tests.peers.vertex_proxy import ConnectProxy, hangs_up
from tests.pipelines.submit.conftest import Submit, Told, refusal, unresolved

LOGIN = "<!doctype html><html><title>Sign in – ÿ</title></html>"
HOST = "kubeflow.example.com"
SIGNING_IN, PASSWORD = "me:planted%3Apass%2Fword", "planted:pass/word"


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("ftp://kubeflow", "is no address; allowed is http(s)://HOST[:PORT][/PATH]"),
        ("http://", "is no address"),
        ("http://host:port", "is no address"),
        ("http://a b", "is no address"),
        ("http://a..b", "is no address"),
        (f"http://{'a' * 64}.example.com", "is no address"),
        ("http://host/pipeline/#/runs", "is the address of a page; leave out what follows ? and #"),
        ("http://me:hunter22@host", "credentials do not belong into an address"),
    ],
)
def test_a_bad_host(kubeflow_file: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch, host: str, why: str) -> None:
    assert main(["upload", str(kubeflow_file), "--host", host]) == 2
    message = refusal(capsys)
    assert "--host '" in message
    assert why in message
    assert "hunter22" not in message
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", host)
    assert main(["submit", str(kubeflow_file), "--host", "http://host", "--dry-run"]) == 2
    assert "KF_PIPELINES_UI_ENDPOINT '" in refusal(capsys)


def test_a_host_that_is_missing_or_not_there(kubeflow_file: Path, capsys: Told) -> None:
    assert main(["upload", str(kubeflow_file)]) == 2
    assert "--host is missing" in (message := refusal(capsys))
    assert "kubectl port-forward" in message
    assert main(["upload", str(kubeflow_file), "--host", "http://nowhere.invalid"]) == 2
    assert "there is no host of that name: http://nowhere.invalid" in refusal(capsys)


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
def test_a_host_where_nobody_listens_or_answers(kubeflow_file: Path, capsys: Told) -> None:
    assert main(["upload", str(kubeflow_file), "--host", f"http://127.0.0.1:{claim_port()}"]) == 1
    message = refusal(capsys)
    assert "does not answer: Connection refused; gave up after 0.2 s (SHUTTERLINE_SUBMIT_TIMEOUT" in message
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert main(["upload", str(kubeflow_file), "--host", f"http://127.0.0.1:{silent.getsockname()[1]}"]) == 1
    assert "does not answer: " in refusal(capsys)
    with hangs_up() as port:
        assert main(["upload", str(kubeflow_file), "--host", f"https://127.0.0.1:{port}"]) == 1
    assert f"https://127.0.0.1:{port} does not answer: " in refusal(capsys)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
@pytest.mark.parametrize("status", [200, 302, 404, 405, 500, 503])
@pytest.mark.usefixtures("impatient")
def test_a_page_where_the_api_should_be(
    kfp_api: KfpApi, submit: Submit, capsys: Told, status: int, encoding: str
) -> None:
    kfp_api.page = (status, LOGIN.encode(encoding))
    assert submit() == (1 if status >= 500 else 2)
    message = refusal(capsys)
    assert "Sign in" not in message
    if status >= 500:
        assert f"{kfp_api.url} answers {status}" in message
        assert ("; gave up" in message) == (status == 503)
    else:
        assert f"{kfp_api.url}: is no Kubeflow Pipelines API" in message
        assert f"below /pipeline: {kfp_api.url}/pipeline" in message
        assert "set SHUTTERLINE_KFP_TOKEN, name a file by --token-file" in message
    assert kfp_api.runs == []


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "ok"},
        {"pipelines": [{}]},
        {"pipelines": [1]},
        {"pipelines": "x"},
        {"pipelines": [{"pipeline_id": "", "name": "n"}]},
    ],
)
def test_json_that_is_not_the_apis(kfp_api: KfpApi, upload: Submit, submit: Submit, capsys: Told, answer: Any) -> None:
    kfp_api.page = (200, json.dumps(answer).encode())
    for command in (upload, submit):
        assert command() == 2
        assert f"{kfp_api.url}: is no Kubeflow Pipelines API: it " in refusal(capsys)


def test_who_is_not_signed_in_is_told_how(
    kfp_api: KfpApi, submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp_api.token = "the-right-token"  # noqa: S105 - a test's
    assert submit() == 2
    message = refusal(capsys)
    assert "answers 401" in message
    assert "wants to know who asks: set SHUTTERLINE_KFP_TOKEN, name a file by --token-file, or set" in message
    monkeypatch.setenv("SHUTTERLINE_KFP_TOKEN", "a-wrong-token")
    assert submit() == 2
    assert "does not accept the token" in refusal(capsys)


def test_a_namespace_of_others_that_is_not_there_or_not_named(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.namespaces, kfp_api.forbidden = ["me", "others"], ["others"]
    assert submit("--namespace", "others") == 2
    message = refusal(capsys)
    assert "answers 403" in message
    assert "ask for the role kubeflow-edit in namespace others, or choose another namespace by --namespace" in message
    assert submit("--namespace", "typo") == 2
    assert "Namespace typo not found; is --namespace typo right?" in refusal(capsys)
    assert submit() == 2
    assert "must have a namespace in multi-user mode.; name yours by --namespace" in refusal(capsys)
    kfp_api.namespaces = []
    assert submit("--namespace", "me") == 2
    assert "In single-user mode, a request cannot have a namespace." in refusal(capsys)


def test_a_name_that_is_taken_by_what_cannot_be_seen(kfp_api: KfpApi, upload: Submit, capsys: Told) -> None:
    kfp_api.inject(Refuse(409), "write", r"/pipelines$", times=None)
    assert upload() == 2
    assert "the name of pipeline shutterline-image-classifier is taken by something that you cannot" in refusal(capsys)
    kfp_api.inject(Refuse(409), "list")  # what is only asked for is not taken
    assert upload() == 2
    assert f"{kfp_api.url} answers 409: not now" in refusal(capsys)


def test_an_archived_experiment_takes_no_runs(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    assert submit() == 0
    kfp_api.experiments[0].storage_state = "ARCHIVED"
    capsys.readouterr()
    assert submit("--again") == 2
    assert "experiment shutterline is archived and takes no runs; restore it, or choose another" in refusal(capsys)


@pytest.mark.usefixtures("impatient")
def test_a_quota_that_lasts(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.inject(Refuse(429, retry_after=0), "write", times=None)
    assert submit() == 1
    assert "answers 429: quota exceeded: RESOURCE_EXHAUSTED (a quota is used up); gave up after" in refusal(capsys)
    assert kfp_api.runs == []


def test_what_is_busy_is_asked_again(kfp_api: KfpApi, submit: Submit) -> None:
    faults = [
        kfp_api.inject(Refuse(429, retry_after=0), "write", times=3),
        *(kfp_api.inject(Refuse(status), "list") for status in (429, 502, 503, 504)),
        kfp_api.inject(LoseAnswer(), "list"),
    ]
    assert submit() == 0
    assert [fault.happened for fault in faults] == [3, 1, 1, 1, 1, 1]
    assert len(kfp_api.pipelines) == len(kfp_api.versions) == len(kfp_api.runs) == 1


@pytest.mark.usefixtures("impatient")
def test_a_retry_after_that_is_longer_than_the_timeout_is_not_waited_for(
    kfp_api: KfpApi, submit: Submit, capsys: Told
) -> None:
    fault = kfp_api.inject(Refuse(503, retry_after=3600), times=None)
    assert submit() == 1
    assert fault.happened == 1
    assert "answers 503: not now; gave up after 0.2 s" in refusal(capsys)


@pytest.mark.parametrize("fault", [LoseAnswer(), Refuse(503)], ids=["lost", "503"])
@pytest.mark.parametrize("path", ["/pipelines", "/upload_version", "/experiments", "/runs"])
def test_what_may_have_been_made_is_found_by_its_name(
    kfp_api: KfpApi, submit: Submit, capsys: Told, path: str, fault: Any
) -> None:
    kfp_api.inject(fault, "write", f"{path}$")
    assert submit("--name", "night") == (1 if path == "/runs" else 0)
    if path == "/runs":
        message = refusal(capsys)
        assert "whether run night was made is not known: repeat the command, without --again" in message
        assert submit("--name", "night") == 0
    made = [kfp_api.pipelines, kfp_api.versions, kfp_api.experiments, kfp_api.runs]
    assert [len(each) for each in made] == [1, 1, 1, 1]


def test_what_the_api_refuses_or_fails_at_keeps_its_words(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.inject(Refuse(400), "write", r"/runs$")
    assert submit() == 2
    assert f"{kfp_api.url} answers 400: not now" in refusal(capsys)
    kfp_api.page = (500, b'{"message": "the table already exists"}')
    assert submit() == 1
    assert f"{kfp_api.url} answers 500: the table already exists" in refusal(capsys)


def test_tls_is_trusted_by_the_named_authority_alone(
    kfp_api: KfpApi, kubeflow_file: Path, certificates: Certificates, capsys: Told, tmp_path: Path
) -> None:
    with Relay(kfp_api.port, tls=certificates.server_context()) as relay:
        upload = ["upload", str(kubeflow_file), "--host", f"https://127.0.0.1:{relay.port}"]
        assert main(upload) == 2
        message = refusal(capsys)
        assert "its certificate is not trusted (" in message
        assert "name its authority's certificate by --ca-file" in message
        assert main([*upload, "--ca-file", str(certificates.ca_file)]) == 0
    assert len(kfp_api.versions) == 1
    capsys.readouterr()
    assert main(["upload", str(kubeflow_file), "--host", f"https://127.0.0.1:{kfp_api.port}"]) == 2
    assert "does not use TLS (WRONG_VERSION_NUMBER); write http://" in refusal(capsys)
    (tmp_path / "empty.pem").write_text("")
    for name, why in (("nowhere.pem", "cannot be read"), ("empty.pem", "holds no certificates")):
        assert main([*upload, "--ca-file", str(tmp_path / name)]) == 2
        assert why in refusal(capsys)


def test_plain_http_goes_through_the_proxy_which_alone_gets_its_password(
    kfp_api: KfpApi, kubeflow_file: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = ["upload", str(kubeflow_file), "--host", f"http://{HOST}"]
    with HttpProxy(kfp_api.port) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{SIGNING_IN}@127.0.0.1:{proxy.port}")
        proxy.signing_in = "another"
        assert main(upload) == 2
        assert "the proxy wants another user or password (407)" in refusal(capsys)
        proxy.signing_in = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"
        assert main(upload) == 0
        assert set(proxy.targets) == {HOST}
    assert len(kfp_api.versions) == 1
    assert not any("proxy-authorization" in sent.headers for sent in kfp_api.sent)
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "0.2")
    assert main(upload) == 1
    assert "the proxy does not answer: Connection refused; gave up" in "".join(told := capsys.readouterr())
    assert "planted" not in "".join(told)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert main(["upload", str(kubeflow_file), "--host", kfp_api.url]) == 0


def test_tls_goes_through_a_tunnel(
    kfp_api: KfpApi, kubeflow_file: Path, certificates: Certificates, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = ["upload", str(kubeflow_file), "--host", f"https://{HOST}", "--ca-file", str(certificates.ca_file)]
    with Relay(kfp_api.port, tls=certificates.server_context(HOST)) as relay, ConnectProxy(relay.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert main(upload) == 0
        assert set(proxy.targets) == {f"{HOST}:443"}
    assert len(kfp_api.versions) == 1
    capsys.readouterr()
    for status, why in (
        ("407 No", "wants another user or password (407)"),
        ("403 No", f"does not lead to https://{HOST}"),
    ):
        with hangs_up(f"HTTP/1.1 {status}\r\n\r\n".encode()) as port:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
            assert main(upload) == 2
        assert why in refusal(capsys)


@pytest.mark.parametrize("address", ["socks5://me:planted@proxy:1080", "http://me:planted@proxy:port"])
def test_a_proxy_that_cannot_be_used(
    kubeflow_file: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    assert main(["upload", str(kubeflow_file), "--host", f"https://{HOST}"]) == 2
    message = refusal(capsys)
    assert "HTTPS_PROXY: is no address of a proxy; allowed is http(s)://HOST[:PORT], perhaps with USER:" in message
    assert "planted" not in message
