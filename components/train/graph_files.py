"""Exported graphs that are kept, so that a run that goes on does not export again what costs five seconds of a core.

A file is named by what its graph is of and by its own SHA-256: ``graph-0123456789abcdef-SHA256.onnx``. It is beside the
checkpoints, or in the directory that ``SHUTTERLINE_GRAPHS`` names, which any number of runs may share.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from components.shared.files import read_regular, write_atomically
from components.shared.logs import step_logger
from components.shared.version import __version__

_log = step_logger("train")

GRAPHS_VARIABLE = "SHUTTERLINE_GRAPHS"
# A graph has no weights; what it may have are constants, such as attention's masks.
_LARGEST = 2**28
# By whom a graph is made: another version may make another.
_MAKERS = ("torch", "torchvision", "onnx", "onnxscript")


def graph_key(request: dict[str, Any], makers: Iterable[str] = _MAKERS) -> str:
    """What a graph is of, and by which versions it is made: 16 hexadecimal digits."""
    versions = {"shutterline": __version__}
    for name in makers:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = ""
    return hashlib.sha256(json.dumps([request, versions], sort_keys=True).encode()).hexdigest()[:16]


def shared_graphs() -> Path | None:
    """The directory that the environment names for the graphs of all runs."""
    named = os.environ.get(GRAPHS_VARIABLE)
    return Path(named) if named else None


def find_graph(directory: Path, key: str) -> tuple[Path, bytes] | None:
    """A graph that is kept in a directory and is what was written; what is not is removed."""
    try:
        for file in sorted(directory.glob(f"graph-{key}-*.onnx")):
            content = read_regular(file, _LARGEST)
            if file.stem.rpartition("-")[2] == hashlib.sha256(content).hexdigest():
                return file, content
            _log.warning("%s: is damaged, and the network is exported again", file)
            file.unlink(missing_ok=True)
    except OSError:  # what cannot be read is made again
        return None
    return None


def keep_graph(directory: Path, key: str, content: bytes) -> None:
    """Keep a graph; in a directory of one run those of its earlier networks go."""
    file = directory / f"graph-{key}-{hashlib.sha256(content).hexdigest()}.onnx"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_atomically(file, content)
        if directory != shared_graphs():
            for other in (*directory.glob("graph-*.onnx"), *directory.glob(".graph-*.tmp")):
                if other != file:
                    other.unlink(missing_ok=True)
    except OSError as error:  # a run that goes on exports again
        _log.info("%s: the exported network is not kept there: %s", directory, error.strerror or error)
