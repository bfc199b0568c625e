"""The data folder as commands and data prep see it: what may not be written in it, and whether links lead out of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from components.shared.storage.location import AnyPath, Location

# 1: links may lead out of the data folder, as with --follow-links.
FOLLOW_LINKS_VARIABLE = "SHUTTERLINE_FOLLOW_LINKS"


def lies_within(inner: AnyPath, outer: AnyPath) -> bool:
    """Whether a path or location is another one or is below it, links followed; neither needs to be there."""
    if isinstance(inner, Location) or isinstance(outer, Location):
        return (
            isinstance(inner, Location)
            and isinstance(outer, Location)
            and (inner.scheme, inner.bucket) == (outer.scheme, outer.bucket)
            and f"{inner.key}/".startswith(f"{outer.key}/" if outer.key else "")
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


def overlap_problem(data: AnyPath, output: AnyPath) -> str | None:
    """Why a step that reads the data cannot write the output, in a line; None if it can."""
    if lies_within(output, data):
        return f"{output}: is in the data, {data}, where the next run would read it; name another directory"
    if lies_within(data, output):
        return f"{output}: holds the data, {data}, which would be in the way of what is written; name another directory"
    return None
