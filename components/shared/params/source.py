"""From what a user has, a file, a text, ``--set key=value``, to a plain dict; no meaning is checked here.

JSON is RFC 8259 read strictly: no duplicate keys, no NaN. YAML is read by the YAML 1.2 core schema, in which ``1e-5``
is a number and ``no`` is a text; PyYAML alone follows YAML 1.1, where both are the other way round.
"""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import yaml

from components.shared.errors import ParamsError, Problem
from components.shared.files import read_regular
from components.shared.params.allowed_classes import shortened
from components.shared.strict_json import StrictJsonError, no_constant, parse_json, unique_keys

MAX_BYTES = 10 * 1024 * 1024
MAX_VALUES = 100_000
MAX_NESTING = 64

_SEGMENT = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_]*)|\[([0-9]{1,9})\]")
_PYTHON_WORDS = {"True": True, "False": False, "None": None}


def fail(message: str, source: str | None = None, path: str = "") -> NoReturn:
    """Raise a :class:`ParamsError` of one problem."""
    raise ParamsError([Problem(path, message)], source)


def read_params_file(path: str | Path, what: str = "params") -> dict[str, Any]:
    """Read a ``.json``, ``.yaml`` or ``.yml`` file.

    Args:
        path: The file.
        what: What messages call that which it holds.

    Raises:
        ParamsError: The file cannot be read, is not in its format or holds no mapping.
    """
    file = Path(path)
    source = str(path)
    suffix = file.suffix.lower()
    if suffix not in (".json", ".yaml", ".yml"):
        hint = "; the shutterline command reads .py files too" if suffix == ".py" else ""
        fail(f"a file of {what} ends in .json, .yaml or .yml{hint}", source)
    try:
        raw = read_regular(file, MAX_BYTES)
    except FileNotFoundError:
        fail("there is no such file", source)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            fail(f"is larger than {MAX_BYTES // 1024**2} MiB, too large for {what}", source)
        fail(f"cannot be read: {getattr(error, 'strerror', None) or error}", source)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail(f"is not UTF-8 text (byte {error.start})", source)
    return from_json(text, source, what) if suffix == ".json" else from_yaml(text, source, what)


def from_json(text: str, source: str | None = None, what: str = "params") -> dict[str, Any]:
    """Parse a JSON document that holds one mapping.

    Raises:
        ParamsError: Not JSON, a key twice, NaN or infinity, or no mapping.
    """
    if not text.strip():
        fail("is empty", source)
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        fail(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", source)
    except StrictJsonError as error:
        fail(str(error), source)
    except ValueError:  # Python's limit on the digits of one integer
        fail("holds an integer of thousands of digits", source)
    return _one_mapping(value, source, what)


def from_yaml(text: str, source: str | None = None, what: str = "params") -> dict[str, Any]:
    """Parse a YAML document that holds one mapping.

    Raises:
        ParamsError: Not YAML, a key twice, a tag beyond the core schema, or no mapping.
    """
    if not text.strip():
        fail("is empty", source)
    try:
        value = yaml.load(text, Loader=_CoreLoader)  # noqa: S506 - built on SafeLoader, with fewer tags
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        fail(f"is not YAML: {error.problem or error.context}{where}", source)
    except yaml.YAMLError as error:
        fail(f"is not YAML: {' '.join(str(error).split())}", source)
    except RecursionError:
        fail("is nested too deep", source)
    except (ValueError, OverflowError) as error:  # PyYAML's own, such as of "\U00110000", which is no character
        fail(f"is not YAML: {shortened(str(error), 100)}", source)
    return _one_mapping(value, source, what)


def with_overrides(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with each ``key=value`` applied, in order.

    Keys may lead inside: ``net_arch[0].kwargs.out_channels=64``. Values are JSON; what is not JSON is text, and
    Python's True, False and None are understood.

    Raises:
        ParamsError: Not of that form, or the way leads nowhere.
    """
    check_size(raw)
    result: dict[str, Any] = {key: _copied(value) for key, value in raw.items()}
    for override in overrides:
        key, equals, value = override.partition("=")
        way = _way(key.strip()) if equals else None
        if way is None:
            fail("must be key=value, such as num_epochs=5", f"--set {shortened(override)}")
        _assign(result, way, _override_value(value.strip(), key), f"--set {shortened(override)}")
    return result


def _one_mapping(value: object, source: str | None, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        example = ', such as {"batch_size": 64, …}' if what == "params" else ""
        fail(f"must hold one mapping of {what}{example}", source)
    check_size(value, source)
    return value


def check_size(value: object, source: str | None = None) -> None:
    """Refuse what aliases or nesting blow up beyond any real config.

    Raises:
        ParamsError: More than 100,000 values, or mappings and lists more than 64 deep, as one inside itself is.
    """
    left, budget = [(value, 0)], MAX_VALUES
    while left:
        item, depth = left.pop()
        budget -= 1
        if budget < 0:
            fail(f"holds more than {MAX_VALUES:,} values", source)
        if depth > MAX_NESTING:
            fail(f"is nested more than {MAX_NESTING} deep", source)
        if isinstance(item, Mapping):
            left.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list | tuple):
            left.extend((inner, depth + 1) for inner in item)


def _copied(value: Any) -> Any:
    """`value` with mappings and lists of its own; what is inside them may be anything, and is shared."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _way(key: str) -> list[str | int] | None:
    """The steps into a config that a dotted key names; None if it is not one."""
    way: list[str | int] = []
    position = 0
    while position < len(key):
        match = _SEGMENT.match(key, position)
        if match is None or (position == 0 and match[1] is None) or (position == 0 and key.startswith(".")):
            return None
        way.append(match[1] if match[1] is not None else int(match[2]))
        position = match.end()
    return way or None


def _assign(target: Any, way: list[str | int], value: object, source: str) -> None:
    walked = ""
    for index, step in enumerate(way):
        last = index == len(way) - 1
        if isinstance(step, int):
            if not isinstance(target, list) or step >= len(target):
                size = f"has {len(target)} entries" if isinstance(target, list) else "is not a list"
                fail(f"{size}, so there is no [{step}] to set", source, walked)
        elif not isinstance(target, dict):
            fail(f"is not a mapping, so there is no .{step} to set", source, walked)
        elif not last and step not in target:
            fail(f"has no {step} to set a part of", source, walked)
        if last:
            target[step] = value
        else:
            target = target[step]
        walked += f"[{step}]" if isinstance(step, int) else (f".{step}" if walked else step)


def _override_value(text: str, key: str) -> object:
    if text in _PYTHON_WORDS:
        return _PYTHON_WORDS[text]
    constants: list[str] = []  # refused once the whole text is JSON: NaN-free is a name
    try:
        value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=constants.append)
        for constant in constants:
            no_constant(constant)
    except StrictJsonError as error:
        fail(str(error), f"--set {shortened(key)}")
    except RecursionError:
        fail("is nested too deep", f"--set {shortened(key)}")
    except ValueError:
        return text
    return value


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the tags of YAML 1.2's core schema and no duplicate keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own protocol
    # Not SafeLoader's: they make dates, sets and bytes, and raise what they like where tag and text disagree.
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        "tag:yaml.org,2002:str": yaml.SafeLoader.construct_yaml_str,
        "tag:yaml.org,2002:seq": yaml.SafeLoader.construct_yaml_seq,
        "tag:yaml.org,2002:map": yaml.SafeLoader.construct_yaml_map,
        None: yaml.SafeLoader.construct_undefined,
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "a mapping was expected here", node.start_mark)
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"keys must be text, got {shortened(key)}", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shortened(key)!r} stands twice in one mapping", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _int(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(text: str) -> float:
    folded = text.lower()
    if folded.endswith(".inf"):
        return -math.inf if folded.startswith("-") else math.inf
    return math.nan if folded == ".nan" else float(folded)


def _scalar(
    kind: str, pattern: re.Pattern[str], meaning: Callable[[str], object]
) -> Callable[[yaml.SafeLoader, yaml.ScalarNode], object]:
    """A constructor of one kind of scalar, which a tag may ask for where the text is none."""

    def construct(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> object:
        text = loader.construct_scalar(node)
        if pattern.match(text) is None:
            problem = f"{shortened(text)!r} is no {kind}"
        else:
            try:
                return meaning(text)
            except ValueError:  # Python's limit on the digits of one integer
                problem = "an integer of thousands of digits"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    return construct


_CORE: tuple[tuple[str, str, list[str], Callable[[str], object]], ...] = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""], lambda text: None),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF"), lambda text: text.lower() == "true"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789"), _int),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
        _float,
    ),
)
for _kind, _text, _first, _meaning in _CORE:
    _tag, _pattern = f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_text})\Z")
    _CoreLoader.add_implicit_resolver(_tag, _pattern, _first)
    _CoreLoader.add_constructor(_tag, _scalar(_kind, _pattern, _meaning))
