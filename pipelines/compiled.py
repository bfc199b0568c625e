"""A compiled pipeline, read back from its file: what it is called, what it is made of, and which platform it is for."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from components.shared.errors import InputError
from components.shared.events.redaction import names_a_secret
from pipelines.compiled_yaml import UnreadableError, documents_of, text_of

PlatformName = Literal["kubeflow", "vertex"]
PLATFORMS: tuple[PlatformName, ...] = get_args(PlatformName)
PLATFORM_TITLES: dict[PlatformName, str] = {"kubeflow": "Kubeflow Pipelines", "vertex": "Vertex AI"}

# Every container of a pipeline that we compile finds there which platform it was compiled for; so does a reader.
TARGET_VARIABLE = "SHUTTERLINE_TARGET"

# What kfp and the platforms fill in when a step starts.
PLACEHOLDER = re.compile(r"\{\{.*?\}\}|pipelinechannel--", re.DOTALL)

_SHORTEST_SECRET = 8  # a shorter one may be an ordinary word of a file
# Where a secret is named; a word such as "password" there is a name, although somebody's password may be the same.
_NAMING = frozenset({"secretKey", "secretName", "secretNameParameter", "envVar"})


@dataclass(frozen=True)
class CompiledPipeline:
    """A compiled pipeline: KFP's intermediate representation.

    Attributes:
        file: Where it was read.
        spec: The pipeline spec, the first document.
        platforms: ``platforms`` of the second document, by platform; empty without one.
        documents: How many documents the file holds.
    """

    file: Path
    spec: dict[str, Any] = field(repr=False)
    platforms: dict[str, Any] = field(repr=False)
    documents: int

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def description(self) -> str:
        """What the pipeline says of itself; may be empty."""
        return str(self.spec["pipelineInfo"].get("description", ""))

    @property
    def digest(self) -> str:
        """SHA-256 of the content, whatever the file's formatting: 64 hexadecimal digits."""
        content = json.dumps([self.spec, self.platforms], sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """The parameters that a run of it takes, each with ``parameterType``, perhaps ``defaultValue``."""
        parameters = _mapping(_mapping(_mapping(self.spec.get("root")).get("inputDefinitions")).get("parameters"))
        return {name: _mapping(definition) for name, definition in parameters.items()}

    @property
    def executors(self) -> dict[str, dict[str, Any]]:
        """The executors by their label, such as ``exec-train``."""
        executors = _mapping(_mapping(self.spec.get("deploymentSpec")).get("executors"))
        return {label: _mapping(executor) for label, executor in executors.items()}

    def container(self, label: str) -> dict[str, Any]:
        """The container of an executor; empty for one that has none, such as an importer."""
        return _mapping(self.executors[label].get("container"))

    def environment(self, label: str) -> dict[str, str]:
        """The environment variables an executor's container is given."""
        entries = self.container(label).get("env")
        found = map(_mapping, entries if isinstance(entries, list) else [])
        return {str(entry.get("name")): str(entry.get("value", "")) for entry in found}

    @property
    def target(self) -> PlatformName | None:
        """The platform it was compiled for; None: it does not say, or says several."""
        told = {self.environment(label).get(TARGET_VARIABLE) for label in self.executors}
        named = [name for name in PLATFORMS if name in told]
        if named:
            return named[0] if len(named) == 1 else None
        return "kubeflow" if self.platforms.get("kubernetes") else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def is_compiled(documents: list[Any]) -> bool:
    """Whether YAML documents are a compiled pipeline, and not something else such as params."""
    return bool(documents) and isinstance(documents[0], dict) and "pipelineInfo" in documents[0]


def read_compiled(file: Path) -> CompiledPipeline:
    """Read a compiled pipeline.

    Raises:
        InputError: The file cannot be read, or is not a compiled pipeline.
    """
    try:
        return parse_compiled(text_of(file), file)
    except UnreadableError as error:
        raise InputError(f"{file}: {error}; `shutterline compile` writes compiled pipelines") from error


def parse_compiled(text: str, file: Path) -> CompiledPipeline:
    """As :func:`read_compiled`, of what a file holds or is to hold.

    Raises:
        UnreadableError: It is not a compiled pipeline.
    """
    documents = documents_of(text)
    if not is_compiled(documents):
        raise UnreadableError("is not a compiled pipeline (its first document has no pipelineInfo)")
    spec = documents[0]
    if not isinstance(_mapping(spec["pipelineInfo"]).get("name"), str):
        raise UnreadableError("pipelineInfo.name is missing")
    if not _mapping(_mapping(spec.get("deploymentSpec")).get("executors")) or not _mapping(spec.get("root")):
        raise UnreadableError("has no deploymentSpec.executors or no root")
    if len(documents) > 2 or (len(documents) == 2 and not isinstance(_mapping(documents[1]).get("platforms"), dict)):
        raise UnreadableError("has more than a pipeline and its platforms")
    platforms = documents[1]["platforms"] if len(documents) == 2 else {}
    return CompiledPipeline(file, spec, platforms, len(documents))


def secret_named_by(document: Any, further: Mapping[str, Iterable[str | None]] | None = None) -> str | None:
    """What names a secret that is in a document: a variable of this environment, or a key of `further`; None: none is.

    Args:
        document: As YAML or JSON holds it.
        further: Secrets that are known besides, by where they come from.
    """
    text = "\n".join(_texts(document))
    known = [(name, value) for name, value in os.environ.items() if names_a_secret(name, value)]
    known += [(name, value or "") for name, values in (further or {}).items() for value in values]
    return next((name for name, value in known if len(value) >= _SHORTEST_SECRET and value in text), None)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a document, keys included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            name = _mapping(_mapping(item).get("runtimeValue")).get("constant", item)
            if not (key in _NAMING and isinstance(name, str) and name.isalpha() and name.islower()):
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    else:
        yield str(value)
