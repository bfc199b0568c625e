"""Compiled pipelines in the staging bucket, from where Vertex AI starts runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from components.shared.errors import InputError, PlatformRefusedError, PlatformUnavailableError, StorageRefusedError
from pipelines.compiled import CompiledPipeline
from pipelines.submit.names import submit_run, version_name
from pipelines.submit.platform import RunRequest, Uploaded
from pipelines.submit.vertex.platform import VertexPlatform
from tests.peers.gcs import GcsBucket
from tests.peers.http_faults import Answer, LoseAnswer, Refuse, Request
from tests.peers.vertex_api import VertexApi
from tests.pipelines.submit_vertex.conftest import Platforms

Run = Callable[..., RunRequest]
KEY = "staging/pipelines/classifier/1.0/pipeline.yaml"


def test_a_version_lies_at_its_place(
    platform: VertexPlatform, gcs_bucket: GcsBucket, compiled: CompiledPipeline
) -> None:
    uploaded = platform.upload(compiled, "classifier", "1.0")

    assert uploaded == Uploaded("classifier", "1.0", f"{gcs_bucket.uri}/{KEY}", existed=False)
    assert gcs_bucket.objects() == {KEY: compiled.file.read_bytes()}


def test_a_bucket_without_a_prefix(a_platform: Platforms, gcs_bucket: GcsBucket, compiled: CompiledPipeline) -> None:
    a_platform(staging_bucket=gcs_bucket.uri).upload(compiled, "classifier", "1.0")

    assert gcs_bucket.names() == ["pipelines/classifier/1.0/pipeline.yaml"]


def rewritten(compiled: CompiledPipeline) -> bytes:
    return yaml.safe_dump(compiled.spec, default_flow_style=True).encode()


@pytest.mark.parametrize(
    "there", [lambda compiled: compiled.file.read_bytes(), rewritten], ids=["same bytes", "same content"]
)
def test_the_same_version_is_not_written_again(
    platform: VertexPlatform,
    gcs_bucket: GcsBucket,
    compiled: CompiledPipeline,
    there: Callable[[CompiledPipeline], bytes],
) -> None:
    gcs_bucket.write(KEY, there(compiled))

    assert platform.upload(compiled, "classifier", "1.0").existed
    assert gcs_bucket.objects() == {KEY: there(compiled)}


def other_pipeline(compiled: CompiledPipeline) -> bytes:
    return yaml.safe_dump(compiled.spec | {"sdkVersion": "kfp-0"}).encode()


@pytest.mark.parametrize(
    ("there", "expected"),
    [(other_pipeline, "with the digest "), (lambda compiled: b"no pipeline", "that is no compiled pipeline")],
    ids=["another pipeline", "something else"],
)
def test_a_version_with_other_content_is_refused_and_stays(
    platform: VertexPlatform,
    gcs_bucket: GcsBucket,
    compiled: CompiledPipeline,
    there: Callable[[CompiledPipeline], bytes],
    expected: str,
) -> None:
    gcs_bucket.write(KEY, there(compiled))

    with pytest.raises(PlatformRefusedError) as caught:
        platform.upload(compiled, "classifier", "1.0")

    assert f"{gcs_bucket.uri}/{KEY}: something else is there, {expected}" in str(caught.value)
    assert compiled.digest[:12] in str(caught.value)
    assert "--version-name" in str(caught.value)
    assert gcs_bucket.read(KEY) == there(compiled)


@pytest.mark.parametrize("effect", [LoseAnswer(), Refuse(429), Refuse(503)], ids=str)
def test_an_upload_that_fails_for_now_is_made_once(
    platform: VertexPlatform, gcs_bucket: GcsBucket, compiled: CompiledPipeline, effect: Any
) -> None:
    fault = gcs_bucket.faults.inject(effect, "write", times=1)

    uploaded = platform.upload(compiled, "classifier", "1.0")

    assert fault.happened == 1
    assert not uploaded.existed
    assert gcs_bucket.objects() == {KEY: compiled.file.read_bytes()}


def test_a_bucket_that_is_not_there(a_platform: Platforms, compiled: CompiledPipeline) -> None:
    with pytest.raises(StorageRefusedError, match="there is no bucket no-such-bucket"):
        a_platform(staging_bucket="gs://no-such-bucket").upload(compiled, "classifier", "1.0")


def test_a_bucket_that_may_not_be_written(
    platform: VertexPlatform, gcs_bucket: GcsBucket, compiled: CompiledPipeline
) -> None:
    gcs_bucket.faults.inject(Refuse(403), times=None)

    with pytest.raises(StorageRefusedError, match=r"forbidden.*roles/storage.objectUser to write"):
        platform.upload(compiled, "classifier", "1.0")


def test_a_store_that_does_not_answer_is_no_refusal(
    platform: VertexPlatform, gcs_bucket: GcsBucket, compiled: CompiledPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_STORAGE_TIMEOUT", "0.5")
    gcs_bucket.faults.inject(Refuse(503), times=None)

    with pytest.raises(PlatformUnavailableError, match=rf"{KEY}.*SHUTTERLINE_STORAGE_TIMEOUT"):
        platform.upload(compiled, "classifier", "1.0")


@pytest.mark.parametrize("part", ["", "a/b", "..", "."])
def test_names_that_are_no_part_of_a_place_are_refused(
    platform: VertexPlatform, gcs_bucket: GcsBucket, compiled: CompiledPipeline, part: str
) -> None:
    with pytest.raises(PlatformRefusedError, match=r"--name .* cannot be part of a place in a bucket"):
        platform.upload(compiled, part, "1.0")
    with pytest.raises(PlatformRefusedError, match=r"--version-name .* cannot be part of a place in a bucket"):
        platform.upload(compiled, "classifier", part)
    assert gcs_bucket.objects() == {}


def test_a_file_that_has_changed_since_it_was_read_is_not_uploaded(
    platform: VertexPlatform, gcs_bucket: GcsBucket, compiled: CompiledPipeline
) -> None:
    compiled.file.write_bytes(other_pipeline(compiled))

    with pytest.raises(InputError, match="has changed since it was checked"):
        platform.upload(compiled, "classifier", "1.0")
    assert gcs_bucket.objects() == {}


def test_a_dry_run_of_an_upload_shows_what_is_sent_and_sends_nothing(
    platform: VertexPlatform, gcs_bucket: GcsBucket, compiled: CompiledPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        (shown,) = platform.upload_requests(compiled, "classifier", "1.0")
    assert gcs_bucket.faults.exchanges == []
    sent: list[Request] = []
    forward = gcs_bucket.faults.forward

    def noted(request: Request) -> Answer:
        sent.append(request)
        return forward(request)

    monkeypatch.setattr(gcs_bucket.faults, "forward", noted)

    platform.upload(compiled, "classifier", "1.0")

    (write,) = [request for request in sent if request.method == shown["method"] == "POST"]
    address = urlsplit(shown["url"])
    assert f"{address.scheme}://{address.netloc}" == gcs_bucket.faults.url
    assert address.path == write.path
    assert {name: value for name, (value,) in parse_qs(address.query).items()}.items() <= write.query.items()
    parts = write.body.decode().replace("\r\n", "\n").split("\n\n", 2)
    metadata = json.loads(parts[1].partition("\n--")[0])
    assert shown["body"] == {**metadata, "content": compiled.file.read_text()}
    assert parts[2].startswith(shown["body"]["content"])


def test_submitting_uploads_the_version_too_once(
    a_platform: Platforms, vertex: VertexApi, gcs_bucket: GcsBucket, compiled: CompiledPipeline, a_run: Run
) -> None:
    key = f"staging/pipelines/{compiled.name}/{version_name(compiled)}/pipeline.yaml"
    for _ in range(2):
        a_platform().submit(a_run())

    assert gcs_bucket.objects() == {key: compiled.file.read_bytes()}
    assert a_platform().upload(compiled, compiled.name, version_name(compiled)).existed
    assert list(vertex.jobs) == ["a-run"]


@pytest.mark.parametrize("status", [403, 401])
def test_a_run_is_started_where_only_its_account_may_write(
    platform: VertexPlatform,
    vertex: VertexApi,
    gcs_bucket: GcsBucket,
    a_run: Run,
    capsys: pytest.CaptureFixture[str],
    status: int,
) -> None:
    gcs_bucket.faults.inject(Refuse(status), "write", times=None)
    capsys.readouterr()

    submit_run(platform, a_run(), again=False)
    submit_run(platform, a_run(), again=True)

    out, err = capsys.readouterr()
    assert err.startswith(f"warning: not uploaded, and started all the same: {gcs_bucket.uri}/staging/pipelines/")
    assert (out, err.count("\n")) == ("", 1)
    assert gcs_bucket.objects() == {}
    assert list(vertex.jobs) == ["a-run", "a-run-2"]


def test_nothing_is_started_where_something_else_has_the_versions_place(
    platform: VertexPlatform, vertex: VertexApi, gcs_bucket: GcsBucket, compiled: CompiledPipeline, a_run: Run
) -> None:
    key = f"staging/pipelines/{compiled.name}/{version_name(compiled)}/pipeline.yaml"
    gcs_bucket.write(key, other_pipeline(compiled))

    with pytest.raises(PlatformRefusedError, match=r"something else is there.*remove it"):
        platform.submit(a_run())

    assert gcs_bucket.objects() == {key: other_pipeline(compiled)}
    assert vertex.jobs == {}


def test_a_store_that_is_away_starts_nothing(
    platform: VertexPlatform, vertex: VertexApi, gcs_bucket: GcsBucket, a_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_STORAGE_TIMEOUT", "0.5")
    gcs_bucket.faults.inject(Refuse(503), "write", times=None)

    with pytest.raises(PlatformUnavailableError):
        platform.submit(a_run())

    assert vertex.jobs == {}
