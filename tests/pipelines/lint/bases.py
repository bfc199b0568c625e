"""Compiled pipelines without a fault, and what changes a line of them."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipelines.cli import main
from pipelines.compiled import PlatformName, documents_of, read_compiled
from pipelines.lint.finding import Finding
from pipelines.lint.rules import lint

Document = dict[str, Any]
DIGEST = "sha256:" + "a1" * 32
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Pipeline:
    """A compiled pipeline of ours, to be changed."""

    def __init__(self, target: PlatformName) -> None:
        documents = copy.deepcopy(_base(target))
        self.spec: Document = documents[0]
        self.second: Document | None = documents[1] if len(documents) > 1 else None

    def executor(self, step: str) -> Document:
        found: Document = self.spec["deploymentSpec"]["executors"][f"exec-{step}"]
        return found

    def container(self, step: str) -> Document:
        found: Document = self.executor(step)["container"]
        return found

    def resources(self, step: str) -> Document:
        found: Document = self.container(step)["resources"]
        return found

    def kubernetes(self, step: str) -> Document:
        """What the second document says of a step; the document is made where there is none."""
        found: Document = self.platform()["deploymentSpec"]["executors"].setdefault(f"exec-{step}", {})
        return found

    def platform(self) -> Document:
        """What the second document says of Kubernetes; likewise."""
        self.second = self.second or {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {}}}}}
        found: Document = self.second["platforms"]["kubernetes"]
        return found

    def task(self, name: str) -> Document:
        dag = self.spec["root"] if name == "exit-step" else self.spec["components"]["comp-exit-handler-1"]
        found: Document = dag["dag"]["tasks"][name]
        return found

    def input(self, name: str) -> Document:
        found: Document = self.spec["root"]["inputDefinitions"]["parameters"][name]
        return found

    def set_env(self, step: str, name: str, value: str) -> None:
        self.container(step)["env"].insert(1, {"name": name, "value": value})  # behind the first on either platform

    def write(self, file: Path) -> Path:
        documents = [self.spec] if self.second is None else [self.spec, self.second]
        file.write_text(yaml.dump_all(documents, Dumper=_DUMPER), encoding="utf-8")
        return file


Change = Callable[[Pipeline], object]


@functools.cache
def _base(target: PlatformName) -> list[Document]:
    """What `shutterline compile` writes, with images as a build pushes them and checkpoints in the store."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "pipeline.yaml"
        assert main(["compile", "--target", target, "--checkpoints", "auto", "-o", str(file)]) == 0
        documents: list[Document] = documents_of(file.read_text(encoding="utf-8"))
    for executor in documents[0]["deploymentSpec"]["executors"].values():
        name = executor["container"]["image"].rpartition(":")[0]
        executor["container"]["image"] = f"registry.example/{name}@{DIGEST}"
    return documents


def findings(pipeline: Pipeline, target: PlatformName | None = None) -> list[Finding]:
    """What lint says of it, read back from a file as a user's is."""
    with tempfile.TemporaryDirectory() as directory:
        return lint(read_compiled(pipeline.write(Path(directory) / "pipeline.yaml")), target)
