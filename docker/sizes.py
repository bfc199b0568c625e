"""How large the images are: above their base, by layer, and beside what is built for CUDA.

    python docker/sizes.py build/images.json [--json]

Sizes are in MB of 1,000,000 bytes, as the engine counts them: unpacked.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import Engine, images_in, run_command

# Above the base and beside what is built for CUDA, MB.
LIMITS_MB = {"data-prep": 345, "train": 420, "train-job": 130, "evaluate": 330, "predict": 330}
_MB = 1_000_000

# Runs inside an image: bytes of the wheels for CUDA by their records, and of the bytecode made of them.
_WHEELS = r"""
import os, re
from importlib.metadata import distributions
from importlib.util import cache_from_source
size = 0
for package in distributions():
    name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
    if re.fullmatch("torch|triton|onnxruntime-gpu|nvidia-.*|cuda-.*", name):
        for file in map(str, (file.locate() for file in package.files or ())):
            found = [file, cache_from_source(file)] if file.endswith(".py") else [file]
            size += sum(os.path.getsize(path) for path in found if os.path.isfile(path))
print(size)
"""
# What the Dockerfile's line of a layer holds, and what it is called.
_SIGNS = {"--layer /dev/build/layer": "packages", "-m venv": "empty environment", "COPY /opt /opt": "source"}


@dataclass(frozen=True)
class Layer:
    """One layer above the base: what made it, and its MB."""

    made_by: str
    mb: float


@dataclass(frozen=True)
class Size:
    """The size of one image, MB; what is limited is `above_base` without `cuda`."""

    total: float
    above_base: float
    cuda: float
    limited: float
    limit: float
    layers: tuple[Layer, ...]  # above the base, the lowest first


def size_of(engine: Engine, step: str, reference: str) -> Size:
    """Measure one image."""
    image = engine.image(reference)
    base = engine.image(image["Config"]["Labels"]["org.opencontainers.image.base.name"])
    wheels = engine.python(reference, _WHEELS) / _MB
    above = (image["Size"] - base["Size"]) / _MB
    return Size(
        total=image["Size"] / _MB,
        above_base=above,
        cuda=wheels,
        limited=above - wheels,
        limit=LIMITS_MB[step],
        layers=_layers(engine, reference)[len(base["RootFS"]["Layers"]) :],
    )


def _layers(engine: Engine, reference: str) -> tuple[Layer, ...]:
    history = engine.output(
        "history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", reference
    )
    found = []
    for line in reversed(history.splitlines()):
        size, _, made_by = line.partition("\t")
        if int(size):
            named = [name for sign, name in _SIGNS.items() if sign in made_by]
            found.append(Layer((named or [made_by[:60]])[0], int(size) / _MB))
    return tuple(found)


def show(sizes: dict[str, Size]) -> str:
    """The sizes as text."""
    lines = []
    for step, size in sizes.items():
        beside = " beside what is built for CUDA" if size.cuda else ""
        lines.append(
            f"{step}: {size.above_base:,.1f} MB above the base ({size.total:,.1f} MB with it); "
            f"{size.limited:,.1f} MB{beside} of at most {size.limit:,} MB"
        )
        if size.cuda:
            lines.append(f"    built for CUDA {size.cuda:,.1f} MB")
        lines += [f"    {layer.mb:10,.1f} MB  {layer.made_by}" for layer in size.layers]
    return "\n".join(lines)


def main() -> int:
    """Print the sizes of the images that a build wrote to a file; 1 if one is above its limit."""
    parser = argparse.ArgumentParser(description="Print how large the images are.", allow_abbrev=False)
    parser.add_argument("images", type=Path, metavar="FILE", help="what docker/build.py wrote")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args()

    def work() -> int:
        references = images_in(options.images)
        engine = Engine()
        sizes = {step: size_of(engine, step, reference) for step, reference in references.items()}
        document = {step: asdict(size) for step, size in sizes.items()}
        sys.stdout.write((json.dumps(document, indent=2) if options.json else show(sizes)) + "\n")
        return int(any(size.limited > size.limit for size in sizes.values()))

    return run_command("sizes.py", work)


if __name__ == "__main__":
    sys.exit(main())
