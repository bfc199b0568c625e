"""What each layer of an image installs, taken from the locked requirements of its step.

A stage of the Dockerfile runs it. Each layer gets its own folder, so that a layer is built anew only when what it
installs has changed: torch's gigabytes with torch's pins alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# torch with what its CUDA build brings along.
_TORCH_WHEELS = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)==")
CUDA = "cuda"


def pins(file: Path) -> list[str]:
    """Each pin of a locked file with its hashes."""
    return re.split(r"\n(?=\S)", file.read_text(encoding="utf-8").strip())


def write(folder: Path, lines: list[str]) -> None:
    """Write a layer's requirements; a layer of none gets no file."""
    folder.mkdir(parents=True, exist_ok=True)
    if lines:
        (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(source: Path, target: Path, step: str, torch: str) -> None:
    """Write a folder for each of two layers, torch and packages.

    Args:
        source: Holds the locked files.
        target: Folder that gets the folders.
        step: The step of the image.
        torch: A requirement such as ``torch==2.13.0``, ``cuda`` for the locked torch, or empty for none.
    """
    locked = pins(source / f"{step}.txt")
    torch_wheels = [pin for pin in locked if _TORCH_WHEELS.match(pin)]
    write(target / "torch", torch_wheels if torch == CUDA else [torch] if torch else [])
    if torch not in ("", CUDA):
        (target / "torch" / "cpu-only").touch()
    # kfp's executor alone runs in a step's image, and it needs nothing of what kfp depends on.
    kfp = [pin for pin in pins(source / "run.txt") if pin.startswith("kfp==")]
    write(target / "packages", [pin for pin in locked if pin not in torch_wheels] + kfp)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
