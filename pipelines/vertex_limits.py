"""What Vertex AI has and takes, as Google documents it; nothing here was tried on Vertex AI itself.

A2, A3, G2 and G4 machines were compared with Compute Engine's page "Accelerator-optimized machine family" as of April
2026, N1 memory for each processor (standard 3.75 GB, highmem 6.5) with its page "Machine types"; the machine of B200
and which N1 sizes custom training takes were not compared with a page again. What a step may ask for without
accelerator: Vertex AI's page "Specify the machine configuration for a pipeline step". Names, labels and sizes: the
reference of ``PipelineJob`` and Vertex AI's page on quotas and limits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipelines.quantities import quantity

# Accelerator types by Vertex AI's names; for each count that there is, processors and gigabytes of the largest machine.
ACCELERATORS: Mapping[str, Mapping[int, tuple[int, int]]] = {
    "NVIDIA_TESLA_T4": {1: (48, 312), 2: (48, 312), 4: (96, 624)},
    "NVIDIA_TESLA_P4": {1: (24, 156), 2: (48, 312), 4: (96, 624)},
    "NVIDIA_TESLA_P100": {1: (16, 104), 2: (32, 208), 4: (96, 624)},
    "NVIDIA_TESLA_V100": {1: (12, 78), 2: (24, 156), 4: (48, 312), 8: (96, 624)},
    "NVIDIA_L4": {1: (32, 128), 2: (24, 96), 4: (48, 192), 8: (96, 384)},
    "NVIDIA_TESLA_A100": {1: (12, 85), 2: (24, 170), 4: (48, 340), 8: (96, 680), 16: (96, 1360)},
    "NVIDIA_A100_80GB": {1: (12, 170), 2: (24, 340), 4: (48, 680), 8: (96, 1360)},
    "NVIDIA_H100_80GB": {1: (26, 234), 2: (52, 468), 4: (104, 936), 8: (208, 1872)},
    "NVIDIA_H100_MEGA_80GB": {8: (208, 1872)},
    "NVIDIA_H200_141GB": {8: (224, 2952)},
    "NVIDIA_B200": {8: (224, 3968)},
    "NVIDIA_RTX_PRO_6000": {1: (48, 180), 2: (96, 360), 4: (192, 720), 8: (384, 1440)},
}
_WITHOUT_ACCELERATOR = (96, 624)
# What N1 machines have for each processor, in gigabytes, and those of their sizes that custom training takes. A machine
# without accelerator is one of them, and one with a T4, P4, P100 or V100.
_N1 = {
    f"n1-{family}-{cpus}": (cpus, cpus * gigabytes)
    for family, gigabytes, sizes in (
        ("standard", 3.75, (4, 8, 16, 32, 64, 96)),
        ("highmem", 6.5, (2, 4, 8, 16, 32, 64, 96)),
        ("highcpu", 0.9, (16, 32, 64, 96)),
    )
    for cpus in sizes
}
_G2 = {1: (4, 8, 12, 16, 32), 2: (24,), 4: (48,), 8: (96,)}  # processors; four gigabytes for each
# The others come in one machine for each count.
_NAMES: Mapping[str, str] = {
    "NVIDIA_TESLA_A100": "a2-highgpu-{count}g",
    "NVIDIA_A100_80GB": "a2-ultragpu-{count}g",
    "NVIDIA_H100_80GB": "a3-highgpu-{count}g",
    "NVIDIA_H100_MEGA_80GB": "a3-megagpu-{count}g",
    "NVIDIA_H200_141GB": "a3-ultragpu-{count}g",
    "NVIDIA_B200": "a4-highgpu-{count}g",
    "NVIDIA_RTX_PRO_6000": "g4-standard-{cpus}",
}

PIPELINE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
# What is documented as the most for a retry's backoff_max_duration.
MAX_RETRY_WINDOW_S = 3600
# Environment variables of a custom job's container: 100, and compile adds two.
MAX_VARIABLES = 98


def machine_problem(cpu: str | None, memory: str | None, accelerator: str | None, count: int) -> str | None:
    """Why there is no machine for a step; None: there is one.

    Args:
        cpu: Its limit of processors, as Kubernetes writes it.
        memory: Its limit of memory, likewise.
        accelerator: The type, one of `ACCELERATORS`; None: none.
        count: How many.
    """
    if accelerator is None:
        (cpus, gigabytes), title = _WITHOUT_ACCELERATOR, "a step without accelerator"
    else:
        machines = ACCELERATORS[accelerator]
        if count not in machines:
            counts = ", ".join(str(number) for number in machines)
            return f"{accelerator} comes in machines with {counts}, not with {count}"
        (cpus, gigabytes), title = machines[count], f"a machine with {count} {accelerator}"
    if (cpu and quantity(cpu) > cpus) or (memory and quantity(memory) > gigabytes * 10**9):
        asked = " and ".join(filter(None, (cpu and f"{cpu} processors", memory and f"{memory} of memory")))
        return f"{title} has at most {cpus} processors and {gigabytes} GB of memory; asked are {asked}"
    return None


def machine_type(cpu: str | None, memory: str | None, accelerator: str | None, count: int) -> str | None:
    """The smallest machine that has all of it, as a custom job names it; None: there is none.

    The arguments are those of :func:`machine_problem`, which finds nothing wrong with them.
    """
    fitting = [
        (size, name)
        for name, size in _machines(accelerator, count).items()
        if quantity(cpu or "0") <= size[0] and quantity(memory or "0") <= size[1] * 10**9
    ]
    return min(fitting)[1] if fitting else None


def _machines(accelerator: str | None, count: int) -> dict[str, tuple[int, float]]:
    """Processors and gigabytes of the machines with these accelerators, by name."""
    most = ACCELERATORS[accelerator][count] if accelerator else _WITHOUT_ACCELERATOR
    if accelerator == "NVIDIA_L4":
        return {f"g2-standard-{cpus}": (cpus, 4 * cpus) for cpus in _G2[count]}
    if accelerator is None or accelerator not in _NAMES:
        return {name: size for name, size in _N1.items() if size[0] <= most[0] and size[1] <= most[1]}
    name = "a2-megagpu-16g" if count == 16 else _NAMES[accelerator].format(count=count, cpus=most[0])
    return {name: most}
