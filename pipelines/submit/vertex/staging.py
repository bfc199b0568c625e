"""The staging bucket: compiled pipelines in it, and whether it is there at all."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import yaml
from google.api_core.exceptions import Forbidden
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from components.shared.errors import (
    InputError,
    PlatformRefusedError,
    PlatformUnavailableError,
    StorageUnavailableError,
)
from components.shared.storage.checksums import crc32c_of
from components.shared.storage.gcs import EMULATOR_VARIABLE
from components.shared.storage.location import Location
from components.shared.storage.store import ABSENT, ChangedError, Store, StoredObject, connect, content_type
from components.shared.storage.transfer import Transfer
from components.shared.strict_yaml import DocumentError
from pipelines.compiled import LARGEST, CompiledPipeline, parse_compiled
from pipelines.submit.patience import Patience
from pipelines.submit.platform import Uploaded
from pipelines.submit.vertex.api_errors import FAILURES, Answers, NotFound
from pipelines.submit.vertex.request import host_of

_FILE = "pipeline.yaml"


def place_of(staging: Location, name: str, version: str) -> Location:
    """Where a version of a pipeline lies."""
    return staging.child(f"pipelines/{name}/{version}/{_FILE}")


def upload(
    staging: Location, pipeline: CompiledPipeline, name: str, version: str, *, as_checked: bool = False
) -> Uploaded:
    """Put a compiled pipeline where its version belongs, unless it is there.

    Args:
        staging: Below which.
        pipeline: What.
        name: The pipeline's name.
        version: The version's.
        as_checked: Whether what was checked is put there where the file is no longer that.

    Raises:
        PlatformRefusedError: Another one is there.
        StorageRefusedError: No such bucket, forbidden, no credentials.
        PlatformUnavailableError: The store does not answer.
        InputError: The file can no longer be read, or has changed.
    """
    location = place_of(staging, name, version)
    data = _bytes_of(pipeline, as_checked=as_checked)
    store = connect(location, Transfer("up"))
    try:
        existed = _written(store, location, data, pipeline)
    except StorageUnavailableError as error:
        raise PlatformUnavailableError(str(error)) from error
    finally:
        store.close()
    return Uploaded(name, version, str(location), existed)


def upload_requests(
    staging: Location, pipeline: CompiledPipeline, name: str, version: str, *, as_checked: bool = False
) -> list[dict[str, Any]]:
    """What :func:`upload` sends first."""
    location = place_of(staging, name, version)
    data = _bytes_of(pipeline, as_checked=as_checked)
    client = Client(project="none", credentials=AnonymousCredentials())  # type: ignore[no-untyped-call] # hardly typed
    endpoint = str(client.api_endpoint)
    client.close()
    query = urlencode({"uploadType": "multipart", "ifGenerationMatch": "0"})
    crc32c = crc32c_of(iter([memoryview(data)]))
    return [
        {
            "method": "POST",
            "url": f"{endpoint}/upload/storage/v1/b/{quote(location.bucket, safe='')}/o?{query}",
            "body": {
                "name": location.key,
                "contentType": content_type(_FILE),
                "crc32c": base64.b64encode(crc32c).decode(),
                "content": data.decode(),
            },
        }
    ]


def check_bucket(staging: Location, project: str, credentials: Any, patience: Patience) -> None:
    """See that there is such a bucket, where we may know.

    A run may write where whoever submits it may not, so only a bucket that is not there is a reason against the run.

    Raises:
        PlatformRefusedError: It is not there.
        PlatformUnavailableError: The store does not answer.
    """
    if os.environ.get(EMULATOR_VARIABLE):
        credentials = AnonymousCredentials()  # type: ignore[no-untyped-call] # google-auth has few types
    client = Client(project=project, credentials=credentials)
    answers = Answers(host_of(str(client.api_endpoint)), project, "")
    missing = PlatformRefusedError(
        f"--staging-bucket {staging}: there is no bucket {staging.bucket}; create it, or check its name"
    )

    def attempt() -> None:
        try:
            client.get_bucket(staging.bucket, timeout=patience.request_s(), retry=None)
        except Forbidden:
            return
        except FAILURES as error:
            meant = answers.meaning(error, NotFound)
            raise (missing if isinstance(meant, NotFound) else meant) from error

    try:
        patience.persist(attempt)
    finally:
        client.close()


def _bytes_of(pipeline: CompiledPipeline, *, as_checked: bool) -> bytes:
    try:
        return _unchanged_bytes(pipeline)
    except InputError:
        if not as_checked:
            raise
        return yaml.safe_dump(pipeline.spec, sort_keys=False).encode("ascii")


def _unchanged_bytes(pipeline: CompiledPipeline) -> bytes:
    """The file's content, if it is what was checked still."""
    try:
        data = pipeline.file.read_bytes()
    except OSError as error:
        raise InputError(f"{pipeline.file}: cannot be read: {error.strerror}") from error
    if _digest(data) != pipeline.digest:
        raise InputError(f"{pipeline.file}: has changed since it was checked; start again")
    return data


def _written(store: Store, location: Location, data: bytes, pipeline: CompiledPipeline) -> bool:
    """Whether the pipeline was there; if nothing was, it is now."""
    try:
        store.write(location.key, data, ABSENT)
    except ChangedError:
        found = store.stat(location.key)
    else:
        return False
    there = _digest(_read(store, location, found))
    if there == pipeline.digest:
        return True
    is_there = f"with the digest {there[:12]}" if there else "that is no compiled pipeline"
    raise PlatformRefusedError(
        f"{location}: something else is there, {is_there}, and {pipeline.file} has the digest "
        f"{pipeline.digest[:12]}; remove it, or name another version by --version-name"
    )


def _read(store: Store, location: Location, found: StoredObject | None) -> bytes:
    try:
        if found is None:
            raise ChangedError(str(location))
        return store.read_whole(found) if found.bytes <= LARGEST else b""
    except ChangedError as error:
        raise PlatformRefusedError(f"{location}: changes while it is read; try again") from error


def _digest(data: bytes) -> str | None:
    """A compiled pipeline's digest; None where it is none."""
    try:
        return parse_compiled(data.decode("utf-8"), Path(_FILE)).digest
    except (DocumentError, UnicodeDecodeError):
        return None
