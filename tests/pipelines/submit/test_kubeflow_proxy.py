"""The way to Kubeflow leads through the proxy that the environment names."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pipelines.cli import main
from tests.peers.http_proxy import HttpProxy
from tests.peers.kfp_api import KfpApi
from tests.peers.ports import claim_port
from tests.peers.tcp import Relay
from tests.peers.tls import Certificates
from tests.peers.vertex_proxy import ConnectProxy
from tests.pipelines.submit.conftest import Submit, Told

ALLOWED = "allowed is http(s)://HOST[:PORT], perhaps with USER:PASSWORD@ before the host"
HOST = "kubeflow.example.com"
PASSWORD = "planted:pass/word"  # noqa: S105 - it is to look like one
SIGNING_IN = "me:planted%3Apass%2Fword"


def uploaded(file: Path, host: str, *options: str) -> int:
    return main(["upload", str(file), "--host", host, *options])


def test_plain_http_goes_through_the_proxy_which_alone_gets_its_password(
    kfp_api: KfpApi, kubeflow_file: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpProxy(kfp_api.port) as proxy:
        proxy.signing_in = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"
        monkeypatch.setenv("HTTP_PROXY", f"http://{SIGNING_IN}@127.0.0.1:{proxy.port}")
        assert uploaded(kubeflow_file, f"http://{HOST}") == 0
        assert set(proxy.targets) == {HOST}
    assert len(kfp_api.versions) == 1
    assert not any("proxy-authorization" in sent.headers for sent in kfp_api.sent)
    assert "planted" not in "".join(capsys.readouterr())


def test_a_host_that_the_environment_excepts_is_asked_itself(
    kfp_api: KfpApi, upload: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{claim_port()}")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert upload() == 0
    assert len(kfp_api.versions) == 1


def test_tls_goes_through_a_tunnel(
    kfp_api: KfpApi, kubeflow_file: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Relay(kfp_api.port, tls=certificates.server_context(HOST)) as relay,
        ConnectProxy(relay.port) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert uploaded(kubeflow_file, f"https://{HOST}", "--ca-file", str(certificates.ca_file)) == 0
        assert set(proxy.targets) == {f"{HOST}:443"}
    assert len(kfp_api.versions) == 1


@pytest.mark.parametrize(("signing_in", "why"), [("", "wants to know who asks"), (f"{SIGNING_IN}@", "does not accept")])
def test_a_proxy_that_wants_another_password(
    kfp_api: KfpApi, kubeflow_file: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch, signing_in: str, why: str
) -> None:
    with HttpProxy(kfp_api.port) as proxy:
        proxy.signing_in = "another"
        # As an answer to a request, and to the wish for a tunnel.
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://{signing_in}127.0.0.1:{proxy.port}")
            monkeypatch.setattr("tests.peers.http_server.Handler.do_CONNECT", _refuses, raising=False)
            assert uploaded(kubeflow_file, f"{scheme}://{HOST}") == 2
            err = capsys.readouterr().err
            assert f"the proxy http://127.0.0.1:{proxy.port} ({scheme.upper()}_PROXY): {why}" in err
            assert f"(407); write USER:PASSWORD@ before the host in {scheme.upper()}_PROXY" in err
            assert "planted" not in err
    assert kfp_api.sent == []


def _refuses(handler: object) -> None:
    handler._serve()  # type: ignore[attr-defined] # the peer's own


def test_a_proxy_that_is_not_there_is_told_of(
    kubeflow_file: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "0.2")
    port = claim_port()
    monkeypatch.setenv("HTTP_PROXY", f"http://{SIGNING_IN}@127.0.0.1:{port}")
    assert uploaded(kubeflow_file, f"http://{HOST}") == 1
    err = capsys.readouterr().err
    assert f"the proxy http://127.0.0.1:{port} (HTTP_PROXY) does not answer: Connection refused; gave up" in err
    assert "planted" not in err
    monkeypatch.setenv("HTTP_PROXY", "http://nowhere.invalid:3128")
    assert uploaded(kubeflow_file, f"http://{HOST}") == 2
    assert "the proxy http://nowhere.invalid:3128 (HTTP_PROXY): there is no host of that" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (
            "socks5://me:planted@proxy:1080",
            f"socks5:// is not spoken to proxies; {ALLOWED}",
        ),
        (
            "http://me:planted@proxy:port",
            f"is no address; {ALLOWED}",
        ),
        (
            "http://me:planted@",
            f"is no address; {ALLOWED}",
        ),
    ],
)
def test_a_proxy_that_cannot_be_used(
    kubeflow_file: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch, address: str, why: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    assert uploaded(kubeflow_file, f"https://{HOST}") == 2
    err = capsys.readouterr().err
    assert f"error: HTTPS_PROXY: {why}" in err
    assert "planted" not in err
