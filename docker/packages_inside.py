"""Lists what is installed in an image, as JSON; runs inside it, by its own interpreter, with nothing but that.

    {"system": {…}, "python": [package, …], "debian": [package, …]}

A package is ``{"name", "version", "licences", …}``; licences are as its makers wrote them.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

_COMMON_LICENCE = re.compile(r"/usr/share/common-licenses/([A-Za-z]+(?:-[0-9]+(?:\.[0-9]+)?)?)")
_BETWEEN = re.compile(r"[,|]|(?<![\w/])and(?:/or)?(?![\w/])|\bor\b", re.IGNORECASE)
# Longer than any name; what is longer is the licence's text.
_NAME_LENGTH = 80


def python_package(package: Distribution) -> dict[str, Any]:
    """A package of the environment: its SPDX expression, its own words for its licence, or its classifiers."""
    about = package.metadata
    words = (about["License"] or "").strip()
    classifiers = [line.split(" :: ") for line in about.get_all("Classifier") or []]
    named = [words] if words and "\n" not in words and len(words) <= _NAME_LENGTH else []
    return {
        "name": about["Name"],
        "version": package.version,
        "expression": about["License-Expression"],
        "licences": named + [parts[-1] for parts in classifiers if parts[0] == "License" and len(parts) > 2],
    }


def stanzas(text: str) -> list[dict[str, str]]:
    """The paragraphs of a file in Debian's format; of each field its first line."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields = re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", paragraph, re.MULTILINE)
        found.append({name.lower(): value.strip() for name, value in fields})
    return found


def debian_licences(copyright_file: Path) -> list[str]:
    """The short names of a machine-readable file; of any other one, the common licences that it refers to."""
    try:
        text = copyright_file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    paragraphs = stanzas(text)
    if paragraphs and "format" in paragraphs[0]:
        named = ",".join(each["license"] for each in paragraphs if each.get("license"))
        return sorted({name.strip() for name in _BETWEEN.split(named) if name.strip()})
    return sorted({found.rstrip(".") for found in _COMMON_LICENCE.findall(text)})


def debian_packages() -> list[dict[str, Any]]:
    """What dpkg has installed."""
    found = []
    for each in stanzas(Path("/var/lib/dpkg/status").read_text(encoding="utf-8")):
        if each.get("status", "").endswith(" installed"):
            name = each["package"]
            licences = debian_licences(Path("/usr/share/doc") / name / "copyright")
            package = {"name": name, "version": each["version"], "architecture": each["architecture"]}
            found.append({**package, "licences": licences})
    return found


def system() -> dict[str, str]:
    """The distribution, by its own word; and the interpreter."""
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    told = {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}
    return {
        "id": told["ID"],
        "codename": told["VERSION_CODENAME"],
        "version": told["VERSION_ID"],
        "python": ".".join(map(str, sys.version_info[:3])),
        # One of Debian's lies below /usr and is among its packages.
        "python_prefix": sys.base_prefix,
    }


if __name__ == "__main__":
    environment = sorted(map(python_package, distributions()), key=lambda package: package["name"].lower())
    print(json.dumps({"system": system(), "python": environment, "debian": debian_packages()}))
