"""The machines of a custom job of Vertex AI, which names them in a variable of its own."""

from __future__ import annotations

import json
import os

from components.shared.errors import InputError

_VARIABLE = "CLUSTER_SPEC"
# Vertex AI's page on distributed training: the first pool is one machine, which the job ends with; the second are its
# workers. Further ones hold what is no process of torch's, such as reduction servers.
_FIRST, _WORKERS = "workerpool0", "workerpool1"


def name_nodes() -> None:
    """Where Vertex AI says that this is one of several machines, set what torchrun calls them and is not set.

    Vertex AI promises ``CLUSTER_SPEC`` alone: other frameworks' variables are to be made of it.

    Raises:
        InputError: There are several, and which one this is cannot be read.
    """
    text = os.environ.get(_VARIABLE, "")
    try:
        spec = json.loads(text or "{}")
        cluster = spec.get("cluster", {})
        if sum(map(len, cluster.values())) < 2:
            return
        nodes, task = [*cluster[_FIRST], *cluster.get(_WORKERS, ())], spec["task"]
        rank = {_FIRST: 0, _WORKERS: 1}[task["type"]] + task["index"]
        address, _, port = nodes[0].rpartition(":")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{_VARIABLE} does not say which of the machines of {_FIRST} and {_WORKERS} this is; run the step in these "
            "worker pools alone"
        ) from error
    if len(nodes) > 1:
        found = {"WORLD_SIZE": str(len(nodes)), "RANK": str(rank), "MASTER_ADDR": address, "MASTER_PORT": port}
        for name, value in found.items():
            os.environ.setdefault(name, value)
