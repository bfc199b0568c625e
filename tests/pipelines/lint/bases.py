"""Compiled pipelines without a fault, and what changes a line of them."""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipelines.cli import main
from pipelines.compiled import PlatformName, documents_of, read_compiled
from pipelines.lint.findings import Finding
from pipelines.lint.rules import lint

Document = dict[str, Any]
DIGEST = "sha256:" + "a1" * 32
AWS_KEY = "AKIA" + "QWERTY12UIOP34AS"
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Pipeline:
    """A compiled pipeline of ours, to be changed."""

    def __init__(self, target: PlatformName) -> None:
        documents = copy.deepcopy(_base(target))
        self.spec: Document = documents[0]
        self.second: Document | None = documents[1] if len(documents) > 1 else None

    def container(self, step: str) -> Document:
        found: Document = self.spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
        return found

    def pod(self, step: str) -> Document:
        """What the second document says of a step; the document is made where there is none."""
        self.second = self.second or {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {}}}}}
        executors = self.second["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        found: Document = executors.setdefault(f"exec-{step}", {})
        return found

    def task(self, name: str) -> Document:
        components = self.spec["components"]
        groups = {"exit-step": self.spec["root"], "publish": components["comp-condition-2"]}
        dag = groups.get(name, components["comp-exit-handler-1"])
        found: Document = dag["dag"]["tasks"][name]
        return found

    def input(self, name: str) -> Document:
        found: Document = self.spec["root"]["inputDefinitions"]["parameters"][name]
        return found

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


def findings(target: PlatformName, *changes: Change, asked: PlatformName | None = None) -> list[Finding]:
    """What lint finds in a changed pipeline, read back from a file as a user's is."""
    pipeline = Pipeline(target)
    for change in changes:
        change(pipeline)
    with tempfile.TemporaryDirectory() as directory:
        return lint(read_compiled(pipeline.write(Path(directory) / "pipeline.yaml")), asked)


def env(name: str, value: str, step: str = "train") -> Change:
    """A variable, behind the first, which is there on either platform."""
    return lambda pipeline: pipeline.container(step)["env"].insert(1, {"name": name, "value": value})


def image(name: str) -> Change:
    return lambda pipeline: pipeline.container("train").update(image=name)


def pod(**values: Any) -> Change:
    return lambda pipeline: pipeline.pod("train").update(values)


def task(step: str, key: str, **values: Any) -> Change:
    return lambda pipeline: pipeline.task(step).setdefault(key, {}).update(values)


def default(name: str, value: Any) -> Change:
    return lambda pipeline: pipeline.input(name).update(defaultValue=value)


def option(*words: str) -> Change:
    return lambda pipeline: pipeline.container("train")["args"].extend(words)


def parameter(kind: str, name: str, value: Any) -> Change:
    definition = {"parameterType": kind, "defaultValue": value}
    return lambda pipeline: pipeline.spec["root"]["inputDefinitions"]["parameters"].update({name: definition})


def params(**values: Any) -> Change:
    def change(pipeline: Pipeline) -> None:
        said = json.loads(pipeline.input("params")["defaultValue"])
        pipeline.input("params")["defaultValue"] = json.dumps(said | values)

    return change


def claim(name: str, path: str, **values: str) -> dict[str, Any]:
    return {"constant": name, "mountPath": path, "pvcNameParameter": {"runtimeValue": {"constant": name}}} | values
