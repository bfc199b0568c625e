"""What rules find in a file that a platform is to take: notes, and findings made of them without any secret."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

from components.shared.events.redaction import REDACTED, redact

Severity = Literal["error", "warning"]
Viewed = TypeVar("Viewed")

_LONGEST = 500  # shown in a message, a longer text would only hide what it says


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a file, or may be.

    Attributes:
        rule: Id of the rule that found it.
        severity: ``error``: a run fails, does something else than the file says, or gives a secret away; ``warning``:
            it may.
        steps: The steps it is about; empty: the whole.
        where: Its paths in the file, such as ``deploymentSpec.executors.exec-train.container.image``.
        message: What is wrong; never a secret.
        advice: What to do.
    """

    rule: str
    severity: Severity
    steps: tuple[str, ...]
    where: tuple[str, ...]
    message: str
    advice: str

    def __str__(self) -> str:
        """The finding in a line."""
        about = ", ".join(self.steps or self.where[:3])
        return f"{self.severity}: {about}: {self.message}; {self.advice} ({self.rule})"


class Note(NamedTuple):
    """One path where a rule finds something; notes that differ in path and value alone make one finding."""

    severity: Severity
    where: str
    message: str
    advice: str
    value: str = ""


class Rule(NamedTuple, Generic[Viewed]):
    """A rule: its id, what it looks for, in a line, and what finds it."""

    id: str
    title: str
    check: Callable[[Viewed], Iterable[Note]]


def findings_of(
    rules: Sequence[Rule[Viewed]],
    view: Viewed,
    secrets: Iterable[str],
    step_of: Callable[[str], str] = lambda where: "",
) -> list[Finding]:
    """What rules find, errors first, without the secrets that are in the file; `step_of` is a path's step."""
    # Without short plain text such as "train", which messages have of themselves; longest first.
    hidden = {value for value in secrets if len(value) >= (8 if value.isalpha() else 4)}

    def shown(text: str) -> str:
        for secret in sorted(hidden, key=len, reverse=True):
            text = text.replace(secret, REDACTED)
        # Of a foreign file nothing reaches a terminal that could steer it, or that no encoding has.
        text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in redact(text))
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

    findings = []
    for rule in rules:
        groups: dict[tuple[Severity, str, str], list[Note]] = {}
        for note in rule.check(view):
            groups.setdefault((note.severity, note.message, note.advice), []).append(note)
        for (severity, message, advice), notes in groups.items():
            where = tuple(dict.fromkeys(shown(note.where) for note in notes))
            steps = tuple(dict.fromkeys(step for path in where if (step := step_of(path))))
            values = ", ".join(dict.fromkeys(note.value for note in notes if note.value))
            text = shown(f"{message}: {values}" if values else message)
            findings.append(Finding(rule.id, severity, steps, where, text, shown(advice)))
    return sorted(findings, key=lambda finding: finding.severity != "error")
