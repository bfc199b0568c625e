"""What one reading of params found: the params, or what is sound of them, and what is not."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationInfo, ValidatorFunctionWrapHandler

from components.shared.errors import ParamsError, Problem
from components.shared.params.types import ClassSpec

if TYPE_CHECKING:
    from components.shared.params.params import Params


class ParamsWarning(UserWarning):
    """Something in the params has no effect; the run goes on."""


@dataclass
class Parsed:
    """What one reading of params found.

    Attributes:
        params: The params; None where anything is wrong.
        values: Of every key that is sound by itself its value, or default.
        entries: Of every key with a list of classes its entries; None for one that is not sound.
        problems: What is wrong with all others, and between those that are sound, in the order of the document.
        notes: What has no effect.
        source: What messages call the params' origin.
    """

    params: Params | None = None
    values: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, list[ClassSpec | None]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    source: str | None = None

    def sound(self) -> Params:
        """The params, if nothing is wrong.

        Raises:
            ParamsError: With every problem.
        """
        if self.params is None:
            raise ParamsError(self.problems, self.source)
        return self.params

    def warned(self) -> Params:
        """As :meth:`sound`, and warn of what has no effect."""
        params = self.sound()
        for note in self.notes:
            warnings.warn(note, ParamsWarning, stacklevel=3)
        return params


def keep_sound(value: object, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Keep an entry of a list, for checks that go on where others are wrong."""
    kept = info.context.entries.setdefault(str(info.field_name), []) if isinstance(info.context, Parsed) else []
    kept.append(None)
    kept[-1] = checked = check(value)
    return checked
