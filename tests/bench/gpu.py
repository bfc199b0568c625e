"""``make bench-gpu``: training on a GPU against other loops, in ratios with their bars, each as it is measured.

Every side is a process of its own, asked by turns; one that fails or takes too long costs its rows alone, and says why.
``python -m tests.bench.gpu --trial --device cpu`` goes the same ways on a CPU, with figures that mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from components.classifier.device import choose_device
from tests.bench.contenders.task import TEST_IMAGES, grayscale_28, resnet_224
from tests.bench.gpu_start import start_times
from tests.bench.measure import HEAD, Ratio
from tests.bench.sides.earlier_version import VERSION, earlier_version
from tests.bench.sides.process import ROOT, FailedError, Side

# Of the timed part of one measurement.
SECONDS = 3.0
# Of what one measurement may take, its start and compiling included, before its process is ended.
TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Bar:
    """What a ratio is held to."""

    figure: float
    at_most: bool = False

    def text(self, ratio: float) -> str:
        """The bar, and whether the ratio meets it."""
        is_met = ratio <= self.figure if self.at_most else ratio >= self.figure
        return f"at {'most' if self.at_most else 'least'} {self.figure:g}: {'met' if is_met else 'MISSED'}"


@dataclass(frozen=True)
class Against:
    """The other side of a comparison: what it is, what is asked of whom, and the bar."""

    name: str
    side: str
    request: dict[str, Any]
    bar: Bar | None = None


@dataclass
class Bench:
    """The tasks on disk, the sides, and how much is measured."""

    device: torch.device
    folder: Path
    sides: dict[str, Side]
    seconds: float
    is_trial: bool  # on fewer and smaller batches
    earlier: str | None  # why there is no earlier version

    def ask(self, side: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer of a side to a request for a figure."""
        if side == "earlier" and self.earlier is not None:
            raise FailedError(self.earlier)
        shared = {"device": str(self.device), "seconds": self.seconds, "guess": 2000.0}
        return self.sides[side].ask(shared | request, TIMEOUT_S * (5 if self.is_trial else 1))

    def reference(self, precision: str, batch: int, **more: Any) -> dict[str, Any]:
        """A request on the reference network."""
        precision, batch = ("fp32", min(batch, 256)) if self.is_trial else (precision, batch)
        return {"task": str(self.folder / "28"), "precision": precision, "batch": batch} | more

    def resnet(self, **more: Any) -> dict[str, Any]:
        """A request on ResNet-50."""
        precision, batch = ("fp32", 4) if self.is_trial else ("bf16", 256)
        trial = {"guess": 20.0} if self.is_trial else {}
        return {"task": str(self.folder / "224"), "precision": precision, "batch": batch} | trial | more

    def guess(self, rate: float) -> dict[str, float]:
        """About how fast a side is, from which its number of epochs follows."""
        return {} if self.is_trial else {"guess": rate}


def compared(
    bench: Bench, head: str, ours: dict[str, Any], others: list[Against], rounds: int
) -> Iterator[Ratio | str]:
    """Our training against others, all by turns in each round; what fails is left out from then on."""
    mine: list[float] = []
    theirs: dict[str, list[float]] = {other.name: [] for other in others}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        answer = bench.ask("ours", ours)
        if not mine:
            yield from (f"  warned: {line}" for line in answer["warnings"])
        mine.append(answer["images_per_second"])
        ours = ours | bench.guess(mine[-1])
        for other in others:
            if other.name not in failed:
                try:
                    theirs[other.name].append(bench.ask(other.side, other.request)["images_per_second"])
                except FailedError as error:
                    failed[other.name] = str(error)
    for other in others:
        name = f"{head} / {other.name}"
        if other.name in failed:
            yield f"{name:<58} left out: {failed[other.name]}"
        else:
            yield _ratio(name, mine, theirs[other.name], "images/s", other.bar)


def _ratio(name: str, ours: list[float], theirs: list[float], unit: str, bar: Bar | None) -> Ratio:
    row = Ratio(name, ours, theirs, unit, "no bar")
    return row if bar is None else replace(row, bound=bar.text(row.median))


def reference(bench: Bench) -> Iterator[Ratio | str]:
    """Batches of 512, bf16, against everything."""
    request, lightning = bench.reference("bf16", 512), {"loop": "lightning", "workers": 8}
    others = [
        Against("captured by hand", "loops", request | {"loop": "captured"}, Bar(0.85)),
        Against(VERSION, "earlier", request | bench.guess(100_000), Bar(5)),
        Against("plain loop, 8 workers", "loops", request | {"loop": "plain", "workers": 8}, Bar(20)),
        Against("Lightning, 8 workers", "loops", request | lightning | bench.guess(70_000), Bar(6)),
    ]
    ours = request | bench.guess(500_000) | {"params": {"step": "graph"}}
    yield from compared(bench, "28×28 bf16, batch 512", ours, others, 2)


def small_batches(bench: Bench) -> Iterator[Ratio | str]:
    """Batches of 64."""
    request = bench.reference("bf16", 64)
    others = [
        Against(VERSION, "earlier", request | bench.guess(15_000), Bar(6)),
        Against("captured by hand", "loops", request | {"loop": "captured"}),
    ]
    ours = request | bench.guess(110_000) | {"params": {"step": "graph"}}
    yield from compared(bench, "28×28 bf16, batch 64", ours, others, 1)


def memory(bench: Bench) -> Iterator[Ratio | str]:
    """The most memory of a captured run against an eager one, each in a process of its own."""
    used: dict[str, dict[str, Any]] = {}
    for step in ("graph", "eager"):
        bench.sides["ours"].end()
        request = bench.reference("bf16", 512, params={"step": step}) | bench.guess(100_000)
        used[step] = bench.ask("ours", request | {"seconds": 1.0})
    for kind, bar in (("reserved", Bar(1.1, at_most=True)), ("allocated", None)):
        ours, theirs = ([used[step][kind] / 1e6 or 1.0] for step in ("graph", "eager"))
        yield _ratio(f"most memory {kind}: captured / eager", ours, theirs, "MB", bar)


def start(bench: Bench) -> Iterator[Ratio | str]:
    """From the start of the command to the first step, against importing torch and touching the device."""
    ours, theirs = start_times(bench.folder / "28", bench.device, rounds=1 if bench.is_trial else 3)
    yield _ratio("start to first step / importing torch, touching", ours, theirs, "s", Bar(1.5, at_most=True))


def resnet(bench: Bench) -> Iterator[Ratio | str]:
    """ResNet-50 at 224: against its constant batch, with the images on either side, and evaluation's share."""
    request = bench.resnet() | bench.guess(3_500)
    constant = Against("constant batch", "constant", request | {"loop": "constant"}, Bar(0.95))
    options = {"step": "graph"}
    ours = request | {"params": options}
    yield from compared(bench, "ResNet-50 bf16, on the device", ours, [constant], 1 if bench.is_trial else 2)
    answer = bench.ask("ours", ours)
    trained, evaluated = (16 if bench.is_trial else 4096) * answer["epochs"], TEST_IMAGES  # after the last epoch
    shares = answer["shares"]
    parts = ("data", "forward_backward", "optimiser", "captured_step")
    training = sum(shares.get(part, 0.0) for part in parts)
    mine, theirs = [1e6 * shares["evaluation"] / evaluated], [1e6 * training / trained]
    yield _ratio("ResNet-50: an image evaluated / trained", mine, theirs, "ppm", Bar(1, at_most=True))
    hosted = request | {"params": options | {"data_placement": "host"}}
    yield from compared(bench, "ResNet-50 bf16, on the host", hosted, [constant], 1)


def compiled(bench: Bench) -> Iterator[Ratio | str]:
    """ResNet-50 at 224, compiled, against a compiled loop."""
    request = bench.resnet() | bench.guess(3_500)
    other = Against("compiled channels_last loop", "loops", request | {"loop": "compiled"}, Bar(1))
    ours = request | {"params": {"step": "graph", "compile": "always"}}
    yield from compared(bench, "ResNet-50 bf16, compiled", ours, [other], 1)


def other_precisions(bench: Bench) -> Iterator[Ratio | str]:
    """fp32, TF32 and large batches against the loop captured by hand."""
    for precision, batch, guess in (("fp32", 512, 450_000), ("tf32", 512, 500_000), ("bf16", 4096, 900_000)):
        request = bench.reference(precision, batch)
        captured = Against("captured by hand", "loops", request | {"loop": "captured"}, Bar(0.85))
        ours = request | bench.guess(guess) | {"params": {"step": "graph"}}
        yield from compared(bench, f"28×28 {precision}, batch {batch}", ours, [captured], 1)


# In the order in which they are measured, with about how many seconds each takes.
GROUPS: dict[str, tuple[Callable[[Bench], Iterator[Ratio | str]], float]] = {
    "reference": (reference, 90),
    "small-batches": (small_batches, 30),
    "start": (start, 40),
    "memory": (memory, 30),
    "resnet": (resnet, 80),
    "other-precisions": (other_precisions, 50),
    "compiled": (compiled, 90),
}


def main() -> int:
    """Measure, print a row as soon as it is there, and write all to a file where asked; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description="Training on a GPU, in ratios.")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"some of {','.join(GROUPS)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=420, help="what would not end by then is left out")
    parser.add_argument(
        "--earlier", type=Path, help=f"a folder with components/ of {VERSION}; else git's history has it"
    )
    parser.add_argument("--report", type=Path, help="also write the rows to this JSON file")
    parser.add_argument("--trial", action="store_true", help="few images and short: to see that everything runs")
    asked = parser.parse_args()
    begun, device, rows = time.monotonic(), choose_device(asked.device), list[dict[str, Any]]()
    names = asked.only.split(",")
    if unknown := set(names) - GROUPS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    head = describe(device)
    print(f"{head}\nmedians, sides by turns, each in a process of its own\n{HEAD}", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shutterline-bench-")))
        earlier, why_not = earlier_version(asked.earlier, folder)
        logs = asked.report.parent if asked.report else folder
        sides = {
            name: stack.enter_context(Side(f"tests.bench.sides.{module}", logs / f"bench-{name}.log", where))
            for name, module, where in (
                ("ours", "ours", ROOT),
                ("loops", "loops", ROOT),
                # Which makes its process deterministic, as ours are.
                ("constant", "loops", ROOT),
                ("earlier", "earlier", earlier),
            )
        }
        seconds = 0.2 if asked.trial else SECONDS
        bench = Bench(device, folder, sides, seconds, asked.trial, why_not)
        _make_tasks(bench, names)
        for name in names:
            function, needed = GROUPS[name]
            for row in _rows(function, bench, name, asked.seconds - (time.monotonic() - begun), needed):
                print(row.line() if isinstance(row, Ratio) else row, flush=True)
                rows.append(asdict(row) | {"ratio": row.median} if isinstance(row, Ratio) else {"text": row})
                if asked.report:
                    asked.report.write_text(json.dumps({"device": head, "rows": rows}, ensure_ascii=False, indent=1))
    print(f"{time.monotonic() - begun:.0f} s")
    is_met = all("ratio" in row and not row["bound"].endswith("MISSED") for row in rows if not _is_note(row))
    return 0 if is_met or asked.trial else 1


def _is_note(row: dict[str, Any]) -> bool:
    return str(row.get("text", "")).startswith("  ")


def _rows(
    function: Callable[[Bench], Iterator[Ratio | str]], bench: Bench, name: str, left_s: float, needed_s: float
) -> Iterator[Ratio | str]:
    if left_s < needed_s and not bench.is_trial:
        yield f"{name}: left out: {left_s:.0f} s are left, and it takes about {needed_s:.0f}"
        return
    try:
        yield from function(bench)
    except Exception as error:  # the other rows are not lost for it
        yield f"{name}: failed: {type(error).__name__}: {error}"


def _make_tasks(bench: Bench, names: list[str]) -> None:
    cpu = torch.device("cpu")
    for name, make in (("28", grayscale_28), ("224", resnet_224)):
        if name == "224" and not {"resnet", "compiled"} & {*names}:
            continue
        (bench.folder / name).mkdir()
        count = {"28": 1_000, "224": 16} if bench.is_trial else {"28": 60_000, "224": 4_096}
        make(bench.folder / name / "dataset", cpu, count[name]).save(bench.folder / name)


def describe(device: torch.device) -> str:
    """The machine: device, driver, and versions."""
    parts = [f"torch {torch.__version__}", f"Python {platform.python_version()}"]
    if device.type != "cuda":
        return ", ".join(["CPU: no figure of a GPU", *parts])
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = "unknown"
    return ", ".join([torch.cuda.get_device_name(device), f"driver {driver}", f"CUDA {torch.version.cuda}", *parts])


if __name__ == "__main__":
    sys.exit(main())
