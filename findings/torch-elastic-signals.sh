#!/usr/bin/env bash
# Which signals torchrun takes: by TORCHELASTIC_SIGNALS_TO_HANDLE, by its option, and under nohup.
#
# Versions: torch 2.15.0, numpy 2.4.6; nohup of GNU coreutils.
# Seen: 2026-11-28, Python 3.11.7, Linux x86-64. torch takes 6 GB while this runs.
#
# Guess, before the first run: torch elastic reads TORCHELASTIC_SIGNALS_TO_HANDLE, and torchrun overwrites it before
# that with its own default, so it has no effect; --signals-to-handle has. Under nohup, torchrun takes SIGHUP all the
# same, with the variable too, and ends its group; with an option that leaves SIGHUP out it goes on. What torchrun has
# caught is at its default in a worker, since exec makes it so.
#
# What the guess missed: nothing of this, only that there is a variable which works, PET_SIGNALS_TO_HANDLE, as there
# is one for most options of torchrun. The change that brought both calls TORCHELASTIC_SIGNALS_TO_HANDLE the way to
# set the signals (pytorch/pytorch, pull request 160690), so it is what a search finds; torchrun neither heeds it nor
# warns. What follows from the workers: under nohup they lose their protection even if torchrun survives, as a closed
# terminal sends SIGHUP to the whole group. nohup for torchrun needs --signals-to-handle=SIGTERM,SIGINT,SIGQUIT.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"
mkdir tmp
export TMPDIR="$work/tmp" # torchrun leaves folders of logs there

"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6

cat >worker.py <<'PY'
"""Says what it sees of signals, and ends when it is let go."""

import json
import os
import signal
import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
hangup = signal.getsignal(signal.SIGHUP)
says = {"SIGHUP": {signal.SIG_DFL: "default", signal.SIG_IGN: "ignored"}.get(hangup, "caught")}
says["variable"] = os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE")
(folder / "says.part").write_text(json.dumps(says))
(folder / "says.part").rename(folder / "says.json")
for _ in range(600):
    if (folder / "go").exists():
        (folder / "finished").touch()
        break
    time.sleep(0.1)
PY

cat >program.py <<'PY'
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

DEFAULT, VARIABLE = "SIGTERM,SIGINT,SIGHUP,SIGQUIT", "TORCHELASTIC_SIGNALS_TO_HANDLE"
differs = []


def see(what, seen, expected):
    print(f"{what}: {seen}", flush=True)
    if seen != expected:
        differs.append(f"{what}: saw {seen!r}, and it was {expected!r}")


def disposition(pid, number):
    """What a process does with a signal, as the kernel has it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = {name: int(line.split()[1], 16) for line in lines if (name := line[:6]) in ("SigCgt", "SigIgn")}
    bit = 1 << (number - 1)
    return "caught" if masks["SigCgt"] & bit else "ignored" if masks["SigIgn"] & bit else "default"


def torchrun(name, *options, nohup=False, **variables):
    """Torchrun's dispositions, what its worker says, and under nohup whether the worker finishes after a SIGHUP."""
    folder = Path(name).absolute()
    folder.mkdir()
    command = ["nohup"] * nohup + [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=1", *options, "worker.py", str(folder)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(600):
            if (folder / "says.json").exists():
                break
            time.sleep(0.1)
        says = json.loads((folder / "says.json").read_text())
        time.sleep(0.5)
        names = ("SIGTERM", "SIGHUP", "SIGUSR1")
        seen = {each: disposition(process.pid, getattr(signal, each)) for each in names}
        if nohup:
            process.send_signal(signal.SIGHUP)
            for _ in range(50):
                if process.poll() is not None:
                    break
                time.sleep(0.1)
        (folder / "go").touch()
        code = process.wait(60)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
    return seen, says, code, (folder / "finished").exists()


print(f"torch {torch.__version__}")
taken = {"SIGTERM": "caught", "SIGHUP": "caught", "SIGUSR1": "default"}
wanted = {"SIGTERM": "caught", "SIGHUP": "default", "SIGUSR1": "caught"}

seen, _, _, _ = torchrun("plain")
see("torchrun: signals", seen, taken)
seen, says, _, _ = torchrun("variable", **{VARIABLE: "SIGTERM,SIGUSR1"})
see(f"{VARIABLE}=SIGTERM,SIGUSR1: signals", seen, taken)
see("  the variable in the worker", says["variable"], DEFAULT)
seen, _, _, _ = torchrun("option", "--signals-to-handle=SIGTERM,SIGUSR1")
see("--signals-to-handle=SIGTERM,SIGUSR1: signals", seen, wanted)
seen, _, _, _ = torchrun("pet", PET_SIGNALS_TO_HANDLE="SIGTERM,SIGUSR1")
see("PET_SIGNALS_TO_HANDLE=SIGTERM,SIGUSR1: signals", seen, wanted)

seen, says, code, finished = torchrun("nohup", nohup=True)
see("nohup torchrun: SIGHUP in torchrun and in the worker", (seen["SIGHUP"], says["SIGHUP"]), ("caught", "default"))
see("  after a SIGHUP: exit code, the worker has finished", (code, finished), (1, False))
_, _, code, finished = torchrun("nohup_variable", nohup=True, **{VARIABLE: "SIGTERM"})
see(f"nohup, {VARIABLE}=SIGTERM: the same", (code, finished), (1, False))
seen, says, code, finished = torchrun("nohup_option", "--signals-to-handle=SIGTERM", nohup=True)
see("nohup, --signals-to-handle=SIGTERM: SIGHUP", (seen["SIGHUP"], says["SIGHUP"]), ("ignored", "ignored"))
see("  after a SIGHUP: exit code, the worker has finished", (code, finished), (0, True))

if differs:
    raise SystemExit("this has changed:\n" + "\n".join(differs))
print("as it was seen")
PY
timeout 300 venv/bin/python -W ignore program.py 2>errors.log || {
    tail -n 30 errors.log >&2
    exit 1
}
