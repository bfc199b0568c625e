#!/usr/bin/env bash
# What Kubeflow Trainer's published Python models make of a TrainJob that was written for another release.
#
# Versions: kubeflow-trainer-api 2.0.0, 2.1.0, 2.3.0.
# Seen: 2026-11-29, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: the models, which the API's own schema is generated into, refuse a field that they do not
# have, as they refuse a text for a number; what they read they give back as it was.
#
# What the guess missed: an unknown field is dropped without a word. All three releases have one apiVersion,
# trainer.kubeflow.org/v1alpha1, and each has its own name for what a job adds to its pods: podSpecOverrides,
# podTemplateOverrides, runtimePatches. So a job for one of them, read by the models of another, comes out valid and
# without its volumes and its service account. A name that is misspelt goes the same way, and cpu: lots is taken.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

cat >program.py <<'PY'
import copy
import sys
from importlib.metadata import version

from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob as TrainJob
from pydantic import ValidationError

release, own = sys.argv[1:]
differs = []


def see(what, seen, expected):
    print(f"  {what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


POD = {
    "serviceAccountName": "trainer",
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    "containers": [{"name": "node", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
}
NODE = {"name": "node", "template": {"spec": {"template": {"spec": POD}}}}
WRITTEN = {
    "podSpecOverrides": [{"targetJobs": [{"name": "node"}], **POD}],
    "podTemplateOverrides": [{"targetJobs": [{"name": "node"}], "spec": POD}],
    "runtimePatches": [
        {"manager": "example.com/us", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [NODE]}}}}
    ],
}
JOB = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "TrainJob",
    "metadata": {"name": "job"},
    "spec": {"runtimeRef": {"name": "torch-distributed"}, "trainer": {"numNodes": 2}},
}


def read(changes, trainer=None):
    job = copy.deepcopy(JOB)
    job["spec"].update(changes)
    job["spec"]["trainer"].update(trainer or {})
    try:
        back = TrainJob.from_dict(job).to_dict()
    except ValidationError:
        return "refused"
    return "as it was" if back == job else "dropped" if back == JOB else back


assert version("kubeflow-trainer-api") == release
print(f"kubeflow-trainer-api {release}")
for name, value in WRITTEN.items():
    see(f"a job with {name}", read({name: value}), "as it was" if name == own else "dropped")
see("a job with a misspelt name", read({"runtimePatchs": []}), "dropped")
see("numNodes as a text", read({}, {"numNodes": "2"}), "refused")
see("cpu: lots", read({}, {"resourcesPerNode": {"limits": {"cpu": "lots"}}}), "as it was")
if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
PY

for release in 2.0.0:podSpecOverrides 2.1.0:podTemplateOverrides 2.3.0:runtimePatches; do
    "${PYTHON:-python3}" -m venv --clear venv
    venv/bin/pip install --quiet --disable-pip-version-check "kubeflow-trainer-api==${release%%:*}"
    venv/bin/python program.py "${release%%:*}" "${release##*:}"
done
echo "as it was seen"
