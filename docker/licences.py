"""Licences by their SPDX names, from the names that package authors and Debian use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.license import License, LicenseExpression

NOT_SAID = "not said"

# Names in use that are neither SPDX's nor Debian's version of them.
_SPDX = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
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
    if known := _SPDX.get(name.lower()):
        return known
    gnu = _GNU.fullmatch(name)
    if gnu is None:
        return name
    family, no_invariants, major, minor, later = gnu.groups()
    middle = "-no-invariants" if no_invariants else ""
    return f"{family.upper()}-{major}.{minor or 0}{middle}-{'or-later' if later else 'only'}"


def licences_of(expression: str | None, names: Sequence[str]) -> list[License]:
    """The licences of one package as CycloneDX has them: one expression, or any number of names.

    Args:
        expression: The package's own SPDX expression, which says all.
        names: Otherwise: the names it uses.
    """
    factory = LicenseFactory()
    if expression:
        return [factory.make_from_string(expression)]
    made = {}
    for name in _exact(spdx_name(name) for name in names if not _NONE.fullmatch(name)):
        licence = factory.make_from_string(name)
        if isinstance(licence, LicenseExpression):  # CycloneDX wants an expression to be alone
            licence = factory.make_with_name(name)
        made[name_of(licence)] = licence
    return [made[name] for name in sorted(made)]


def name_of(licence: License) -> str:
    """The name of a licence, or its expression."""
    if isinstance(licence, LicenseExpression):
        return licence.value
    return licence.id or licence.name or NOT_SAID


def _exact(names: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(names))
    return [name for name in found if name not in _VAGUE] or found
