"""What is in the images, layer by layer, and what is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import botocore
import certifi
import grpc
import pytest

from components.shared.container_images import IMAGE_STEPS, ImageStep
from tests.containers.conftest import Images
from tests.containers.engine import Docker
from tests.containers.layers import Entry, SavedImage, read_images

pytestmark = pytest.mark.containers

STEPS = pytest.mark.parametrize("step", IMAGE_STEPS)
LABEL = "org.opencontainers.image."
PLACES = ("opt/venv", "opt/shutterline")
# Certificates of the web at large, each of which a client brings for itself.
BUNDLES = ("certifi/cacert.pem", "botocore/cacert.pem", "grpc/_cython/_credentials/roots.pem")
# What the search must find, or it finds nothing at all.
CONTROL = "a licence"
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s+(.+?)\s+-----END CERTIFICATE-----", re.DOTALL)
HOST_BUNDLE = Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")


def certificates(bundle: bytes) -> set[bytes]:
    return set(CERTIFICATE.findall(bundle))


def own_certificates(base_bundle: bytes) -> set[bytes]:
    """Those that this machine trusts and the world does not: the ones that a build is lent."""
    if not HOST_BUNDLE.exists():
        return set()
    public = [Path(certifi.where()), Path(botocore.__file__).parent / "cacert.pem"]
    public.append(Path(grpc.__file__).parent / "_cython" / "_credentials" / "roots.pem")
    known = certificates(base_bundle).union(*(certificates(bundle.read_bytes()) for bundle in public))
    return certificates(HOST_BUNDLE.read_bytes()) - known


def package_addresses() -> Iterator[str]:
    """Where this machine's pip looks for packages, if not where everybody's does."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        setting, _, value = line.partition("=")
        if setting.rpartition(".")[2].strip("'") in ("index-url", "extra-index-url", "find-links", "proxy"):
            for address in value.strip("'\"").replace("\\n", " ").split():
                parts = urlsplit(address)
                if parts.hostname not in ("pypi.org", "files.pythonhosted.org"):
                    yield f"{parts.hostname or ''}{parts.path}"


@dataclass(frozen=True)
class Saved:
    """All images, and how many of their layers are the base's."""

    images: dict[str, SavedImage]
    of_base: int

    def layers(self, image: str) -> tuple[tuple[Entry, ...], ...]:
        """An image's own layers."""
        return self.images[image].layers[self.of_base :]

    def entries(self, image: str) -> Iterator[Entry]:
        """All that an image's own layers hold."""
        for layer in self.layers(image):
            yield from layer


@pytest.fixture(scope="module")
def base(docker_engine: Docker, images: Images) -> str:
    """The image that the others were built on, by its name."""
    name: str = docker_engine.image(images["data-prep"])["Config"]["Labels"][LABEL + "base.name"]
    return name


@pytest.fixture(scope="module")
def sought(docker_engine: Docker, base: str) -> dict[str, bytes]:
    """What a build is lent and no layer may keep."""
    shown = docker_engine.run(base, "/etc/ssl/certs/ca-certificates.crt", flags=["--entrypoint=cat"])
    assert shown.code == 0, shown.err
    found = {f"address {address}": address.encode() for address in package_addresses()}
    for number, certificate in enumerate(sorted(own_certificates(shown.out.encode()))):
        lines = certificate.splitlines()
        # Of its key, which no other certificate has.
        found[f"certificate {number} of this machine's own"] = lines[len(lines) // 2].strip()
    return found


@pytest.fixture(scope="module")
def saved(docker_engine: Docker, images: Images, base: str, sought: dict[str, bytes]) -> Saved:
    with docker_engine.saved(*images.values()) as stream:
        found = read_images(stream, {**sought, "a mount of the build": b"/dev/build/", CONTROL: b"Apache License"})
    return Saved(found, len(docker_engine.image(base)["RootFS"]["Layers"]))


@STEPS
def test_layers_hold_packages_and_source_and_nothing_else(saved: Saved, images: Images, step: ImageStep) -> None:
    entries = list(saved.entries(images[step]))

    assert len(entries) > 1000
    packages = {entry.path.split("/site-packages/")[-1].split("/")[0] for entry in entries}
    assert packages >= {"pydantic", "kfp", "kubernetes" if step == "train-job" else "numpy"}
    assert ("kubernetes" in packages) is ("numpy" not in packages), "Kubernetes' client is in the image that needs it"
    places = tuple(f"{place}/" for place in PLACES)
    elsewhere = {entry.path for entry in entries if not f"{entry.path}/".startswith(places)}
    folders_of_base = {entry.path for layer in saved.images[images[step]].layers[: saved.of_base] for entry in layer}
    assert {path.removeprefix("./").rstrip("/") for path in elsewhere} <= {
        path.removeprefix("./").rstrip("/") for path in folders_of_base
    }
    assert [entry.path for entry in entries if entry.path in elsewhere and entry.kind != "folder"] == []


@STEPS
def test_no_pip_no_cache_no_tests_no_configuration(saved: Saved, images: Images, step: ImageStep) -> None:
    unwanted = re.compile(
        r"/bin/pip|/site-packages/(pip|wheel)(-|/|$)|/\.(cache|git|netrc|pypirc|docker|aws|config)(/|$)|/pip\.(conf|ini)$"
        r"|/components/(.*/)?(test_|conftest)|\.(whl|key|p12|pfx)$"
    )
    tests = re.compile(r"/tests?$")
    # Licences of what a package was tested with.
    named_alike = re.compile(r"\.dist-info/licenses/")
    entries = list(saved.entries(images[step]))

    assert [entry.path for entry in entries if unwanted.search(entry.path)] == []
    folders = [entry.path for entry in entries if entry.kind == "folder" and tests.search(entry.path)]
    assert [path for path in folders if not named_alike.search(path)] == []
    keys = [entry.path for entry in entries if entry.path.endswith((".pem", ".crt", ".cer"))]
    assert [path for path in keys if not path.endswith(BUNDLES)] == []


@STEPS
def test_nothing_that_the_build_was_lent_stays(
    saved: Saved, sought: dict[str, bytes], images: Images, step: ImageStep
) -> None:
    image = saved.images[images[step]]

    found = {(entry.path, name) for layer in image.layers for entry in layer for name in entry.found}
    assert ("opt/shutterline/LICENSE", CONTROL) in found
    assert {(path, name) for path, name in found if name != CONTROL} == set()
    config = json.dumps(image.config).encode()
    assert [name for name, text in sought.items() if text in config] == []
    assert [line for line in image.config["config"]["Env"] if "PIP_" in line or "CERT" in line or "proxy" in line] == []
    # Addresses may hold passwords; none are arguments of the build, which its history would keep.
    history = " ".join(each.get("created_by", "") for each in image.config["history"])
    assert re.findall(r"\w+://(?!github\.com)\S+", history) == []


@STEPS
def test_files_are_roots_and_nobody_else_can_change_them(saved: Saved, images: Images, step: ImageStep) -> None:
    entries = list(saved.entries(images[step]))

    assert {(entry.uid, entry.gid) for entry in entries} == {(0, 0)}
    assert [entry.path for entry in entries if entry.mode & 0o6000] == []
    assert [
        entry.path for entry in entries if entry.path.startswith(PLACES) and entry.kind != "link" and entry.mode & 0o022
    ] == []
    assert [entry.path for entry in entries if entry.kind == "file" and not entry.mode & 0o004] == []
    kept = [entry for entry in entries if entry.path.startswith(PLACES) and entry.kind != "removal"]
    assert [(entry.path, entry.mtime) for entry in kept if entry.mtime != 315532800] == []


@STEPS
def test_torch_and_onnx_runtime_are_where_they_belong(docker_engine: Docker, images: Images, step: ImageStep) -> None:
    code = """
import importlib.util, shutil
sought = "torch", "torchvision", "onnxscript", "onnx", "onnxruntime", "mlflow", "kafka", "boto3", "pip"
print(*(name for name in sought if importlib.util.find_spec(name)))
print(*(name for name in ("pip", "gcc", "cc", "make", "git") if shutil.which(name)))
"""
    modules, commands = docker_engine.python(images[step], code).split("\n")[:2]

    inference = ["onnx", "onnxruntime"]
    training = ["torch", "torchvision", "onnxscript", *inference]
    more = {"data-prep": [], "train-job": [], "train": training}.get(step, inference)
    records = [] if step == "train-job" else ["mlflow"]  # which the nodes do
    assert modules.split() == [*more, *records, "kafka", "boto3"]
    assert commands == ""
