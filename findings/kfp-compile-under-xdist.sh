#!/usr/bin/env bash
# What setting a resource of a KFP task costs in a process that has loaded many modules, in a script and in a test.
#
# Versions: kfp 2.17.3, kfp-pipeline-spec 2.17.3, protobuf 6.33.6, pytest 9.1.1, pytest-xdist 3.8.0.
# Seen: 2026-11-29, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: set_cpu_limit() and the like write into a message; what they cost does not depend on what
# else the process has imported, nor on whether pytest runs the tests itself or in workers.
#
# What the guess missed:
# - Each of these setters asks inspect.stack() for the name of its caller, and so for the source of every frame of the
#   stack. Of a frame whose code has no file (of `python -c`, of the runpy behind `python -m`, of the workers of
#   pytest-xdist), inspect looks for the module, and goes through all of sys.modules each time anew, as it finds nothing.
# - In a script a module is looked at 6 times while 20 setters run; in `python -c` 126 times, in `python -m pytest` 246,
#   in a worker of pytest-xdist 366. With torch and what a test suite imports loaded, this was 95 % of the time of
#   compiling pipelines under pytest-xdist, and it grew as more test modules were collected. An entry for such a file's
#   name in inspect.modulesbyfile, which is not documented, ends it.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check kfp==2.17.3 kfp-pipeline-spec==2.17.3 protobuf==6.33.6 \
    pytest==9.1.1 pytest-xdist==3.8.0

cat >counting.py <<'PY'
import sys
import types

from kfp import dsl

SETTERS = 20


class Watched(types.ModuleType):
    """A module that counts how often somebody asks for its file."""

    asked = 0

    @property
    def __file__(self):
        Watched.asked += 1
        return "/nowhere/watched.py"


@dsl.component(base_image="python:3.12", install_kfp_package=False)
def step():
    pass


def looks():
    """How often a module is looked at while a task gets its resources."""
    sys.modules["watched"] = Watched("watched")

    @dsl.pipeline
    def chain():
        task = step()
        Watched.asked = 0
        for _ in range(SETTERS // 2):
            task.set_cpu_limit("1").set_memory_limit("1G")
        looks.found = Watched.asked

    return looks.found
PY
cat >test_looks.py <<'PY'
from counting import looks


def test_looks():
    with open("found", "w") as file:
        file.write(str(looks()))
PY

export PYTHONPATH="$work" PYTHONWARNINGS=ignore
echo 'from counting import looks; print(looks())' >script.py
script=$(venv/bin/python script.py)
command=$(venv/bin/python -c "$(cat script.py)")
venv/bin/python -m pytest -q -p no:cacheprovider test_looks.py >/dev/null
tests=$(cat found)
venv/bin/python -m pytest -q -p no:cacheprovider -n 1 test_looks.py >/dev/null
workers=$(cat found)
known=$(venv/bin/python -c "import inspect; inspect.modulesbyfile['<string>'] = 'builtins'; $(cat script.py)")

printf '%s\n' "while 20 setters run, a module that has nothing to do with them is looked at this often:" \
    "  in a script           $script" "  in python -c          $command" "  in python -m pytest   $tests" \
    "  in a worker of xdist  $workers" "  in python -c, with an entry in inspect.modulesbyfile  $known"
if [ "$script" -gt 10 ] || [ "$known" -gt 10 ]; then
    echo "changed: also where all frames have files, modules are looked at again" >&2
    exit 1
fi
if [ "$command" -lt 40 ] || [ "$tests" -lt 40 ] || [ "$workers" -lt 40 ]; then
    echo "changed: a frame without a file has modules looked at no more often" >&2
    exit 1
fi
