#!/usr/bin/env bash
# What proto-plus, of which the types of Google's Python clients are made, takes for a field's value without an error.
#
# Versions: proto-plus 1.29.0, google-cloud-aiplatform 2.7.0, protobuf 6.33.6.
# Seen: 2026-11-29, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: a type made of a dict is as strict as the protobuf behind it. A key that it does not know,
# or one in camelCase, raises at any depth; so does a float for an integer, a text for a truth value, and a name that an
# enum does not have.
#
# What the guess missed: keys, truth values and enums are as guessed, other values are not, and two more things were not
# thought of.
# - A field of 64 bits takes 1.9 and makes 1 of it, and takes the text "3", where one of 32 bits beside it raises for
#   both, as protobuf does for either: replica_count is int64, accelerator_count int32. So of a computed number of
#   machines the fraction goes without a word.
# - Where a list of texts belongs, a text is one list entry for each letter: command="python" is six words.
#   Protobuf's own constructor does the same; its JSON parser refuses it.
# - Of a oneof the last in the dict wins, whatever order the type has, also if it is empty. So a python_package_spec of
#   {} takes a container_spec away.
# json_format.ParseDict into TYPE.pb() refuses all of these, so that it is the way to check a dict.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    proto-plus==1.29.0 google-cloud-aiplatform==2.7.0 protobuf==6.33.6

cat >program.py <<'PY'
from importlib.metadata import version

from google.cloud.aiplatform_v1.types import ContainerSpec, CustomJob, MachineSpec, WorkerPoolSpec
from google.protobuf import json_format

differs = []


def see(what, make, expected):
    try:
        seen = make()
    except Exception as error:
        seen = type(error).__name__
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def job(pool):
    return CustomJob({"job_spec": {"worker_pool_specs": [pool]}}).job_spec.worker_pool_specs[0]


def parsed(pool):
    return json_format.ParseDict(pool, WorkerPoolSpec.pb()())


def members(pool):
    return [name for name in ("container_spec", "python_package_spec") if name in pool]


print(f"proto-plus {version('proto-plus')}, google-cloud-aiplatform {version('google-cloud-aiplatform')}")
see("an unknown key deep in a dict", lambda: job({"machine_spec": {"cores": 4}}), "ValueError")

machine = {"machine_spec": {"machine_type": "n1-standard-4"}}
for value, found in ((1.9, 1), ("3", 3)):
    count, accelerators = {"replica_count": value}, {"accelerator_count": value}
    see(f"replica_count={value!r} (int64)", lambda: job(machine | count).replica_count, found)
    see("  in protobuf", lambda: WorkerPoolSpec.pb()(**count), "TypeError")
    see(f"accelerator_count={value!r} (int32)", lambda: MachineSpec(accelerators).accelerator_count, "TypeError")
see("replica_count=1.9 by ParseDict", lambda: parsed({"replica_count": 1.9}), "ParseError")

command = {"image_uri": "python:3.12", "command": "python"}
see('command="python"', lambda: list(job({"container_spec": command}).container_spec.command), list("python"))
see("  in protobuf", lambda: list(ContainerSpec.pb()(command="python").command), list("python"))
see("  by ParseDict", lambda: parsed({"container_spec": command}), "ParseError")

both = {"container_spec": {"image_uri": "python:3.12"}, "python_package_spec": {}}
see("a container, then an empty Python package", lambda: members(job(both)), ["python_package_spec"])
turned = dict(reversed(both.items()))
see("an empty Python package, then a container", lambda: members(job(turned)), ["container_spec"])
see("both by ParseDict", lambda: parsed(both), "ParseError")

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 240 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
