#!/usr/bin/env bash
# How long torch elastic's agent of one node waits at its end for that of another, and what becomes of the other.
#
# Versions: torch 2.15.0, numpy 2.4.6.
# Seen: 2026-11-29, Python 3.11.7, Linux x86-64. torch takes 6 GB while this runs.
#
# Guess, before the first run, from the docstring of the exit barrier, which waits "for all agents to finish executing
# their local workers (either successfully or not)", as "a safety guard against user scripts that terminate at different
# times": an agent whose worker has failed for good counts as finished, so that the other one does not wait for it.
# SIGTERM ends the wait. Where an agent has waited in vain and leaves, the workers of the other go on to their end and
# that agent ends well, whichever of the two had the store.
#
# What the guess missed: all of it, of which a look at the source before the run had made the first doubtful.
# - Only an agent whose workers all succeeded comes to the barrier. For one whose worker failed, or that was told to
#   stop, the other waits to the end of its time, which is 300 s and no option of torchrun, and then ends as succeeded.
# - SIGTERM is heeded when the wait is over: longer than the 30 s that Kubernetes gives a pod, or spot capacity.
# - With the rendezvous c10d, when the agent that has the store leaves after its time, the other agent kills its worker,
#   which was healthy and at work, by RendezvousConnectionError. So on two nodes what one of them does at the end, such as
#   a last evaluation or an upload, must not last five minutes longer than the other's. With the static rendezvous, that
#   of --master-addr without --rdzv-backend, the worker goes on.
# The barrier's time is shortened here by the public argument of LocalElasticAgent.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"
mkdir tmp
export TMPDIR="$work/tmp" # agents leave folders of logs there

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6

cat >agent.py <<'PY'
"""One node's agent, as torchrun makes it but for the barrier's time: backend, port, node, barrier, worker's command."""

import logging
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

backend, port, node, barrier, command = sys.argv[1:]
logging.disable()


def stop(number, frame):
    raise SignalException("stopped", signal.Signals(number))


signal.signal(signal.SIGTERM, stop)
more = {"rank": int(node)} if backend == "static" else {"is_host": node == "0"}
where = RendezvousParameters(backend, f"127.0.0.1:{port}", "run", 2, 2, timeout=60, **more)
master = {"master_addr": "127.0.0.1", "master_port": int(port)} if backend == "static" else {}
spec = WorkerSpec(
    role="default",
    local_world_size=1,
    entrypoint="/bin/sh",
    args=("-c", command),
    rdzv_handler=get_rendezvous_handler(where),
    max_restarts=0,
    monitor_interval=0.1,
    **master,
)
agent = LocalElasticAgent(spec, logs_specs=DefaultLogsSpecs(), exit_barrier_timeout=float(barrier))
try:
    said = agent.run().state.name
    spec.rdzv_handler.shutdown()
except SignalException as error:
    said = type(error).__name__
except Exception as error:
    said = type(error).__name__
    spec.rdzv_handler.shutdown()
Path(f"{port}-{node}").write_text(said)
PY

cat >program.py <<'PY'
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch

differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}", flush=True)
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def two_nodes(backend, barrier, first, second, stop=None):
    """How the two agents end, when, from their workers' start, and whether the second's worker came to its end."""
    port, quiet = free_port(), {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    marks = [Path(f"{port}-{node}-started") for node in (0, 1)]
    done = Path(f"{port}-done")
    commands = [f"touch {marks[0]}; {first}", f"touch {marks[1]}; {second} && touch {done}"]
    agent = [sys.executable, "-W", "ignore", "agent.py", backend, str(port)]
    agents = [
        subprocess.Popen([*agent, str(node), str(barrier), command], **quiet) for node, command in enumerate(commands)
    ]
    try:
        for _ in range(600):
            if all(mark.exists() for mark in marks):
                break
            time.sleep(0.1)
        start, ended = time.monotonic(), {}
        while len(ended) < 2 and time.monotonic() - start < 60:
            time.sleep(0.1)
            now = time.monotonic() - start
            if stop and now > stop[1]:
                agents[stop[0]].send_signal(signal.SIGTERM)
                stop = None
            for node in (0, 1):
                said = Path(f"{port}-{node}")
                if node not in ended and said.exists() and said.read_text():
                    ended[node] = (said.read_text(), now)
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    return ended, done.exists()


def told(ended, node, least, most):
    state, seconds = ended[node]
    return state, least - 1 <= seconds <= most or round(seconds, 1)


print(f"torch {torch.__version__}; of each agent: how it ended, and whether in the seconds that are expected")
ended, _ = two_nodes("c10d", 12, "sleep 2", "sleep 2")
see("both workers end: no wait", told(ended, 0, 2, 8), ("SUCCEEDED", True))

ended, _ = two_nodes("c10d", 12, "sleep 2", "sleep 1; exit 3")
see("the other's worker fails after 1 s: that agent", told(ended, 1, 1, 7), ("FAILED", True))
see("  the first waits its 12 s", told(ended, 0, 14, 20), ("SUCCEEDED", True))

ended, _ = two_nodes("c10d", 12, "sleep 2", "exec sleep 50", stop=(1, 1))
see("the other agent is told to stop after 1 s: it", told(ended, 1, 1, 7), ("SignalException", True))
see("  the first waits its 12 s", told(ended, 0, 14, 20), ("SUCCEEDED", True))

ended, _ = two_nodes("c10d", 15, "sleep 2", "exec sleep 50", stop=(0, 5))
see("SIGTERM in the wait, after 5 s: heeded after 17 s", told(ended, 0, 16.5, 23), ("SignalException", True))

for backend, state, is_done in (("c10d", "RendezvousConnectionError", False), ("static", "SUCCEEDED", True)):
    ended, done = two_nodes(backend, 3, "sleep 2", "sleep 15")
    see(f"{backend}: the first, with the store, leaves after 3 s of waiting", told(ended, 0, 5, 10), ("SUCCEEDED", True))
    see("  the other, and whether its worker came to its end after 15 s", (ended[1][0], done), (state, is_done))

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 300 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
