"""A training under a limit of address space; started by a test, in a process of its own.

Arguments: how many MiB it may take beyond what torch and a first small step have taken, and those of the component.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

# What the step imports late, before the limit holds.
import components.train.speed
import components.train.train  # noqa: F401
from components.train.__main__ import main


def limit(mebibytes: int) -> None:
    torch.set_num_threads(1)
    images = torch.zeros(2, 1, 8, 8)
    torch.nn.Conv2d(1, 1, 3)(images).sum().backward()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + mebibytes * 2**20,) * 2)


if __name__ == "__main__":
    limit(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
