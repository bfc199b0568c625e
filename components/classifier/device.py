"""Which device a run uses, its memory, and how its arithmetic is made repeatable."""

from __future__ import annotations

import gc
import os
import time

import torch

from components.shared.errors import DeviceError
from components.shared.limits import free_memory, usable_cpus
from components.shared.seeds import derived_seed

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

# How torch, and the libraries below it, report that memory was refused, where they have no error of its own for that.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "could not create a memory object",
)


def choose_device(wanted: str) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: A GPU was asked for and there is none, or not that one; never a silent run on the CPU.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if wanted == "auto":
            return torch.device("cpu")
        if torch.version.cuda is None:
            why = "this torch is built for the CPU alone (in a container: is it the image of another step?)"
        elif not os.path.exists("/proc/driver/nvidia/version"):  # noqa: PTH110 - a fixed name, not a path to handle
            why = "no NVIDIA driver is visible (in a container: is --gpus all missing?)"
        else:
            why = "torch sees no GPU"
        raise DeviceError(f'device: "{wanted}" was asked for, and {why}; set device to "auto" or "cpu"')
    device = torch.device("cuda" if wanted == "auto" else wanted)
    if (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f'device: "{wanted}" was asked for, and there are {torch.cuda.device_count()} GPUs')
    return device


def make_repeatable(manual_seed: int) -> None:
    """Seed torch's global generators and choose deterministic algorithms: same seed, same machine, same bits."""
    # cuBLAS asks for this before its first call; see torch's notes on reproducibility.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # No more threads than the container has CPUs; a number that the user has set stays.
    if not any(os.environ.get(name) for name in _THREAD_VARIABLES):
        torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
    torch.manual_seed(derived_seed(manual_seed, "torch"))
    # As use_deterministic_algorithms(True, warn_only=True), which imports torch's compiler besides, over a second.
    torch.set_deterministic_debug_mode("warn")
    # Filling fresh memory costs time and changes nothing that is read.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # What is called fp32 is fp32: torch's convolutions would round to TF32 on a GPU that has it.
    torch.backends.cudnn.allow_tf32 = False


def describe_device(device: torch.device) -> str:
    """The device for people: a GPU's name, or how many threads the CPU uses."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def free_bytes(device: torch.device) -> int:
    """Bytes of memory that can be had on a device, as a GPU's driver says, or on the host within its container."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory()


def free_unused(device: torch.device) -> None:
    """Free what nothing refers to any more: cycles, and the blocks of a GPU's memory that torch keeps for later."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def time_when_done(device: torch.device) -> float:
    """Seconds, as ``time.perf_counter`` gives them, once the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the host, has no more memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
