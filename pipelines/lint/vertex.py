"""The rule ``vertex-limits``: what Vertex AI documents that it does not take."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.lint.finding import Note, error, warning
from pipelines.lint.quantities import asked, whole_seconds
from pipelines.lint.view import View, child, mapping, text
from pipelines.vertex_limits import MAX_RETRY_WINDOW_S

_SCHEMA = re.compile(r"2\.[01]\.\d+")


def vertex_limits(view: View) -> Iterator[Note]:
    """Vertex AI's limits: the retry's window, the schema's version; requests, which it does not know.

    How large a file or a parameter may be is not documented; that of a file which Kubernetes stores is, see ``size``.
    """
    if view.target != "vertex":
        return
    version = text(view.spec.get("schemaVersion"))
    if not _SCHEMA.fullmatch(version):
        message = f"the schema's version is {version or 'not given'}; Vertex AI runs 2.0 and 2.1"
        yield error("schemaVersion", message, "compile the pipeline with kfp 2")
    for where, _, tasks in view.dags:
        for name, task in tasks.items():
            window = whole_seconds(mapping(task.get("retryPolicy")).get("backoffMaxDuration"))
            if window > MAX_RETRY_WINDOW_S:
                place = f"{child(f'{where}.dag.tasks', name)}.retryPolicy.backoffMaxDuration"
                message = f"{window} s is longer than the {MAX_RETRY_WINDOW_S} s that Vertex AI takes"
                yield error(place, message, f"set it to at most {MAX_RETRY_WINDOW_S}s")
    for executor in view.containers:
        for resource in ("cpu", "memory"):
            request = asked(executor, resource, "Request")
            if request.written:
                message = "Vertex AI chooses the machine by the limits and does not know requests"
                yield warning(request.where, message, f"set the limit of {resource} instead")
