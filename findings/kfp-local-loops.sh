#!/usr/bin/env bash
# How many iterations of a dsl.ParallelFor KFP's local runner runs at once, and what dsl.Collected makes of integers.
#
# Versions: kfp 2.17.3, kfp-pipeline-spec 2.17.3, protobuf 6.33.6.
# Seen: 2026-11-29, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: a loop runs locally one iteration after the other, or as many at once as `parallelism`
# allows and the machine has cores; what is collected of outputs that are integers is a list of integers.
#
# What the guess missed:
# - Two iterations run at once by default and with parallelism=4, whatever the machine has: the runner caps the number at
#   two, without a log line. parallelism=1 is honoured. So a local run shows neither what four at once cost in memory nor
#   whether they disturb each other.
# - An output declared as an integer arrives as one where it is passed on alone, and as a float in the list that
#   dsl.Collected makes, although that is declared as a list of integers: range(), indexing and "1" in a name fail, or
#   differ, in the task behind the loop.
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
from typing import List

from kfp import dsl, local

component = dsl.component(base_image="python:3.12", install_kfp_package=False)


@component
def part(item: int, log: str, number: dsl.OutputPath(int)):
    import os
    import time

    stream = os.open(log, os.O_WRONLY | os.O_APPEND)  # one write a line, so that lines of several tasks do not mix
    os.write(stream, b"begin\n")
    time.sleep(3)
    os.write(stream, b"end\n")
    open(number, "w").write(str(item))


@component
def note(value: int, file: str):
    open(file, "w").write(repr(value))


@component
def note_all(values: List[int], file: str):
    open(file, "w").write(repr(values))


def most_at_once(log):
    most = now = 0
    for line in log.read_text().splitlines():
        now += 1 if line == "begin" else -1
        most = max(most, now)
    return most


def run(pipeline):
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root="root")
    log = io.StringIO()
    with redirect_stdout(log), redirect_stderr(log):
        pipeline()


def loop(parallelism):
    log, file = Path(f"log-{parallelism}").resolve(), Path("collected").resolve()
    log.write_text("")

    @dsl.pipeline
    def looped():
        with dsl.ParallelFor([1, 2, 3, 4], parallelism=parallelism) as item:
            each = part(item=item, log=str(log))
        note_all(values=dsl.Collected(each.outputs["number"]), file=str(file))

    run(looped)
    return most_at_once(log), file.read_text()


@dsl.pipeline
def passed_on():
    log, file = Path("log-alone").resolve(), Path("alone").resolve()
    log.write_text("")
    note(value=part(item=1, log=str(log)).outputs["number"], file=str(file))


differs = []


def see(what, found, expected):
    print(f"{what}: {found}")
    if found != expected:
        differs.append(f"{what}: {found}, and it was {expected}")


print(f"kfp {version('kfp')}, Python {sys.version.split()[0]}")
logging.disable(logging.WARNING)
for parallelism, expected in ((None, 2), (1, 1), (4, 2)):
    most, collected = loop(parallelism)
    see(f"iterations at once of four, parallelism={parallelism}", most, expected)
see("integers, collected", collected, "[1.0, 2.0, 3.0, 4.0]")
run(passed_on)
see("an integer, passed on", Path("alone").read_text(), "1")

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 240 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
