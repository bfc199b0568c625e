"""``shutterline upload`` to a Kubeflow Pipelines API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.shared.version import __version__
from pipelines.cli import main
from pipelines.compiled import read_compiled
from tests.peers.http_faults import LoseAnswer, Refuse, Request
from tests.peers.kfp_api import KfpApi
from tests.pipelines.submit.compiled import write_compiled
from tests.pipelines.submit.conftest import Submit, Told

UPLOAD = r"/upload_version$"
CREATE = r"/pipelines$"


def posts(api: KfpApi) -> list[str]:
    """What was asked to be made, and was."""
    return [sent.path.rpartition("/")[2] for sent in api.sent if sent.method == "POST" and sent.status == 200]


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


def test_a_file_of_one_document_is_uploaded_as_one(kfp_api: KfpApi, tmp_path: Path) -> None:
    file = write_compiled(tmp_path)
    for _ in range(2):
        assert main(["upload", str(file), "--target", "kubeflow", "--host", f"{kfp_api.url}/"]) == 0
    (made,) = kfp_api.versions
    assert made.pipeline_spec["root"] == read_compiled(file).spec["root"]


def test_to_repeat_an_upload_is_harmless(kfp_api: KfpApi, upload: Submit, capsys: Told) -> None:
    assert upload() == 0
    assert capsys.readouterr().out.startswith("uploaded: shutterline-image-classifier, version ")
    before = posts(kfp_api)
    assert upload() == 0
    assert capsys.readouterr().out.startswith("is there already: shutterline-image-classifier, version ")
    assert posts(kfp_api) == before == ["pipelines", "upload_version"]


def test_another_formatting_of_the_file_is_the_same_version(kfp_api: KfpApi, upload: Submit, tmp_path: Path) -> None:
    assert upload() == 0
    (sent,) = [sent for sent in kfp_api.sent if sent.path.endswith("upload_version")]
    document = sent.body.split(b"\r\n\r\n", 1)[1].rpartition(b"\r\n--")[0].decode()
    other = tmp_path / "pipeline.txt"
    other.write_text(yaml.safe_dump_all(yaml.safe_load_all(document), default_flow_style=True))
    assert main(["upload", str(other), "--host", kfp_api.url]) == 0
    assert len(kfp_api.versions) == 1


def test_a_pipeline_that_is_there_gets_a_new_version_among_many(
    kfp_api: KfpApi, upload: Submit, tmp_path: Path
) -> None:
    kfp_api.page_size = 2
    for number in range(5):
        assert upload("--name", f"other-{number}") == 0
        assert upload("--version-name", f"v{number}") == 0
    assert upload("--version-name", "v1") == 0
    assert len(kfp_api.pipelines) == 6
    ours = next(each for each in kfp_api.pipelines if each.name == "shutterline-image-classifier")
    assert [each.name for each in kfp_api.versions if each.pipeline_id == ours.pipeline_id] == [
        f"v{number}" for number in range(5)
    ]


def test_a_version_with_other_content_is_never_replaced(
    kfp_api: KfpApi, upload: Submit, tmp_path: Path, capsys: Told
) -> None:
    assert upload("--version-name", "v1") == 0
    other = write_compiled(tmp_path, "kubeflow", data="gs://bucket/others")
    capsys.readouterr()
    assert main(["upload", str(other), "--host", kfp_api.url, "--version-name", "v1"]) == 2
    told = capsys.readouterr().err
    assert "version v1 of pipeline shutterline-image-classifier is there with other content: sha256 " in told
    assert f"{other} has " in told
    assert told.endswith("choose another name by --version-name\n")
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


@pytest.mark.parametrize("name", [CREATE, UPLOAD])
def test_what_was_made_although_its_answer_was_lost_is_not_made_twice(
    kfp_api: KfpApi, upload: Submit, name: str, capsys: Told
) -> None:
    fault = kfp_api.inject(LoseAnswer(), "write", name)
    assert upload() == 0
    assert fault.happened == 1
    assert capsys.readouterr().out.startswith("uploaded: ")
    assert (len(kfp_api.pipelines), len(kfp_api.versions)) == (1, 1)
    assert posts(kfp_api) == ["pipelines", "upload_version"]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_is_busy_is_asked_again(kfp_api: KfpApi, upload: Submit, status: int) -> None:
    faults = [
        kfp_api.inject(Refuse(status, retry_after=0), "write", UPLOAD, times=3),
        kfp_api.inject(Refuse(status), "list", CREATE, times=2),
        kfp_api.inject(LoseAnswer(), "list", r"/versions$"),
    ]
    assert upload() == 0
    assert [fault.happened for fault in faults] == [3, 2, 1]
    assert (len(kfp_api.pipelines), len(kfp_api.versions)) == (1, 1)


def test_somebody_else_who_makes_it_first_is_no_error(
    kfp_api: KfpApi, upload: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert upload() == 0
    hidden, kfp_api.pipelines[:] = list(kfp_api.pipelines), []
    create = kfp_api._create_pipeline

    def too_late(request: Request) -> Any:
        kfp_api.pipelines[:] = hidden
        return create(request)

    monkeypatch.setattr(kfp_api, "_create_pipeline", too_late)
    assert upload() == 0
    assert kfp_api.pipelines == hidden
    assert len(kfp_api.versions) == 1


def test_a_dry_run_shows_what_a_first_upload_sends_and_sends_nothing(
    kfp_api: KfpApi, upload: Submit, capsys: Told
) -> None:
    assert upload("--dry-run") == 0
    assert kfp_api.sent == []
    create, version = json.loads(capsys.readouterr().out)["requests"]
    assert upload() == 0
    made, uploaded = [sent for sent in kfp_api.sent if sent.method == "POST"]
    assert (create["url"], create["body"]) == (f"{kfp_api.url}{made.path}", made.document)
    assert version["url"] == f"{kfp_api.url}{uploaded.path}"
    assert version["query"] | {"pipelineid": kfp_api.pipelines[0].pipeline_id} == uploaded.query
    sent = uploaded.body.split(b"\r\n\r\n", 1)[1].rpartition(b"\r\n--")[0].decode()
    assert version["body"]["uploadfile"] == list(yaml.safe_load_all(sent))
