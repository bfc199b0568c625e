"""Extras of this package that a command needs and that are not installed, by the package's own metadata."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution, requires

from components.shared.errors import InputError

_PACKAGE = "shutterline"
_OF_AN_EXTRA = re.compile(r"""([\w.-]+).*;\s*extra == ['"]([\w-]+)['"]""")
# What a step may do without: a broker's or a store's client is missed when a broker or a bucket is named.
_CLIENTS = ("status", "storage")
# Modules that have other names than their distributions; a fork of one, such as pillow-simd, has the same module.
_MODULES = {
    "google-cloud-aiplatform": "google.cloud.aiplatform",
    "google-cloud-pubsub": "google.cloud.pubsub_v1",
    "google-cloud-storage": "google.cloud.storage",
    "kafka-python": "kafka",
    "kfp-kubernetes": "kfp.kubernetes",
    "pillow": "PIL",
}


def require_extras(command: str, *extras: str) -> None:
    """Check that a command finds what it will need; InputError, one line, if extras are not installed."""
    if missing := _missing(*extras):
        raise _error(command, missing)


@contextmanager
def extras_named(command: str, *extras: str) -> Iterator[None]:
    """Name the extra that a module belongs to which is not installed.

    Args:
        command: What needs it.
        extras: Those that it may belong to; the first also where it is a package's that a package of it needs.

    Raises:
        InputError: One of the extras is not installed; one line that names it.
        ModuleNotFoundError: It is of none of them.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = _missing(*extras)
        own = (extra for extra, packages in missing.items() if (error.name or "") in map(_module, packages))
        if (extra := next(own, extras[0])) not in missing:
            raise
        raise _error(command, {extra: missing[extra]}) from error


def _error(command: str, missing: dict[str, list[str]]) -> InputError:
    packages = sorted({package for each in missing.values() for package in each})
    shown = ", ".join(packages[:3]) + (f" and {len(packages) - 3} more" if len(packages) > 3 else "")
    return InputError(
        f"{command} needs the extra{'s' * (len(missing) > 1)} {', '.join(missing)}: "
        f"pip install '{_PACKAGE}[{','.join(missing)}]' (not installed: {shown})"
    )


def _missing(*extras: str) -> dict[str, list[str]]:
    """Packages that are not installed, by extra; none where this package itself is no distribution."""
    found: list[tuple[str, ...]] = []
    with suppress(PackageNotFoundError):
        found = [match.group(1, 2) for line in requires(_PACKAGE) or () if (match := _OF_AN_EXTRA.fullmatch(line))]
    clients = {package for package, extra in found if extra in _CLIENTS}
    missing: dict[str, list[str]] = {}
    for package, extra in sorted(found):
        if extra in extras and (extra in _CLIENTS or package not in clients) and not _is_there(package):
            missing.setdefault(extra, []).append(package)
    return {extra: missing[extra] for extra in extras if extra in missing}


def _is_there(package: str) -> bool:
    with suppress(PackageNotFoundError):
        return bool(distribution(package))
    with suppress(ModuleNotFoundError):  # of the package above it
        return importlib.util.find_spec(_module(package)) is not None
    return False


def _module(package: str) -> str:
    return _MODULES.get(package, package.replace("-", "_"))
