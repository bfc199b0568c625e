"""A GPU's context, made by the driver in a thread while Python imports torch, which then finds it there.

torch's runtime uses the device's primary context, of which a process has one, whichever library makes it. What fails
here is met by torch again, which says what is wrong. Not tried on a GPU yet.
"""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress
from pathlib import Path

from components.shared.process_group import member

_DRIVER = Path("/proc/driver/nvidia/version")


def wake_gpu(device: str) -> threading.Thread | None:
    """Begin to make the context of the params' ``device``; None where there is no GPU to be used.

    The thread is no daemon: a process does not end while its driver is being initialised.
    """
    if device == "cpu" or not _DRIVER.exists():
        return None
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # as torch does before its own first call
    index = device.partition(":")[2]
    thread = threading.Thread(target=_make_context, args=(int(index or member().local_rank),), name="GPU context")
    thread.start()
    return thread


def _make_context(index: int) -> None:
    with suppress(OSError, AttributeError):  # no driver's library, or a strange one
        driver, device, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), index) == 0:
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
