"""The rule ``secret-value``: values of secrets in a file that many may read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pipelines.lint.finding import Note, error
from pipelines.lint.view import Executor, View, child, listing, mapping, text, walk
from pipelines.secret_texts import is_secret, name_of_label, secret_shape

_OPTION = re.compile(r"--?([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)

# PASSWORD=… as a word of its own or of a shell's line; not of a component's source, where a value is an expression.
_SETTING = re.compile(r"(?:^|[\s;&|'\"])([A-Za-z_][A-Za-z0-9_]*)=(['\"]?)([^\s'\";&|]+)")
_SOURCE = re.compile(r"^\s*(?:def|import|from|class) ", re.MULTILINE)

_ADVICE = (
    "remove it and change the secret, because whoever saw the file knows it; keep it in a Kubernetes secret "
    "(secret_env or secret_files in the settings) or in Secret Manager (a …_FILE variable with sm://projects/…)"
)


def secret_value(view: View) -> Iterator[Note]:
    """Literal values of secrets.

    Environment variables, parameters, constants, options, labels, annotations and an importer's metadata whose name
    says that their value is secret; anywhere: private keys, service account keys, access keys and tokens of well-known
    shapes, URLs with a password.
    """
    told = set()
    for where, what, _ in _found(view):
        if where not in told:
            told.add(where)
            yield error(where, what, _ADVICE)


def secret_values(view: View) -> list[str]:
    """The values themselves, so that no other message shows one; longest first.

    Without short plain words such as "train", which messages have of themselves.
    """
    values = {value for _, _, value in _found(view)}
    return sorted(filter(lambda value: len(value) >= (8 if value.isalpha() else 4), values), key=len, reverse=True)


def _found(view: View) -> Iterator[tuple[str, str, str]]:
    """Place, what it is, the value."""
    for executor in view.containers:
        for where, name, value in executor.environment:
            if is_secret(name, value):
                yield f"{where}.value", f"the environment variable {name} holds a secret's value", value
        yield from _in_words(f"{executor.container_where}.args", executor.container.get("args"))
        yield from _in_words(f"{executor.container_where}.command", executor.container.get("command"))
        yield from _in_metadata(executor)
    for where, name, value in (*_parameters(view), *_importers(view)):
        yield from _in_value(where, name, value)
    for document, where in ((view.spec, ""), (mapping(view.pipeline.platforms), "platforms")):
        for key, part in document.items():
            for place, _, value in walk(part, child(where, key).removeprefix(".")):
                yield from _by_shape(place, value)


def _parameters(view: View) -> Iterator[tuple[str, str, Any]]:
    """Every default and constant of a parameter, and what loops go through: place, name, value."""
    found = [("root", mapping(view.spec.get("root")))]
    found += [(child("components", name), component) for name, component in view.components.items()]
    for where, component in found:
        parameters = mapping(mapping(component.get("inputDefinitions")).get("parameters"))
        for name, definition in parameters.items():
            place = child(f"{where}.inputDefinitions.parameters", name)
            yield f"{place}.defaultValue", name, mapping(definition).get("defaultValue")
    for where, _, tasks in view.dags:
        for task_name, task in tasks.items():
            inputs = mapping(mapping(task.get("inputs")).get("parameters"))
            for name, item in inputs.items():
                place = child(f"{child(f'{where}.dag.tasks', task_name)}.inputs.parameters", name)
                yield f"{place}.runtimeValue.constant", name, mapping(mapping(item).get("runtimeValue")).get("constant")
            items = mapping(mapping(task.get("parameterIterator")).get("items"))
            place = f"{child(f'{where}.dag.tasks', task_name)}.parameterIterator.items.raw"
            yield place, "the loop's items", items.get("raw")


def _importers(view: View) -> Iterator[tuple[str, str, Any]]:
    """What importers say of the artifacts they bring in."""
    for label, item in mapping(mapping(view.spec.get("deploymentSpec")).get("executors")).items():
        metadata = mapping(mapping(mapping(item).get("importer")).get("metadata"))
        yield f"{child('deploymentSpec.executors', label)}.importer.metadata", "metadata", metadata


def _in_metadata(executor: Executor) -> Iterator[tuple[str, str, str]]:
    """Labels and annotations, by the last part of their key."""
    for kind in ("labels", "annotations"):
        where = f"{executor.kubernetes_where}.podMetadata.{kind}"
        for key, value in mapping(mapping(executor.kubernetes.get("podMetadata")).get(kind)).items():
            if is_secret(name_of_label(key), text(value)):
                yield child(where, key), f"the {kind[:-1]} {key} holds a secret's value", text(value)


def _in_value(where: str, name: str, value: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            inner = None
        if isinstance(inner, dict | list):
            for place, key, item in walk(inner, name):
                if isinstance(item, str) and is_secret(key, item):
                    yield where, f"{place} in the text of {name} holds a secret's value", item
            return
    for place, key, item in walk(value, where):
        by = name if place == where else key
        if isinstance(item, str) and (is_secret(by, item) or is_secret(name, item)):
            yield place, f"the parameter {by} holds a secret's value", item


def _in_words(where: str, words: Any) -> Iterator[tuple[str, str, str]]:
    """Options such as ``--password VALUE`` and ``--password=VALUE``, settings such as ``PASSWORD=VALUE``."""
    words = listing(words)
    for index, word in enumerate(words):
        if not isinstance(word, str):
            continue
        place, match = child(where, index), _OPTION.fullmatch(word)
        if match is None:
            for setting in _SETTING.finditer(word) if not _SOURCE.search(word) else ():
                # Whatever begins with $ there, a shell looks up.
                if not setting[3].startswith("$") and is_secret(setting[1], setting[3]):
                    yield place, f"{setting[1]} is set to a secret's value", setting[3]
            continue
        name, value = match[1].replace("-", "_"), match[2]
        if value is None:
            value, place = (words[index + 1] if index + 1 < len(words) else None), child(where, index + 1)
        if isinstance(value, str) and not value.startswith("-") and is_secret(name, value):
            yield place, f"the option {word.split('=')[0]} is given a secret's value", value


def _by_shape(where: str, value: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, str) and (shape := secret_shape(value)) is not None:
        what, part = shape
        yield where, f"here is {what}", part
