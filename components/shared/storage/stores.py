"""The store that a location names."""

from __future__ import annotations

from components.shared.errors import StorageRefusedError
from components.shared.storage.location import Location
from components.shared.storage.objects import ObjectStore
from components.shared.storage.transfer import Transfer


def connect(location: Location, transfer: Transfer, credentials: str | None = None) -> ObjectStore:
    """The store of a location; its client is imported here, when it is first used.

    Args:
        location: In the bucket.
        transfer: What the store is for.
        credentials: A file of Google credentials, where the environment names none.

    Raises:
        StorageRefusedError: The client is not installed, or there are no credentials.
    """
    try:
        if location.scheme == "gs":
            from components.shared.storage.gcs import GcsStore

            return GcsStore(location.bucket, transfer, credentials)
        from components.shared.storage.s3 import S3Store

        return S3Store(location.bucket, transfer)
    except ImportError as error:
        client = "google-cloud-storage" if location.scheme == "gs" else "boto3"
        raise StorageRefusedError(f"{location}: needs {client}; pip install 'shutterline[storage]'") from error
