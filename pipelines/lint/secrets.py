"""The rule ``secret-value``: values of secrets in a file that many may read.

A name that says so, or a shape that only secrets have; how random a text looks is no criterion, because digests do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from components.shared.events.redaction import names_a_secret
from pipelines.lint.finding import Note, error
from pipelines.lint.view import PLACEHOLDER, View, child, mapping, walk

_ALSO_NAMES_ONE = re.compile(
    r"(CREDENTIALS?|(ENCRYPTION|SIGNING|SSH|AUTH|ACCOUNT|STORAGE|SHARED)_?KEY|CONNECTION_?STRING)$", re.IGNORECASE
)
# Says where a secret is, how many of them, or which token of a text is meant.
_NAMES_NONE = re.compile(
    r"(_(FILE|PATH|DIR|NAME|NAMES|VERSION|REF|COUNT|LIMIT|LENGTH|SIZE|TTL|URI|URL|ARN|TYPE|KEY_NAME)"
    r"|^(MAX|MIN|NUM|N)_\w*TOKENS?|^(PAD|EOS|BOS|UNK|SEP|CLS|MASK|SPECIAL)_TOKENS?\w*)$",
    re.IGNORECASE,
)
# Where it is kept instead: Secret Manager, a vault, another variable, what the platform fills in.
_REFERENCE = re.compile(r"(sm://|projects/[^/]+/secrets/|vault:|arn:aws:secretsmanager:|\$[({A-Za-z_]|%\()")
_OPTION = re.compile(r"--?([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)

_SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "a private key",
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\s|\\[nr])*(?:Proc-Type|[A-Za-z0-9+/=]{16,})"),
    ),
    ("an access key of AWS", re.compile(r"\b(?:AKIA|ASIA)(?![A-Z0-9]*EXAMPLE\b)[A-Z0-9]{16}\b")),
    ("an API key of Google", re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("an access token of Google", re.compile(r"\bya29\.[0-9A-Za-z_-]{20,}")),
    ("a token of GitHub", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b")),
    ("a token of Slack", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}")),
    ("a token of Hugging Face", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")),
    ("a JSON web token", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")),
    (
        "a password inside a URL",
        # Not {user}:{password} of source code, nor the words of an example.
        re.compile(
            r"\b[a-z][a-z0-9+.-]*://[^/\s:@'\"{}<>$%]*:(?!(?:pass|passwd|password|pwd|x+|\*+)@)(?:[^/\s@'\"{}<>$%]|%[0-9A-Fa-f]{2})+@[\w\[]"
        ),
    ),
)

_ADVICE = (
    "remove it and change the secret, because whoever saw the file knows it; keep it in a Kubernetes secret "
    "(secret_env or secret_files in the settings) or in Secret Manager (a …_FILE variable with sm://projects/…)"
)


def secret_value(view: View) -> Iterator[Note]:
    """Literal values of secrets.

    Environment variables, parameters, constants and options whose name says that their value is secret; anywhere:
    private keys, service account keys, access keys and tokens of well-known shapes, URLs with a password.
    """
    told = set()
    for where, what, _ in _found(view):
        if where not in told:
            told.add(where)
            yield error(where, what, _ADVICE)


def secret_values(view: View) -> list[str]:
    """The values themselves, so that no other message shows one; longest first."""
    return sorted({value for _, _, value in _found(view) if len(value) >= 4}, key=len, reverse=True)


def _found(view: View) -> Iterator[tuple[str, str, str]]:
    """Place, what it is, the value."""
    for executor in view.containers:
        for where, name, value in executor.environment:
            if _is_secret(name, value):
                yield f"{where}.value", f"the environment variable {name} holds a secret's value", value
        yield from _in_words(f"{executor.container_where}.args", executor.container.get("args"))
        yield from _in_words(f"{executor.container_where}.command", executor.container.get("command"))
    for where, name, value in _parameters(view):
        yield from _in_value(where, name, value)
    for document, where in ((view.spec, ""), (mapping(view.pipeline.platforms), "platforms")):
        for key, part in document.items():
            for place, _, value in walk(part, child(where, key).removeprefix(".")):
                yield from _by_shape(place, value)


def _parameters(view: View) -> Iterator[tuple[str, str, Any]]:
    """Every default and constant of a parameter: place, name, value."""
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


def _in_value(where: str, name: str, value: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            inner = None
        if isinstance(inner, dict | list):
            for place, key, item in walk(inner, name):
                if isinstance(item, str) and _is_secret(key, item):
                    yield where, f"{place} in the text of {name} holds a secret's value", item
            return
    for place, key, item in walk(value, where):
        by = name if place == where else key
        if isinstance(item, str) and (_is_secret(by, item) or _is_secret(name, item)):
            yield place, f"the parameter {by} holds a secret's value", item


def _in_words(where: str, words: Any) -> Iterator[tuple[str, str, str]]:
    """Options such as ``--password VALUE`` and ``--password=VALUE``."""
    words = words if isinstance(words, list) else []
    for index, word in enumerate(words):
        match = _OPTION.fullmatch(word) if isinstance(word, str) else None
        if match is None:
            continue
        name, place, value = match[1].replace("-", "_"), child(where, index), match[2]
        if value is None:
            following = words[index + 1] if index + 1 < len(words) else None
            value, place = following, child(where, index + 1)
        if isinstance(value, str) and not value.startswith("-") and _is_secret(name, value):
            yield place, f"the option {word.split('=')[0]} is given a secret's value", value


def _by_shape(where: str, value: Any) -> Iterator[tuple[str, str, str]]:
    if not isinstance(value, str):
        return
    for what, shape in _SHAPES:
        if match := shape.search(value):
            yield where, f"here is {what}", match[0]


def _is_secret(name: str, value: str) -> bool:
    """Whether a name says that the value is secret, and the value is one."""
    plain = value.strip()
    if not plain or PLACEHOLDER.search(plain) or _REFERENCE.match(plain) or _NAMES_NONE.search(name):
        return False
    if _ALSO_NAMES_ONE.search(name):
        # GOOGLE_APPLICATION_CREDENTIALS and the like name a file more often than they hold its content.
        return not re.match(r"[./~]|[a-z0-9]+://[^:@]*$", plain)
    return names_a_secret(name, plain)
