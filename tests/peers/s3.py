"""S3 for tests: SeaweedFS, which checks signatures, digests and permissions; and moto's server, a second reading."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.peers.http_faults import Answer, HttpFaults, Operation, Request
from tests.peers.object_store import Bucket
from tests.peers.ports import HOST, claim_port
from tests.peers.server_process import ServerProcess

REGION = "us-east-1"
# Access key and secret: of one who may do everything, and of one who may only read.
WRITER = ("AKIASHUTTERLINEWRITER", "a-secret-of-the-tests-alone")
READER = ("AKIASHUTTERLINEREADER", "another-secret-of-the-tests")


def s3_client(url: str, credentials: tuple[str, str] = WRITER) -> Any:
    """A plain client: one try, no configuration but this."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=credentials[0],
        aws_secret_access_key=credentials[1],
        region_name=REGION,
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


class S3Server(ServerProcess):
    """SeaweedFS: master, volume server, filer and S3 gateway in one process."""

    def __init__(self, parent: Path | None = None) -> None:
        super().__init__(parent)
        self._ports = [claim_port() for _ in range(7)]

    def command(self) -> Sequence[str | Path]:
        identities = [
            {"name": "writer", "credentials": [_pair(WRITER)], "actions": ["Admin", "Read", "List", "Write"]},
            {"name": "reader", "credentials": [_pair(READER)], "actions": ["Read", "List"]},
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))
        data = self.folder / "data"
        data.mkdir()
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc = self._ports
        # A bucket takes seven volumes, which cost nothing while they are empty.
        options = (
            f"-ip={HOST} -ip.bind={HOST} -master.telemetry=false -master.volumeSizeLimitMB=64 -volume.max=5000 "
            f"-master.port={master} -master.port.grpc={master_grpc} -volume.port={volume} "
            f"-volume.port.grpc={volume_grpc} -filer -filer.port={filer} -filer.port.grpc={filer_grpc} "
            f"-s3 -s3.port={self.port} -s3.port.grpc={s3_grpc} -s3.port.iceberg=0 -s3.port.lance=0 "
            f"-s3.autoCreateBucket=false"
        )
        binary = Path(sys.executable).with_name("weed")
        return [binary, "-logtostderr", "server", *options.split(), f"-dir={data}", "-s3.config=s3.json"]

    def close(self) -> None:
        super().close()
        # It leaves sockets of its services there, named by port.
        for port in (self.port, *self._ports):
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 # the server's choice
                socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        """Whether a bucket can be made and an object written, which is later than the port is open."""
        if not super()._answers():
            return False
        with closing(s3_client(self.url)) as client, suppress(BotoCoreError, ClientError):
            with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
            return True
        return False


class MotoServer(ServerProcess):
    """moto's server: any credentials will do, and it checks no digest."""

    ready_path = "/moto-api/"

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)]


class S3Faults(HttpFaults):
    """The relay in front of an S3 server."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__((HOST, server.port))

    def meaning(self, request: Request) -> tuple[Operation, str]:
        matched = re.fullmatch(r"/([^/]+)(?:/(.*))?", request.path, re.DOTALL)
        if matched is None:
            return "other", request.path
        name, query = matched[2] or "", request.query
        if not name:
            return ("list", query.get("prefix", "")) if request.method == "GET" else ("other", "")
        if request.method == "POST":
            return ("begin" if "uploads" in query else "complete"), name
        if request.method == "GET" and "uploadId" in query:
            return "ask", name
        operations: dict[str, Operation] = {"GET": "read", "HEAD": "stat", "PUT": "write", "DELETE": "delete"}
        return operations.get(request.method, "other"), name

    def refusal(self, status: int) -> Answer:
        code, message = {
            403: ("AccessDenied", "Access Denied"),
            404: ("NoSuchKey", "The specified key does not exist."),
            412: ("PreconditionFailed", "At least one of the preconditions you specified did not hold."),
            429: ("TooManyRequests", "Please reduce your request rate."),
            503: ("SlowDown", "Please reduce your request rate."),
        }.get(status, ("InternalError", "We encountered an internal error. Please try again."))
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
        return Answer(status, [("Content-Type", "application/xml")], body.encode())


class S3Bucket(Bucket):
    """A bucket of the server behind a relay, made at once; ``close`` removes it."""

    def __init__(self, faults: S3Faults, credentials: tuple[str, str] = WRITER) -> None:
        name = f"bucket-{uuid4().hex[:12]}"
        super().__init__(f"s3://{name}", faults, s3_environment(faults.url, credentials))
        self._client = s3_client(f"http://{faults.target[0]}:{faults.target[1]}")
        self._client.create_bucket(Bucket=name)

    def names(self, prefix: str = "") -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def read(self, name: str) -> bytes:
        data: bytes = self._client.get_object(Bucket=self.name, Key=name)["Body"].read()
        return data

    def write(self, name: str, data: bytes, encoding: str = "") -> None:
        options = {"ContentEncoding": encoding} if encoding else {}
        self._client.put_object(Bucket=self.name, Key=name, Body=data, **options)

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self.name, Key=name)

    def close(self) -> None:
        """Remove it, with what is in it."""
        for name in self.names():
            self.delete(name)
        self._client.delete_bucket(Bucket=self.name)
        self._client.close()


def s3_environment(url: str, credentials: tuple[str, str] = WRITER) -> dict[str, str]:
    """What the clients read: an endpoint, credentials, and no looking for a cloud machine's own."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": credentials[0],
        "AWS_SECRET_ACCESS_KEY": credentials[1],
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _pair(credentials: tuple[str, str]) -> dict[str, str]:
    return {"accessKey": credentials[0], "secretKey": credentials[1]}
