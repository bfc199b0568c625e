"""What each layer of an image installs, taken from the locked requirements of its step.

A stage of the Dockerfile runs it. Each layer gets its own folder, so that a layer is built anew only when what it
installs has changed: CUDA's gigabytes with their pins alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# What is built for CUDA, with what it brings along.
_CUDA_WHEELS = re.compile(r"(torch|triton|onnxruntime-gpu|nvidia-.*|cuda-.*)==")


def pins(file: Path) -> list[str]:
    """Each pin of a locked file with its hashes."""
    return re.split(r"\n(?=\S)", file.read_text(encoding="utf-8").strip())


def write(folder: Path, lines: list[str]) -> None:
    """Write a layer's requirements; a layer of none gets no file."""
    folder.mkdir(parents=True, exist_ok=True)
    if lines:
        (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(source: Path, target: Path, name: str) -> None:
    """Write a folder for each of two layers, cuda and packages.

    Args:
        source: Holds the locked files.
        target: Folder that gets the folders.
        name: The locked file, without ``.txt``.
    """
    locked = pins(source / f"{name}.txt")
    cuda = [pin for pin in locked if _CUDA_WHEELS.match(pin)]
    # kfp's executor alone runs in a step's image, and it needs nothing of what kfp depends on.
    kfp = [pin for pin in pins(source / "run.txt") if pin.startswith("kfp==")]
    write(target / "cuda", cuda)
    write(target / "packages", [pin for pin in locked if pin not in cuda] + kfp)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
