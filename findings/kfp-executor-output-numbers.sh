#!/usr/bin/env bash
# What becomes of a number that JSON does not have, and of None, in the metadata of a KFP artifact.
#
# Versions: kfp 2.17.0, kfp-pipeline-spec 2.17.0, protobuf 6.33.6, scikit-learn 1.9.1.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: the executor writes the tokens NaN and Infinity, as Python's json does; protobuf reads
# them into a Value; the local runner takes the task as successful and hands its outputs over, and the first failure is
# in a next task that gets the artifact. None goes through everywhere.
#
# What the guess missed:
# - protobuf's json_format reads the tokens, and the message survives its binary form, but it refuses to write the same
#   message as JSON. So the local runner logs that the task finished with SUCCESS, and then the call raises
#   SerializeToJsonError while it collects the outputs: no state, no FAILURE, no output of that task, those that are
#   sound among them not either.
# - It takes no odd metric to get there: scikit-learn's roc_curve has had infinity as its first threshold since 1.3, and
#   ClassificationMetrics.log_roc_curve takes what roc_curve gives without a word. The two, used as they are documented,
#   make a task whose outputs cannot be collected.
# - None is the reverse: SUCCESS locally, the next task reads None, and protobuf takes and writes it. Kubeflow does not:
#   the launcher of Kubeflow Pipelines 2.17.0 ended every such step as failed, since it has no place for a null at the
#   top of an artifact's metadata, and for NaN it could not read the file of outputs at all. That was seen on a cluster,
#   which this script does not have. So a local run is no evidence for None; a check before writing is.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"
mkdir tmp
export TMPDIR="$work/tmp" # KFP's tasks leave folders there

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    kfp==2.17.0 kfp-pipeline-spec==2.17.0 protobuf==6.33.6 scikit-learn==1.9.1

cat >tasks.py <<'PY'
"""Runs one component, or a pipeline of two, locally; the last line says what the caller saw."""

import sys

from kfp import dsl, local


@dsl.component(base_image="python:3.12")
def measure(metrics: dsl.Output[dsl.Metrics], model: dsl.Output[dsl.Model]):
    metrics.log_metric("loss", float("nan"))
    model.metadata["epochs"] = 3


@dsl.component(base_image="python:3.12")
def curve(roc: dsl.Output[dsl.ClassificationMetrics]):
    from sklearn.metrics import roc_curve

    roc.log_roc_curve(*(each.tolist() for each in roc_curve([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])))


@dsl.component(base_image="python:3.12")
def train(model: dsl.Output[dsl.Model]):
    model.metadata["resumed_from"] = None


@dsl.component(base_image="python:3.12")
def reader(model: dsl.Input[dsl.Model]):
    print("read", model.metadata)


@dsl.pipeline
def train_and_read():
    reader(model=train().outputs["model"])


@dsl.pipeline
def measure_and_read():
    reader(model=measure().outputs["model"])


local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[1], raise_on_error=False)
try:
    globals()[sys.argv[2]]()
except Exception as error:
    print(f"raised {type(error).__name__}")
else:
    print("returned")
PY

cat >program.py <<'PY'
import json
import subprocess
import sys
from pathlib import Path

import kfp
import sklearn
from google.protobuf import __version__ as protobuf_version
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import ExecutorOutput
from sklearn.metrics import roc_curve

differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def run(name):
    """Which tasks were logged as successful, what the caller saw, what the next task read, the first task's output."""
    root = Path("runs", name).absolute()
    command = [sys.executable, "-W", "ignore", "tasks.py", str(root), name]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = (text.stdout + text.stderr).splitlines()
    tasks = ("measure", "curve", "train", "reader")
    succeeded = [task for task in tasks if any(f"'{task}'" in line and "SUCCESS" in line for line in lines)]
    caller = [line for line in text.stdout.splitlines() if line.startswith(("raised ", "returned"))]
    read = [line.strip() for line in lines if line.strip().startswith("read ")]
    outputs = {path.parent.name: path.read_text() for path in root.rglob("executor_output.json")}
    return succeeded, caller, read, outputs


def is_json(text):
    def refuse(token):
        raise ValueError(token)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError as error:
        return str(error)
    return True


def through_protobuf(text):
    """Whether kfp's own definition of the file takes it, its binary form brings it back, and it becomes JSON again."""
    message = json_format.Parse(text, ExecutorOutput())
    back = ExecutorOutput.FromString(message.SerializeToString())
    try:
        json_format.MessageToJson(back)
    except json_format.SerializeToJsonError as error:
        return f"taken, not written: {str(error).partition(': ')[2].partition(',')[0]}"
    return "taken and written"


print(f"kfp {kfp.__version__}, protobuf {protobuf_version}, scikit-learn {sklearn.__version__}")

succeeded, caller, _, outputs = run("measure")
see("log_metric of NaN: logged as successful", succeeded, ["measure"])
see("  the call", caller, ["raised SerializeToJsonError"])
see("  the file as JSON", is_json(outputs["measure"]), "NaN")
unwritten = "taken, not written: Fail to serialize NaN for Value.number_value"
see("  the file by kfp's definition", through_protobuf(outputs["measure"]), unwritten)

succeeded, caller, read, _ = run("measure_and_read")
see("  in a pipeline, next a task that reads another output: logged as successful", succeeded, ["measure"])
see("  the call, and what the next task read", (caller, read), (["raised SerializeToJsonError"], []))

see("roc_curve's first threshold", float(roc_curve([0, 1], [0.2, 0.7])[2][0]), float("inf"))
succeeded, caller, _, outputs = run("curve")
see("log_roc_curve of it: logged as successful", succeeded, ["curve"])
see("  the call", caller, ["raised SerializeToJsonError"])
see("  the file as JSON", is_json(outputs["curve"]), "Infinity")

succeeded, caller, read, outputs = run("train_and_read")
see("None in a model's metadata: logged as successful", succeeded, ["train", "reader"])
see("  the call, and what the next task read", (caller, read), (["returned"], ["read {'resumed_from': None}"]))
see("  the file as JSON", is_json(outputs["train"]), True)
see("  the file by kfp's definition", through_protobuf(outputs["train"]), "taken and written")

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 120 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
