"""What each layer of the images installs, read from pyproject.toml and constraints.txt.

A stage of the Dockerfile runs it and hands each layer its own folder, so that a layer is built anew only when what it
installs has changed: torch's gigabytes with torch's pins alone.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

# torch with what its CUDA build brings along. All are pinned, so that they need no resolving.
_TORCH_WHEELS = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)==")
CUDA = "cuda"


def name_of(requirement: str) -> str:
    """The normalised name of a requirement such as ``kafka_python>=3``."""
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    return re.sub(r"[-_.]+", "-", found.group() if found else requirement).lower()


def of_extra(project: dict[str, dict[str, list[str]]], extra: str) -> list[str]:
    """The requirements of one of the project's extras, those that it takes from other extras included."""
    found = []
    for requirement in project["optional-dependencies"][extra]:
        own = re.fullmatch(r"shutterline\[([^]]+)\]", requirement)
        if own:
            for other in own.group(1).split(","):
                found += of_extra(project, other.strip())
        else:
            found.append(requirement)
    return found


def write(file: Path, lines: Iterable[str]) -> None:
    """Write lines, sorted and each once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in sorted(set(lines))), encoding="utf-8")


def main(source: Path, target: Path, evaluate_torch: str) -> None:
    """Write a folder for every layer: requirements.txt or no-deps.txt or both, and constraints.txt.

    Args:
        source: Holds pyproject.toml and constraints.txt.
        target: Folder that gets the folders.
        evaluate_torch: What evaluate gets: a requirement such as ``torch==2.13.0``, or ``cuda`` for train's torch.
    """
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (source / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line[:1].isalnum()]
    torch_wheels = [pin for pin in pins if _TORCH_WHEELS.match(pin)]
    own_torch = evaluate_torch != CUDA
    write(target / "train-torch" / "no-deps.txt", torch_wheels)
    write(target / "evaluate-torch" / "no-deps.txt", [evaluate_torch] if own_torch else torch_wheels)
    for step in ("data-prep", "train", "evaluate"):
        write(target / step / "requirements.txt", project["dependencies"] + of_extra(project, step))
        # Another torch than the pinned one would contradict its pin.
        free = step == "evaluate" and own_torch
        write(target / step / "constraints.txt", [pin for pin in pins if not (free and name_of(pin) == "torch")])
        # kfp's executor alone runs in a step's image, and it needs nothing of what kfp depends on.
        write(target / step / "no-deps.txt", [pin for pin in pins if name_of(pin) == "kfp"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
