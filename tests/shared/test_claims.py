"""Directories that cannot be written, by a user to whom that is denied: root may write everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.shared.events.data import Failed
from components.shared.events.spool import events_in
from components.shared.files import CLAIMS_VARIABLE, unwritable
from tests.examples import SMALL, write_digits

# As Kubernetes does it, the user is given before anything of ours runs: here, once Python has found its modules.
TRAINING = """
import json, os, sys
import torch
from components.train import group
from components.train import step as staged
from components.train.step import PipelineStep

if os.geteuid() == 0:
    os.seteuid(10001)
PipelineStep(**json.loads(sys.argv[1])).run()
"""


@pytest.fixture
def volume() -> Iterator[Path]:
    """A directory that anybody may read and only root may write, as a claim's fresh file system is."""
    # Not below pytest's own directory, which nobody else may enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "shared").mkdir()
        (folder / "shared").chmod(0o555)
        yield folder


def test_checkpoints_that_cannot_be_written_end_the_step_before_work(volume: Path) -> None:
    dataset, run = write_digits(volume / "dataset"), volume / "run-1"
    (run / "train").mkdir(parents=True)
    (run / "train").chmod(0o777)
    training = {
        "params": json.dumps(SMALL),
        "dataset": str(dataset),
        "model": str(run / "train" / "model"),
        "model_uri": str(run / "train" / "model"),
        "checkpoints": str(volume / "shared" / "checkpoints"),
    }
    claims = json.dumps({str(volume): "outer", str(volume / "shared"): "shutterline"})

    done = subprocess.run(
        [sys.executable, "-c", TRAINING, json.dumps(training)],
        env=os.environ | {CLAIMS_VARIABLE: claims},
        capture_output=True,
        text=True,
        check=False,
    )

    user = 10001 if os.geteuid() == 0 else os.geteuid()
    expected = (
        f"checkpoints {volume}/shared/checkpoints: cannot be written by user {user} (Permission denied); it is in the "
        'claim "shutterline", whose directory must be handed to that user once: see "Volumes" in pipelines/README.md '
        "(claim-owner.yaml)"
    )
    assert done.returncode == 2, done.stderr
    assert [line.partition("failed: ")[2] for line in done.stderr.splitlines()] == ["", expected]
    (failed,) = [event.data for event in events_in(run / "train" / "events") if event.is_terminal]
    assert isinstance(failed, Failed)
    assert failed.error.message == expected
    assert not (run / "train" / "model").exists()


@pytest.mark.parametrize("claims", ["", "{}", "no json", "[1]", '{"/other": "shutterline"}'])
def test_a_directory_of_no_claim_is_refused_without_one(claims: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLAIMS_VARIABLE, claims)
    error = unwritable("events", Path("/shared/events"), PermissionError(13, "Permission denied"))
    assert str(error) == (
        f"events /shared/events: cannot be written by user {os.geteuid()} (Permission denied); make it writable for "
        "that user, or name another directory"
    )
