"""An installation without extras, or with some: each command works, or names the extra that it needs in one line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.params_files import EXAMPLE_DATA, EXAMPLE_PARAMS
from tests.examples import write_digits
from tests.installation import installation

Python = Callable[..., "subprocess.CompletedProcess[str]"]
CLI = ("-m", "pipelines.cli")
HOST = ("--target", "kubeflow", "--host", "http://localhost:1")
VERTEX = ("--target", "vertex", "--project", "p", "--location", "l", "--staging-bucket", "gs://bucket")
PARAMS = ("--params", str(EXAMPLE_PARAMS))


def python(interpreter: Path, folder: Path) -> Python:
    """Runs one of our commands in an installation."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [interpreter, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled pipeline, and a dataset."""
    folder = tmp_path_factory.mktemp("extras")
    assert main(["compile", "--target", "kubeflow", "-o", str(folder / "pipeline.yaml")]) == 0
    write_digits(folder / "dataset")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Python:
    """As ``pip install .`` leaves it."""
    return python(installation(tmp_path_factory.mktemp("base")), folder)


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        pytest.param((*CLI, "run"), "pipelines,data-prep,train,evaluate"),
        ((*CLI, "run", "--runner", "docker"), "pipelines"),
        pytest.param((*CLI, "compile"), "pipelines"),
        ((*CLI, "upload", "pipeline.yaml", *HOST), "pipelines"),
        ((*CLI, "submit", "pipeline.yaml", *HOST), "pipelines"),
        ((*CLI, "submit", "--status", "night", "--host", "http://localhost:1"), "pipelines"),
        ((*CLI, "submit", "--status", "night", *VERTEX), "vertex"),
        ((*CLI, "watch", "--kafka", "localhost:1/status", "--timeout", "1"), "status"),
        ((*CLI, "watch", "--pubsub", "my-project/status", "--timeout", "1"), "status"),
        pytest.param(
            ("-m", "components.data_prep", "--data", str(EXAMPLE_DATA), "--dataset", "made", *PARAMS), "data-prep"
        ),
        (("-m", "components.train", "--dataset", "dataset", "--model", "made", *PARAMS), "train"),
        (("-m", "components.train", "--dataset", "dataset", "--model", "made", *PARAMS, "--processes", "2"), "train"),
        (("-m", "components.train", "--smoke", "--dataset", "dataset", *PARAMS), "train"),
        (
            ("-m", "components.evaluate", "--model", "m", "--dataset", "dataset", "--evaluation", "made", *PARAMS),
            "evaluate",
        ),
        (("-m", "components.shared.storage", "fetch", "gs://bucket/a", "made", "--kind", "files"), "storage"),
        (("-m", "components.shared.storage", "fetch", "s3://bucket/a", "made", "--kind", "dataset"), "data-prep"),
    ],
    ids=lambda value: " ".join(value[1:4]) if isinstance(value, tuple) else value,
)
def test_a_base_install_names_the_extra(base: Python, folder: Path, arguments: tuple[str, ...], extras: str) -> None:
    done = base(*arguments)

    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.endswith(" started")]
    assert len(lines) == 1, done.stderr
    assert f"pip install 'shutterline[{extras}]'" in lines[0]
    assert not (folder / "made").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (*CLI, "--help"),
        (*CLI, "params"),
        (*CLI, "params", "--schema"),
        (*CLI, "params", "--format", "yaml"),
        (*CLI, "validate", str(EXAMPLE_PARAMS)),
        (*CLI, "validate", "pipeline.yaml"),
        (*CLI, "settings", "--target", "kubeflow"),
        (*CLI, "settings", "--target", "vertex", "--schema"),
        (*CLI, "events", "schema"),
        ("-m", "components.train", "--help"),
        ("-m", "components.exit_step", "--state", "SUCCEEDED", *PARAMS),
    ],
    ids=lambda arguments: " ".join(arguments[1:5]),
)
def test_what_needs_no_extra_works_without(base: Python, arguments: tuple[str, ...]) -> None:
    done = base(*arguments)

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_an_install_for_submitting_runs_nothing_here(tmp_path: Path, folder: Path) -> None:
    some = python(installation(tmp_path / "installed", "pipelines"), folder)

    done = some(*CLI, "run", "--out", "made")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: shutterline run needs the extras data-prep, train, evaluate: pip install "
        "'shutterline[data-prep,train,evaluate]' (not installed: numpy, pillow, safetensors and 4 more)\n"
    )
    assert not (folder / "made").exists()
    assert some(*CLI, "validate", "pipeline.yaml").returncode == 0
    assert some(*CLI, "submit", "pipeline.yaml", *HOST, "--dry-run").returncode == 2  # it has no data
    done = some(*CLI, "submit", "--status", "night", *VERTEX)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'shutterline[vertex]'" in done.stderr


def test_an_install_of_one_step_does_that_step(tmp_path: Path, folder: Path) -> None:
    some = python(installation(tmp_path / "installed", "data-prep"), folder)

    done = some("-m", "components.data_prep", "--data", str(EXAMPLE_DATA), "--dataset", str(tmp_path / "d"), *PARAMS)

    assert done.returncode == 0, done.stderr
