from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.shared.container_images import IMAGE_STEPS, ImageStep, image_of
from tests.containers.engine import HARDENED, SOMEBODY, Docker, flags_of
from tests.peers.fixtures import gcs_bucket, gcs_server, need, s3_bucket, s3_server, seaweed, topic

__all__ = ["gcs_bucket", "gcs_server", "s3_bucket", "s3_server", "seaweed", "topic"]

SIZES = "sizes of the images"

Images = dict[ImageStep, str]


@pytest.fixture(scope="session")
def docker_engine() -> Docker:
    """The engine that ``DOCKER_HOST`` names, by the client that ``DOCKER`` names."""
    engine = Docker()
    need(engine.answers(), "no Docker engine answers: start one, and name it by DOCKER_HOST")
    return engine


@pytest.fixture(scope="session")
def images(docker_engine: Docker) -> Images:
    """The images by step: those of the file that ``IMAGES`` names, or this version's tags."""
    file = os.environ.get("IMAGES")
    named: Images = {step: image_of(step) for step in IMAGE_STEPS}
    if file:
        named |= {step: image["reference"] for step, image in json.loads(Path(file).read_text())["images"].items()}
    missing = [named[step] for step in IMAGE_STEPS if not docker_engine.has(named[step])]
    need(not missing, f"no image {', '.join(missing)}: `make images` builds them")
    return named


@pytest.fixture(scope="session")
def images_file(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images as docker/build.py writes them to a file."""
    file = tmp_path_factory.mktemp("images") / "images.json"
    file.write_text(json.dumps({"images": {step: {"reference": name} for step, name in images.items()}}))
    return file


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how large each image is, layer by layer."""
    for report in terminalreporter.stats.get("passed", []):
        for key, told in report.user_properties:
            if key == SIZES:
                terminalreporter.section("sizes of the images")
                terminalreporter.write_line(told)


@pytest.fixture
def runs(tmp_path: Path, docker_engine: Docker, images: Images) -> Iterator[Path]:
    """A folder that containers may write into, whichever user they run as."""
    folder = tmp_path / "runs"
    folder.mkdir()
    if os.getuid() == 0:
        os.chown(folder, SOMEBODY, SOMEBODY)
        yield folder
        return
    folder.chmod(0o777)
    yield folder
    # What is theirs, only they can remove.
    code = (
        "import os, shutil; [shutil.rmtree(each) if each.is_dir() else os.unlink(each) for each in os.scandir('/runs')]"
    )
    docker_engine.python(images["data-prep"], code, flags=[*HARDENED, *flags_of(mounts={folder: "/runs"})])
