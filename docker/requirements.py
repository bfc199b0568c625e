"""What each layer of the images installs, read from pyproject.toml and constraints.txt.

A stage of the Dockerfile runs it. Each layer gets its own folder, so that a layer is built anew only when what it
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
    """Write lines, sorted and each once; no file of none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if text := "".join(f"{line}\n" for line in sorted(set(lines))):
        file.write_text(text, encoding="utf-8")


def main(source: Path, target: Path, step: str, torch: str) -> None:
    """Write a folder for each of two layers, torch and packages: requirements.txt, no-deps.txt, constraints.txt.

    Args:
        source: Holds pyproject.toml and constraints.txt.
        target: Folder that gets the folders.
        step: The step of the image.
        torch: A requirement such as ``torch==2.13.0``, ``cuda`` for the pinned torch, or empty for none.
    """
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (source / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line[:1].isalnum()]
    torch_wheels = [pin for pin in pins if _TORCH_WHEELS.match(pin)]
    write(target / "torch" / "no-deps.txt", torch_wheels if torch == CUDA else [torch] if torch else [])
    if torch not in ("", CUDA):
        write(target / "torch" / "cpu-only", [torch])
        pins = [pin for pin in pins if name_of(pin) != "torch"]  # another torch would contradict its pin
    write(target / "packages" / "requirements.txt", project["dependencies"] + of_extra(project, step))
    write(target / "packages" / "constraints.txt", pins)
    # kfp's executor alone runs in a step's image, and it needs nothing of what kfp depends on.
    write(target / "packages" / "no-deps.txt", [pin for pin in pins if name_of(pin) == "kfp"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
