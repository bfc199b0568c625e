"""A compiled pipeline, read back from its file: its name, its content, and which platform it is for."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from components.shared.errors import InputError
from components.shared.events.redaction import names_a_secret
from components.shared.strict_yaml import DocumentError, parse_yaml, read_text

PlatformName = Literal["kubeflow", "vertex"]
PLATFORMS: tuple[PlatformName, ...] = get_args(PlatformName)
TRAIN_JOB: Final = "trainjob"  # what compile takes besides: training alone, by Kubeflow Trainer
CompileTarget = Literal["kubeflow", "vertex", "trainjob"]
PLATFORM_TITLES: dict[PlatformName, str] = {"kubeflow": "Kubeflow Pipelines", "vertex": "Vertex AI"}

# Every container of a pipeline that we compile finds there which platform it was compiled for; so does a reader.
TARGET_VARIABLE = "SHUTTERLINE_TARGET"

# What kfp and the platforms fill in when a step starts.
PLACEHOLDER = re.compile(r"\{\{.*?\}\}|pipelinechannel--", re.DOTALL)

# Google's image that has Vertex AI run a custom job; by it the platform knows such a step, and starts none for it.
LAUNCHER = re.compile(r"gcr\.io/ml-pipeline/google-cloud-pipeline-components:[0-9]+(\.[0-9]+)*")

# kfp's loaders are made for files of some kilobytes; a file that is larger than that is something else.
LARGEST = 32 * 2**20
_MOST_VALUES = 2_000_000

_SHORTEST_SECRET = 8  # a shorter one may be ordinary text of a file
# Where a secret is named; text such as "password" there is a name, although somebody's password may be the same.
NAMING_KEYS = frozenset({"secretKey", "secretName", "secretNameParameter", "envVar", "pull_secrets"})
# Keys that say nothing of their value: the name is that of the mapping around them.
_PASSING_KEYS = frozenset({"defaultValue", "runtimeValue", "constant", "items", "raw"})
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


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
        parameters = mapping(mapping(self.spec["root"].get("inputDefinitions")).get("parameters"))
        return {name: mapping(definition) for name, definition in parameters.items()}

    @property
    def executors(self) -> dict[str, dict[str, Any]]:
        """The executors by their label, such as ``exec-train``."""
        return {label: mapping(executor) for label, executor in self.spec["deploymentSpec"]["executors"].items()}

    def container(self, label: str) -> dict[str, Any]:
        """The container of an executor, of a custom job its nodes'; empty for one without, such as an importer."""
        container = mapping(self.executors[label].get("container"))
        pools = custom_job_pools(container)
        return next(iter(pools.values())) if pools else container

    def environment(self, label: str) -> dict[str, str]:
        """The environment variables an executor's container is given."""
        entries = self.container(label).get("env")
        found = map(mapping, entries if isinstance(entries, list) else [])
        return {str(entry.get("name")): str(entry.get("value", "")) for entry in found}

    @property
    def target(self) -> PlatformName | None:
        """The platform it was compiled for; None: it does not say, or says several."""
        targets = {self.environment(label).get(TARGET_VARIABLE) for label in self.executors}
        named = [name for name in PLATFORMS if name in targets]
        if named:
            return named[0] if len(named) == 1 else None
        return "kubeflow" if self.platforms.get("kubernetes") else None


def mapping(value: Any) -> dict[str, Any]:
    """A mapping; empty if it is none."""
    return value if isinstance(value, dict) else {}


def custom_job_pools(container: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the nodes of a custom job run, where a container is what has Vertex AI run one; empty: it is not.

    Returns:
        For each worker pool its container's path inside this one, such as
        ``args[3].job_spec.worker_pool_specs[0].container_spec``, and what is there with its image as ``image``, too,
        and the pool's machine type as ``machine``.
    """
    args, image = container.get("args"), container.get("image")
    if not isinstance(image, str) or not LAUNCHER.fullmatch(image) or not isinstance(args, list):
        return {}
    found = {}
    for index in [at + 1 for at, word in enumerate(args[:-1]) if word == "--payload"]:
        try:
            specs = mapping(mapping(json.loads(args[index])).get("job_spec")).get("worker_pool_specs")
        except (ValueError, TypeError, RecursionError):
            continue
        for number, spec in enumerate(specs if isinstance(specs, list) else ()):
            if not (inside := mapping(mapping(spec).get("container_spec"))):
                continue  # another's, by a package of Python instead
            machine = mapping(mapping(spec).get("machine_spec")).get("machine_type")
            where = f"args[{index}].job_spec.worker_pool_specs[{number}].container_spec"
            found[where] = {**inside, "image": inside.get("image_uri"), "machine": machine}
    return found


def child(where: str, key: str | int) -> str:
    """The path of an item of a mapping or a list."""
    if isinstance(key, int):
        return f"{where}[{key}]"
    shown = f".{key}" if _PLAIN_KEY.fullmatch(key) else f'["{key}"]'
    return f"{where}{shown}".removeprefix(".")


def documents_of(text: str) -> list[Any]:
    """The documents of a compiled pipeline, with the values that kfp and Vertex AI's library read; or DocumentError."""
    return parse_yaml(text, _MOST_VALUES, core=False)


def read_compiled(file: Path) -> CompiledPipeline:
    """A compiled pipeline; InputError if the file cannot be read, or is none."""
    try:
        return parse_compiled(read_text(file, LARGEST), file)
    except DocumentError as error:
        raise InputError(f"{file}: {error}; `shutterline compile` writes compiled pipelines") from error


def parse_compiled(text: str, file: Path) -> CompiledPipeline:
    """As :func:`read_compiled`, of the text that a file holds or is to hold; DocumentError if it is none."""
    documents = documents_of(text)
    spec = mapping(documents[0]) if documents else {}
    if "pipelineInfo" not in spec:
        if spec.get("kind") == "TrainJob":
            raise DocumentError(f"is a TrainJob, which `kubectl create --filename {file}` makes")
        raise DocumentError("is not a compiled pipeline (its first document has no pipelineInfo)")
    if not isinstance(mapping(spec["pipelineInfo"]).get("name"), str):
        raise DocumentError("pipelineInfo.name is missing")
    if not mapping(mapping(spec.get("deploymentSpec")).get("executors")) or not mapping(spec.get("root")):
        raise DocumentError("has no deploymentSpec.executors or no root")
    platforms = mapping(documents[1]).get("platforms") if len(documents) == 2 else {}
    if len(documents) > 2 or not isinstance(platforms, dict):
        raise DocumentError("has more than a pipeline and its platforms")
    return CompiledPipeline(file, spec, platforms, len(documents))


def secret_named_by(document: Any, further: Mapping[str, Iterable[str]] | None = None) -> str | None:
    """What names a secret that is in a document: a variable of this environment, or a key of `further`; None: none is.

    Args:
        document: As YAML or JSON holds it.
        further: Secrets that are known besides, by where they come from.
    """
    found = (
        value for _, name, value in texts(document) if not (name in NAMING_KEYS and value.isalpha() and value.islower())
    )
    text = "\n".join(found)
    known = [(name, value) for name, value in os.environ.items() if names_a_secret(name, value)]
    known += [(name, value) for name, values in (further or {}).items() for value in values]
    return next((name for name, value in known if len(value) >= _SHORTEST_SECRET and value in text), None)


def texts(value: Any, where: str = "", name: str = "") -> Iterator[tuple[str, str, str]]:
    """Every text and number of a document, keys and what is inside of JSON texts included: path, name, itself."""
    if isinstance(value, dict):
        named = value.get("name") if "value" in value else None  # an environment variable
        for key, item in value.items():
            inner = named if named and key == "value" else name if key in _PASSING_KEYS else key
            yield where, "", key
            yield from texts(item, child(where, key), str(inner))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts(item, child(where, index), name)
    elif isinstance(value, str):
        yield where, name, value
        if value.lstrip()[:1] in ("{", "["):
            try:
                inside = json.loads(value)
            except (ValueError, RecursionError):
                return
            yield from ((where, within, item) for _, within, item in texts(inside, where, name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield where, name, str(value)
