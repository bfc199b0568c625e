"""Free memory and CPUs: the machine's, within the limits of every control group around the process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.shared.limits import free_memory, usable_cpus

GIB = 2**30


class Kernel:
    """A made-up /proc and /sys/fs/cgroup."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.write("proc/meminfo", f"MemTotal: {64 * 2**20} kB\nMemFree: 1000 kB\nMemAvailable: {16 * 2**20} kB\n")

    def write(self, name: str, text: str) -> None:
        file = self.proc.parent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def second(self, group: str, limit: int | str, used: int, cache: int = 0) -> None:
        self.write(f"cgroup{group}/memory.max", f"{limit}\n")
        self.write(f"cgroup{group}/memory.current", f"{used}\n")
        self.write(f"cgroup{group}/memory.stat", f"anon 5\ninactive_file {cache}\nactive_file 7\n")

    def first(self, group: str, limit: int, used: int, cache: int = 0) -> None:
        self.write(f"cgroup/memory{group}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"cgroup/memory{group}/memory.usage_in_bytes", f"{used}\n")
        self.write(f"cgroup/memory{group}/memory.stat", f"cache 5\ninactive_file 1\ntotal_inactive_file {cache}\n")

    def free(self) -> int:
        return free_memory(proc=self.proc, cgroups=self.cgroups)

    def cpus(self) -> int:
        return usable_cpus(proc=self.proc, cgroups=self.cgroups)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_a_machine_without_groups_has_what_is_available_not_what_is_unused(kernel: Kernel) -> None:
    assert kernel.free() == 16 * GIB


def test_version_2_within_a_container(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/\n")
    kernel.second("", 8 * GIB, 3 * GIB, cache=GIB)
    assert kernel.free() == 6 * GIB


def test_version_2_where_the_groups_path_is_the_machines(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/kubepods.slice/pod1/container\n")
    kernel.second("", 8 * GIB, 3 * GIB)
    assert kernel.free() == 5 * GIB


def test_the_narrowest_group_counts(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/pod/container\n")
    kernel.second("/pod", 4 * GIB, 3 * GIB)
    kernel.second("/pod/container", 8 * GIB, GIB)
    assert kernel.free() == GIB
    kernel.second("/pod/container", 2 * GIB, 2 * GIB - 10)
    assert kernel.free() == 10


def test_a_group_without_a_limit_leaves_the_machines_memory(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/\n")
    kernel.second("", "max", 3 * GIB)
    assert kernel.free() == 16 * GIB


def test_version_1(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n")
    kernel.first("", 9223372036854771712, 3 * GIB)
    assert kernel.free() == 16 * GIB
    kernel.first("/docker/abc", 8 * GIB, 7 * GIB, cache=2 * GIB)
    assert kernel.free() == 3 * GIB


def test_version_1_within_a_container(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "4:memory:/docker/abc\n")
    kernel.first("", 2 * GIB, GIB)
    assert kernel.free() == GIB


def test_more_used_than_allowed_leaves_nothing(kernel: Kernel) -> None:
    kernel.write("proc/self/cgroup", "0::/\n")
    kernel.second("", GIB, 2 * GIB)
    assert kernel.free() == 0


@pytest.mark.parametrize("text", ["", "nonsense", "0::/../../etc\n"])
def test_what_cannot_be_read_limits_nothing(kernel: Kernel, text: str) -> None:
    kernel.write("proc/self/cgroup", text)
    kernel.write("cgroup/memory.max", "what?")
    kernel.write("cgroup/memory.current", "1")
    assert kernel.free() == 16 * GIB


def test_this_machine_has_some() -> None:
    assert 2**20 < free_memory() < 2**50


def _one_cpu_of(kernel: Kernel, version: int, quota: str) -> None:
    """A container on many CPUs, within groups of a quota of 100 ms periods."""
    if version == 2:
        kernel.write("proc/self/cgroup", "0::/pod/container\n")
        kernel.write("cgroup/pod/cpu.max", f"{quota.replace('-1', 'max')} 100000\n")
        kernel.write("cgroup/pod/container/cpu.max", "max 100000\n")
    else:
        kernel.write("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n")
        kernel.write("cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", f"{quota}\n")
        kernel.write("cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n")


@pytest.mark.parametrize("version", [1, 2])
def test_cpus_are_those_of_the_machine_without_a_quota(kernel: Kernel, version: int) -> None:
    assert kernel.cpus() == len(os.sched_getaffinity(0))
    _one_cpu_of(kernel, version, "-1")
    assert kernel.cpus() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.mended(
    15,
    input="a container limited to one CPU or less, on a node with many",
    before="16 decoding threads, which hold 16 images",
    now="as many threads as the quota has CPUs",
)
def test_a_quota_of_cpus_counts_rounded_up(kernel: Kernel, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    for quota, expected in (("100000", 1), ("50000", 1), ("150000", 2), ("400000", 4), ("6400000", 64), ("-1", 64)):
        _one_cpu_of(kernel, version, quota)
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
