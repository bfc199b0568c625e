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
    """A name that is given as a constant: the newer field counts before the older."""
    newer = entry.get(f"{key}Parameter", {}).get("runtimeValue", {}).get("constant")
    name: str = newer or entry.get(key) or entry["constant"]
    return name


def _with_integers(entry: Document, *keys: str) -> Document:
    """Protobuf writes 64-bit integers as texts."""
    return {key: int(value) if key in keys else value for key, value in entry.items()}


def _resources(asked: Document) -> Document:
    found: dict[str, dict[str, str]] = {"limits": {}, "requests": {}}
    for resource, unit in (("cpu", ""), ("memory", "G")):
        for kind, into in (("Limit", "limits"), ("Request", "requests")):
            if amount := asked.get(f"resource{resource.capitalize()}{kind}"):
                found[into][resource] = amount
            elif older := asked.get(f"{resource}{kind}"):
                found[into][resource] = f"{older}{unit}"
    accelerator = asked.get("accelerator", {})
    kind, count = (accelerator.get(f"resource{name}") or accelerator.get(name.lower()) for name in ("Type", "Count"))
    if kind and count:
        found["limits"][kind] = count
    return found


def _environment(settings: Document) -> list[Document]:
    found = []
    for kind, source in (("secret", "secretKeyRef"), ("configMap", "configMapKeyRef")):
        for entry in settings.get(f"{kind}AsEnv", []):
            optional = {key: entry[key] for key in ("optional",) if key in entry}
            for pair in entry["keyToEnv"]:
                reference = {"name": _name(entry, f"{kind}Name"), "key": pair[f"{kind}Key"], **optional}
                found.append({"name": pair["envVar"], "valueFrom": {source: reference}})
    for entry in settings.get("fieldPathAsEnv", []):
        found.append({"name": entry["name"], "valueFrom": {"fieldRef": {"fieldPath": entry["fieldPath"]}}})
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
    for kind, key in (("secret", "secretName"), ("configMap", "name")):
        for entry in settings.get(f"{kind}AsVolume", []):
            name = _name(entry, f"{kind}Name")
            add(name, entry, **{kind: {key: name, "optional": entry.get("optional", False)}})
    for entry in settings.get("genericEphemeralVolume", []):
        spec = {"accessModes": entry["accessModes"], "resources": {"requests": {"storage": entry["size"]}}}
        if not entry.get("defaultStorageClass"):
            spec["storageClassName"] = entry["storageClassName"]
        add(entry["volumeName"], entry, ephemeral={"volumeClaimTemplate": {"spec": spec}})
    for entry in settings.get("emptyDirMounts", []):
        size = {key: entry[key] for key in ("sizeLimit",) if entry.get(key)}
        add(entry["volumeName"], entry, emptyDir={"medium": entry.get("medium", ""), **size})
    return volumes, mounts


def _security(asked: Document) -> Document:
    """The container's: no step gains privileges or has capabilities; who it runs as, the file says, or the image."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        **_with_integers(asked, "runAsUser", "runAsGroup"),
    }
