"""The device that was asked for, or an error; never a silent run elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from components.classifier.device import choose_device, describe_device, make_repeatable
from components.shared.errors import DeviceError
from tests.peers.fixtures import need

ROOT = Path(__file__).parents[2]
GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0


GROUP = Path(f"/sys/fs/cgroup/cpu/shutterline-{os.getpid()}")
HAS_GROUP = os.geteuid() == 0 and GROUP.parent.is_dir()

ALONE = """
import os, sys, torch
from components.classifier.device import choose_device, make_repeatable
from components.shared.errors import DeviceError
for group in sys.argv[1:]:
    open(os.path.join(group, "cgroup.procs"), "w").write(str(os.getpid()))
make_repeatable(0)
print(torch.get_num_threads())
torch.set_num_threads(2)
os.environ["OMP_NUM_THREADS"] = "2"
make_repeatable(0)
print(torch.get_num_threads())
print(choose_device("auto"))
try:
    choose_device("cuda")
except DeviceError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def alone() -> list[str]:
    """What a process without GPUs prints, in a container of one CPU where this machine can have one."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", ALONE]
    if HAS_GROUP:
        GROUP.mkdir()
        (GROUP / "cpu.cfs_period_us").write_text("100000")
        (GROUP / "cpu.cfs_quota_us").write_text("100000")
        command.append(str(GROUP))
    try:
        done = subprocess.run(
            command, env=environment | {"CUDA_VISIBLE_DEVICES": ""}, cwd=ROOT, capture_output=True, text=True
        )
    finally:
        if HAS_GROUP:
            GROUP.rmdir()
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_torch_has_no_more_threads_than_the_container_has_cpus(alone: list[str]) -> None:
    need(HAS_GROUP, "a group with a quota needs root and cgroups of version 1")
    need((os.cpu_count() or 1) > 1, "more than one core")
    assert alone[:2] == ["1", "2"], "what the user has set stays"


def test_what_is_there_is_taken() -> None:
    assert choose_device("auto").type == ("cuda" if GPUS else "cpu")
    assert choose_device("cpu") == torch.device("cpu")
    assert describe_device(torch.device("cpu")) == f"cpu ({torch.get_num_threads()} threads)"
    for wanted in ["cuda", "cuda:0"] if GPUS else []:
        assert choose_device(wanted).type == "cuda"
        assert describe_device(choose_device(wanted)).startswith("cuda")


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DeviceError, match=f'device: "cuda:{GPUS or 3}" was asked for, and ') as caught:
        choose_device(f"cuda:{GPUS or 3}")
    assert "\n" not in str(caught.value)
    if not GPUS:
        with pytest.raises(DeviceError, match=r'"cuda" was asked for, and .*; set device to "auto" or "cpu"'):
            choose_device("cuda")


def test_where_gpus_are_hidden_cuda_is_an_error_and_auto_the_cpu(alone: list[str]) -> None:
    auto, error = alone[2:]
    assert auto == "cpu"
    assert error.startswith('device: "cuda" was asked for')


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """torch's global settings, put back."""
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.backends.cudnn.benchmark = benchmark
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@pytest.mark.usefixtures("torch_settings")
def test_a_seed_makes_the_same_numbers_by_deterministic_means() -> None:
    drawn = []
    for seed in (5, 5, 6, 2**62 + 5):
        make_repeatable(seed)
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] == drawn[1]
    assert len({tuple(numbers) for numbers in drawn}) == 3
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
