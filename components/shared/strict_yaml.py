"""YAML that cannot be the end of its reader: no key twice, nothing but text as a key, bounded in depth and size.

Two schemas: YAML 1.2's core for files that people write, in which ``1e-5`` is a number and ``no`` a text (PyYAML alone
has it the other way round); and YAML 1.1, as kfp and Vertex AI's library read compiled pipelines.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from components.shared.files import read_regular

# protobuf's own reader of JSON goes no deeper; libyaml's loader dies of some ten thousand.
DEEPEST = 100
# What PyYAML's constructors raise where a text is not what its tag or its form says, such as the day 2026-02-31.
_NO_SUCH_VALUE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class DocumentError(ValueError):
    """A text cannot be read as a document; the message says why, to follow the file's name."""


def read_text(file: Path, limit: int) -> str:
    """The text of a regular file; DocumentError if it cannot be read, has more than `limit` bytes or is not UTF-8."""
    try:
        return read_regular(file, limit).decode("utf-8-sig")
    except FileNotFoundError:
        raise DocumentError("there is no such file") from None
    except UnicodeDecodeError as error:
        raise DocumentError(f"is not UTF-8 text (byte {error.start})") from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            raise DocumentError(f"is larger than {limit // 2**20} MiB") from error
        raise DocumentError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def check_size(value: object, most: int, deepest: int = DEEPEST) -> None:
    """Refuse more than `most` values, or deeper ones, as references or nesting blow up; or DocumentError."""
    left, budget = [(value, 0)], most
    while left:
        item, depth = left.pop()
        budget -= 1
        if budget < 0:
            raise DocumentError(f"holds more than {most:,} values")
        if depth > deepest:
            raise DocumentError(f"is nested more than {deepest} deep")
        if isinstance(item, Mapping):
            left += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list | tuple):
            left += [(inner, depth + 1) for inner in item]


def parse_yaml(text: str, most: int, *, core: bool) -> list[Any]:
    """The documents of a text, of at most so many values, by YAML 1.2's core schema or by YAML 1.1.

    DocumentError: it is not YAML, has a key twice, or is too large or too deep once its references are followed.
    """
    loader: Any = _CoreLoader if core else _Loader
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise DocumentError(f"is nested more than {DEEPEST} deep")
        documents = list(yaml.load_all(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise DocumentError(f"is not YAML: {error.problem or error.context}{where}") from error
    except (yaml.YAMLError, *_NO_SUCH_VALUE) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(f"is not YAML: {' '.join(str(error).split())[:200]}") from error
    check_size(documents, most)
    return documents


def _check_keys(document: yaml.Node) -> None:
    """Look at all mappings before any is made: PyYAML puts what one takes from another by << into it then."""
    checked: set[int] = set()
    nodes = [document]
    while nodes:
        node = nodes.pop()
        if id(node) in checked:
            continue
        checked.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                nodes.append(value)
                if key.tag == _MERGE:
                    continue
                if key.tag != _TEXT or not isinstance(key, yaml.ScalarNode):
                    raise yaml.constructor.ConstructorError(None, None, "keys must be text", key.start_mark)
                if key.value in seen:
                    problem = f"the key {key.value[:60]!r} stands twice in one mapping"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)


class _Guarded:
    def construct_document(self, node: Any) -> Any:
        _check_keys(node)
        return super().construct_document(node)  # type: ignore[misc]

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)  # type: ignore[misc]
        except _NO_SUCH_VALUE as error:
            problem = "a value that is not what it is written as"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


class _Loader(_Guarded, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # in C, ten times as fast
    pass


class _CoreLoader(_Guarded, yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own protocol
    # Not SafeLoader's: they make dates, sets and bytes.
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        _TEXT: yaml.SafeLoader.construct_yaml_str,
        "tag:yaml.org,2002:seq": yaml.SafeLoader.construct_yaml_seq,
        "tag:yaml.org,2002:map": yaml.SafeLoader.construct_yaml_map,
        None: yaml.SafeLoader.construct_undefined,
    }


def _int(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(text: str) -> float:
    infinity = -math.inf if text.startswith("-") else math.inf
    folded = text.lower()
    return infinity if folded.endswith(".inf") else math.nan if folded == ".nan" else float(text)


_CORE: tuple[tuple[str, str, str, Callable[[str], object]], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN", lambda text: {"~": None, "null": None, "": None}[text.lower()]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: {"true": True, "false": False}[text.lower()]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789", _int),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
        _float,
    ),
)


def _constructor(value: Callable[[str], object]) -> Callable[[yaml.SafeLoader, yaml.ScalarNode], object]:
    return lambda loader, node: value(loader.construct_scalar(node))


for _kind, _pattern, _first, _value in _CORE:
    _tag = f"tag:yaml.org,2002:{_kind}"
    _CoreLoader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), [*_first, *[""] * (_kind == "null")])
    _CoreLoader.add_constructor(_tag, _constructor(_value))


class Dumper(yaml.SafeDumper):
    """Writes what readers of YAML 1.1 and 1.2 understand alike, texts of several lines as blocks."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # A number to readers of YAML 1.2, such as Kubeflow's, but a text to PyYAML, which would write it without quotes.
    is_number = any(re.fullmatch(pattern, value) for kind, pattern, _, _ in _CORE if kind in ("int", "float"))
    return dumper.represent_scalar(_TEXT, value, style="|" if "\n" in value else "'" if is_number else None)


Dumper.add_representer(str, _represent_text)
