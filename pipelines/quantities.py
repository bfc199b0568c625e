"""Quantities of processors and memory, as Kubernetes and KFP write them."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS: dict[str, int] = {
    f"{letter}{ending}": base**power
    for base, ending in ((1000, ""), (1024, "i"))
    for power, letter in enumerate("KMGTPE", start=1)
}
_CPU = re.compile(r"(?:0|[1-9][0-9]{0,4})(?:\.[0-9]{1,3})?|[1-9][0-9]{0,6}m")
_MEMORY = re.compile(r"([1-9][0-9]{0,14})([KMGTPE]i?)?")


def processors(text: str) -> Decimal:
    """How many processors a quantity such as 4, 0.5 or 500m is.

    Raises:
        ValueError: It is none.
    """
    if not _CPU.fullmatch(text):
        raise ValueError(f"{text!r} is no number of processors")
    return Decimal(text[:-1]) / 1000 if text.endswith("m") else Decimal(text)


def bytes_of(text: str) -> int:
    """How many bytes a quantity such as 16Gi or 64G is.

    Raises:
        ValueError: It is none.
    """
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no amount of memory")
    return int(match[1]) * _UNITS.get(match[2] or "", 1)
