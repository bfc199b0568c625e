"""The rule ``names``: names too long or of characters that the platform does not take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipelines.compiled import PLACEHOLDER
from pipelines.lint.finding import Note, error, warning
from pipelines.lint.pods import volumes_of
from pipelines.lint.view import Executor, View, child, listing, mapping, text
from pipelines.settings.fields import DNS_LABEL, VARIABLE, is_object_name, label_problem
from pipelines.settings.kubeflow import SECRET_KEY
from pipelines.vertex_limits import PIPELINE_NAME

_LONGEST_LABEL, _LONGEST_NAME = 63, 128


def names(view: View) -> Iterator[Note]:
    """Names the platform does not take.

    The pipeline's, which begins the names of its workflow and its pods; of secrets, claims and config maps, whose
    names KFP gives to volumes too, so that they have at most 63 characters and no dot; labels, annotations,
    environment variables, keys inside secrets.
    """
    name = view.pipeline.name
    if view.target == "kubeflow" and not DNS_LABEL.fullmatch(name[:_LONGEST_LABEL]):
        message = f"Kubernetes does not take {name!r} for the workflow and its pods"
        advice = "at most 63 small letters, digits and hyphens, with a letter or digit at both ends"
        yield error("pipelineInfo.name", message, advice)
    elif view.target == "kubeflow" and _LONGEST_LABEL < len(name) <= _LONGEST_NAME:
        message = f"{name!r} has {len(name)} characters; names of its workflow and pods are cut after some 58"
        yield warning("pipelineInfo.name", message, "at most 50 tell runs of different pipelines apart")
    elif not PIPELINE_NAME.fullmatch(name):
        message = f"{name!r} is no name of a pipeline"
        advice = "at most 128 small letters, digits and hyphens, a letter or digit first"
        yield error("pipelineInfo.name", message, advice)
    for executor in view.containers:
        yield from _variables(executor)
        if view.target != "vertex":
            yield from _objects(executor)
            yield from _labels(executor)


def _variables(executor: Executor) -> Iterator[Note]:
    given = [(f"{where}.name", name) for where, name, _ in executor.environment]
    for kind in ("secretAsEnv", "configMapAsEnv"):
        for index, entry in enumerate(map(mapping, listing(executor.kubernetes.get(kind)))):
            for number, pair in enumerate(map(mapping, listing(entry.get("keyToEnv")))):
                where = f"{executor.kubernetes_where}.{kind}[{index}].keyToEnv[{number}]"
                given.append((f"{where}.envVar", text(pair.get("envVar"))))
                key_name = "secretKey" if kind == "secretAsEnv" else "configMapKey"
                if not SECRET_KEY.fullmatch(text(pair.get(key_name))):
                    message = f"{text(pair.get(key_name)) or 'nothing'} is no key of a secret"
                    yield error(f"{where}.{key_name}", message, "letters, digits and -_. are allowed")
    for where, name in given:
        if not VARIABLE.fullmatch(name):
            message = f"{name or 'nothing'} is no name of an environment variable"
            yield error(where, message, "letters, digits and underscores are allowed, no digit first")
    twice = [name for name, times in Counter(name for _, name in given).items() if times > 1 and name]
    for name in twice:
        where = next(where for where, other in reversed(given) if other == name)
        yield warning(where, f"{name} is given more than once; the last one counts", "give it once")


def _objects(executor: Executor) -> Iterator[Note]:
    """Names of secrets and the like."""
    for kind in ("secretAsVolume", "configMapAsVolume", "pvcMount", "genericEphemeralVolume", "emptyDirMounts"):
        for where, name in volumes_of(executor, kind):
            if not PLACEHOLDER.search(name) and not DNS_LABEL.fullmatch(name):
                message = f"{name} becomes the name of a volume, which Kubernetes does not take"
                advice = "at most 63 small letters, digits and hyphens; a name with dots cannot be mounted by KFP"
                yield error(where, message, advice)
    for kind, key in (("secretAsEnv", "secretName"), ("configMapAsEnv", "configMapName"),
                      ("imagePullSecret", "secretName")):  # fmt: skip
        for index, entry in enumerate(map(mapping, listing(executor.kubernetes.get(kind)))):
            runtime = mapping(mapping(entry.get(f"{key}Parameter")).get("runtimeValue"))
            name = text(runtime.get("constant")) or text(entry.get(key))
            if name and not PLACEHOLDER.search(name) and not is_object_name(name):
                where = f"{executor.kubernetes_where}.{kind}[{index}].{key}"
                advice = "at most 253 small letters, digits, hyphens and dots"
                yield error(where, f"{name} is no name of a secret or config map", advice)


def _labels(executor: Executor) -> Iterator[Note]:
    metadata = mapping(executor.kubernetes.get("podMetadata"))
    for part, holder, is_label in (
        ("podMetadata.labels", metadata.get("labels"), True),
        ("podMetadata.annotations", metadata.get("annotations"), False),
        ("nodeSelector.labels", mapping(executor.kubernetes.get("nodeSelector")).get("labels"), True),
    ):
        for key, value in mapping(holder).items():
            if PLACEHOLDER.search(key) or (is_label and PLACEHOLDER.search(text(value))):
                continue
            if problem := label_problem(key, text(value) if is_label else None):
                where = child(f"{executor.kubernetes_where}.{part}", key)
                yield error(where, f"Kubernetes does not take it: {problem}", "shorten it, or use other characters")
