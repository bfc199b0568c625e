"""An installation without extras, or with some: each command works, or names the extra that it needs in one line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.params_files import EXAMPLE_DATA, EXAMPLE_PARAMS
from tests.examples import write_digits
from tests.installation import installation
from tests.pipelines.conftest import Done

HOST = "--target kubeflow --host http://localhost:1"
VERTEX = "--target vertex --project p --location l --staging-bucket gs://bucket"
PARAMS = f"--params {EXAMPLE_PARAMS}"
PREP = f"components.data_prep --data {EXAMPLE_DATA} --dataset made {PARAMS}"
MODULES = {"shutterline": "pipelines.cli", "storage": "components.shared.storage.__main__"}
# Each command in a copy of one interpreter of the installation, which has imported what all have, and nothing of ours.
DRIVER = """
import contextlib, importlib, io, json, os, sys
import click, http.client, logging.handlers, pydantic.dataclasses, pydantic.main, yaml
for module, *arguments in json.loads(sys.argv[1]):
    if pid := os.fork():
        os.waitpid(pid, 0)
        continue
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = importlib.import_module(module).main(arguments)
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
    os._exit(0)
"""


def results(interpreter: Path, folder: Path, commands: Sequence[str]) -> dict[str, Done]:
    """What each command does in an installation."""
    words = [[MODULES.get(first, f"{first}.__main__"), *others] for first, *others in map(str.split, commands)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [interpreter, "-c", DRIVER, json.dumps(words)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {command: Done(*line) for command, line in zip(commands, lines, strict=True)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled pipeline, and a dataset."""
    folder = tmp_path_factory.mktemp("extras")
    assert main(["compile", "--target", "kubeflow", "-o", str(folder / "pipeline.yaml")]) == 0
    write_digits(folder / "dataset")
    return folder


NEEDS = {
    "shutterline predict model photos": "predict",
    "components.predict --model model --images photos": "predict",
    "shutterline run": "pipelines,data-prep,train,evaluate",
    "shutterline run --runner docker": "pipelines",
    "shutterline compile": "pipelines",
    f"shutterline upload pipeline.yaml {HOST}": "pipelines",
    f"shutterline submit pipeline.yaml {HOST}": "pipelines",
    "shutterline submit --status night --host http://localhost:1": "pipelines",
    f"shutterline submit --status night {VERTEX}": "vertex",
    "shutterline watch --kafka localhost:1/status --timeout 1": "status",
    "shutterline watch --pubsub my-project/status --timeout 1": "status",
    PREP: "data-prep",
    f"components.train --dataset dataset --model made {PARAMS}": "train",
    f"components.train --dataset dataset --model made {PARAMS} --processes 2": "train",
    f"components.train --smoke --dataset dataset {PARAMS}": "train",
    f"components.evaluate --model m --dataset dataset --evaluation made {PARAMS}": "evaluate",
    f"components.publish --model m --evaluation made {PARAMS} --set publish_uri=to": "evaluate",
    "storage fetch gs://bucket/a made --kind files": "storage",
    "storage fetch s3://bucket/a made --kind dataset": "data-prep",
}
WORK = [
    "shutterline --help",
    "shutterline params",
    "shutterline params --schema",
    "shutterline params --format yaml",
    f"shutterline validate {EXAMPLE_PARAMS}",
    "shutterline validate pipeline.yaml",
    "shutterline settings --target kubeflow",
    "shutterline settings --target vertex --schema",
    "shutterline events schema",
    "components.train --help",
    f"components.exit_step --state SUCCEEDED {PARAMS}",
]


def test_a_base_install_does_what_it_can_and_names_the_extra_for_the_rest(tmp_path: Path, folder: Path) -> None:
    base = results(installation(tmp_path), folder, [*NEEDS, *WORK])

    assert {command: base[command] for command in WORK if base[command].code} == {}
    for command, extras in NEEDS.items():
        code, out, err = base[command]
        assert (code, out) == (2, ""), err
        (line,) = [line for line in err.splitlines() if not line.endswith(" started")]
        assert f"pip install 'shutterline[{extras}]'" in line, command
    assert not (folder / "made").exists()


@pytest.mark.slow
def test_an_install_for_submitting_runs_nothing_here(tmp_path: Path, folder: Path) -> None:
    commands = ["shutterline run --out made", "shutterline validate pipeline.yaml",
                f"shutterline submit pipeline.yaml {HOST} --dry-run",
                f"shutterline submit --status night {VERTEX}"]  # fmt: skip

    run, validate, submit, status = results(installation(tmp_path, "pipelines"), folder, commands).values()

    assert run == (
        2,
        "",
        "error: shutterline run needs the extras data-prep, train, evaluate: pip install "
        "'shutterline[data-prep,train,evaluate]' (not installed: jinja2, numpy, onnx and 9 more)\n",
    )
    assert not (folder / "made").exists()
    assert validate.code == 0
    assert submit.code == 2  # it has no data
    assert (status.code, status.err.count("\n")) == (2, 1)
    assert "pip install 'shutterline[vertex]'" in status.err


@pytest.mark.slow
def test_an_install_of_one_step_does_that_step(tmp_path: Path) -> None:
    (done,) = results(installation(tmp_path / "installed", "data-prep"), tmp_path, [PREP]).values()
    assert done.code == 0, done.err
