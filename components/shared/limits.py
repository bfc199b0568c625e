"""What this process may use of the machine, within the limits of its container: free memory and CPUs."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
# Of control groups of version 1 and 2: the files of a memory limit and of what is used, and in memory.stat the cache.
_MEMORY = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone


def give_back_memory() -> None:
    """Have the operating system get what glibc's allocator has kept of what was freed; others' give it back anyway."""
    if _trim is not None:
        _trim(0)


def free_memory(*, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Bytes of memory that can be had without pushing anything out.

    The smallest of what the machine has (``MemAvailable``, which counts page cache that can be dropped, as free pages
    do not) and of what every control group around this process has left of its limit, whose page cache counts as free
    too (``inactive_file``; Kubernetes reckons the same way). `proc` and `cgroups` are where the kernel reports them.
    """
    available = _figures(proc / "meminfo").get("MemAvailable:")  # in kB, as every line of this file
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    left = [available * 1024 if available is not None else pages]
    for group, version in _groups(proc, cgroups, "memory"):
        limit_file, used_file, cache = _MEMORY[version]
        with suppress(OSError, ValueError):  # "max" means no limit; version 1 has a number beyond any memory for that
            limit, used = int((group / limit_file).read_text()), int((group / used_file).read_text())
            left.append(limit - max(0, used - _figures(group / "memory.stat").get(cache, 0)))
    return max(0, min(left))


def usable_cpus(*, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """CPUs that this process can keep busy, at least 1.

    The smallest of those that the process may be scheduled on, and of the quota of every control group around it
    (Kubernetes' ``limits.cpu``, Docker's ``--cpus``), rounded up.
    """
    cpus = [len(os.sched_getaffinity(0))]
    for group, version in _groups(proc, cgroups, "cpu"):
        with suppress(OSError, ValueError):
            if version == 2:
                quota, period = (group / "cpu.max").read_text().split()  # "max" means no limit
            else:
                quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0 and int(period) > 0:  # version 1 has -1 for no limit
                cpus.append(math.ceil(int(quota) / int(period)))
    return min(cpus)


def _groups(proc: Path, cgroups: Path, controller: str) -> Iterator[tuple[Path, int]]:
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
        # In a container the root may be the container's own group, while the path is still the machine's: then the
        # inner directories are not there, and the root is what counts.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for root in roots:
            for depth in range(len(parts), -1, -1):
                yield root.joinpath(*parts[:depth]), version


def _figures(file: Path) -> dict[str, int]:
    with suppress(OSError):
        fields = (line.split() for line in file.read_text().splitlines())
        return {found[0]: int(found[1]) for found in fields if len(found) >= 2 and found[1].isdigit()}
    return {}
