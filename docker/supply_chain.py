"""What is in the images: a CycloneDX 1.6 SBOM of each, and its licences.

    python docker/supply_chain.py build/images.json

Everything is read from the images themselves: the Python packages of their environment, and Debian's.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from textwrap import fill
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from engine import BuildError, Engine, images_in, run_command
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parent.parent
_INSIDE = Path(__file__).with_name("packages_inside.py").read_text(encoding="utf-8")

# Names of licences in use, in lower case, that are neither SPDX's nor Debian's version of them.
_SPDX = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "3-clause bsd license": "BSD-3-Clause",
    "artistic": "Artistic-1.0-Perl",
    "artistic-2": "Artistic-2.0",
    "bsd license": "BSD",
    "bsd-2": "BSD-2-Clause",
    "bsd-3": "BSD-3-Clause",
    "bsl-1": "BSL-1.0",
    "expat": "MIT",
    "gfdl-1.3+-no-invariant": "GFDL-1.3-no-invariants-or-later",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl-2": "MPL-2.0",
    "pd": "public-domain",
    "python software foundation license": "PSF-2.0",
}
# Say too little where something more exact stands beside them.
_VAGUE = {"BSD", "Dual License", "Other/Proprietary License", "Proprietary"}
# What Debian's files say where a part has no licence of its own.
_NONE = re.compile(r"none|ad-hoc|same-as-.*|__.*__|[^a-z]*", re.IGNORECASE)
_GNU = re.compile(r"(A?GPL|LGPL|GFDL)(-NIV)?-?v?(\d)(?:\.(\d))?(\+|-or-later)?", re.IGNORECASE)


def spdx_name(name: str) -> str:
    """SPDX's name of a licence, or the name itself: ``GPL-2+`` is ``GPL-2.0-or-later``, ``Expat`` is ``MIT``."""
    if gnu := _GNU.fullmatch(name):
        family, no_invariants, major, minor, later = gnu.groups()
        middle = "-no-invariants" if no_invariants else ""
        return f"{family.upper()}-{major}.{minor or 0}{middle}-{'or-later' if later else 'only'}"
    return _SPDX.get(name.lower(), name)


def licences_of(expression: str | None, names: Sequence[str] = ()) -> list[License]:
    """The licences of one package as CycloneDX has them: its one SPDX expression, else each that it names."""
    factory = LicenseFactory()
    if expression:
        return [factory.make_from_string(expression)]
    found = {spdx_name(name) for name in names if not _NONE.fullmatch(name)}
    made = {}
    for name in found - _VAGUE or found:
        licence = factory.make_from_string(name)
        if isinstance(licence, LicenseExpression):  # CycloneDX wants an expression to be alone
            licence = factory.make_with_name(name)
        made[name_of(licence)] = licence
    return [made[name] for name in sorted(made)]


def name_of(licence: License) -> str:
    """The name of a licence, or its expression."""
    if isinstance(licence, LicenseExpression):
        return licence.value
    return licence.id or licence.name or "not named"


def components_of(inside: dict[str, Any]) -> list[Component]:
    """The parts of an image, from what packages_inside.py lists."""
    system = inside["system"]
    name, version = system["id"], system["version"]
    found = [Component(type=ComponentType.OPERATING_SYSTEM, name=name, version=version, bom_ref=f"os:{name}")]

    def add(url: PackageURL, licences: list[License], shown: str = "") -> None:
        reference = url.to_string()
        component = Component(
            name=shown or url.name, version=url.version, purl=url, bom_ref=reference, licenses=licences
        )
        found.append(component)

    if system["python_prefix"] != "/usr":  # else it is among Debian's packages
        add(PackageURL("generic", None, "python", system["python"]), licences_of("PSF-2.0"))
    for package in inside["python"]:
        url = PackageURL("pypi", None, package["name"].lower().replace("_", "-"), package["version"])
        add(url, licences_of(package["expression"], package["licences"]), package["name"])
    for package in inside["debian"]:
        qualifiers = {"arch": package["architecture"], "distro": f"{name}-{system['codename']}"}
        url = PackageURL("deb", name, package["package"], package["version"], qualifiers)
        add(url, licences_of(None, package["licences"]))
    return found


def sbom_of(engine: Engine, reference: str) -> Bom:
    """The SBOM of one image; the same image gives the same one."""
    about = engine.image(reference)
    labels = about["Config"]["Labels"]
    of_labels = (Property(name=f"shutterline:image:label:{name}", value=value) for name, value in labels.items())
    image = Component(
        type=ComponentType.CONTAINER,
        name=reference.partition("@")[0],
        version=labels["org.opencontainers.image.version"],
        bom_ref=about["Id"],
        licenses=licences_of(labels["org.opencontainers.image.licenses"]),
        properties=[Property(name="shutterline:image:id", value=about["Id"]), *of_labels],
    )
    components = components_of(engine.python(reference, _INSIDE))
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, about["Id"]), components=components)
    # The engine writes nine digits of a second, and Python reads six.
    bom.metadata.timestamp = datetime.fromisoformat(about["Created"][:19] + "+00:00")
    bom.metadata.component = image
    bom.metadata.tools.components.add(this_component())
    bom.register_dependency(image, bom.components)
    return bom


def licence_table(bom: Bom, kind: str) -> str:
    """Each licence with the packages of a kind (``deb``, ``pypi``) that name it; one stands at each of its licences."""
    packages: dict[str, list[str]] = {}
    for component in bom.components:
        if component.purl is not None and component.purl.type == kind:
            for name in [name_of(licence) for licence in component.licenses] or ["not named"]:
                packages.setdefault(name, []).append(component.name)
    lines = []
    for licence, names in sorted(packages.items(), key=lambda item: item[0].lower()):
        text, indent = ", ".join(sorted(names, key=str.lower)), 6 * " "
        wrapped = fill(text, 116, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        lines += [f"  {licence} ({len(names)})", wrapped]
    return "\n".join(lines)


def write(bom: Bom, step: str, folder: Path) -> tuple[str, str]:
    """Write an SBOM, checked against CycloneDX's own schema, and the tables of licences, which are returned."""
    file = folder / f"{step}.cdx.json"
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise BuildError(f"{file.name} would not be valid CycloneDX 1.6: {wrong}")
    python, debian = licence_table(bom, "pypi"), licence_table(bom, "deb")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n", encoding="utf-8")
    tables = f"Python packages\n{python}\n\nDebian packages\n{debian}\n"
    (folder / f"{step}.licences.txt").write_text(tables, encoding="utf-8")
    print(f"\n{step}: {len(bom.components)} components in {file}, valid CycloneDX 1.6")
    return python, debian


def main(argv: list[str] | None = None) -> int:
    """Write an SBOM and a licence table of every image, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="docker/supply_chain.py",
        description="Write a CycloneDX SBOM of every image, and list its licences.",
        allow_abbrev=False,
    )
    images, sbom = ROOT / "build" / "images.json", ROOT / "runs" / "sbom"
    help_of_images = "what docker/build.py wrote; default: build/images.json"
    parser.add_argument("images", type=Path, nargs="?", default=images, metavar="FILE", help=help_of_images)
    help_of_out = "folder that gets STEP.cdx.json and STEP.licences.txt; default: runs/sbom"
    parser.add_argument("--out", type=Path, default=sbom, metavar="DIR", help=help_of_out)
    options = parser.parse_args(argv)

    def work() -> int:
        shown: dict[str, str] = {}
        references = images_in(options.images)
        engine = Engine()
        for step, reference in references.items():
            python, debian = write(sbom_of(engine, reference), step, options.out)
            print(f"Python packages of {step} by licence:\n{python}")
            if shown.setdefault(debian, step) == step:
                print(f"Debian packages of {step} by licence:\n{debian}")
            else:
                print(f"Debian packages: as those of {shown[debian]}")
        return 0

    return run_command("supply_chain.py", work)


if __name__ == "__main__":
    sys.exit(main())
