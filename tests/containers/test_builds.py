"""docker/build.py and docker/sizes.py: the same inputs make the same image, and no image is too large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.shared.container_images import IMAGE_STEPS, ImageStep
from tests.containers.conftest import SIZES, Images
from tests.containers.engine import HARDENED, Docker, script

pytestmark = pytest.mark.containers

LIMITS_MB = {"data-prep": 345, "train": 420, "train-job": 130, "evaluate": 330, "predict": 330}

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


def built(docker_engine: Docker, prefix: str, folder: Path, *more: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Build data-prep's image: its tree and its configuration; the image is removed."""
    options = ["--only", "data-prep", "--prefix", prefix, *more]
    done = script("build.py", *options, "--digests", folder / "images.json")
    assert done.code == 0, done.err
    (tag,) = (part for part in done.out.split() if part.startswith(prefix))
    try:
        tree = json.loads(docker_engine.python(tag, _TREE, flags=[*HARDENED, "--user=0:0"]))
        return tree, docker_engine.image(tag)["Config"]
    finally:
        docker_engine.output("rmi", tag)


def test_the_same_inputs_make_the_same_image(docker_engine: Docker, images: Images, tmp_path: Path) -> None:
    # Of the layers that the images were built of, and of none from before.
    tree, config = built(docker_engine, "shutterline-tests/first/", tmp_path)
    again, config_again = built(docker_engine, "shutterline-tests/again/", tmp_path, "--no-cache")

    assert len(tree) > 1000
    assert {path: (tree.get(path), again.get(path)) for path in tree | again if tree.get(path) != again.get(path)} == {}
    assert config == config_again


def test_no_image_is_larger_than_it_may_be(images_file: Path, record_property: Any) -> None:
    done = script("sizes.py", images_file, "--json")
    sizes: dict[ImageStep, dict[str, Any]] = json.loads(done.out)

    for step in IMAGE_STEPS:
        above = sum(layer["mb"] for layer in sizes[step]["layers"])
        assert (sizes[step]["cuda"] > 0) is (step == "train")
        assert above == pytest.approx(sizes[step]["above_base"], abs=1), "the engine's history says the same"
        assert above - sizes[step]["cuda"] <= LIMITS_MB[step], sizes[step]
    assert sizes["train-job"]["above_base"] - sizes["data-prep"]["above_base"] <= 30
    assert done.code == 0
    record_property(SIZES, script("sizes.py", images_file).out)
