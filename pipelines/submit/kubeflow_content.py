"""What is in a version of a pipeline: as it is sent to Kubeflow, as Kubeflow has it, and whether both are the same."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from google.protobuf import json_format  # type: ignore[import-untyped] # stubs are not installed
from kfp.pipeline_spec import pipeline_spec_pb2

from components.shared.errors import InputError
from pipelines.compiled import CompiledPipeline


def content_digest(spec: Mapping[str, Any], platforms: Mapping[str, Any]) -> str:
    """SHA-256 of a pipeline as Kubeflow sees it, 64 hexadecimal digits.

    Kubeflow keeps the protobuf messages, not the file, and puts a name of its own into them: ``pipeline/NAME``.

    Raises:
        json_format.ParseError: It is no pipeline spec, or one of another version.
    """
    pipeline = json_format.ParseDict(dict(spec), pipeline_spec_pb2.PipelineSpec())
    pipeline.pipeline_info.name = ""
    platform = json_format.ParseDict({"platforms": dict(platforms)}, pipeline_spec_pb2.PlatformSpec())
    return _digest([json_format.MessageToDict(message) for message in (pipeline, platform)])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_of_file(pipeline: CompiledPipeline) -> str:
    """The same of a file.

    Raises:
        InputError: Kubeflow would not understand it.
    """
    try:
        return content_digest(pipeline.spec, pipeline.platforms)
    except json_format.ParseError as error:
        raise InputError(
            f"{pipeline.file}: is no pipeline spec that kfp understands: {' '.join(str(error).split())}; compile it "
            "again with `shutterline compile`"
        ) from error


def digest_of_version(content: object) -> str:
    """The same of what Kubeflow says a version holds: a pipeline, or a pipeline and its platforms."""
    try:
        spec: Any = content
        platforms: Any = {}
        if isinstance(content, Mapping) and "pipeline_spec" in content:
            spec, platforms = content["pipeline_spec"], (content.get("platform_spec") or {}).get("platforms", {})
        return content_digest(spec, platforms)
    # Made by another version of kfp, or not even a pipeline; different it is in any case.
    except (json_format.ParseError, AttributeError, TypeError, ValueError):
        return _digest(content)


def as_sent(pipeline: CompiledPipeline) -> str:
    """The file that is sent: the same documents, each as JSON, which is YAML that no two readers read differently.

    PyYAML writes the text 1e3 without quotes, and Go's reader takes it for a number.
    """
    documents: list[object] = [pipeline.spec]
    if pipeline.platforms:
        documents.append({"platforms": pipeline.platforms})
    # Not as ASCII: YAML has no pairs of escapes for one character.
    return "\n---\n".join(json.dumps(document, ensure_ascii=False) for document in documents) + "\n"


def with_caching(pipeline: CompiledPipeline, caching: bool) -> CompiledPipeline:
    """The pipeline with the cache on, or off, for every task.

    kfp's own switch reaches the tasks of the root alone, and ours are inside an exit handler. And it takes a file: a
    run that refers to a version cannot say so, hence a version of its own.
    """
    spec = copy.deepcopy(pipeline.spec)
    components = (spec.get("components") or {}).values()
    for component in (spec["root"], *components):
        for task in ((component.get("dag") or {}).get("tasks") or {}).values():
            task["cachingOptions"] = {"enableCache": True} if caching else {}
    return replace(pipeline, spec=spec)
