"""Installations of this package with some of its extras: environments whose packages are links to the tests' own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePath

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
_PACKAGE = "shutterline"


def installation(directory: Path, *extras: str) -> Path:
    """Make an environment as ``pip install 'shutterline[EXTRAS]'`` would; returns its interpreter."""
    # Another interpreter's virtual environment is none to begin with.
    subprocess.run([sys._base_executable, "-m", "venv", "--without-pip", directory], check=True)  # type: ignore[attr-defined]
    (packages,) = directory.glob("lib/python3*/site-packages")
    (packages / f"{_PACKAGE}.pth").write_text(f"{ROOT}\n")
    for found in _distributions(_PACKAGE, extras, set()):
        files = [PurePath(file) for file in found.files or () if ".." not in file.parts and file.suffix != ".pth"]
        _link(Path(str(found.locate_file(""))), packages, files)
    return directory / "bin" / "python"


def _distributions(name: str, extras: Iterable[str], seen: set[str]) -> Iterator[Distribution]:
    """A distribution and all those that it needs, with these extras of its own."""
    seen.add(name)
    found = distribution(name)
    yield found
    for text in found.requires or ():
        needed = Requirement(text)
        wanted = needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if wanted and needed.name not in seen:
            yield from _distributions(needed.name, needed.extras, seen)


def _link(source: Path, target: Path, files: Iterable[PurePath]) -> None:
    """Link what a distribution brings: files, and folders that it shares with no other distribution."""
    below: dict[str, list[PurePath]] = {}
    for file in files:
        below.setdefault(file.parts[0], []).append(PurePath(*file.parts[1:]))
    for name, inner in below.items():
        if (
            name != "__pycache__"
            and inner != [PurePath()]
            and not name.endswith(".dist-info")
            and _is_shared(source / name)
        ):
            (target / name).mkdir(exist_ok=True)
            _link(source / name, target / name, inner)
        elif not (target / name).exists():
            (target / name).symlink_to(source / name)


def _is_shared(folder: Path) -> bool:
    """Whether several distributions have files in a folder: namespaces, and kfp, below which kfp-kubernetes lies."""
    return not (folder / "__init__.py").exists() or folder.name == "kfp"
