"""MLflow's client reports its use to its makers, unless that is switched off before it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A call to a port where nobody listens, and the names that were looked up meanwhile.
PROGRAM = """
import socket, sys
asked, ask = set(), socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: (asked.add(host), ask(host, *rest, **more))[1]
from components.shared.tracking.server import TrackingServer
try:
    TrackingServer().create("run-1")
except Exception as error:
    print(type(error).__name__)
print(sorted(asked), *(name for name in sys.modules if name in ("torch", "onnxruntime")))
"""


WANTED = pytest.param({"MLFLOW_DISABLE_TELEMETRY": "false"}, ["telemetry.json"], marks=pytest.mark.slow)


@pytest.mark.parametrize(("chosen", "written"), [({}, []), WANTED])
def test_nothing_is_written_to_the_home_and_no_name_looked_up_unless_the_user_wants_it(
    tmp_path: Path, chosen: dict[str, str], written: list[str]
) -> None:
    # Nothing of this process's: MLflow keeps still where it sees CI or pytest.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AI_AGENT": "1", **chosen}
    environment |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["MlflowException", "['127.0.0.1']"]
    assert done.stderr == ""
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == written
