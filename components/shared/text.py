"""Values and errors as short, printable text for messages."""

from __future__ import annotations

import re
from collections.abc import Mapping


def shortened(value: object, limit: int = 60) -> str:
    """A value as text, cut so that an error stays one readable line."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a huge integer"
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shown(path: object, limit: int = 500) -> str:
    """A path or name as one printable line, whatever bytes a file system or a file gave it."""
    return shortened(str(path), limit)


def natural_key(text: str) -> tuple[list[tuple[int, str]], str]:
    """What names are sorted by so that 2.png comes before 10.png and capitals beside small letters."""
    parts = re.split(r"(\d+)", text.casefold())  # texts at even positions, numbers, of any length, at odd ones
    numbers = (part.lstrip("0") if index % 2 else part for index, part in enumerate(parts))
    return [(len(part) if index % 2 else 0, part) for index, part in enumerate(numbers)], text


def described(value: object) -> str:
    """A value and its type for a message, as the user might have written it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the text {shortened(value)!r}"
    if isinstance(value, int | float):
        return shortened(value)
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple | set) else f"a {type(value).__name__}"


def first_line(error: BaseException) -> str:
    """The first line of an exception's text that says something; of a pydantic error, its first message."""
    from pydantic_core import ValidationError  # a process that decodes starts a fifth faster without

    if isinstance(error, ValidationError):
        detail = error.errors(include_url=False)[0]
        refused = detail.get("ctx", {}).get("problems")
        return str(refused[0][1]) if refused else shortened(detail["msg"], 200)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[0], 200) if lines else type(error).__name__
