"""The rule ``backend``: fields that older releases of Kubeflow Pipelines refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.lint.finding import Note, warning
from pipelines.lint.view import View, child, mapping
from pipelines.settings.backends import FIRST_BACKEND, OLDEST_BACKEND


def backend(view: View) -> Iterator[Note]:
    """Fields that the API server of an older release of Kubeflow Pipelines does not know, and refuses the file for.

    Looked at is everything down to the oldest release that Shutterline is made for, 2.15.0. Vertex AI has its own.
    """
    if view.target != "kubeflow":
        return
    from kfp.kubernetes import kubernetes_executor_config_pb2
    from kfp.pipeline_spec import pipeline_spec_pb2

    pipeline, platforms = pipeline_spec_pb2.PipelineSpec.DESCRIPTOR, pipeline_spec_pb2.PlatformSpec.DESCRIPTOR
    found = [*_newer(view.spec, pipeline, "")]
    found += _newer({"platforms": mapping(view.pipeline.platforms)}, platforms, "")
    executor = kubernetes_executor_config_pb2.KubernetesExecutorConfig.DESCRIPTOR
    for label, settings in view.kubernetes.items():
        where = child("platforms.kubernetes.deploymentSpec.executors", label)
        found += _newer(mapping(settings), executor, where)
    for where, release in found:
        name = where.rpartition(".")[2]
        message = f"Kubeflow Pipelines before {release} knows no {name}, and refuses the whole file for it"
        advice = f"leave it out where the file shall run from {OLDEST_BACKEND} on, or run it on {release} or later"
        yield warning(where, message, advice)


def _newer(value: dict[str, Any], message: Any, where: str) -> Iterator[tuple[str, str]]:
    """Place and first release of what a message of protobuf, written as JSON, has that the oldest release has not."""
    known = {name: field for field in message.fields for name in (field.name, field.json_name)}
    for key, item in value.items():
        field = known.get(key)
        if field is None:  # as the rule ir-schema says
            continue
        place = child(where, key) if where else key
        release = FIRST_BACKEND.get(field.full_name.partition(".")[2])
        if release is not None:
            yield place, release
        elif (inner := field.message_type) is not None:
            yield from _inside(item, inner, place)


def _inside(item: Any, message: Any, place: str) -> Iterator[tuple[str, str]]:
    if message.file.package == "google.protobuf":  # any value at all
        return
    if message.GetOptions().map_entry:
        inner = message.fields_by_name["value"].message_type
        if inner is not None:
            for key, entry in mapping(item).items():
                yield from _inside(entry, inner, child(place, key))
    elif isinstance(item, list):
        for index, entry in enumerate(item):
            yield from _newer(mapping(entry), message, child(place, index))
    else:
        yield from _newer(mapping(item), message, place)
