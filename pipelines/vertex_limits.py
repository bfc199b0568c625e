"""What Vertex AI has and takes, as Google documents it; nothing here was tried on Vertex AI itself.

Accelerators and the machines they come in: Compute Engine's page on GPU machine types. What a step may ask for without
one: Vertex AI's page "Specify the machine configuration for a pipeline step". Names, labels and sizes: the reference of
``PipelineJob`` and Vertex AI's page on quotas and limits. Read in November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from pipelines.quantities import quantity

_GB = 10**9
_MAX_CPUS, _MAX_MEMORY_GB = 96, 624


@dataclass(frozen=True)
class Machine:
    """The largest machine with so many of an accelerator.

    Attributes:
        cpus: Processors.
        memory_gb: Memory, in gigabytes.
    """

    cpus: int
    memory_gb: int


# Accelerator types by Vertex AI's names; for each count that there is, the largest machine.
ACCELERATORS: Mapping[str, Mapping[int, Machine]] = {
    "NVIDIA_TESLA_T4": {1: Machine(48, 312), 2: Machine(48, 312), 4: Machine(96, 624)},
    "NVIDIA_TESLA_P4": {1: Machine(24, 156), 2: Machine(48, 312), 4: Machine(96, 624)},
    "NVIDIA_TESLA_P100": {1: Machine(16, 104), 2: Machine(32, 208), 4: Machine(96, 624)},
    "NVIDIA_TESLA_V100": {1: Machine(12, 78), 2: Machine(24, 156), 4: Machine(48, 312), 8: Machine(96, 624)},
    "NVIDIA_L4": {1: Machine(32, 128), 2: Machine(24, 96), 4: Machine(48, 192), 8: Machine(96, 384)},
    "NVIDIA_TESLA_A100": {
        1: Machine(12, 85),
        2: Machine(24, 170),
        4: Machine(48, 340),
        8: Machine(96, 680),
        16: Machine(96, 1360),
    },
    "NVIDIA_A100_80GB": {1: Machine(12, 170), 2: Machine(24, 340), 4: Machine(48, 680), 8: Machine(96, 1360)},
    "NVIDIA_H100_80GB": {1: Machine(26, 234), 2: Machine(52, 468), 4: Machine(104, 936), 8: Machine(208, 1872)},
    "NVIDIA_H100_MEGA_80GB": {8: Machine(208, 1872)},
    "NVIDIA_H200_141GB": {8: Machine(224, 2952)},
    "NVIDIA_B200": {8: Machine(224, 3968)},
    "NVIDIA_RTX_PRO_6000": {1: Machine(48, 180), 2: Machine(96, 360), 4: Machine(192, 720), 8: Machine(384, 1440)},
}

PIPELINE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
MAX_LABELS = 64
LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
# What is documented as the most for a retry's backoff_max_duration.
MAX_RETRY_WINDOW_S = 3600


def machine_problem(cpu: str | None, memory: str | None, accelerator: str | None, count: int) -> str | None:
    """Why there is no machine for a step; None: there is one.

    Args:
        cpu: Its limit of processors, as Kubernetes writes it.
        memory: Its limit of memory, likewise.
        accelerator: The accelerator's type; None: none.
        count: How many.
    """
    cpus, needed = (quantity(asked) if asked else Decimal(0) for asked in (cpu, memory))
    if accelerator is None:
        machine, title = Machine(_MAX_CPUS, _MAX_MEMORY_GB), "a step without accelerator"
    else:
        machines = ACCELERATORS.get(accelerator)
        if machines is None:
            return f"Vertex AI has no {accelerator}; it has {', '.join(ACCELERATORS)}"
        if count not in machines:
            counts = ", ".join(str(number) for number in machines)
            return f"{accelerator} comes in machines with {counts}, not with {count}"
        machine, title = machines[count], f"a machine with {count} {accelerator}"
    if cpus > machine.cpus or needed > machine.memory_gb * _GB:
        asked = " and ".join(filter(None, (cpu and f"{cpu} processors", memory and f"{memory} of memory")))
        return f"{title} has at most {machine.cpus} processors and {machine.memory_gb} GB of memory; asked are {asked}"
    return None
