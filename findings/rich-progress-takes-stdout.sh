#!/usr/bin/env bash
# Where print() goes while a bar of rich's is shown on standard error and standard output is a pipe or a file.
#
# Versions: rich 15.0.0.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: Progress(console=Console(stderr=True)) draws on standard error alone; what is printed to
# standard output while it is shown arrives in the pipe, as tqdm and curl have it.
#
# What the guess missed:
# - Every print() while the bar is shown goes to the terminal, above the bar, and the pipe gets nothing: redirect_stdout
#   is True by default and asks whether the console is a terminal, not whether standard output is one. No error, exit
#   code 0. `program > rows.csv` on a terminal leaves an empty file; under cron or in CI, without a terminal, a full one.
# - print(file=sys.__stdout__) and os.write(1, …) do arrive, and so does everything with redirect_stdout=False.
# - rich.progress.track() has no such option, and takes standard output as well.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check rich==15.0.0

cat >rows.py <<'PY'
import os
import sys

from rich.console import Console
from rich.progress import Progress, track

console = Console(stderr=True)
match sys.argv[1]:
    case "default":
        with Progress(console=console):
            print("a row")
    case "redirect_stdout=False":
        with Progress(console=console, redirect_stdout=False):
            print("a row")
    case "sys.__stdout__":
        with Progress(console=console):
            print("a row", file=sys.__stdout__)
    case "os.write":
        with Progress(console=console):
            os.write(1, b"a row\n")
    case "track":
        for _ in track(range(3), console=console):
            print("a row")
PY

cat >program.py <<'PY'
import os
import pty
import subprocess
import sys

differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}")
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def run(how, terminal):
    """What a pipe that is standard output gets, and whether standard error, a terminal or a pipe, shows the row."""
    command = [sys.executable, "rows.py", how]
    environment = os.environ | {"TERM": "xterm"}
    if not terminal:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.count("a row"), "a row" in done.stderr
    leader, follower = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, text=True, env=environment) as process:
        os.close(follower)
        shown = b""
        try:
            while piece := os.read(leader, 4096):
                shown += piece
        except OSError:
            pass
        out = process.stdout.read()
    return out.count("a row"), b"a row" in shown


print("rows in the pipe, and whether standard error shows one")
see("default, standard error is a terminal", run("default", True), (0, True))
see("default, standard error is a pipe", run("default", False), (1, False))
see("redirect_stdout=False, a terminal", run("redirect_stdout=False", True), (1, False))
see("sys.__stdout__, a terminal", run("sys.__stdout__", True), (1, False))
see("os.write, a terminal", run("os.write", True), (1, False))
see("track(), a terminal", run("track", True), (0, True))
for line in differs:
    print(f"changed: {line}")
sys.exit(1 if differs else 0)
PY
venv/bin/python program.py
