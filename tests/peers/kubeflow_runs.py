"""Kubeflow's API as a step inside the cluster asks it: recorded answers of a real one, by the run's id."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.peers.http_faults import Answer, HttpFaults, Operation, Request
from tests.peers.ports import HOST

RECORDED = Path(__file__).parents[1] / "cases" / "kubeflow"


def recorded(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answers of v2beta1 and of v1beta1 for a recorded run."""
    documents = (json.loads((RECORDED / f"{name}.{kind}.json").read_text()) for kind in ("run", "v1beta1"))
    run, workflow = documents
    return run, workflow


class KubeflowRuns(HttpFaults):
    """Answers ``runs/ID``.

    Attributes:
        run: What v2beta1 answers; None: there is no such run.
        workflow: What v1beta1 answers; None: it has no such path any more.
        token: The bearer's token that it asks for; empty: none.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__((HOST, 0))
        self.run: dict[str, Any] | None = None
        self.workflow: dict[str, Any] | None = None
        self.token = ""
        if name:
            self.run, self.workflow = recorded(name)

    def meaning(self, request: Request) -> tuple[Operation, str]:
        return "read", request.path

    def answer(self, request: Request) -> Answer:
        if self.token and request.header("Authorization") != f"Bearer {self.token}":
            return Answer(401, [], b"there is no user identity header")
        found = re.fullmatch(r"/apis/(v2beta1|v1beta1)/runs/([^/]+)", request.path)
        answer = {"v2beta1": self.run, "v1beta1": self.workflow}[found[1]] if found else None
        if answer is None:
            return Answer(404, [], b"Not Found")
        return Answer(200, [("Content-Type", "application/json")], json.dumps(answer).encode())
