"""What torchrun's variables say, which Kubeflow Trainer sets on each node, and which of them have an effect here."""

from __future__ import annotations

import os

from components.shared.errors import InputError
from components.shared.logs import log_to_stderr, step_logger
from components.shared.process_group import NODES_VARIABLE, in_group, is_one_of_nodes, require_rendezvous

PREFIX = "PET_"
PROCESSES_VARIABLE = f"{PREFIX}NPROC_PER_NODE"
# What has an effect here; the rest is decided by this step's own options, or of no use to it.
_USED = (
    *("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "RDZV_BACKEND", "RDZV_ENDPOINT", "RDZV_ID", "RDZV_CONF"),
    *("LOCAL_ADDR", "MONITOR_INTERVAL", "SHUTDOWN_TIMEOUT", "NPROC_PER_NODE"),
)


def unused_variables() -> list[str]:
    """Those that are set and have no effect here."""
    known = {f"{PREFIX}{name}" for name in _USED}
    return sorted(name for name, text in os.environ.items() if name.startswith(PREFIX) and text and name not in known)


def nodes_options() -> list[str]:
    """What torchrun's options say of the nodes where its own variables do not.

    Raises:
        InputError: The variables do not say which node this is, or where the first one is.
    """
    if is_one_of_nodes():
        _require_place()
        return []
    if not in_group():
        return ["--nnodes=1", "--node-rank=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    require_rendezvous()
    names = {"nnodes": "WORLD_SIZE", "node-rank": "RANK", "master-addr": "MASTER_ADDR", "master-port": "MASTER_PORT"}
    return [f"--{option}={os.environ[name]}" for option, name in names.items()]


def _require_place() -> None:
    """Torchrun takes 0 and this machine for what is not set: every node would wait for the others as the first."""
    named = {name: os.environ.get(f"{PREFIX}{name}") for name in _USED}
    if (named["RDZV_BACKEND"] or "static") != "static":
        return
    needed = ("NODE_RANK", *(() if named["RDZV_ENDPOINT"] else ("MASTER_ADDR",)))
    if missing := [f"{PREFIX}{name}" for name in needed if not named[name]]:
        names = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
        advice = f"set {PREFIX}NODE_RANK to the node's number, from 0, and {PREFIX}MASTER_ADDR to node 0's address"
        raise InputError(f"{NODES_VARIABLE} is {named['NNODES']}, and {names}; {advice}")


def warn_of_variables(processes: str, count: int) -> None:
    """Log which of torchrun's variables have no effect."""
    log_to_stderr()
    log = step_logger("train")
    named = os.environ.get(PROCESSES_VARIABLE, "")
    if named and named != str(count) and (processes != "auto" or named.isdigit()):
        message = "%s is %s, and has no effect: --processes is %s, which is %d here"
        log.info(message, PROCESSES_VARIABLE, named, processes, count)
    if unused := unused_variables():
        log.warning("%s: of no effect here", ", ".join(unused))
