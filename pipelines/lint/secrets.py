"""The rule ``secret-value``: values of secrets in a file that many may read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipelines.compiled import NAMING_KEYS, child, mapping, texts
from pipelines.lint.view import View
from pipelines.secret_texts import is_secret, name_of_label, secret_shape

_OPTION = re.compile(r"--?([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)
# PASSWORD=… as a word of its own or of a shell's line; not of a component's source, where a value is an expression.
_SETTING = re.compile(r"(?:^|[\s;&|'\"])([A-Za-z_][A-Za-z0-9_]*)=(['\"]?)([^\s'\";&|]+)")
_SOURCE = re.compile(r"^\s*(?:def|import|from|class) ", re.MULTILINE)


def secrets_in(view: View) -> Iterator[tuple[str, str, str]]:
    """Literal values of secrets: path, what it is, the value.

    Whatever stands under a name that says so, also inside JSON texts, options and a shell's lines; anywhere: private
    keys, access keys and tokens of well-known shapes, URLs with a password.
    """
    for document, where in ((view.pipeline.spec, ""), (mapping(view.pipeline.platforms), "platforms")):
        for path, name, value in texts(document, where):
            if name in NAMING_KEYS:
                continue
            if is_secret(name_of_label(name), value):
                yield path, f"{name} holds a secret's value", value
            elif (shape := secret_shape(value)) is not None:
                yield path, f"here is {shape[0]}", shape[1]
    for step in view.steps:
        for part in ("command", "args"):
            yield from _in_arguments(f"{step.where}.{part}", step.container.get(part))


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
