"""Quantities of processors and memory, as settings say them and Kubernetes and KFP write them."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS: dict[str, Decimal] = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("KMGTPE", start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}
CPU = re.compile(r"(?:0|[1-9][0-9]{0,4})(?:\.[0-9]{1,3})?|[1-9][0-9]{0,6}m")
# With a unit: a bare number is bytes to KFP, and hardly ever meant so. Without K, which Kubernetes does not know.
MEMORY = re.compile(r"[1-9][0-9]{0,14}(?:[MGTPE]|[KMGTPE]i)")


def quantity(text: str) -> Decimal:
    """Processors or bytes that a quantity comes to: 4, 0.5, 500m, 16Gi, 64G."""
    number = text.rstrip("mKMGTPEi")
    return Decimal(number) * _UNITS[text[len(number) :]]
