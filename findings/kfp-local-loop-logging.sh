#!/usr/bin/env bash
# What is left of a program's own logging once it has had KFP's local runner run a dsl.ParallelFor.
#
# Versions: kfp 2.17.3, kfp-pipeline-spec 2.17.3, protobuf 6.33.6.
# Seen: 2026-11-29, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: the runner logs by a handler of its own while a pipeline runs, and puts the program's
# handlers back at its end; with one task, and with a loop, the program's log file gets all lines from then on.
#
# What the guess missed:
# - After a loop of which the iteration that began first ends first, the program's log file gets nothing more, to the end
#   of the program: the root logger has the runner's handler, and the level INFO. Each task puts back what it found when it
#   began, and two iterations run in threads of one process: the second one finds the handler of the first. Nothing
#   reports it, and after a single task all is as the guess has it.
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
import logging
import sys
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path

from kfp import dsl, local


@dsl.component(base_image="python:3.12", install_kfp_package=False)
def wait(seconds: int):
    import time

    time.sleep(seconds)


@dsl.pipeline
def alone():
    wait(seconds=1)


@dsl.pipeline
def looped():
    with dsl.ParallelFor([2, 12]) as seconds:  # the first begins first, and ends long before the second
        wait(seconds=seconds)


def run(pipeline):
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root="root")
    with redirect_stdout(StringIO()):
        pipeline()


def logged(text):
    before = len(Path("own.log").read_text())
    logging.warning(text)
    return Path("own.log").read_text()[before:]


differs = []


def see(what, found, expected):
    print(f"{what}: {found!r}")
    if found != expected:
        differs.append(f"{what}: {found!r}, and it was {expected!r}")


print(f"kfp {version('kfp')}, Python {sys.version.split()[0]}")
logging.basicConfig(filename="own.log", format="%(message)s", level=logging.WARNING)
see("the log file gets, at the beginning", logged("one"), "one\n")
run(alone)
see("after a pipeline of one task", (logged("two"), logging.getLevelName(logging.root.level)), ("two\n", "WARNING"))
run(looped)
see("after a pipeline with a loop", (logged("three"), logging.getLevelName(logging.root.level)), ("", "INFO"))

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 240 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
