"""The rule ``size``: a file that Kubernetes cannot store."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pipelines.lint.finding import Note, error, warning
from pipelines.lint.view import View

# etcd's own limit of a request is 1.5 MiB; the workflow that KFP makes of a file holds all of it and more.
_MOST_BYTES = 1536 * 1024
_MANY_BYTES = 1024 * 1024


def size(view: View) -> Iterator[Note]:
    """A pipeline too large for Kubernetes, which stores the workflow made of it as one object of at most 1.5 MiB."""
    if view.target == "vertex":
        return
    amount = len(json.dumps([view.pipeline.spec, view.pipeline.platforms], default=str, skipkeys=True).encode())
    advice = "move large defaults and sources into files that the steps read"
    if amount > _MOST_BYTES:
        yield error("pipelineInfo", f"the pipeline has {amount} bytes; Kubernetes stores at most {_MOST_BYTES}", advice)
    elif amount > _MANY_BYTES:
        yield warning("pipelineInfo", f"the pipeline has {amount} bytes, near Kubernetes' {_MOST_BYTES}", advice)
