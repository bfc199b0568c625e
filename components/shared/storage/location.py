"""Where data is: a path of this machine, or a prefix in a bucket."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from components.shared.errors import InputError
from components.shared.text import shortened

# 1: links may lead out of the data folder, as with --follow-links.
FOLLOW_LINKS_VARIABLE = "SHUTTERLINE_FOLLOW_LINKS"
_ALLOWED = "allowed are a local path, file:///path, gs://bucket/path and s3://bucket/path"
# minio:// is what Kubeflow Pipelines calls its own S3 store in the addresses of artifacts.
_SCHEMES: dict[str, Literal["gs", "s3"]] = {"gs": "gs", "s3": "s3", "minio": "s3"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# Both services' rules, the wider where they differ: GCS allows underscores and names with a domain of up to 222.
_BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST_KEY = 1024  # bytes of UTF-8, in both services


@dataclass(frozen=True)
class Location:
    """One object or a prefix in a bucket; the key has no slash at its ends, and is empty for the whole bucket."""

    scheme: Literal["gs", "s3"]
    bucket: str
    key: str

    def child(self, name: str) -> Location:
        """The location of a relative name below this one."""
        return Location(self.scheme, self.bucket, f"{self.prefix}{name}")

    @property
    def prefix(self) -> str:
        """What the keys of all objects below this location begin with."""
        return f"{self.key}/" if self.key else ""

    @property
    def name(self) -> str:
        """The last part of the key; of a whole bucket, the bucket's name."""
        return self.key.rpartition("/")[2] or self.bucket

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".removesuffix("/")


AnyPath = Path | Location


def parse_location(text: str) -> AnyPath:
    """A local path, ``file:///path``, or a ``gs://``, ``s3://`` or ``minio://bucket/path``; else an InputError."""
    if not text:
        raise InputError(f"location is empty; {_ALLOWED}")
    found = _SCHEME.fullmatch(text)
    if found is None:
        return _printable(text, text)
    scheme, rest = found[1].lower(), found[2]
    if scheme == "file":
        return _path(text)
    bucket, _, key = rest.partition("/")
    key = key.removesuffix("/")
    if scheme not in _SCHEMES:
        problem: str | None = f"{scheme}:// is not known here"
    elif not bucket:
        problem = "it names no bucket"
    elif _BUCKET.fullmatch(bucket) is None:
        problem = (
            "that is no bucket's name: 3 to 222 small letters, digits, '-', '_' or '.', a letter or digit at both ends"
        )
    else:
        problem = key_problem(key)
    if problem:
        raise _refusal(text, problem)
    return Location(_SCHEMES[scheme], bucket, key)


def key_problem(key: str) -> str | None:
    """Why a key or a relative name cannot be used here; None if it can. An empty one is a whole bucket's."""
    if not key:
        return None
    parts = key.split("/")
    if "" in parts:
        return "it has an empty part between two slashes"
    if "." in parts or ".." in parts:
        return "it has a part '.' or '..', which storage does not resolve"
    if not key.isprintable():  # half a character, of which UTF-8 has no bytes, neither
        return "it has a character that cannot be printed"
    if (length := len(key.encode())) > _LONGEST_KEY:
        return f"its key has {length} bytes, and {_LONGEST_KEY} are allowed"
    return None


def lies_within(inner: AnyPath, outer: AnyPath) -> bool:
    """Whether a path or location is another one or is below it, links followed; neither needs to be there."""
    if isinstance(inner, Location) or isinstance(outer, Location):
        return (
            isinstance(inner, Location)
            and isinstance(outer, Location)
            and (inner.scheme, inner.bucket) == (outer.scheme, outer.bucket)
            and f"{inner.key}/".startswith(outer.prefix)
        )
    real = Path(os.path.realpath(inner))
    if real.is_relative_to(os.path.realpath(outer)):
        return True
    # One folder may have two paths: by a bind mount, or where a file system takes A and a for one name.
    for folder in (real, *real.parents):
        with suppress(OSError):
            if folder.samefile(outer):
                return True
    return False


def overlap_problem(data: AnyPath, output: AnyPath, what: str = "the data") -> str | None:
    """Why a step that reads the data, or `what` else, cannot write the output, in a line; None if it can."""
    if lies_within(output, data):
        return f"{output}: is in {what}, {data}, where the next run would read it; name another directory"
    if lies_within(data, output):
        return f"{output}: holds {what}, {data}, which would be in the way of what is written; name another directory"
    return None


def _path(text: str) -> Path:
    address = urlsplit(text)
    if address.netloc not in ("", "localhost"):
        raise _refusal(text, f"{shortened(address.netloc)} is another machine; a local file is file:///path")
    if not address.path or address.query or address.fragment:
        raise _refusal(text, "it names no local path; write file:///path, with '?' as %3F and '#' as %23")
    return _printable(unquote(address.path), text)


def _printable(path: str, text: str) -> Path:
    if _CONTROL.search(path):
        raise _refusal(text, "it has a control character, such as a newline; rename it")
    return Path(path)


def _refusal(text: str, why: str) -> InputError:
    # What stands before an '@' may be a password, and a query may hold a signature.
    shown = re.sub(r"(?<=://)[^/@]*@", "…@", re.split(r"[?#]", text, maxsplit=1)[0])
    return InputError(f"{shortened(shown, 120)}: {why}; {_ALLOWED}")
