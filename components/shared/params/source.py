"""From what a user has, a file, a text, ``--set key=value``, to a plain dict; no meaning is checked here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from components.shared import strict_yaml
from components.shared.errors import ParamsError, Problem
from components.shared.params.gate import CLASS_METRICS
from components.shared.strict_json import StrictJsonError, no_constant, parse_json, unique_keys
from components.shared.strict_yaml import DocumentError, parse_yaml, read_text
from components.shared.text import shortened

MAX_BYTES = 10 * 1024 * 1024
MAX_VALUES = 100_000
MAX_NESTING = 64

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
# The figure of one class, whose name may be almost anything: gate.recall[golden retriever].min.
_CLASS_THRESHOLD = re.compile(rf"gate\.((?:{'|'.join(CLASS_METRICS)})\[.+\])(?:\.(min|max))?")
_PYTHON_NAMES = {"True": True, "False": False, "None": None}


def fail(message: str, source: str | None = None, path: str = "") -> NoReturn:
    """Raise a :class:`ParamsError` of one problem."""
    raise ParamsError([Problem(path, message)], source)


def check_size(value: object, source: str | None = None) -> None:
    """Refuse what aliases or nesting blow up beyond any real config, by a ParamsError."""
    try:
        strict_yaml.check_size(value, MAX_VALUES, MAX_NESTING)
    except DocumentError as error:
        fail(str(error), source)


def read_raw(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()
) -> tuple[dict[str, Any], str | None]:
    """The unchecked options of a path, a text that begins with ``{`` or a dict, and what messages call them.

    Raises:
        ParamsError: It cannot be read, is not in its format, or an override (``key=value``) does not fit it.
    """
    if isinstance(source, Mapping):
        return with_overrides(source, overrides), None
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return with_overrides(from_json(source), overrides), None
    return with_overrides(read_params_file(source), overrides), str(source)


def read_params_file(path: str | Path, what: str = "params") -> dict[str, Any]:
    """Read a ``.json``, ``.yaml`` or ``.yml`` file; `what` is what messages call its content.

    Raises:
        ParamsError: The file cannot be read, is not in its format or holds no mapping.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".yaml", ".yml"):
        hint = "; the shutterline command reads .py files too" if suffix == ".py" else ""
        fail(f"a file of {what} ends in .json, .yaml or .yml{hint}", str(path))
    try:
        text = read_text(Path(path), MAX_BYTES)
    except DocumentError as error:
        too_large = f", too large for {what}" if "larger" in str(error) else ""
        fail(f"{error}{too_large}", str(path))
    return from_json(text, str(path), what) if suffix == ".json" else from_yaml(text, str(path), what)


def from_json(text: str, source: str | None = None, what: str = "params") -> dict[str, Any]:
    """Parse a JSON document that holds one mapping: RFC 8259 read strictly, no key twice, no NaN; else ParamsError."""
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
    """Parse a YAML document that holds one mapping, by YAML 1.2's core schema; else ParamsError."""
    if not text.strip():
        fail("is empty", source)
    try:
        documents = parse_yaml(text, MAX_VALUES, core=True)
    except DocumentError as error:
        fail(str(error), source)
    if len(documents) > 1:
        fail(f"holds {len(documents)} documents, and only one is read", source)
    return _one_mapping(documents[0] if documents else None, source, what)


def with_overrides(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with each ``key=value`` applied, in order.

    Keys may lead inside: ``net_arch[0].kwargs.out_channels=64``, ``gate.recall[cat].min=0.9``. Values are JSON; what is
    not JSON is text, and Python's True, False and None are understood.

    Raises:
        ParamsError: Not of that form, or the way leads nowhere.
    """
    check_size(raw)
    result: dict[str, Any] = _copied(raw)
    for override in overrides:
        source = f"--set {shortened(override)}"
        key, equals, value = override.partition("=")
        way = _way(key.strip()) if equals else None
        if way is None:
            fail("must be key=value, such as num_epochs=5", source)
        _assign(result, way, _override_value(value.strip(), key), source)
    return result


def _one_mapping(value: object, source: str | None, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        example = ', such as {"batch_size": 64, …}' if what == "params" else ""
        fail(f"must hold one mapping of {what}{example}", source)
    check_size(value, source)
    return value


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _way(key: str) -> list[str | int] | None:
    """The steps into a config that a dotted key names; None if it is not one."""
    if (of_class := _CLASS_THRESHOLD.fullmatch(key)) is not None:
        return ["gate", *filter(None, of_class.groups())]
    if not re.fullmatch(rf"{_NAME}(\.{_NAME}|\[[0-9]{{1,9}}\])*", key):
        return None
    return [int(step) if step.isdigit() else step for step in re.findall(r"\w+", key)]


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
        elif not last and way[0] == "gate" and target.get(step) is None:  # one threshold makes a gate
            target[step] = {}
        elif not last and step not in target:
            fail(f"has no {step} to set a part of", source, walked)
        if last:
            target[step] = value
        else:
            target = target[step]
        walked += f"[{step}]" if isinstance(step, int) else (f".{step}" if walked else step)


def _override_value(text: str, key: str) -> object:
    if text in _PYTHON_NAMES:
        return _PYTHON_NAMES[text]
    constants: list[str] = []  # refused once the whole text is JSON: NaN-free is a name
    try:
        value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=constants.append)
        for constant in constants:
            no_constant(constant)
    except (StrictJsonError, RecursionError) as error:
        message = str(error) if isinstance(error, StrictJsonError) else "is nested too deep"
        fail(message, f"--set {shortened(key)}")
    except ValueError:
        return text
    return value
