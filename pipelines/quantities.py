"""Quantities of processors and memory, as Kubernetes and KFP write them."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS: dict[str, Decimal] = {
    "": Decimal(1),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("num", start=-3)},
    "k": Decimal(1000),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("KMGTPE", start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}
_QUANTITY = re.compile(
    r"\+?([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE]([+-]?[0-9]{1,2})|([numkKMGTPE]|[KMGTPE]i))?"
)
# What people write into settings. Without K, which KFP takes and hands on to Kubernetes, where it is no unit.
CPU = re.compile(r"(?:0|[1-9][0-9]{0,4})(?:\.[0-9]{1,3})?|[1-9][0-9]{0,6}m")
MEMORY = re.compile(r"[1-9][0-9]{0,14}(?:[MGTPE]|[KMGTPE]i)?")


def quantity(text: str) -> Decimal:
    """What a quantity comes to, by the grammar of Kubernetes' resource.Quantity and with KFP's K besides.

    Raises:
        ValueError: It is none, or a negative one.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no quantity")
    number, exponent, unit = match.groups()
    return Decimal(number) * (Decimal(10) ** int(exponent) if exponent else _UNITS[unit or ""])


def processors(text: str) -> Decimal:
    """How many processors 4, 0.5 or 500m is, as settings say it.

    Raises:
        ValueError: It is none.
    """
    if not CPU.fullmatch(text):
        raise ValueError(f"{text!r} is no number of processors")
    return quantity(text)


def bytes_of(text: str) -> int:
    """How many bytes 16Gi or 64G is, as settings say it.

    Raises:
        ValueError: It is none.
    """
    if not MEMORY.fullmatch(text):
        raise ValueError(f"{text!r} is no amount of memory")
    return int(quantity(text))
