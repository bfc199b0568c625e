"""How torch says that there is no more memory."""

from __future__ import annotations

import torch

# How torch, and the libraries below it, say that memory was refused, where they have no error of its own for that.
_SAID = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "could not create a memory object",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the host, has no more memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)
