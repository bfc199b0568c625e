"""How soon a container says something."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from components.shared.container_images import ImageStep, image_of
from tests.bench.measure import Ratio, compare, seconds

DOCKER = os.environ.get("DOCKER", "docker")
RUN = (DOCKER, "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp")  # noqa: S108 - a path in the container


def has_images(*steps: ImageStep) -> bool:
    """Whether an engine is here that has the images of some steps."""
    try:
        names = map(image_of, steps)
        found = subprocess.run([DOCKER, "image", "inspect", *names], capture_output=True, check=False)
    except OSError:
        return False
    return found.returncode == 0


def container_start(_: Path) -> Ratio | str:
    """(h) Seconds from ``docker run`` to the first log line, against those of importing torch in the same image."""
    if not has_images("train"):
        return "(h) no engine with the images: `make images` builds them"
    image = image_of("train")
    params = '{"image_height": 8, "image_width": 8, "n_classes": 2, "num_epochs": 1, "net_arch": []}'
    step = (*RUN, image, "--dataset", "/nothing", "--model", "/tmp/model", "--params", params)  # noqa: S108 - the same

    def first_line() -> float:
        start = time.perf_counter()
        with subprocess.Popen(step, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            taken = time.perf_counter() - start
            process.stderr.read()
        if " train " not in line:
            raise RuntimeError(f"the first line is no log line: {line}")
        return taken

    def torch() -> float:
        importing = [*RUN, "--entrypoint", "python", image, "-c", "import torch"]
        return seconds(lambda: subprocess.run(importing, check=True))

    return compare("(h) container to first log line / to torch imported", first_line, torch, unit="s", bound="1.5")
