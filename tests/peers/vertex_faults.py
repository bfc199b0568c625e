"""What can go wrong between a client and Vertex AI."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.peers.http_faults import Answer


@dataclass(frozen=True)
class Refuse:
    """Answer with an error, as Google's APIs word it."""

    code: int
    status: str
    message: str
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    retry_after: int | str | None = None

    def answer(self) -> Answer:
        kind = "type.googleapis.com/google.rpc."
        details: list[dict[str, Any]] = []
        if self.reason:
            details.append({"@type": f"{kind}ErrorInfo", "reason": self.reason, "metadata": self.metadata})
        if self.violations:
            violations = [{"field": name, "description": text} for name, text in self.violations]
            details.append({"@type": f"{kind}BadRequest", "fieldViolations": violations})
        error = {"code": self.code, "message": self.message, "status": self.status, "details": details}
        headers = [] if self.retry_after is None else [("Retry-After", str(self.retry_after))]
        return Answer(
            self.code, [("Content-Type", "application/json"), *headers], json.dumps({"error": error}).encode()
        )


@dataclass(frozen=True)
class Say:
    """Answer with this, as somebody would who is not Vertex AI."""

    code: int
    body: bytes
    type: str = "text/html"

    def answer(self) -> Answer:
        return Answer(self.code, [("Content-Type", self.type)], self.body)


@dataclass(frozen=True)
class LoseAnswer:
    """Do what is asked, and break the connection in the place of the answer."""


@dataclass(frozen=True)
class Break:
    """Break the connection before anything is done."""


Fault = Refuse | Say | LoseAnswer | Break
