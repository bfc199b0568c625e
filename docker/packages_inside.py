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
    """A package of the environment: its SPDX expression, its own name of its licence, or its classifiers."""
    about = package.metadata
    given = (about["License"] or "").strip()
    classifiers = [line.split(" :: ") for line in about.get_all("Classifier") or []]
    named = [given] if given and "\n" not in given and len(given) <= _NAME_LENGTH else []
    return {
        "name": about["Name"],
        "version": package.version,
        "expression": about["License-Expression"],
        "licences": named + [parts[-1] for parts in classifiers if parts[0] == "License" and len(parts) > 2],
    }


def stanzas(text: str) -> list[dict[str, str]]:
    """The paragraphs of a file in Debian's format; of each field its first line."""
    fields = (re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", part, re.MULTILINE) for part in re.split(r"\n\s*\n", text))
    return [{name.lower(): value.strip() for name, value in found} for found in fields]


def debian_licences(copyright_file: Path) -> list[str]:
    """The short names of a machine-readable file; of any other one, the common licences that it refers to."""
    if not copyright_file.exists():
        return []
    text = copyright_file.read_text(encoding="utf-8", errors="replace")
    paragraphs = stanzas(text)
    if "format" in paragraphs[0]:
        named = ",".join(each["license"] for each in paragraphs if each.get("license"))
        return sorted({name.strip() for name in _BETWEEN.split(named) if name.strip()})
    return sorted({found.rstrip(".") for found in _COMMON_LICENCE.findall(text)})


def debian_packages() -> list[dict[str, Any]]:
    """What dpkg has installed."""
    return [
        {name: each[name] for name in ("package", "version", "architecture")}
        | {"licences": debian_licences(Path("/usr/share/doc") / each["package"] / "copyright")}
        for each in stanzas(Path("/var/lib/dpkg/status").read_text(encoding="utf-8"))
        if each.get("status", "").endswith(" installed")
    ]


def system() -> dict[str, str]:
    """The distribution, as it calls itself; and the interpreter, of which one of Debian's is below /usr."""
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    release = {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}
    found = {"id": release["ID"], "codename": release["VERSION_CODENAME"], "version": release["VERSION_ID"]}
    return {**found, "python": ".".join(map(str, sys.version_info[:3])), "python_prefix": sys.base_prefix}


if __name__ == "__main__":
    environment = sorted(map(python_package, distributions()), key=lambda package: package["name"].lower())
    print(json.dumps({"system": system(), "python": environment, "debian": debian_packages()}))
