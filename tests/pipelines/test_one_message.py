"""One failure is one message: the log of the step that failed has it, and the last line says which step that is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.shared.errors import ParamsError, Problem
from components.shared.logs import LINE
from tests.examples import write_params
from tests.pipelines.conftest import Capsys, Command
from tests.shared.test_command import ARGUMENTS
from tests.shared.test_command import command as trial

# A layer of the user's own, which is checked on torch's meta device and fails where there are real images.
LAYER = """
import os, signal, torch

class Layer(torch.nn.Identity):
    def forward(self, images):
        if images.device.type != "meta":
            FAIL
        return images
"""
FAILURES = {
    "raises": 'raise RuntimeError("the layer is out of order")',
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "message"),
    [("raises", "error: train failed: the layer is out of order; log: "), ("is killed", "error: train failed: ")],
)
def test_what_no_step_could_log(tmp_path: Path, command: Command, failure: str, message: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_layers.py").write_text(LAYER.replace("FAIL", FAILURES[failure]))
    params = write_params(
        tmp_path / "params.json", net_arch=[{"class": "my_layers.Layer", "kwargs": {}}], num_epochs=1, device="cpu"
    )
    path = os.pathsep.join([str(tmp_path / "mine"), os.environ.get("PYTHONPATH", "")])

    done = command(
        *("-m", "pipelines.cli", "run", "--params", params, "--out", "out"),
        SHUTTERLINE_MODULES="my_layers",
        PYTHONPATH=path,
    )

    assert done.returncode == 1
    *log, last = done.stderr.splitlines()
    assert last.startswith(message)
    assert last.endswith("; log: out/kfp.log")
    assert last.removeprefix("error: train failed: ") not in "\n".join(log)
    assert sum("ERROR" in line for line in log) == 1, done.stderr


def test_every_line_of_a_message_is_a_line_of_the_steps_log(capsys: Capsys) -> None:
    error = ParamsError([Problem("momentum", "is unknown"), Problem("batch_size", "must be at least 1")])

    assert trial(*ARGUMENTS, error=error) == 2

    lines = capsys.readouterr().err.splitlines()[1:]
    assert [line.partition("ERROR ")[2] for line in lines] == [
        "failed: params has 2 problems:",
        "  momentum: is unknown",
        "  batch_size: must be at least 1",
    ]
    assert all(LINE.fullmatch(line) for line in lines)
