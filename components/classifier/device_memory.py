"""How much memory a process may still take: the device's, or the host's within the limits of its container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch


def free_bytes(device: torch.device, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that can be had on a device without pushing anything out.

    On a GPU what its driver says. On the host the smallest of what the machine has (``MemAvailable``, which counts
    page cache that can be dropped, as free pages do not) and of what every control group around this process has left
    of its limit, whose page cache counts as free too (``inactive_file``; Kubernetes reckons the same way).

    Args:
        device: The device.
        proc: Where the kernel tells of processes and memory.
        cgroups: Where control groups are mounted, of version 1 or 2.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return max(0, min([_machine(proc), *_left_in_groups(proc / "self" / "cgroup", cgroups)]))


def _machine(proc: Path) -> int:
    available = _figures(proc / "meminfo").get("MemAvailable:")
    if available is not None:
        return available * 1024  # in kB, as every line of this file
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _left_in_groups(membership: Path, cgroups: Path) -> Iterator[int]:
    """What is left of the limit of each control group that this process is in, and of those around it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # hierarchy:controllers:path; version 2 has no controllers here.
        _, controllers, path = (line + "::").split(":")[:3]
        if not controllers:
            for root in (cgroups, cgroups / "unified"):
                for group in _groups(root, path):
                    yield from _left(group, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            for group in _groups(cgroups / "memory", path):
                yield from _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _groups(root: Path, path: str) -> Iterator[Path]:
    """A group's directory and those around it up to the root.

    In a container the root may be the container's own group, while the path is still the machine's: then the inner
    directories are not there, and the root is what counts.
    """
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:depth])


def _left(group: Path, limit_file: str, used_file: str, cache_key: str) -> Iterator[int]:
    """What is left of one group's limit; nothing where it has none."""
    try:
        # The word "max" means no limit; version 1 has a number beyond any memory for that.
        limit = int((group / limit_file).read_text())
        used = int((group / used_file).read_text())
    except (OSError, ValueError):
        return
    yield limit - max(0, used - _figures(group / "memory.stat").get(cache_key, 0))


def _figures(file: Path) -> dict[str, int]:
    """The lines ``name number …`` of a file of the kernel; empty where there is no such file."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {found[0]: int(found[1]) for found in words if len(found) >= 2 and found[1].isdigit()}
