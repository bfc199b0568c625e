"""What ``shutterline upload`` and ``submit`` say where something else answers than Kubeflow, or with other things."""

from __future__ import annotations

import json
from typing import Any

import kfp_server_api as api  # type: ignore[import-untyped] # it publishes no types
import pytest

from tests.peers.http_faults import Refuse, Request
from tests.peers.kfp_api import KfpApi
from tests.pipelines.submit.conftest import Submit, Told


def told(capsys: Told) -> str:
    """The one line that a refusal is."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "ok"},
        {"pipelines": [{}]},
        {"pipelines": [1]},
        {"pipelines": "x"},
        {"pipelines": 1},
        {"pipelines": [{"pipeline_id": "", "name": "n"}]},
        {"pipelines": [{"pipeline_id": "p", "created_at": "soon"}]},
        {"pipelines": [], "total_size": "many"},
    ],
)
def test_json_that_is_not_the_apis(kfp_api: KfpApi, upload: Submit, submit: Submit, capsys: Told, answer: Any) -> None:
    kfp_api.page = (200, json.dumps(answer).encode())
    for command in (upload, submit):
        assert command() == 2
        assert f"{kfp_api.url}: is no Kubeflow Pipelines API: it " in told(capsys)


def test_a_version_whose_content_is_none(kfp_api: KfpApi, upload: Submit, capsys: Told) -> None:
    assert upload("--version-name", "v1") == 0
    capsys.readouterr()
    for content in (1, "x", {"pipeline_spec": 1}, {"pipeline_spec": {}, "platform_spec": "x"}):
        kfp_api.versions[0].pipeline_spec = content
        assert upload("--version-name", "v1") == 2
        assert "version v1 of pipeline shutterline-image-classifier is there with other content" in told(capsys)


def test_only_what_is_made_is_there_already(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    kfp_api.inject(Refuse(409), "list")
    assert submit() == 2
    assert f"{kfp_api.url}: refuses that (409): not now" in told(capsys)
    kfp_api.page = (500, b'{"message": "the table already exists"}')
    assert submit() == 1
    assert f"{kfp_api.url} answers 500: the table already exists" in told(capsys)


def test_a_run_without_an_id_is_not_followed(
    kfp_api: KfpApi, submit: Submit, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(request: Request, run: str) -> Any:
        return api.V2beta1Run()

    monkeypatch.setattr(kfp_api, "_get_run", nothing)
    assert submit("--name", "night", "--follow") == 2
    err = capsys.readouterr().err
    assert "is no Kubeflow Pipelines API: it answers without a run_id" in err
    assert "; night goes on: http://" in err
