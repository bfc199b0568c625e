"""The local pipeline's wall time against its three steps called directly."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipelines.params_files import EXAMPLE_DATA, EXAMPLE_PARAMS
from tests.bench.measure import Ratio, seconds

FUNCTIONS = """
from pathlib import Path
from components.data_prep.prepare import prepare
from components.evaluate.evaluate import evaluate
from components.shared.params.params import Params
from components.train.train import train
params, out = Params.load({params!r}), Path({out!r})
prepare(data=Path({data!r}), dataset=out / "dataset", params=params)
train(dataset=out / "dataset", model=out / "model", params=params)
evaluate(model=out / "model", dataset=out / "dataset", evaluation=out / "evaluation", params=params)
"""


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=os.environ)


def pipeline_overhead(folder: Path) -> Iterator[Ratio]:
    """(c) Seconds of `shutterline run` on the example against the same steps without kfp."""
    number = itertools.count()
    params, data = str(EXAMPLE_PARAMS), str(EXAMPLE_DATA)

    def place() -> Path:
        return folder / f"run-{next(number)}"

    def pipeline() -> float:
        # A file of its own: nothing may be quicker because the example is known.
        out = place()
        return seconds(lambda: _python("-m", "pipelines.cli", "run", "--params", params, "--out", str(out)))

    def commands() -> float:
        out, common = place(), ("--params", params)
        dataset, model = str(out / "dataset"), str(out / "model")

        def steps() -> None:
            _python("-m", "components.data_prep", "--data", data, "--dataset", dataset, *common)
            _python("-m", "components.train", "--dataset", dataset, "--model", model, *common)
            where = ("--model", model, "--dataset", dataset, "--evaluation", str(out / "evaluation"))
            _python("-m", "components.evaluate", *where, *common)

        return seconds(steps)

    def functions() -> float:
        return seconds(lambda: _python("-c", FUNCTIONS.format(params=params, data=data, out=str(place()))))

    sides = (pipeline, commands, functions)
    for side in sides:  # to warm up
        side()
    rounds = [[side() for side in sides] for _ in range(3)]
    ours = [measured[0] for measured in rounds]
    for index, name in ((1, "three commands"), (2, "functions in one process")):
        direct = [measured[index] for measured in rounds]
        excess = [mine - 1.15 * other for mine, other in zip(ours, direct, strict=True)]
        bound = f"1.15 and 2 s more (beyond 1.15: {min(excess):+.1f} to {max(excess):+.1f} s)"
        yield Ratio(f"(c) the example: pipeline / {name}", ours, direct, "s", bound)
