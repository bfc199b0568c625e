"""The YAML of compiled pipelines, ours or anyone's, read so that no file is the end of whoever reads it.

Values are those that kfp and Vertex AI's library see, so YAML 1.1's, read by PyYAML's safe loader.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import yaml

from components.shared.files import read_regular

# kfp's loaders are made for files of some kilobytes; a file that is larger than that is something else.
LARGEST = 32 * 2**20
# protobuf's own reader of JSON goes no deeper; libyaml's loader dies of some ten thousand.
_DEEPEST = 100
_MOST_VALUES = 2_000_000

# In C, ten times as fast, where it was built so.
_SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What PyYAML's constructors raise where a text is not what its tag or its form says, such as the day 2026-02-31.
_NO_SUCH_VALUE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


class UnreadableError(Exception):
    """A file is none that can be a compiled pipeline; the text says why, after the file's name."""


def text_of(file: Path) -> str:
    """A file's text.

    Raises:
        UnreadableError: It cannot be read, is too large or is no text.
    """
    try:
        data = read_regular(file, LARGEST)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            raise UnreadableError(f"is larger than {LARGEST // 2**20} MiB, so it is no compiled pipeline") from error
        raise UnreadableError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError("is not a text file") from error


def documents_of(text: str) -> list[Any]:
    """The documents of a text, none of which holds itself, is enormous or too deep to be walked through.

    Raises:
        UnreadableError: It is not YAML, or such a document.
    """
    try:
        _check_depth(text)
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1})" if mark else ""
        raise UnreadableError(f"is not YAML: {error.problem or error.context}{where}") from error
    except (yaml.YAMLError, *_NO_SUCH_VALUE) as error:
        raise UnreadableError(f"is not YAML: {' '.join(str(error).split())}") from error
    _check_size(documents)
    return documents


class _Loader(_SAFE_LOADER):  # type: ignore[misc] # either of two classes
    """The safe loader that refuses what two readers would understand differently."""

    def construct_document(self, node: Any) -> Any:
        """A document, of whose mappings each key is a text that stands there once: of two, PyYAML takes the last."""
        _check_keys(node)
        return super().construct_document(node)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """A value; one that PyYAML cannot make of what is written is told by its line, without what is written."""
        try:
            return super().construct_object(node, deep)
        except _NO_SUCH_VALUE as error:
            problem = "a value that is not what it is written as"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def _check_keys(document: Any) -> None:
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
            _check_keys_of(node)
            nodes += [value for _, value in node.value]


def _check_keys_of(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if key.tag == _MERGE:
            continue
        if key.tag != _TEXT or not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key that is no text", key.start_mark)
        if key.value in seen:
            problem = f"the key {key.value[:60]!r} stands twice in one mapping"
            raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        seen.add(key.value)


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_SAFE_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                raise UnreadableError(f"is nested more than {_DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_size(documents: list[Any]) -> None:
    """Refuse what YAML's references make of a small file."""
    sizes: dict[int, int] = {}
    depths: dict[int, int] = {}
    open_: set[int] = set()
    stack: list[tuple[Any, bool]] = [(documents, False)]
    while stack:
        item, left = stack.pop()
        if not isinstance(item, dict | list):
            continue
        inner = list(item.values()) if isinstance(item, dict) else item
        if left:
            open_.discard(id(item))
            sizes[id(item)] = 1 + sum(sizes.get(id(part), 1) for part in inner)
            depths[id(item)] = 1 + max((depths.get(id(part), 0) for part in inner), default=0)
            if sizes[id(item)] > _MOST_VALUES:
                raise UnreadableError(f"holds more than {_MOST_VALUES} values once its references are followed")
            if depths[id(item)] > _DEEPEST + 1:  # the list of documents is one
                raise UnreadableError(f"is nested more than {_DEEPEST} deep once its references are followed")
        elif id(item) in open_:
            raise UnreadableError("holds itself: one of its references leads back to what it is in")
        elif id(item) not in sizes:
            open_.add(id(item))
            stack.append((item, True))
            stack += [(part, False) for part in inner]


class Dumper(yaml.SafeDumper):
    """Writes what readers of YAML 1.1 and 1.2 understand alike, texts of several lines as blocks."""


# A number to readers of YAML 1.2, such as Kubeflow's, but a text to PyYAML, which would write it without quotes.
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+")


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else "'" if _NUMBER.fullmatch(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


Dumper.add_representer(str, _text)
