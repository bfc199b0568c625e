"""Local paths replaced by the addresses under which everybody else finds the same files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from components.shared.events.data import Checkpoint, EventData, Succeeded

# What a step leaves on its pod's own disk, such as checkpoints that no volume or bucket was named for: it ends with the
# pod, and a path would read as if somebody could open it.
POD = "pod:"
_VERTEX_VARIABLE = (
    "VERTEX_AI_PIPELINES_RUN_LABELS"  # set by Vertex AI, where /gcs is the bucket itself, by Cloud Storage FUSE
)


class Addresses:
    """Replaces the beginning of paths in texts; the longest known beginning has precedence.

    Args:
        known: Address by local path.
    """

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        self._known: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None
        for path, address in (known or {}).items():
            self.add(path, address)

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, path: str, address: str) -> None:
        """Know one more path; nothing to do where the address is the path."""
        if path and path != address:
            self._known[path] = address
            # /a/model is not the beginning of /a/model-checkpoints.
            longest = (
                re.escape(known) + ("" if known.endswith("/") else r"(?![\w-]|\.\w)")
                for known in sorted(self._known, key=len, reverse=True)
            )
            self._pattern = re.compile("|".join(longest))

    def text(self, text: str) -> str:
        """A text with addresses for the paths in it."""
        return self._pattern.sub(lambda found: self._known[found[0]], text) if self._pattern else text

    def document(self, document: Any) -> Any:
        """JSON data with addresses for the paths in its texts."""
        if isinstance(document, str):
            return self.text(document)
        if isinstance(document, Mapping):
            return {key: self.document(value) for key, value in document.items()}
        if isinstance(document, list | tuple):
            return [self.document(value) for value in document]
        return document

    def event(self, data: EventData) -> EventData:
        """An event's data with addresses for the paths in it."""
        if isinstance(data, Checkpoint):
            return replace(data, uri=self.text(data.uri))
        if isinstance(data, Succeeded):
            return replace(data, artifacts=self.document(data.artifacts))
        return data


def addresses_of(*artifacts: tuple[str, str]) -> dict[str, str]:
    """Address by local path of a step's artifacts, where a platform copies them to and from its store.

    What lies beside an output and is no artifact is on the pod's own disk: its address says so by ``pod:``.

    Args:
        artifacts: Local path and uri of each, as KFP has them; both are the same for kfp's local runners.
    """
    known: dict[str, str] = {}
    for path, uri in artifacts:
        if uri and uri != path:
            is_mounted = _VERTEX_VARIABLE in os.environ and uri.startswith("gs://")
            known[str(PurePath(path).parent)] = uri.rpartition("/")[0] if is_mounted else POD
            known[path] = uri
    return known
