"""What a container asks for, read from either of the two ways in which KFP writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from pipelines.lint.view import PLACEHOLDER, Executor
from pipelines.quantities import bytes_of, processors

# Kubernetes takes fractions of a unit too, which we never write.
_FRACTION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMGTPE]i?|k)?")


def memory_bytes(amount: str) -> int:
    """How many bytes an amount is.

    Raises:
        ValueError: It is none.
    """
    match = _FRACTION.fullmatch(amount)
    if match is None:
        return bytes_of(amount)
    unit = "K" if match[2] == "k" else match[2] or ""
    return int(Decimal(match[1]) * bytes_of(f"1{unit}"))


@dataclass(frozen=True)
class Asked:
    """One resource a container asks for.

    Attributes:
        where: Its place.
        written: As it is written; empty: it is not, or only a run knows.
        later: Whether only a run knows.
        amount: Processors or bytes; None: not known, or no quantity.
    """

    where: str
    written: str
    later: bool
    amount: Decimal | None

    @property
    def unreadable(self) -> bool:
        """Whether something is there that is no quantity."""
        return bool(self.written) and self.amount is None


def asked(executor: Executor, resource: str, kind: str) -> Asked:
    """What a container asks for.

    Args:
        executor: Whose container.
        resource: ``cpu`` or ``memory``.
        kind: ``Limit`` or ``Request``.
    """
    resources = executor.resources
    new, old = f"resource{resource.capitalize()}{kind}", f"{resource}{kind}"
    name = new if resources.get(new) else old
    where, value = f"{executor.container_where}.resources.{name}", resources.get(name)
    if not value or isinstance(value, bool) or not isinstance(value, str | int | float):
        return Asked(where, "", False, None)
    # KFP's older field counts memory in gigabytes.
    written = f"{value}G" if name == old and resource == "memory" and not isinstance(value, str) else str(value)
    if PLACEHOLDER.search(written):
        return Asked(where, "", True, None)
    try:
        amount = processors(written) if resource == "cpu" else Decimal(memory_bytes(written))
    except ValueError:
        return Asked(where, written, False, None)
    return Asked(where, written, False, amount)
