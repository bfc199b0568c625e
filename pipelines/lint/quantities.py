"""What a container asks for, read from either of the two ways in which KFP writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from pipelines.compiled import PLACEHOLDER, PlatformName
from pipelines.lint.view import Executor
from pipelines.quantities import quantity

_DURATION = re.compile(r"([0-9]{1,12})(?:\.[0-9]{1,9})?s")


def whole_seconds(value: object) -> int:
    """How many whole seconds a duration is, as protobuf writes it: 30s, 1.5s; 0 for what is none."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) if match else 0


def unit_problem(written: str, target: PlatformName | None) -> str | None:
    """Why a quantity that KFP takes comes to grief on the platform; None: it does not."""
    if target == "kubeflow" and written.endswith("K"):
        return f"{written} has the unit K, which KFP takes and Kubernetes does not know"
    return None


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
        amount = quantity(written)
    except ValueError:
        return Asked(where, written, False, None)
    return Asked(where, written, False, amount)
