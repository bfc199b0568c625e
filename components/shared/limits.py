"""What this process may use of the machine, within the limits of its container: free memory and CPUs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def free_memory(*, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Bytes of memory that can be had without pushing anything out.

    The smallest of what the machine has (``MemAvailable``, which counts page cache that can be dropped, as free pages
    do not) and of what every control group around this process has left of its limit, whose page cache counts as free
    too (``inactive_file``; Kubernetes reckons the same way).

    Args:
        proc: Where the kernel reports processes and memory.
        cgroups: Where control groups are mounted, of version 1 or 2.
    """
    left: list[int] = []
    for group, version in _groups(proc, cgroups, "memory"):
        if version == 2:
            left += _left(group, "memory.max", "memory.current", "inactive_file")
        else:
            left += _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return max(0, min([_machine(proc), *left]))


def usable_cpus(*, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """CPUs that this process can keep busy, at least 1.

    The smallest of the machine's, of those that the process may be scheduled on, and of the quota of every control
    group around it (Kubernetes' ``limits.cpu``, Docker's ``--cpus``), rounded up.

    Args:
        proc: Where the kernel reports processes.
        cgroups: Where control groups are mounted, of version 1 or 2.
    """
    # Only Linux can ask for the process's own.
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas: list[int] = []
    for group, version in _groups(proc, cgroups, "cpu"):
        try:
            if version == 2:
                quota, period = (group / "cpu.max").read_text().split()  # "max" means no limit
            else:
                quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0 and int(period) > 0:  # version 1 has -1 for no limit
                quotas.append(math.ceil(int(quota) / int(period)))
        except (OSError, ValueError):
            continue
    return min([own, *quotas])


def _machine(proc: Path) -> int:
    available = _figures(proc / "meminfo").get("MemAvailable:")
    if available is not None:
        return available * 1024  # in kB, as every line of this file
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _groups(proc: Path, cgroups: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Directory and version of each control group that this process is in for a controller, and of those around it.

    In a container the root may be the container's own group, while the path is still the machine's: then the inner
    directories are not there, and the root is what counts.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # hierarchy:controllers:path; version 2 has no controllers here.
        _, controllers, path = (line + "::").split(":")[:3]
        if not controllers:
            roots, version = [cgroups, cgroups / "unified"], 2
        elif controller in controllers.split(","):
            # Controllers that share a hierarchy are mounted under all their names, usually with a link for each.
            roots, version = [cgroups / name for name in dict.fromkeys((controller, controllers))], 1
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for root in roots:
            for depth in range(len(parts), -1, -1):
                yield root.joinpath(*parts[:depth]), version


def _left(group: Path, limit_file: str, used_file: str, cache_key: str) -> list[int]:
    """What is left of one group's limit; nothing where it has none."""
    try:
        # The word "max" means no limit; version 1 has a number beyond any memory for that.
        limit = int((group / limit_file).read_text())
        used = int((group / used_file).read_text())
    except (OSError, ValueError):
        return []
    return [limit - max(0, used - _figures(group / "memory.stat").get(cache_key, 0))]


def _figures(file: Path) -> dict[str, int]:
    """The lines ``name number …`` of a file of the kernel; empty where there is no such file."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {found[0]: int(found[1]) for found in words if len(found) >= 2 and found[1].isdigit()}
