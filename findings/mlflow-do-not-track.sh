#!/usr/bin/env bash
# Which settings switch off that MLflow's client reports its use.
#
# Versions: mlflow-skinny 3.17.2.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: DO_NOT_TRACK=1, the value that the convention names (consoledonottrack.com) and that other
# tools heed, switches it off, as MLFLOW_DISABLE_TELEMETRY=true does.
#
# What the guess missed: DO_NOT_TRACK counts only if it is "true". With 1 the import alone writes an id of this
# installation to ~/.config/mlflow/telemetry.json, as without any setting, and starts the client that reports;
# MLFLOW_DISABLE_TELEMETRY takes 1 as well. In CI, known by CI and a dozen other variables, and under pytest nothing is
# written, so a test that looks for the file passes there whatever is set.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check mlflow-skinny==3.17.2

differs=0
try() { # setting, whether it reports
    mkdir home
    env -i PATH="$PATH" HOME="$work/home" "$1" venv/bin/python -W ignore -c 'import mlflow' 2>errors.log || {
        tail -n 20 errors.log >&2
        exit 1
    }
    if [ -n "$(find home -name telemetry.json)" ]; then seen=reports; else seen='does not'; fi
    echo "$1: $seen"
    [ "$seen" = "$2" ] || { echo "this has changed: it was: $2" >&2; differs=1; }
    rm -r home
}
try NOTHING=set reports
try DO_NOT_TRACK=1 reports
try DO_NOT_TRACK=yes reports
try DO_NOT_TRACK=true 'does not'
try MLFLOW_DISABLE_TELEMETRY=1 'does not'
try MLFLOW_DISABLE_TELEMETRY=true 'does not'
try CI=1 'does not'
try PYTEST_CURRENT_TEST=x 'does not'
[ $differs = 0 ]
echo 'as it was seen'
