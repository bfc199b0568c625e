from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from pipelines.cli import main
from pipelines.compiled import CompiledPipeline, read_compiled
from pipelines.submit import connection, follow
from pipelines.submit.platform import RunRequest
from pipelines.submit.vertex import VertexPlatform
from tests.examples import write_params
from tests.peers.fixtures import certificates as certificates
from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server
from tests.peers.gcs import GcsBucket
from tests.peers.tls import Certificates
from tests.peers.vertex_api import LOCATION, PROJECT, VertexApi
from tests.shared.events.security_fixtures import private_key, service_account

ACCOUNT = "status@project.iam.gserviceaccount.com"
DATA = "gs://images/digits"

Platforms = Callable[..., VertexPlatform]


@pytest.fixture(scope="session")
def compiled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    write_params(folder / "params.json")
    file = folder / "pipeline.yaml"
    assert main(["compile", "--target", "vertex", "--params", str(folder / "params.json"), "-o", str(file)]) == 0
    return file


@pytest.fixture
def compiled(compiled_file: Path, tmp_path: Path) -> CompiledPipeline:
    """A compiled pipeline, in a file of the test's own."""
    file = tmp_path / "pipeline.yaml"
    file.write_bytes(compiled_file.read_bytes())
    return read_compiled(file)


@pytest.fixture
def a_run(compiled: CompiledPipeline) -> Callable[..., RunRequest]:
    """A request for a run of it, with changes."""

    def make(**changes: Any) -> RunRequest:
        return replace(RunRequest(compiled, "a-run", {"data": DATA}), **changes)

    return make


@pytest.fixture
def credentials(tmp_path: Path, gcs_bucket: GcsBucket, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service account's key file, named by the environment; the bucket's fixture clears what was there."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # no search for Google's metadata server
    # google-auth asks another host of Google's where these credentials may be used, in a thread of its own.
    monkeypatch.setattr(
        "google.auth.credentials.CredentialsWithRegionalAccessBoundary._is_regional_access_boundary_lookup_required",
        lambda self: False,
    )
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    file = service_account(tmp_path / "account.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    return file


@pytest.fixture
def vertex(certificates: Certificates, credentials: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexApi]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.ca_file))
    monkeypatch.setenv("SHUTTERLINE_SUBMIT_TIMEOUT", "20")
    for module in (connection, follow):
        monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
        monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.002)
    key = load_pem_private_key(private_key().encode(), None).public_key()
    public = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with VertexApi(certificates.server_context(), ACCOUNT, public) as server:
        yield server


@pytest.fixture
def a_platform(vertex: VertexApi, gcs_bucket: GcsBucket) -> Platforms:
    """The platform, with changes."""

    def make(**changes: Any) -> VertexPlatform:
        options = {
            "project": PROJECT,
            "location": LOCATION,
            "staging_bucket": f"{gcs_bucket.uri}/staging",
            "endpoint": vertex.endpoint,
        }
        return VertexPlatform(**options | changes)

    return make


@pytest.fixture
def platform(a_platform: Platforms) -> VertexPlatform:
    return a_platform()
