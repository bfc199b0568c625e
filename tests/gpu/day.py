"""``make gpu-day``: all that is to be shown on a GPU, within a number of minutes, in order of weight; it never hangs.

Each part is a process with a time of its own; what it prints goes to a file of the report's folder, its outcome into
``report.md`` and ``report.json``, which are whole after each part. Parts that no time is left for are named, too.
The folder is that of the variable ``REPORT``, or ``runs/gpu-day``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A part that would have less than this is not begun.
LEAST_S = 15.0


@dataclass(frozen=True)
class Part:
    """One process, and the most seconds that it may take."""

    name: str
    command: list[str]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a part ended: "passed", "failed", "out of time" or "left out"; and the end of what it printed."""

    part: str
    outcome: str
    seconds: float
    last: str


def pytest_command(*arguments: str, workers: int) -> list[str]:
    """The command of some tests. Versions there are not the locked ones, whose warnings are no faults of ours."""
    here = [
        sys.executable,
        "-m",
        "pytest",
        "--confcutdir",
        "tests/gpu",
        "-p",
        "no:cacheprovider",
        "-o",
        "filterwarnings=default",
    ]
    spread = ["-n", str(workers), "--dist", "worksteal"] if workers else []
    return [*here, "-q", "--durations", "5", "--maxfail=20", *spread, *arguments]


def parts(device: str, report: Path, earlier: str | None) -> list[Part]:
    """Shortest and most decisive first."""
    step, bench = "tests/gpu/test_captured_step.py", [sys.executable, "-m", "tests.bench.gpu", "--device", device]
    bench += ["--earlier", earlier] if earlier else []
    bench += ["--trial"] if device == "cpu" else []

    def measured(name: str, groups: str, seconds: float) -> Part:
        more = ["--only", groups, "--seconds", str(seconds), "--report", str(report / f"{name}.json")]
        return Part(name, bench + more, seconds)

    workers = min(6, os.cpu_count() or 1)
    return [
        Part("one-captured-run", pytest_command(step, "-k", "three_parts and plain", workers=0), 60),
        measured("bench-reference", "reference", 130),
        Part("steps", pytest_command(step, workers=workers), 120),
        measured("bench-start-memory", "start,memory", 80),
        Part("kills", pytest_command("tests/gpu/test_kills.py", workers=workers), 130),
        measured("bench-small-batches", "small-batches", 50),
        measured("bench-resnet", "resnet", 130),
        Part("transforms", pytest_command("tests/gpu/test_transforms_there.py", workers=0), 40),
        measured("bench-precisions", "other-precisions", 80),
        measured("bench-compiled", "compiled", 240),
    ]


def run(part: Part, seconds: float, log: Path) -> Outcome:
    """Run a part, and end it and all that it has started when its time is up."""
    begun = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            part.command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            outcome = "passed" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            outcome = "out of time"
            _end(process)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return Outcome(part.name, outcome, time.monotonic() - begun, "\n".join(lines[-30:]))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that come of it, also those that have made themselves leaders of sessions."""
    from tests.kill.lives import descendants_of  # torch comes with it

    for pid in [*descendants_of(process.pid), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def write(report: Path, head: str, outcomes: list[Outcome]) -> None:
    """The report so far, whole."""
    (report / "report.json").write_text(
        json.dumps({"head": head, "parts": [asdict(each) for each in outcomes]}, indent=1)
    )
    rows = [f"| {each.part} | {each.outcome} | {each.seconds:.0f} |" for each in outcomes]
    ends = [f"## {each.part}: {each.outcome}\n\n```\n{each.last}\n```" for each in outcomes]
    table = "\n".join(["| part | outcome | s |", "|---|---|---|", *rows])
    (report / "report.md").write_text("\n\n".join([f"# {head}", table, *ends]) + "\n")


def main() -> int:
    """Run the parts; 0 where all passed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu.day", description="All checks of a GPU, in order of weight."
    )
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--earlier", help="a folder with components/ of the version that is measured against")
    parser.add_argument("--only", help="parts, with commas")
    asked = parser.parse_args()
    report = Path(os.environ.get("REPORT", ROOT / "runs" / "gpu-day")).resolve()
    report.mkdir(parents=True, exist_ok=True)
    os.environ["SHUTTERLINE_TEST_DEVICE"] = asked.device
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    until, outcomes = time.monotonic() + 60 * asked.minutes, list[Outcome]()
    head = f"{asked.device}, {time.strftime('%Y-%m-%d %H:%M')}"
    for part in parts(asked.device, report, asked.earlier):
        if asked.only and part.name not in asked.only.split(","):
            continue
        left = until - time.monotonic()
        if left < LEAST_S:
            outcomes.append(Outcome(part.name, "left out", 0.0, "no time was left"))
        else:
            outcomes.append(run(part, min(left, part.seconds), report / f"{part.name}.log"))
        write(report, head, outcomes)
        each = outcomes[-1]
        print(f"== {each.part}: {each.outcome}, {each.seconds:.0f} s\n{each.last}\n", flush=True)
    print("\n".join(f"{each.part:<22} {each.outcome:<12} {each.seconds:>5.0f} s" for each in outcomes), flush=True)
    return 0 if all(each.outcome == "passed" for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
