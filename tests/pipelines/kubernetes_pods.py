"""The pods that Kubeflow Pipelines makes of a compiled file.

What maps to what was read in KFP's driver (backend/src/v2/driver: driver.go, k8s.go) and in its Argo compiler
(backend/src/v2/compiler/argocompiler: security_context.go); the translation is our own. What KFP adds of itself, the
launcher and its volumes, is left out, but for the container's security since 2.16, which a step's own is put on top of.
The driver takes no notice of pod affinity and enabledSharedMemory.
"""

from __future__ import annotations

from typing import Any

from pipelines.compiled import CompiledPipeline

Document = dict[str, Any]


def pods(pipeline: CompiledPipeline) -> dict[str, Document]:
    """The pod of each step, by its executor's label."""
    platforms = pipeline.platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    containers = {label: pipeline.container(label) for label in pipeline.executors}
    return {label: _pod(container, platforms.get(label, {})) for label, container in containers.items() if container}


def _pod(container: Document, settings: Document) -> Document:
    """One step's pod, of its container in the deployment and what the platforms' document says of its executor."""
    volumes, mounts = _volumes(settings)
    main = {
        "name": "main",
        "image": container["image"],
        "command": [*container.get("command", []), *container.get("args", [])],
        "env": [*container.get("env", []), *_environment(settings)],
        "resources": _resources(container.get("resources", {})),
        "volumeMounts": mounts,
        "securityContext": _security(settings.get("securityContext", {})),
    }
    if policy := settings.get("imagePullPolicy"):
        main["imagePullPolicy"] = policy
    spec: Document = {
        "containers": [main],
        "restartPolicy": "Never",
        "volumes": volumes,
        "tolerations": [_with_integers(entry, "tolerationSeconds") for entry in settings.get("tolerations", [])],
        "imagePullSecrets": [{"name": _name(entry, "secretName")} for entry in settings.get("imagePullSecret", [])],
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    }
    if selector := settings.get("nodeSelector", {}).get("labels"):
        spec["nodeSelector"] = selector
    if "activeDeadlineSeconds" in settings:
        spec["activeDeadlineSeconds"] = int(settings["activeDeadlineSeconds"])
    metadata = {"generateName": "step-", **settings.get("podMetadata", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _name(entry: Document, key: str) -> str:
    name: str = entry[f"{key}Parameter"]["runtimeValue"]["constant"]
    return name


def _with_integers(entry: Document, *keys: str) -> Document:
    """Protobuf writes 64-bit integers as texts."""
    return {key: int(value) if key in keys else value for key, value in entry.items()}


def _resources(asked: Document) -> Document:
    found: dict[str, dict[str, str]] = {"limits": {}, "requests": {}}
    for resource in ("cpu", "memory"):
        for kind, into in (("Limit", "limits"), ("Request", "requests")):
            if amount := asked.get(f"resource{resource.capitalize()}{kind}"):
                found[into][resource] = amount
    if accelerator := asked.get("accelerator"):
        found["limits"][accelerator["resourceType"]] = accelerator["resourceCount"]
    return found


def _environment(settings: Document) -> list[Document]:
    found = []
    for entry in settings.get("secretAsEnv", []):
        for pair in entry["keyToEnv"]:
            reference = {"name": _name(entry, "secretName"), "key": pair["secretKey"], "optional": entry["optional"]}
            found.append({"name": pair["envVar"], "valueFrom": {"secretKeyRef": reference}})
    return found


def _volumes(settings: Document) -> tuple[list[Document], list[Document]]:
    """Volumes and mounts, in the driver's order. A volume is called as what it holds."""
    volumes, mounts = [], []

    def add(name: str, entry: Document, **more: Any) -> None:
        volumes.append({"name": name, **more})
        mounts.append({"name": name, "mountPath": entry["mountPath"]})

    for entry in settings.get("pvcMount", []):
        add(name := _name(entry, "pvcName"), entry, persistentVolumeClaim={"claimName": name})
        mounts[-1]["subPath"] = entry.get("subPath", "")
    for entry in settings.get("secretAsVolume", []):
        name = _name(entry, "secretName")
        add(name, entry, secret={"secretName": name, "optional": entry.get("optional", False)})
    for entry in settings.get("emptyDirMounts", []):
        add(entry["volumeName"], entry, emptyDir={"medium": entry["medium"], "sizeLimit": entry["sizeLimit"]})
    return volumes, mounts


def _security(asked: Document) -> Document:
    """The container's: no step gains privileges or has capabilities; who it runs as, the file says, or the image."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        **_with_integers(asked, "runAsUser", "runAsGroup"),
    }
