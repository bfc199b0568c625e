"""docker/supply_chain.py, and the structure of the images as a tool of others sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.shared.container_images import IMAGE_STEPS, ImageStep
from components.shared.version import __version__
from tests.containers.conftest import Images
from tests.containers.engine import FOLDER, Docker, script

VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
print(JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()))
"""

pytestmark = pytest.mark.containers

STEPS = pytest.mark.parametrize("step", IMAGE_STEPS)
TOOLS = Path(sys.executable).parent


@dataclass(frozen=True)
class Sboms:
    """What one run of the script wrote, and printed."""

    folder: Path
    printed: str

    def text(self, step: ImageStep) -> str:
        return (self.folder / f"{step}.cdx.json").read_text()

    def components(self, step: ImageStep, kind: str) -> dict[str, dict[str, Any]]:
        """The image's packages by name; of `kind` ``pypi`` or ``deb``."""
        listed = json.loads(self.text(step))["components"]
        return {each["name"]: each for each in listed if each.get("purl", "").startswith(f"pkg:{kind}/")}


def write_sboms(images_file: Path, folder: Path) -> Sboms:
    done = script("supply_chain.py", images_file, "--out", folder)
    assert done.code == 0, done.err
    return Sboms(folder, done.out)


@pytest.fixture(scope="module")
def sboms(images_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Sboms:
    return write_sboms(images_file, tmp_path_factory.mktemp("sbom"))


def licences(component: dict[str, Any]) -> list[str]:
    return [
        each.get("expression") or each["license"].get("id") or each["license"]["name"]
        for each in component.get("licenses", [])
    ]


@STEPS
def test_it_names_every_package_of_the_image(
    sboms: Sboms, docker_engine: Docker, images: Images, step: ImageStep
) -> None:
    code = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
    flags = ["--entrypoint=dpkg-query"]
    shown = docker_engine.run(images[step], "--show", "--showformat", "${Package}==${Version}\\n", flags=flags)

    python, debian = sboms.components(step, "pypi"), sboms.components(step, "deb")
    assert {f"{name}=={each['version']}" for name, each in python.items()} == set(
        docker_engine.python(images[step], code).split()
    )
    assert {f"{name}=={each['version']}" for name, each in debian.items()} == set(shown.out.split())
    assert {"pydantic", "kfp", "kubernetes" if step == "train-job" else "numpy"} <= python.keys()
    assert ("torch" in python) is (step == "train")
    assert ("onnxruntime" in python) is (step not in ("data-prep", "train-job"))
    assert {"libc6", "python3"} <= debian.keys()


@STEPS
def test_it_names_their_licences(sboms: Sboms, step: ImageStep) -> None:
    python, debian = sboms.components(step, "pypi"), sboms.components(step, "deb")

    # What only ties others together has none of its own, or says that it is as theirs.
    assert {name for name, each in python.items() if not licences(each)} <= {"cuda-toolkit"}
    silent = {name for name, each in debian.items() if not licences(each)}
    assert len(silent) < len(debian) / 10
    assert not silent & {"libc6", "openssl", "bash", "libssl3t64", "perl-base"}
    if step == "train-job":
        assert licences(python["kubernetes"]) == ["Apache-2.0"]
    else:
        assert "BSD-3-Clause" in licences(python["numpy"])[0]
    assert licences(python["kfp"]) == licences(python["boto3"]) == ["Apache-2.0"]
    assert "LGPL-2.1-or-later" in licences(debian["libc6"])
    if step == "train":
        assert licences(python["nvidia-nccl-cu13"]) == ["LicenseRef-NVIDIA-Proprietary"]


@STEPS
def test_it_is_valid_and_says_which_image_it_is_of(
    sboms: Sboms, docker_engine: Docker, images: Images, step: ImageStep
) -> None:
    # In a process of its own, since tests/conftest.py keeps IRIs from being checked in this one.
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE], input=sboms.text(step), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")
    about = json.loads(sboms.text(step))["metadata"]["component"]
    assert (about["type"], about["version"]) == ("container", __version__)
    assert {"name": "shutterline:image:id", "value": docker_engine.image(images[step])["Id"]} in about["properties"]


@STEPS
def test_licences_are_listed_for_people(sboms: Sboms, step: ImageStep) -> None:
    listed = (sboms.folder / f"{step}.licences.txt").read_text()

    assert f"Python packages of {step} by licence:\n  Apache-2.0 (" in sboms.printed
    for component in ("pydantic", "libc6", "MPL-2.0", "GPL-2.0-or-later", "Debian packages"):
        assert component in listed


def test_the_same_image_gives_the_same_sbom(sboms: Sboms, images_file: Path, tmp_path: Path) -> None:
    again = write_sboms(images_file, tmp_path)

    assert {step: again.text(step) for step in IMAGE_STEPS} == {step: sboms.text(step) for step in IMAGE_STEPS}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "No such file or directory: "),
        ("{", "images.json: Expecting property name"),
        ('{"images": {"train": {"reference": "shutterline/nowhere:0"}}}', "No such image: shutterline/nowhere:0"),
    ],
)
def test_what_it_cannot_use_is_one_line(docker_engine: Docker, tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "images.json").write_text(text)

    done = script("supply_chain.py", tmp_path / "images.json", "--out", tmp_path / "sbom")

    assert done.code in (1, 2)
    (line,) = done.err.strip().splitlines()
    assert line.startswith("docker/supply_chain.py: error: ")
    assert told in line


@STEPS
def test_structure(docker_engine: Docker, images: Images, step: ImageStep) -> None:
    config = FOLDER / "structure" / f"{step}.yaml"
    command: list[str | Path] = [TOOLS / "container-structure-test", "test", "--no-color"]
    command += ["--image", images[step], "--config", config]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Failures:    0" in done.stdout
