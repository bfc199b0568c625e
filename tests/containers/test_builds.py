"""docker/build.py and docker/sizes.py: the same inputs make the same image, and no image is too large."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.shared.images import IMAGE_STEPS, ImageStep
from tests.containers.conftest import SIZES, Images
from tests.containers.engine import HARDENED, Docker

pytestmark = pytest.mark.containers

FOLDER = Path(__file__).parents[2] / "docker"
LIMITS_MB = {"data-prep": 200, "train": 250, "evaluate": 1200}

# Prints every file below two folders: what it is, whose, from when, and its content.
_TREE = """
import hashlib, json, os
tree = {}
for top in ("/opt/venv", "/opt/shutterline"):
    for folder, folders, files in os.walk(top):
        for path in [folder, *(os.path.join(folder, name) for name in files)]:
            status = os.lstat(path)
            content = os.readlink(path) if os.path.islink(path) else ""
            if not content and not os.path.isdir(path):
                content = hashlib.sha256(open(path, "rb").read()).hexdigest()
            tree[path] = [oct(status.st_mode), status.st_uid, status.st_gid, int(status.st_mtime), content]
print(json.dumps(tree))
"""


def built(docker_engine: Docker, prefix: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Build data-prep's image with no layer from before: its tree and its configuration; the image is removed."""
    command: list[str | Path] = [sys.executable, FOLDER / "build.py", "--only", "data-prep", "--no-cache"]
    command += ["--prefix", prefix, "--digests", folder / "images.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (tag,) = (word for word in done.stdout.split() if word.startswith(prefix))
    try:
        tree = json.loads(docker_engine.python(tag, _TREE, flags=[*HARDENED, "--user=0:0"]))
        return tree, docker_engine.image(tag)["Config"]
    finally:
        docker_engine.said("rmi", tag)


def test_the_same_inputs_make_the_same_image(docker_engine: Docker, images: Images, tmp_path: Path) -> None:
    tree, config = built(docker_engine, "shutterline-tests/first/", tmp_path)
    again, config_again = built(docker_engine, "shutterline-tests/again/", tmp_path)

    assert len(tree) > 1000
    assert {path: (tree.get(path), again.get(path)) for path in tree | again if tree.get(path) != again.get(path)} == {}
    assert config == config_again


def test_no_image_is_larger_than_it_may_be(
    docker_engine: Docker, images: Images, tmp_path: Path, record_property: Any
) -> None:
    named = {"images": {step: {"reference": reference} for step, reference in images.items()}}
    (tmp_path / "images.json").write_text(json.dumps(named))
    command: list[str | Path] = [sys.executable, FOLDER / "sizes.py", tmp_path / "images.json"]

    told = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    sizes: dict[ImageStep, dict[str, Any]] = json.loads(told.stdout)

    for step in IMAGE_STEPS:
        above = sum(layer["mb"] for layer in sizes[step]["layers"])
        beside = sizes[step]["torch_and_cuda"] if step == "train" else 0
        assert above == pytest.approx(sizes[step]["above_base"], abs=1), "the engine's history tells the same"
        assert above - beside <= LIMITS_MB[step], sizes[step]
    assert told.returncode == 0
    record_property(SIZES, subprocess.run(command, capture_output=True, text=True, check=True).stdout)
