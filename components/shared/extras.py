"""Extras of this package that a command needs and that are not installed, by the package's own metadata."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
    """See that a command finds what it will need, before it begins.

    Raises:
        InputError: Extras are not installed; one line that names them.
    """
    if gone := {extra: lacking for extra in extras if (lacking := _lacking(extra))}:
        raise InputError(_message(command, gone))


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
        gone = {extra: lacking for extra in extras if (lacking := _lacking(extra))}
        own = (extra for extra, lacking in gone.items() if error.name in [*map(_module, lacking)])
        if (extra := next(own, extras[0])) not in gone:
            raise
        raise InputError(_message(command, {extra: gone[extra]})) from error


def _message(command: str, gone: dict[str, list[str]]) -> str:
    packages = sorted({package for lacking in gone.values() for package in lacking})
    shown = ", ".join(packages[:3]) + (f" and {len(packages) - 3} more" if len(packages) > 3 else "")
    return (
        f"{command} needs the extra{'s' * (len(gone) > 1)} {', '.join(gone)}: "
        f"pip install '{_PACKAGE}[{','.join(gone)}]' (not installed: {shown})"
    )


def _lacking(extra: str) -> list[str]:
    """Packages of an extra that are not installed; none where this package itself is no distribution."""
    try:
        found = [match.groups() for line in requires(_PACKAGE) or () if (match := _OF_AN_EXTRA.fullmatch(line))]
    except PackageNotFoundError:
        return []
    clients = {package for package, of in found if of in _CLIENTS and extra not in _CLIENTS}
    return sorted(package for package, of in found if of == extra and package not in clients and not _is_there(package))


def _is_there(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        try:
            return importlib.util.find_spec(_module(package)) is not None
        except ModuleNotFoundError:  # of the package above it
            return False
    return True


def _module(package: str) -> str:
    return _MODULES.get(package, package.replace("-", "_"))
