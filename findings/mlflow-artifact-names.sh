#!/usr/bin/env bash
# Under which names MLflow's server keeps files whose names hold characters that mean something in an address, and what
# of a call with many params is stored when one of them is refused.
#
# Versions: mlflow 3.17.2.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64. mlflow and what it needs take 0.9 GB while this runs.
#
# Guess, before the first run: log_artifact of a#1.txt, b?1.txt or %41.txt stores the file under its own name, since the
# client quotes it, or raises; 150 params, the last of which has another value already, are refused as a call with fewer
# is, but the first hundred, which go in a request of their own, are stored.
#
# What the guess missed: the client puts a file's name into the address as it is. What follows # or ? never reaches the
# server: a#1.txt and a#2.txt are both stored as "a", the second in place of the first, without an error at either call,
# and %41.txt is stored as A.txt, where it would replace a file of that name; log_artifacts does the same. Blanks,
# umlauts, +, ; and a bare % arrive whole. As guessed: of a refused call with 150 params 100 are stored, so that all or
# nothing, which a try with a few shows, does not hold for a large configuration.
set -euo pipefail

work=$(mktemp -d)
server=''
cleanup() {
    [ -z "$server" ] || kill -- "-$server" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' INT TERM
cd "$work"
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false GIT_PYTHON_REFRESH=quiet
export MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false no_proxy=127.0.0.1
unset MLFLOW_TRACKING_URI MLFLOW_RUN_ID MLFLOW_EXPERIMENT_ID MLFLOW_EXPERIMENT_NAME

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check mlflow==3.17.2
port=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
setsid venv/bin/mlflow server --host 127.0.0.1 --port "$port" --workers 1 \
    --backend-store-uri "sqlite:///$work/mlflow.db" --artifacts-destination "$work/files" >server.log 2>&1 &
server=$!
for _ in $(seq 240); do
    venv/bin/python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$port/health')" 2>/dev/null && break
    sleep 0.5
done

cat >program.py <<'PY'
import sys
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Param

NAMES = ["a#1.txt", "a#2.txt", "b?1.txt", "b?2.txt", "%41.txt", "100%.txt", "a b.txt", "ü.txt", "c;d.txt", "e+f.txt"]
EXPECTED = {
    "stored: holds the file": {
        "100%.txt": "100%.txt", "A.txt": "%41.txt", "a": "a#2.txt", "a b.txt": "a b.txt", "b": "b?2.txt",
        "c;d.txt": "c;d.txt", "e+f.txt": "e+f.txt", "ü.txt": "ü.txt",
    },
    "of log_artifacts": {"a": "a#2.txt", "b": "b#1.txt"},
    "of 90 params, one of them refused, stored": 0,
    "of 150 params, one of them refused, stored": 100,
}

client = MlflowClient(f"http://127.0.0.1:{sys.argv[1]}")
run = client.create_run("0").info.run_id
folder = Path("sent")
folder.mkdir()
for name in NAMES:
    (folder / name).write_text(name)
    client.log_artifact(run, str(folder / name))


def stored(path=None):
    found = {}
    for each in client.list_artifacts(run, path):
        if not each.is_dir:
            found[each.path] = Path(client.download_artifacts(run, each.path)).read_text()
    return found


seen = {"stored: holds the file": stored()}
many = Path("many")
many.mkdir()
for name in ("a#2.txt", "b#1.txt"):
    (many / name).write_text(name)
client.log_artifacts(run, str(many), "many")
seen["of log_artifacts"] = {name.removeprefix("many/"): text for name, text in stored("many").items()}


def kept(count):
    run = client.create_run("0").info.run_id
    client.log_param(run, f"p{count - 1}", "another value")
    try:
        client.log_batch(run, params=[Param(f"p{number}", "value") for number in range(count)])
    except Exception as error:
        assert "Changing param values is not allowed" in str(error), error
    else:
        raise SystemExit("this has changed: a param that has another value already is taken")
    return len(client.get_run(run).data.params) - 1


seen["of 90 params, one of them refused, stored"] = kept(90)
seen["of 150 params, one of them refused, stored"] = kept(150)
for what, value in seen.items():
    print(f"{what}: {value}")
if seen != EXPECTED:
    raise SystemExit("this has changed")
print("as it was seen")
PY
venv/bin/python -W ignore program.py "$port" 2>errors.log || {
    tail -n 20 errors.log server.log >&2
    exit 1
}
