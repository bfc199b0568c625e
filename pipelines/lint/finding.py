"""What a rule says of a compiled pipeline, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from pipelines.lint.view import View

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a compiled pipeline, or may be.

    Attributes:
        rule: Id of the rule that found it.
        severity: ``error``: a run fails, does something else than the file says, or gives a secret away; ``warning``:
            it may.
        where: The place in the file, such as ``deploymentSpec.executors.exec-train.container.image``.
        message: What is wrong; never a secret.
        advice: What to do.
    """

    rule: str
    severity: Severity
    where: str
    message: str
    advice: str


@dataclass(frozen=True)
class Note:
    """What a rule's check finds; attributes as :class:`Finding`'s."""

    severity: Severity
    where: str
    message: str
    advice: str


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        id: In kebab case.
        title: What it looks for, in a line.
        check: Finds it in a pipeline that may be any that YAML can say: it takes nothing for granted.
    """

    id: str
    title: str
    check: Callable[[View], Iterable[Note]]


def error(where: str, message: str, advice: str) -> Note:
    """A finding that a run does not survive."""
    return Note("error", where, message, advice)


def warning(where: str, message: str, advice: str) -> Note:
    """A finding that a run may survive."""
    return Note("warning", where, message, advice)
