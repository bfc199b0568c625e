"""The rules about a step's pod on Kubernetes: shared memory, who it runs as, mounts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pipelines.lint.finding import Note, error, warning
from pipelines.lint.images import DRIVER_OPERATIONS
from pipelines.lint.quantities import asked, unit_problem
from pipelines.lint.view import MOUNTS, Executor, View, child, listing, mapping, text, written
from pipelines.quantities import quantity
from pipelines.settings.kubeflow import SHM_PATH

_ENUMERATIONS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("tolerations", ("operator",), ("", "Exists", "Equal")),
    ("tolerations", ("effect",), ("", "NoSchedule", "PreferNoSchedule", "NoExecute")),
    ("emptyDirMounts", ("medium",), ("", "Memory", "HugePages", "HugePages-2Mi", "HugePages-1Gi")),
)


def _steps(view: View) -> Iterator[Executor]:
    if view.target == "kubeflow":
        yield from (executor for executor in view.containers if executor.image not in DRIVER_OPERATIONS)


def shared_memory(view: View) -> Iterator[Note]:
    """Training on a GPU without a memory-backed ``/dev/shm`` (warning), or with one that eats its memory (error).

    A container has 64 MiB of it by default; PyTorch's workers and NCCL need more. What lies there counts as the
    container's memory.
    """
    for executor in _steps(view):
        entries = enumerate(map(mapping, listing(executor.kubernetes.get("emptyDirMounts"))))
        mounts = [(index, entry) for index, entry in entries if text(entry.get("mountPath")).rstrip("/") == SHM_PATH]
        enabled = mapping(executor.kubernetes.get("enabledSharedMemory"))
        if executor.accelerates and not mounts and not enabled:
            yield warning(
                executor.kubernetes_where,
                f"a step with accelerators has the 64 MiB of {SHM_PATH} that every container has",
                "give it a memory-backed one: shm in the settings, or kubernetes.empty_dir_mount of medium Memory",
            )
        memory = asked(executor, "memory", "Limit")
        sizes = (
            [(f"{executor.kubernetes_where}.enabledSharedMemory.size", text(enabled.get("size")))] if enabled else []
        )
        for index, entry in mounts:
            where = f"{executor.kubernetes_where}.emptyDirMounts[{index}]"
            if entry.get("medium") != "Memory":
                yield warning(where, f"{SHM_PATH} lies on the node's disk", "set its medium to Memory")
                continue
            sizes.append((f"{where}.sizeLimit", text(entry.get("sizeLimit"))))
        for where, size in sizes:
            if not size:
                yield warning(
                    where, f"{SHM_PATH} has no size of its own, so only the step's memory ends it", "set a size"
                )
                continue
            try:
                taken = quantity(size)
            except ValueError:
                yield error(where, f"{size} is no amount of memory", "write it such as 2Gi")
                continue
            if problem := unit_problem(size, view.target):
                yield error(where, problem, "write it with Ki or M")
            if memory.amount is not None and taken >= memory.amount:
                message = f"{SHM_PATH} of {size} counts against the step's memory, which is {memory.written}"
                yield error(where, message, "make it smaller, or give the step more memory")


def security(view: View) -> Iterator[Note]:
    """Steps that run as root (warning) although root is refused (error), and foreign images, which may be root's.

    Our images name user 10001. Without a user id another image runs as its own user; where that is root, Kubernetes
    does not start it where ``runAsNonRoot`` holds, which KFP takes from the file or from its installation since 2.16.
    """
    for executor in _steps(view):
        context = mapping(executor.kubernetes.get("securityContext"))
        where = f"{executor.kubernetes_where}.securityContext"
        user, refused = written(context.get("runAsUser")), context.get("runAsNonRoot") is True
        advice = "set another user id in the image, or by securityContext (Kubeflow Pipelines 2.16 or later)"
        if user == "0" and refused:
            yield error(where, "the user is root and root is refused, so Kubernetes does not start the step", advice)
        elif user == "0":
            yield warning(where, "the step runs as root", advice)
        elif not user and not refused and not executor.ours:
            message = (
                "the step runs as its image's user; if that is root, it does not start where Kubeflow Pipelines 2.16 "
                "or later is set to refuse root, and runs as root elsewhere"
            )
            yield warning(where, message, advice)


def pod_conflicts(view: View) -> Iterator[Note]:
    """What Kubernetes refuses in a pod: one name or path twice, words it does not know.

    KFP names the volume of a secret, a config map or a claim by its name, so none can be mounted twice in a step.
    """
    for executor in _steps(view):
        volumes = [name for kind in MOUNTS for _, name in volumes_of(executor, kind)]
        for name, times in Counter(filter(None, volumes)).items():
            if times > 1:
                message = f"{times} volumes of the step are called {name}; KFP calls them by what they mount"
                advice = "mount it once, at a directory that holds all that is needed, or rename one"
                yield error(executor.kubernetes_where, message, advice)
        for path, times in Counter(path.rstrip("/") for _, path in executor.mounts).items():
            if times > 1:
                yield error(executor.kubernetes_where, f"{path} is mounted {times} times", "mount at different paths")
        for kind in MOUNTS:
            for index, entry in enumerate(map(mapping, listing(executor.kubernetes.get(kind)))):
                path = text(entry.get("mountPath"))
                if not path.startswith("/") or ":" in path or path.rstrip("/") == "":
                    where = f"{executor.kubernetes_where}.{kind}[{index}].mountPath"
                    yield error(where, f"{path or 'nothing'} is no place to mount at", "name an absolute path below /")
        yield from _unknown_words(executor)


def _unknown_words(executor: Executor) -> Iterator[Note]:
    for kind, keys, allowed in _ENUMERATIONS:
        for index, entry in enumerate(map(mapping, listing(executor.kubernetes.get(kind)))):
            for key in keys:
                if (given := text(entry.get(key))) not in allowed:
                    where = f"{executor.kubernetes_where}.{kind}[{index}].{key}"
                    yield error(where, f"{given} is not known to Kubernetes", f"use {', '.join(filter(None, allowed))}")
    policy = text(executor.kubernetes.get("imagePullPolicy"))
    if policy not in ("", "Always", "IfNotPresent", "Never"):
        where = f"{executor.kubernetes_where}.imagePullPolicy"
        yield error(where, f"{policy} is not known to Kubernetes", "use Always, IfNotPresent or Never")


def volumes_of(executor: Executor, kind: str) -> list[tuple[str, str]]:
    """Place and name of the volumes that one field of the Kubernetes configuration makes; names known now alone."""
    found = []
    for index, entry in enumerate(map(mapping, listing(executor.kubernetes.get(kind)))):
        where = child(f"{executor.kubernetes_where}.{kind}", index)
        for key in ("secretName", "configMapName", "pvcName", "volumeName"):
            # What KFP's driver looks at first.
            parameter = mapping(mapping(entry.get(f"{key}Parameter")).get("runtimeValue"))
            if name := text(parameter.get("constant")):
                found.append((f"{where}.{key}Parameter.runtimeValue.constant", name))
                break
            if name := text(entry.get(key)):
                found.append((f"{where}.{key}", name))
                break
        else:
            if name := text(entry.get("constant")):
                found.append((f"{where}.constant", name))
    return found
