"""Free memory and CPUs: the machine's, within the limits of every control group around the process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.shared.limits import free_memory, usable_cpus

GIB = 2**30
MACHINE = 16 * GIB
UNLIMITED = 9223372036854771712  # as version 1 has it
OF_VERSION_1 = "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n"


class Kernel:
    """A made-up /proc and /sys/fs/cgroup."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.write("proc/meminfo", f"MemTotal: {64 * 2**20} kB\nMemFree: 1000 kB\nMemAvailable: {16 * 2**20} kB\n")

    def write(self, name: str, text: str) -> None:
        file = self.proc.parent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def cpus(self) -> int:
        return usable_cpus(proc=self.proc, cgroups=self.cgroups)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@pytest.mark.parametrize(
    ("groups", "limits", "free"),
    [
        # By group: limit, what is used, cache of it.
        ("0::/\n", {"": (8 * GIB, 3 * GIB, GIB)}, 6 * GIB),
        ("0::/kubepods.slice/pod1/container\n", {"": (8 * GIB, 3 * GIB, 0)}, 5 * GIB),
        ("0::/pod/container\n", {"/pod": (4 * GIB, 3 * GIB, 0), "/pod/container": (8 * GIB, GIB, 0)}, GIB),
        ("0::/pod/container\n", {"/pod": (4 * GIB, 3 * GIB, 0), "/pod/container": (GIB, GIB - 10, 0)}, 10),
        ("0::/\n", {"": ("max", 3 * GIB, 0)}, MACHINE),
        ("0::/\n", {"": (GIB, 2 * GIB, 0)}, 0),
        (OF_VERSION_1, {"": (UNLIMITED, 3 * GIB, 0)}, MACHINE),
        (OF_VERSION_1, {"": (UNLIMITED, 3 * GIB, 0), "/docker/abc": (8 * GIB, 7 * GIB, 2 * GIB)}, 3 * GIB),
        ("4:memory:/docker/abc\n", {"": (2 * GIB, GIB, 0)}, GIB),
        # What cannot be read limits nothing.
        *((text, {"": ("what?", 1, 0)}, MACHINE) for text in ("", "nonsense", "0::/../../etc\n")),
        (None, {}, MACHINE),
    ],
)
def test_free_memory(
    kernel: Kernel, groups: str | None, limits: dict[str, tuple[int | str, int, int]], free: int
) -> None:
    if groups is not None:
        kernel.write("proc/self/cgroup", groups)
    for group, (limit, used, cache) in limits.items():
        if groups is not None and "memory:" in groups:
            folder = f"cgroup/memory{group}"
            kernel.write(f"{folder}/memory.limit_in_bytes", f"{limit}\n")
            kernel.write(f"{folder}/memory.usage_in_bytes", f"{used}\n")
            kernel.write(f"{folder}/memory.stat", f"cache 5\ninactive_file 1\ntotal_inactive_file {cache}\n")
        else:
            kernel.write(f"cgroup{group}/memory.max", f"{limit}\n")
            kernel.write(f"cgroup{group}/memory.current", f"{used}\n")
            kernel.write(f"cgroup{group}/memory.stat", f"anon 5\ninactive_file {cache}\nactive_file 7\n")
    assert free_memory(proc=kernel.proc, cgroups=kernel.cgroups) == free


def test_this_machine_has_some() -> None:
    assert 2**20 < free_memory() < 2**50


@pytest.mark.parametrize("version", [1, 2])
def test_a_quota_of_cpus_counts_rounded_up(kernel: Kernel, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    assert kernel.cpus() == 64
    for quota, expected in (("100000", 1), ("50000", 1), ("150000", 2), ("400000", 4), ("6400000", 64), ("-1", 64)):
        if version == 2:
            kernel.write("proc/self/cgroup", "0::/pod/container\n")
            kernel.write("cgroup/pod/cpu.max", f"{quota.replace('-1', 'max')} 100000\n")
            kernel.write("cgroup/pod/container/cpu.max", "max 100000\n")
        else:
            kernel.write("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n")
            kernel.write("cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", f"{quota}\n")
            kernel.write("cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n")
        assert kernel.cpus() == expected


def test_only_the_cpus_that_the_process_may_run_on_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cpus() == 1


@pytest.mark.parametrize("text", ["", "what?", "100000", "100000 0", "0 100000"])
def test_a_quota_that_cannot_be_read_limits_nothing(kernel: Kernel, text: str) -> None:
    kernel.write("proc/self/cgroup", "0::/\n")
    kernel.write("cgroup/cpu.max", text)
    assert kernel.cpus() == len(os.sched_getaffinity(0))
