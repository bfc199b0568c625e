"""The desk: compiling, a command's first answer, and what a step of the local pipeline costs beside its work."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

from components.shared.params.params import Params
from pipelines.params_files import EXAMPLE_PARAMS
from tests.bench.measure import Ratio, compare, seconds

# kfp's least: four components that do nothing, in our shape, compiled or run in a process of its own.
LEAST = """
import sys, warnings
warnings.simplefilter("ignore")
from kfp import compiler, dsl, local

@dsl.component(install_kfp_package=False)
def nothing(text: str) -> str:
    return text

@dsl.pipeline
def least():
    last = nothing(text="exit")
    with dsl.ExitHandler(last):
        nothing(text=nothing(text=nothing(text="data").output).output)

if sys.argv[1] == "compile":
    compiler.Compiler().compile(least, sys.argv[2])
else:
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2])
    least()
"""

_STEPS = 4


def _run(*arguments: str) -> float:
    return seconds(lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True))


def _least(folder: Path) -> str:
    """kfp reads a component's source from its file."""
    file = folder / "least.py"
    file.write_text(LEAST)
    return str(file)


def compile_time(folder: Path) -> Ratio:
    """(i) Seconds of ``shutterline compile``, every check included, against kfp compiling a pipeline of nothing."""
    ours = ("-m", "pipelines.cli", "compile", "--target", "kubeflow", "-o", str(folder / "ours.yaml"))
    least = (_least(folder), "compile", str(folder / "least.yaml"))
    return compare(
        "(i) shutterline compile / kfp compiling four empty steps", lambda: _run(*ours), lambda: _run(*least),
        unit="s", bound="–",
    )  # fmt: skip


def help_time(_: Path) -> Ratio:
    """(j) Seconds of ``shutterline --help`` against kfp's own command line."""
    ours, theirs = ("-m", "pipelines.cli", "--help"), (str(Path(sys.executable).with_name("kfp")), "--help")
    return compare(
        "(j) shutterline --help / kfp --help", lambda: _run(*ours), lambda: _run(*theirs), unit="s", bound="1"
    )


def step_overhead(folder: Path) -> Ratio:
    """(k) Seconds that a step of the local pipeline costs beside its work, against a step of kfp's that does nothing.

    Ours is the run's wall time without the check of the params, which happens once, and without the work that the steps
    recorded, a fourth of it for each step. Loading torch counts as overhead, for it is none of the work.
    """
    number = itertools.count()
    raw = Params.load(str(EXAMPLE_PARAMS)).to_dict() | {"num_epochs": 1}
    params, file = folder / "one-epoch.json", _least(folder)
    params.write_text(json.dumps(raw))

    def ours() -> float:
        out = folder / f"ours-{next(number)}"
        whole = _run("-m", "pipelines.cli", "run", "--params", str(params), "--out", str(out))
        worked: dict[str, float] = json.loads((out / "result.json").read_text())["seconds"]
        return (whole - sum(value for step, value in worked.items() if step != "total")) / _STEPS

    def least() -> float:
        return _run(file, "run", str(folder / f"least-{next(number)}")) / _STEPS

    return compare("(k) a step beside its work: ours / kfp's empty one", ours, least, unit="s", bound="–")
