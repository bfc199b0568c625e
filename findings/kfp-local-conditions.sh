#!/usr/bin/env bash
# Whether KFP's local runner does what is behind dsl.If, by what kind of output the condition is about.
#
# Versions: kfp 2.17.3, kfp-pipeline-spec 2.17.3, protobuf 6.33.6.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: the local runner resolves a condition's value through the inputs of its task, as the
# compiled file names them. So an output is an output, returned or named, with an Else or without.
#
# What the guess missed:
# - The inputs of the task are not looked at. The value is sought by the text of the placeholder, and only "-Output" in
#   it is taken for a task's output: a single returned value has that name. Every other output, a field of a NamedTuple
#   or an OutputPath, is sought among the inputs of the pipeline that the condition is in, and is not there.
# - What is not found makes the condition false: the branch does not run, two warnings are logged, and the pipeline
#   finishes with SUCCESS.
# - An Else beside it mends that: the two are compiled into a group of their own, whose input the value is. So is a
#   pipeline that is called with the value.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"
mkdir tmp
export TMPDIR="$work/tmp" # KFP's tasks leave folders there

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check kfp==2.17.3 kfp-pipeline-spec==2.17.3 protobuf==6.33.6
export PATH="$work/venv/bin:$PATH" # the local runner starts python3

cat >program.py <<'PY'
import io
import logging
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from kfp import dsl, local

RAN = Path("ran.txt").resolve()
component = dsl.component(base_image="python:3.12", install_kfp_package=False)


@component
def returned() -> bool:
    return True


@component
def named() -> NamedTuple("Outputs", [("good", bool)]):
    return (True,)


@component
def written(good: dsl.OutputPath(bool)):
    open(good, "w").write("true")


@component
def note(branch: str, file: str):
    open(file, "a").write(branch + "\n")


def alone(value):
    with dsl.If(value == True):
        note(branch="if", file=str(RAN))


def branches(value):
    with dsl.If(value == True):
        note(branch="if", file=str(RAN))
    with dsl.Else():
        note(branch="else", file=str(RAN))


@dsl.pipeline
def on_returned():
    alone(returned().output)


@dsl.pipeline
def on_named():
    alone(named().outputs["good"])


@dsl.pipeline
def on_written():
    alone(written().outputs["good"])


@dsl.pipeline
def on_named_with_else():
    branches(named().outputs["good"])


@dsl.pipeline
def inner(good: bool):
    alone(good)


@dsl.pipeline
def on_nested():
    inner(good=named().outputs["good"])


def run(pipeline):
    """The branches that ran, and whether the call returned."""
    RAN.write_text("")
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root="root")
    log = io.StringIO()
    with redirect_stdout(log), redirect_stderr(log):
        try:
            pipeline()
        except Exception as error:
            return RAN.read_text().split(), f"raised {type(error).__name__}"
    return RAN.read_text().split(), "returned"


differs = []


def see(what, found, expected):
    print(f"{what}: {found}")
    if found != expected:
        differs.append(f"{what}: {found}, and it was {expected}")


print(f"kfp {version('kfp')}, Python {sys.version.split()[0]}")
logging.disable(logging.WARNING)
see("a returned value that is true", run(on_returned), (["if"], "returned"))
see("a field of a NamedTuple that is true", run(on_named), ([], "returned"))
see("an OutputPath(bool) that holds true", run(on_written), ([], "returned"))
see("the field, with an Else", run(on_named_with_else), (["if"], "returned"))
see("the field, passed to a nested pipeline", run(on_nested), (["if"], "returned"))

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 240 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
