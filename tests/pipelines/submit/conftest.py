from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.submit import connection, follow
from tests.peers.fixtures import certificates as certificates
from tests.peers.kfp_api import KfpApi
from tests.pipelines.submit.compiled import write_compiled

Told = pytest.CaptureFixture[str]
Submit = Callable[..., int]


@pytest.fixture(scope="session")
def kubeflow_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline compiled for Kubeflow: two documents."""
    settings = "every-step: {labels: {team: vision}}\n"
    return write_compiled(tmp_path_factory.mktemp("compiled"), "kubeflow", settings, data="gs://bucket/digits")


@pytest.fixture(scope="session")
def vertex_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same compiled for Vertex AI."""
    return write_compiled(tmp_path_factory.mktemp("compiled"), "vertex", data="gs://bucket/digits")


@pytest.fixture(scope="session")
def plain_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same compiled for no platform."""
    return write_compiled(tmp_path_factory.mktemp("compiled"), data="gs://bucket/digits")


@pytest.fixture
def other_file(kubeflow_file: Path, tmp_path: Path) -> Path:
    """The pipeline compiled for Kubeflow, with other data."""
    file = tmp_path / "other.yaml"
    file.write_text(kubeflow_file.read_text().replace("gs://bucket/digits", "gs://bucket/others"))
    return file


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of the user's, and pauses that no test need wait for."""
    ours = ("KF_PIPELINES_", "SHUTTERLINE_")
    for name in [name for name in os.environ if name.startswith(ours) or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    for module in (connection, follow):
        monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
        monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.002)


@pytest.fixture
def kfp_api() -> Iterator[KfpApi]:
    """An API that takes nothing that its description does not."""
    with KfpApi() as api:
        yield api
        assert api.problems == []


@pytest.fixture
def submit(kfp_api: KfpApi, kubeflow_file: Path) -> Submit:
    """``shutterline submit`` of the file to the API."""
    return lambda *options: main(["submit", str(kubeflow_file), "--host", kfp_api.url, *options])


@pytest.fixture
def upload(kfp_api: KfpApi, kubeflow_file: Path) -> Submit:
    """``shutterline upload`` of the file to the API."""
    return lambda *options: main(["upload", str(kubeflow_file), "--host", kfp_api.url, *options])


def refusal(capsys: Told) -> str:
    """The one line that an error is."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def unresolved(monkeypatch: pytest.MonkeyPatch, number: int, *, times: int) -> list[int]:
    """Let no name be resolved, so many times; what is left of them."""
    resolve, left = socket.getaddrinfo, [number] * times

    def fails(*arguments: Any, **options: Any) -> Any:
        if left:
            raise socket.gaierror(left.pop(), "planted")
        return resolve(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    return left
