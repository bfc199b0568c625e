"""What is in the images: a CycloneDX 1.6 SBOM of each, and its licences.

    python docker/supply_chain.py build/images.json

Everything is read from the images themselves: the Python packages of their environment, and Debian's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from textwrap import fill
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from engine import BuildError, Engine
from licences import NOT_SAID, licences_of, name_of
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parent.parent
_INDENT = "      "
_INSIDE = Path(__file__).with_name("packages_inside.py")


def components_of(inside: dict[str, Any]) -> list[Component]:
    """The parts of an image, from what packages_inside.py lists."""
    system = inside["system"]
    found = [
        Component(
            type=ComponentType.OPERATING_SYSTEM,
            name=system["id"],
            version=system["version"],
            bom_ref=f"os:{system['id']}",
        )
    ]
    if system["python_prefix"] != "/usr":
        url = PackageURL("generic", None, "python", system["python"])
        found.append(_library(url, licences_of("PSF-2.0", [])))
    for package in inside["python"]:
        url = PackageURL("pypi", None, package["name"].lower().replace("_", "-"), package["version"])
        found.append(_library(url, licences_of(package["expression"], package["licences"]), package["name"]))
    for package in inside["debian"]:
        qualifiers = {"arch": package["architecture"], "distro": f"{system['id']}-{system['codename']}"}
        url = PackageURL("deb", system["id"], package["name"], package["version"], qualifiers)
        found.append(_library(url, licences_of(None, package["licences"])))
    return found


def _library(url: PackageURL, licences: Iterable[Any], name: str | None = None) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        name=name or url.name,
        version=url.version,
        purl=url,
        bom_ref=url.to_string(),
        licenses=licences,
    )


def sbom_of(engine: Engine, reference: str) -> Bom:
    """The SBOM of one image; the same image gives the same one.

    Raises:
        BuildError: The image is not here, or it does not run.
    """
    about = engine.image(reference)
    flags = ["--rm", "--network", "none", "--read-only", "--entrypoint", "python"]
    inside = engine.json("run", *flags, reference, "-c", _INSIDE.read_text(encoding="utf-8"))
    labels = about["Config"]["Labels"]
    image = Component(
        type=ComponentType.CONTAINER,
        name=reference.partition("@")[0],
        version=labels["org.opencontainers.image.version"],
        bom_ref=about["Id"],
        licenses=licences_of(labels["org.opencontainers.image.licenses"], []),
        properties=[
            Property(name="shutterline:image:id", value=about["Id"]),
            *(Property(name=f"shutterline:image:label:{name}", value=value) for name, value in labels.items()),
        ],
    )
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, about["Id"]), components=components_of(inside))
    # The engine writes nine digits of a second, and Python reads six.
    bom.metadata.timestamp = datetime.fromisoformat(about["Created"][:19] + "+00:00")
    bom.metadata.component = image
    bom.metadata.tools.components.add(this_component())
    bom.register_dependency(image, bom.components)
    return bom


def write_sbom(bom: Bom, file: Path) -> None:
    """Write an SBOM as JSON.

    Raises:
        BuildError: It is not what CycloneDX's own schema asks for.
    """
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong is not None:
        raise BuildError(f"{file.name} would not be valid CycloneDX 1.6: {wrong}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")


def licence_table(bom: Bom, of: str) -> str:
    """Each licence with the packages that name it; a package stands at each of its licences.

    Args:
        bom: The image's.
        of: ``deb`` for Debian's packages, ``pypi`` for the environment's.
    """
    packages: dict[str, list[str]] = {}
    for component in bom.components:
        if component.purl is not None and component.purl.type == of:
            for name in [name_of(licence) for licence in component.licenses] or [NOT_SAID]:
                packages.setdefault(name, []).append(component.name)
    lines = []
    for licence, names in sorted(packages.items(), key=lambda item: item[0].lower()):
        lines.append(f"  {licence} ({len(names)})")
        text = ", ".join(sorted(names, key=str.lower))
        lines.append(fill(text, 116, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Write an SBOM and a licence table of every image, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="docker/supply_chain.py",
        description="Write a CycloneDX SBOM of every image, and list its licences.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "images",
        type=Path,
        nargs="?",
        default=ROOT / "build" / "images.json",
        metavar="FILE",
        help="what docker/build.py wrote; default: build/images.json",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "runs" / "sbom",
        metavar="DIR",
        help="folder that gets STEP.cdx.json and STEP.licences.txt; default: runs/sbom",
    )
    options = parser.parse_args(argv)
    try:
        document = json.loads(options.images.read_text(encoding="utf-8"))
        engine = Engine()
        told: dict[str, str] = {}
        for step, image in document["images"].items():
            bom = sbom_of(engine, image["reference"])
            file = options.out / f"{step}.cdx.json"
            write_sbom(bom, file)
            ours, debians = licence_table(bom, "pypi"), licence_table(bom, "deb")
            text = f"Python packages\n{ours}\n\nDebian packages\n{debians}\n"
            (options.out / f"{step}.licences.txt").write_text(text, encoding="utf-8")
            print(f"\n{step}: {len(bom.components)} components in {file}, valid CycloneDX 1.6")
            print(f"Python packages of {step} by licence:\n{ours}")
            if told.setdefault(debians, step) != step:
                print(f"Debian packages: as those of {told[debians]}")
            else:
                print(f"Debian packages of {step} by licence:\n{debians}")
    except (OSError, ValueError) as error:
        sys.stderr.write(f"docker/supply_chain.py: error: {options.images}: {error}; `make images` writes it\n")
        return 2
    except BuildError as error:
        sys.stderr.write(f"docker/supply_chain.py: error: {error}\n")
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
