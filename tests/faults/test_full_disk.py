"""A disk that takes no more, at whatever a step writes: one line, exit code 1, and nothing that looks whole."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.data_prep.__main__ import main as data_prep
from components.evaluate.__main__ import main as evaluate
from components.shared import files
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.evaluation import open_evaluation
from components.shared.artifacts.model import open_model
from components.shared.files import disk_message
from components.train.__main__ import main as train
from pipelines.cli import main as shutterline
from tests.examples import DIGITS, write_digits, write_params
from tests.faults.disks import file_size_limit, small_file_system

pytestmark = pytest.mark.slow  # what faults cost takes 100 s together

TIMES = 10


@dataclass(frozen=True)
class Step:
    """One step, from inputs that are there to an output.

    Attributes:
        main: Its command line.
        words: Its arguments, but for the output.
        output: The option that names it.
        opened: Opens what it made.
        manifest: What is there once the output is whole.
    """

    main: Callable[[list[str]], int]
    words: list[str]
    output: str
    opened: Callable[[Path], object]
    manifest: str

    def __call__(self, out: Path) -> int:
        return self.main([*self.words, self.output, str(out / "made")])

    def is_whole(self, out: Path) -> bool:
        return (out / "made" / self.manifest).exists()


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Step]:
    folder = tmp_path_factory.mktemp("inputs")
    params = ["--params", str(write_params(folder / "params.json", save_freq=1, checkpoint_minutes=None))]
    dataset = ["--dataset", str(write_digits(folder / "dataset"))]
    steps = {
        "data-prep": Step(data_prep, [*params, "--data", str(DIGITS)], "--dataset", open_dataset, "dataset.json"),
        "train": Step(train, [*params, *dataset], "--model", open_model, "model.json"),
    }
    assert steps["train"](folder) == 0
    evaluated = [*params, *dataset, "--model", str(folder / "made")]
    steps["evaluate"] = Step(evaluate, evaluated, "--evaluation", open_evaluation, "evaluation.json")
    return steps


def used(folder: Path) -> int:
    """Bytes that a folder takes on a file system of pages."""
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in folder.rglob("*") if file.is_file())


def require_one_line(error: str, out: Path, message: str) -> str:
    """The file that the one line of a step's error names."""
    (line,) = [line for line in error.splitlines() if " ERROR " in line]
    assert "Traceback" not in error
    assert f"ERROR failed: {message}" in line
    assert line.endswith(" and run the step again")
    named = line.split(f"{message}", 1)[1].split(": ", 1)[1].split("; ")[0]
    assert named.startswith(str(out)), named
    return Path(named).name.split(".out.")[0]


# What each step writes, and so must be found full at one of the times.
WRITTEN = {
    "data-prep": {"images-00000.npy"},
    "train": {"events", "epoch-00002-batch-000000.pt", "model.onnx"},
    "evaluate": {"predictions.csv", "report.html"},
}


@pytest.mark.parametrize("name", ["data-prep", "train", "evaluate"])
def test_a_full_disk_is_one_line_wherever_it_is_met(
    name: str, steps: dict[str, Step], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step, whole = steps[name], tmp_path / "whole"
    whole.mkdir()
    assert step(whole) == 0
    room, met = used(whole), set()
    for time in range(TIMES):
        capsys.readouterr()
        with small_file_system(tmp_path / f"disk-{time}", str(4096 + room * time // TIMES // 4096 * 4096)) as out:
            assert step(out) == 1
            met.add(require_one_line(capsys.readouterr().err, out, "No space left on device"))
            assert not step.is_whole(out)
    assert met >= WRITTEN[name]


@pytest.mark.parametrize("name", ["data-prep", "train", "evaluate"])
def test_a_limit_on_the_size_of_files_is_one_line_whichever_file_meets_it(
    name: str, steps: dict[str, Step], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step, whole = steps[name], tmp_path / "whole"
    whole.mkdir()
    assert step(whole) == 0
    largest = max(file.stat().st_size for file in whole.rglob("*") if file.is_file())
    for time in range(TIMES):
        out = tmp_path / f"limited-{time}"
        out.mkdir()
        capsys.readouterr()
        with file_size_limit(1 + (largest - 1) * time // TIMES):
            assert step(out) == 1
        require_one_line(capsys.readouterr().err, out, "File too large (limit ")
        assert not step.is_whole(out)
    assert step(out) == 0, "what was left does not bar the next attempt"
    step.opened(out / "made")


def test_the_shutterline_command_ends_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = write_params(tmp_path / "params.json")
    command = ["compile", "--params", str(params), "-o", str(tmp_path / "pipeline.yaml")]
    with file_size_limit(1000):
        # kfp's own temporary file is met before ours.
        assert shutterline(command) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "File too large" in err
    assert not (tmp_path / "pipeline.yaml").exists()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space left on device: /a; free some space and run the step again"),
        (errno.EDQUOT, "Disk quota exceeded: /a; the user's quota is used up: free some space, or have it raised and"),
        (errno.EFBIG, "File too large: /a; raise the limit on the size of a file (ulimit -f) and run the step again"),
        (errno.EROFS, "Read-only file system: /a; name a location that may be written and run the step again"),
        (errno.EIO, "Input/output error: /a; the disk fails: see the system's log and run the step again"),
    ],
)
def test_what_a_disk_answers_is_said_with_what_to_do(number: int, message: str) -> None:
    said = disk_message(OSError(number, os.strerror(number), "/a"))
    assert said is not None
    assert said.startswith(message)


def test_other_errors_are_not_the_disk_s() -> None:
    assert disk_message(FileNotFoundError(errno.ENOENT, "No such file", "/a")) is None
    assert disk_message(OSError(errno.EIO, "I/O error")) is None, "of who knows what"
    assert files.is_full(OSError(errno.ENOSPC, ""))
    assert not files.is_full(OSError(errno.EROFS, ""))


def test_a_file_system_that_is_read_only_is_bad_input(
    steps: dict[str, Step], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_file_system(tmp_path / "disk", "64k") as out:
        subprocess.run(["/bin/mount", "-o", "remount,ro", out], check=True)
        assert steps["evaluate"](out) == 2
    assert "cannot be written as an evaluation: Read-only file system" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["data-prep", "train", "evaluate"])
def test_every_file_has_the_mode_that_umask_gives(name: str, steps: dict[str, Step], tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert steps[name](tmp_path) == 0
    finally:
        os.umask(before)
    made = [file for file in (tmp_path / "made").rglob("*") if file.is_file()]
    assert {file.name: oct(stat.S_IMODE(file.stat().st_mode)) for file in made} == {file.name: "0o640" for file in made}
