"""How large the images are: above their base, by layer, and beside torch and its CUDA wheels.

    python docker/sizes.py build/images.json [--json]

Sizes are in MB of 1,000,000 bytes, as the engine counts them: unpacked.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import BuildError, Engine

# Above the base, MB; train's beside torch and its CUDA wheels.
LIMITS_MB = {"data-prep": 200, "train": 250, "evaluate": 1200}
_MB = 1_000_000

# Runs inside an image: bytes of the wheels as installed, by their records, and of the bytecode made of them.
_WHEELS = r"""
import importlib.metadata, json, os, re, sys
of = {"torch and CUDA wheels": [0, 0], "everything else": [0, 0]}
for package in importlib.metadata.distributions():
    named = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
    key = "torch and CUDA wheels" if re.fullmatch("torch|triton|nvidia-.*|cuda-.*", named) else "everything else"
    for file in package.files or ():
        path = str(file.locate())
        if os.path.isfile(path):
            of[key][0] += os.path.getsize(path)
        folder, name = os.path.split(path)
        bytecode = os.path.join(folder, "__pycache__", name[:-3] + "." + sys.implementation.cache_tag + ".pyc")
        if name.endswith(".py") and os.path.isfile(bytecode):
            of[key][1] += os.path.getsize(bytecode)
print(json.dumps(of))
"""


@dataclass(frozen=True)
class Layer:
    """One layer above the base: what made it, and its MB."""

    made_by: str
    mb: float


@dataclass(frozen=True)
class Size:
    """The size of one image, MB.

    Attributes:
        total: All of it.
        above_base: Without the base's layers.
        torch_and_cuda: The wheels of torch, triton, nvidia-* and cuda-*, by their records, with their bytecode.
        torch_and_cuda_bytecode: Of that, the bytecode.
        limited: What has a limit: `above_base`, for train without `torch_and_cuda`.
        limit: The most that `limited` may be.
        layers: Above the base, the lowest first.
    """

    total: float
    above_base: float
    torch_and_cuda: float
    torch_and_cuda_bytecode: float
    limited: float
    limit: float
    layers: tuple[Layer, ...]


def size_of(engine: Engine, step: str, reference: str) -> Size:
    """Measure one image.

    Raises:
        BuildError: It or its base is not here, or it does not run.
    """
    image = engine.image(reference)
    base = engine.image(image["Config"]["Labels"]["org.opencontainers.image.base.name"])
    records = engine.json("run", "--rm", "--network", "none", "--entrypoint", "python", reference, "-c", _WHEELS)
    files, bytecode = records["torch and CUDA wheels"]
    above = image["Size"] - base["Size"]
    limited = above - files - bytecode if step == "train" else above
    return Size(
        total=image["Size"] / _MB,
        above_base=above / _MB,
        torch_and_cuda=(files + bytecode) / _MB,
        torch_and_cuda_bytecode=bytecode / _MB,
        limited=limited / _MB,
        limit=LIMITS_MB[step],
        layers=_layers(engine, reference, len(base["RootFS"]["Layers"])),
    )


def _layers(engine: Engine, reference: str, of_base: int) -> tuple[Layer, ...]:
    shown = engine.run("history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", reference)
    if shown.returncode:
        raise BuildError(f"docker history {reference}: {shown.stderr.strip()}")
    found = []
    for line in reversed(shown.stdout.splitlines()):
        size, _, made_by = line.partition("\t")
        if int(size):
            found.append(Layer(_in_short(made_by), int(size) / _MB))
    return tuple(found[of_base:])


def _in_short(made_by: str) -> str:
    """What the Dockerfile did, without the build arguments that the engine writes before it."""
    for text, sign in (
        ("packages", "--layer /dev/build/layer"),
        ("empty environment", "-m venv"),
        ("source", "COPY /opt /opt"),
    ):
        if sign in made_by:
            return text
    return made_by[:60]


def show(sizes: dict[str, Size]) -> str:
    """The sizes as text."""
    lines = []
    for step, size in sizes.items():
        beside = " beside torch and its CUDA wheels" if step == "train" else ""
        lines.append(
            f"{step}: {size.above_base:,.1f} MB above the base ({size.total:,.1f} MB with it); "
            f"{size.limited:,.1f} MB{beside} of at most {size.limit:,} MB"
        )
        if size.torch_and_cuda:
            lines.append(
                f"    torch and CUDA wheels {size.torch_and_cuda:,.1f} MB, "
                f"of that bytecode {size.torch_and_cuda_bytecode:,.1f} MB"
            )
        lines += [f"    {layer.mb:10,.1f} MB  {layer.made_by}" for layer in size.layers]
    return "\n".join(lines)


def main() -> int:
    """Print the sizes of the images that a build wrote to a file; 1 if one is above its limit."""
    parser = argparse.ArgumentParser(description="Print how large the images are.", allow_abbrev=False)
    parser.add_argument("images", type=Path, metavar="FILE", help="what docker/build.py wrote")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args()
    try:
        document = json.loads(options.images.read_text(encoding="utf-8"))
        engine = Engine()
        sizes = {step: size_of(engine, step, image["reference"]) for step, image in document["images"].items()}
    except (OSError, BuildError) as error:
        sys.stderr.write(f"docker/sizes.py: error: {error}\n")
        return getattr(error, "code", 2)
    document = {step: asdict(size) for step, size in sizes.items()}
    sys.stdout.write((json.dumps(document, indent=2) if options.json else show(sizes)) + "\n")
    return int(any(size.limited > size.limit for size in sizes.values()))


if __name__ == "__main__":
    sys.exit(main())
