"""The rule ``secret-value``: values of secrets in a file that many may read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from components.shared.events.redaction import names_a_secret
from pipelines.compiled import NAMING_KEYS, child, texts
from pipelines.lint.findings import Note
from pipelines.secret_texts import is_secret, name_of_label, secret_shape

_OPTION = re.compile(r"--?([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)
# PASSWORD=… as a word of its own or of a shell's line; not of a component's source, where a value is an expression.
_SETTING = re.compile(r"(?:^|[\s;&|'\"])([A-Za-z_][A-Za-z0-9_]*)=(['\"]?)([^\s'\";&|]+)")
_SOURCE = re.compile(r"^\s*(?:def|import|from|class) ", re.MULTILINE)

CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
_KEPT = "(secret_env or secret_files in the settings) or in Secret Manager (a …_FILE variable with sm://projects/…)"
# Parts of a file, each with its path.
Parts = Iterable[tuple[str, Any]]


def names_credentials(variable: str) -> bool:
    """Whether a variable's value is the path of a file of credentials, by its name."""
    of_kafka = variable.startswith("KAFKA_SSL_") and variable.endswith("FILE")
    secret = variable.endswith("_FILE") and names_a_secret(variable.removesuffix("_FILE"))
    return variable == CREDENTIALS or of_kafka or secret


def secret_notes(documents: Parts, arguments: Parts, kept: str = _KEPT) -> Iterator[Note]:
    """The rule ``secret-value`` of documents, and of lists of a command's arguments; `kept` is how one is named."""
    advice = (
        f"remove it and change the secret, because all who saw the file know it; keep it in a Kubernetes secret {kept}"
    )
    found: dict[str, str] = {}
    for where, what, _ in secrets_in(documents, arguments):
        found.setdefault(where, what)  # the first of each path
    for where, what in found.items():
        yield Note("error", where, what, advice)


def secrets_in(documents: Parts, arguments: Parts) -> Iterator[tuple[str, str, str]]:
    """Literal values of secrets: path, what it is, the value.

    Whatever stands under a name that says so, also inside JSON texts, options and a shell's lines; anywhere: private
    keys, access keys and tokens of well-known shapes, URLs with a password.
    """
    for where, document in documents:
        for path, name, value in texts(document, where):
            if name in NAMING_KEYS:
                continue
            if is_secret(name_of_label(name), value):
                yield path, f"{name} holds a secret's value", value
            elif (shape := secret_shape(value)) is not None:
                yield path, f"here is {shape[0]}", shape[1]
    for where, given in arguments:
        yield from _in_arguments(where, given)


def _in_arguments(where: str, arguments: Any) -> Iterator[tuple[str, str, str]]:
    """Options such as ``--password VALUE`` and ``--password=VALUE``, settings such as ``PASSWORD=VALUE``."""
    given = [each if isinstance(each, str) else "" for each in arguments] if isinstance(arguments, list) else []
    for index, (argument, after) in enumerate(zip(given, [*given[1:], ""], strict=False)):
        option = _OPTION.fullmatch(argument)
        if option is None:
            for setting in _SETTING.finditer(argument) if not _SOURCE.search(argument) else ():
                # Whatever begins with $ there, a shell looks up.
                if not setting[3].startswith("$") and is_secret(setting[1], setting[3]):
                    yield child(where, index), f"{setting[1]} is set to a secret's value", setting[3]
            continue
        at, value = (index + 1, after) if option[2] is None else (index, option[2])
        if not value.startswith("-") and is_secret(option[1].replace("-", "_"), value):
            yield child(where, at), f"the option {argument.split('=')[0]} is given a secret's value", value
