"""How much memory a process may still take: the device's, or the host's within the limits of its container."""

from __future__ import annotations

import torch

from components.shared.limits import free_memory


def free_bytes(device: torch.device) -> int:
    """Bytes of memory that can be had on a device without pushing anything out.

    On a GPU what its driver says; on the host :func:`~components.shared.limits.free_memory`.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()
