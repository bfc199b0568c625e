#!/usr/bin/env bash
# Whether a compiled pipeline says which release of Kubeflow Pipelines it needs, and who notices when it needs more.
#
# Versions: kfp, kfp-kubernetes, kfp-pipeline-spec 2.15.2, 2.16.1 and 2.17.0, each release in an environment of its own.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: a file compiled with 2.17.0 that uses a field of 2.16 or 2.17 is refused by the protobuf
# definitions of the releases before, by that field's name; the file's head is the same with the field and without it.
# The SDK of an older release loads a file whose new field stands in an executor's settings and refuses one whose new
# field is the pipeline's.
#
# All of that held. What it missed:
# - sdkVersion is no requirement and not even who compiled it: all files say kfp-2.17.0, even the one that 2.15.2's
#   definitions take, and 2.15.2 that loads a file and compiles it again leaves kfp-2.17.0 standing, next to the field
#   that it does not know. schemaVersion is 2.1.0 everywhere. Only the fields themselves say what a file needs.
# - An SDK is no check for its own release. Executors' Kubernetes settings are a Struct to it, so that 2.15.2 loads and
#   compiles a file with sub_path or a security context without a word, while KubernetesExecutorConfig of the very same
#   installation refuses it; a time to live of the pipeline it refuses at once, because that one is typed. Only parsing
#   each executor's settings with kfp-kubernetes' own message finds both.
# What an API server of these releases does was not run here.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

releases='2.15.2 2.16.1 2.17.0'
for release in $releases; do
    "${PYTHON:-python3}" -m venv "venv-$release"
    "venv-$release/bin/pip" install --quiet --disable-pip-version-check \
        "kfp==$release" "kfp-kubernetes==$release" "kfp-pipeline-spec==$release"
done

cat >compile.py <<'PY'
from kfp import compiler, dsl, kubernetes


@dsl.component(base_image="python:3.12")
def step():
    pass


def volume(task):
    kubernetes.mount_pvc(task, pvc_name="claim", mount_path="/data")


def sub_path(task):
    kubernetes.mount_pvc(task, pvc_name="claim", mount_path="/data", sub_path="one")


def run_as_user(task):
    kubernetes.set_security_context(task, run_as_user=1000)


def compiled(configure, settings=None):
    @dsl.pipeline(name="one-step", pipeline_config=settings)
    def pipeline():
        configure(step())

    return pipeline


ttl = dsl.PipelineConfig(ttl_seconds_after_finished=300)
for name, pipeline in {
    "volume": compiled(volume),
    "sub_path": compiled(sub_path),
    "run_as_user": compiled(run_as_user),
    "ttl": compiled(volume, ttl),
}.items():
    compiler.Compiler().compile(pipeline, f"{name}.yaml")
PY

cat >check.py <<'PY'
"""What one release makes of the files, as JSON."""

import json
import re
from pathlib import Path

import yaml
from google.protobuf import json_format
from kfp import compiler, components
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec


def tried(work):
    try:
        return work() or "takes"
    except json_format.ParseError as error:
        return "no field " + re.search(r'no field named "(\w+)"', str(error))[1]


def by_definitions(spec, platform):
    json_format.ParseDict(spec, PipelineSpec())
    json_format.ParseDict(platform, PlatformSpec())
    kubernetes = platform["platforms"]["kubernetes"]
    for executor in kubernetes["deploymentSpec"]["executors"].values():
        json_format.ParseDict(executor, KubernetesExecutorConfig())


def by_sdk(path, platform):
    compiler.Compiler().compile(components.load_component_from_file(str(path)), "again.yaml")
    again, settings = yaml.safe_load_all(Path("again.yaml").read_text())
    return f"takes, compiles again as {again['sdkVersion']}, settings {'kept' if settings == platform else 'changed'}"


seen = {}
for path in map(Path, ("volume.yaml", "sub_path.yaml", "run_as_user.yaml", "ttl.yaml")):
    spec, platform = yaml.safe_load_all(path.read_text())
    seen[path.stem] = {
        "says": [spec["sdkVersion"], spec["schemaVersion"]],
        "definitions": tried(lambda: by_definitions(spec, platform)),
        "SDK": tried(lambda: by_sdk(path, platform)),
    }
print(json.dumps(seen))
PY

cat >program.py <<'PY'
import json
import subprocess
import sys
from pathlib import Path

RELEASES = sys.argv[1:]
LOADED = "takes, compiles again as kfp-2.17.0, settings kept"
TTL = "no field resourceTtlOnCompletion"
EXPECTED = {  # file: by its release, definitions and SDK
    "volume": {release: ("takes", LOADED) for release in RELEASES},
    "sub_path": {"2.15.2": ("no field subPath", LOADED), "2.16.1": ("takes", LOADED), "2.17.0": ("takes", LOADED)},
    "run_as_user": {
        "2.15.2": ("no field securityContext", LOADED),
        "2.16.1": ("takes", LOADED),
        "2.17.0": ("takes", LOADED),
    },
    "ttl": {"2.15.2": (TTL, TTL), "2.16.1": (TTL, TTL), "2.17.0": ("takes", LOADED)},
}
differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def python(release, program):
    command = [f"venv-{release}/bin/python", "-W", "ignore", program]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout


python("2.17.0", "compile.py")
seen = {release: json.loads(python(release, "check.py")) for release in RELEASES}
for name, by_release in EXPECTED.items():
    see(f"{name}.yaml says", seen["2.17.0"][name]["says"], ["kfp-2.17.0", "2.1.0"])
    for release, (definitions, sdk) in by_release.items():
        see(f"  definitions of {release}", seen[release][name]["definitions"], definitions)
        see(f"  SDK of {release}", seen[release][name]["SDK"], sdk)
volume, sub_path = (Path(f"{name}.yaml").read_text().splitlines() for name in ("volume", "sub_path"))
added = [line.strip() for line in sub_path if line not in volume]
see("what sub_path.yaml has that volume.yaml has not", (added, len(sub_path) - len(volume)), (["subPath: one"], 1))

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
# shellcheck disable=SC2086 # three words
timeout 90 venv-2.17.0/bin/python program.py $releases 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
