"""Strangers' files: each is refused in one line, in little time and memory, and nothing of it is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.shared.artifacts.model import MAX_ONNX_BYTES
from tests.onnx_models import onnx_model
from tests.shared.inference.strange_files import FILES, OUTSIDE

SECONDS, BYTES = 2.0, 500 * 10**6


def check_in_a_process(folder: Path, count: int) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "tests.shared.inference.checking", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600 + SECONDS * count, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return {line["file"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of each strange file, all of them checked by one process."""
    folder = tmp_path_factory.mktemp("strange") / "scratch"
    folder.mkdir()
    for location in OUTSIDE[:2]:  # who opens one of these waits for ever
        os.mkfifo(folder / location)
    for name, (_, make) in FILES.items():
        content = make()
        (folder / f"{name}.onnx").write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    with (folder / "beyond_what_protobuf_holds.onnx").open("wb") as file:
        file.truncate(MAX_ONNX_BYTES + 1)
    return check_in_a_process(folder, len(FILES))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *((name, part) for name, (part, _) in FILES.items()),
        ("beyond_what_protobuf_holds", "it has 2,147,483,648 bytes"),
    ],
)
def test_a_strange_file_is_refused_in_one_line(checked: dict[str, dict[str, Any]], name: str, part: str) -> None:
    found = checked[f"{name}.onnx"]

    assert part in (found["message"] or "accepted")
    assert f"{name}.onnx: cannot be run: " in found["message"]
    assert found["message"].endswith("; use the model.onnx that training wrote, or train the model again")
    assert "\n" not in found["message"]
    assert len(found["message"]) < 500
    assert found["peak"] < BYTES


def test_what_is_changed_somewhere_is_refused_or_the_same_to_run(tmp_path: Path) -> None:
    content = onnx_model().SerializeToString()
    random = np.random.default_rng(11)
    for number in range(300):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 4)):
            damaged[position] = random.integers(0, 256)
        (tmp_path / f"{number:03}.onnx").write_bytes(damaged)

    found = check_in_a_process(tmp_path, 300)

    refused = [line["message"] for line in found.values() if line["message"]]
    assert 50 < len(refused) < 300  # most of the file are weights, which may be any numbers
    assert all("\n" not in message and "cannot be run: " in message for message in refused)
