"""Which of a custom job's machines this is, from the one variable that Vertex AI promises."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from components.shared.errors import InputError
from components.train.worker_pools import name_nodes

# As Vertex AI's page on distributed training has it.
NAMES = {
    pool: [f"cmle-training-{pool}-ab-{index}:2222" for index in range(3)] for pool in ("workerpool1", "workerpool2")
}
FIRST = {"workerpool0": ["cmle-training-workerpool0-ab-0:2222"]}
VARIABLES = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLUSTER_SPEC", *VARIABLES):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def named(monkeypatch: pytest.MonkeyPatch, cluster: Any, pool: Any, index: Any) -> list[str | None]:
    task = {"type": pool, "index": index, "trial": "1"}
    monkeypatch.setenv("CLUSTER_SPEC", json.dumps({"cluster": cluster, "environment": "cloud", "task": task}))
    name_nodes()
    return [os.environ.get(name) for name in VARIABLES]


@pytest.mark.parametrize(
    ("pool", "index", "rank"), [("workerpool0", 0, "0"), ("workerpool1", 0, "1"), ("workerpool1", 2, "3")]
)
def test_a_machine_of_several_has_its_rank(monkeypatch: pytest.MonkeyPatch, pool: str, index: int, rank: str) -> None:
    found = named(monkeypatch, FIRST | NAMES, pool, index)

    assert found == ["4", rank, "cmle-training-workerpool0-ab-0", "2222"], "a reduction server is none of them"


def test_what_is_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("8", "5", "localhost", "29500"), strict=True):  # as torch elastic sets them
        monkeypatch.setenv(name, value)

    assert named(monkeypatch, FIRST | NAMES, "workerpool1", 0) == ["8", "5", "localhost", "29500"]


@pytest.mark.parametrize("cluster", [FIRST, {"chief": ["a:1"]}, {}, FIRST | {"workerpool2": ["a:1"]}])
def test_a_machine_alone_is_left_alone(monkeypatch: pytest.MonkeyPatch, cluster: dict[str, list[str]]) -> None:
    assert named(monkeypatch, cluster, "workerpool0", 0) == [None] * 4


@pytest.mark.parametrize(
    ("cluster", "pool", "index"),
    [
        (FIRST | NAMES, "workerpool2", 0),
        (FIRST | NAMES, None, None),
        (FIRST | NAMES, "workerpool1", "0"),
        ({"chief": ["a:1"], "worker": ["b:1"]}, "chief", 0),
        ("four", "workerpool0", 0),
    ],
)
def test_a_machine_that_does_not_know_which_it_is_does_not_train(
    monkeypatch: pytest.MonkeyPatch, cluster: Any, pool: str, index: Any
) -> None:
    with pytest.raises(InputError, match="CLUSTER_SPEC does not say which of the machines"):
        named(monkeypatch, cluster, pool, index)


def test_what_is_no_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_SPEC", "{cluster")
    with pytest.raises(InputError, match="CLUSTER_SPEC"):
        name_nodes()
