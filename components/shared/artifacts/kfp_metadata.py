"""What of a step's record becomes metadata of a KFP artifact: only what KFP's launcher can store.

ML Metadata holds text and numbers. A null at the top level makes the launcher fail the step after its work
("unknown/unsupported value type *structpb.Value_NullValue"), NaN loses all outputs of the step ("failed to unmarshall
ExecutorOutput"), and lists and dicts come back wrapped. kfp's local runners accept all of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from components.shared.staging import POD
from components.shared.step import StepRecord

Scalar = str | float | bool

_EXACT = 2**53  # the launcher stores every number as a double


def scalars(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """The values that KFP's launcher can store, by name.

    Numbers that are not finite become text ("nan", "inf"), and so do integers that a double would round. None, lists
    and dicts are left out, and so are texts that are paths of this machine, which nobody else can open.
    """
    found = ((name, _scalar(value)) for name, value in values.items())
    return {name: value for name, value in found if value is not None}


def metadata_of(record: StepRecord, **more: Scalar) -> dict[str, Scalar]:
    """A step's report, how long it took and how many of its events are undelivered, as metadata with more values."""
    delivery = record.delivery or {}
    brokers = delivery.get("brokers", {}).values()
    status = {
        "events": delivery.get("events"),
        "undelivered": sum(broker["undelivered"] for broker in brokers) if delivery else None,
    }
    return scalars(record.report | {"seconds": record.seconds} | status | more)


def _scalar(value: Any) -> Scalar | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if math.isfinite(value) and (isinstance(value, float) or abs(value) <= _EXACT) else str(value)
    if isinstance(value, str) and not value.startswith(("/", POD)):
        return value.encode("utf-8", "backslashreplace").decode()  # the launcher's JSON reader refuses half a character
    return None
