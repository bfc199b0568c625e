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
    return {
        label: pod(pipeline.container(label), platforms.get(label, {}))
        for label in pipeline.executors
        if pipeline.container(label)
    }


def pod(container: Document, settings: Document) -> Document:
    """One step's pod.

    Args:
        container: Of the pipeline's deployment.
        settings: What the platforms' document says of the executor.
    """
    volumes, mounts = _volumes(settings)
    main = {
        "name": "main",
        "image": container["image"],
        "command": [*container.get("command", []), *container.get("args", [])],
        "env": [*container.get("env", []), *_environment(settings)],
        "resources": _resources(container.get("resources", {})),
        "volumeMounts": mounts,
        "securityContext": _security(settings.get("securityContext")),
    }
    if policy := settings.get("imagePullPolicy"):
        main["imagePullPolicy"] = policy
    spec: Document = {
        "containers": [main],
        "restartPolicy": "Never",
        "volumes": volumes,
        "tolerations": [_toleration(entry) for entry in settings.get("tolerations", [])],
        "imagePullSecrets": [{"name": _name(entry, "secretName")} for entry in settings.get("imagePullSecret", [])],
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    }
    if selector := settings.get("nodeSelector", {}).get("labels"):
        spec["nodeSelector"] = selector
    if seconds := settings.get("activeDeadlineSeconds"):
        spec["activeDeadlineSeconds"] = int(seconds)  # protobuf writes 64-bit integers as texts
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "step-", **settings.get("podMetadata", {})},
        "spec": spec,
    }


def _name(entry: Document, key: str) -> str:
    """A name that is given as a constant: the newer field counts before the older."""
    newer = entry.get(f"{key}Parameter", {}).get("runtimeValue", {}).get("constant")
    name: str = newer or entry.get(key) or entry["constant"]
    return name


def _resources(asked: Document) -> Document:
    limits: dict[str, str] = {}
    requests: dict[str, str] = {}
    for resource in ("cpu", "memory"):
        for kind, into in (("Limit", limits), ("Request", requests)):
            if amount := asked.get(f"resource{resource.capitalize()}{kind}"):
                into[resource] = amount
            elif older := asked.get(f"{resource}{kind}"):
                into[resource] = f"{older}G" if resource == "memory" else str(older)
    accelerator = asked.get("accelerator", {})
    kind = accelerator.get("resourceType") or accelerator.get("type")
    count = accelerator.get("resourceCount") or accelerator.get("count")
    if kind and count:
        limits[kind] = count
    return {"limits": limits, "requests": requests}


def _environment(settings: Document) -> list[Document]:
    found = []
    for field, name, key, source in (
        ("secretAsEnv", "secretName", "secretKey", "secretKeyRef"),
        ("configMapAsEnv", "configMapName", "configMapKey", "configMapKeyRef"),
    ):
        for entry in settings.get(field, []):
            for pair in entry["keyToEnv"]:
                reference = {"name": _name(entry, name), "key": pair[key]}
                if "optional" in entry:
                    reference["optional"] = entry["optional"]
                found.append({"name": pair["envVar"], "valueFrom": {source: reference}})
    for entry in settings.get("fieldPathAsEnv", []):
        found.append({"name": entry["name"], "valueFrom": {"fieldRef": {"fieldPath": entry["fieldPath"]}}})
    return found


def _volumes(settings: Document) -> tuple[list[Document], list[Document]]:
    """Volumes and mounts, in the driver's order. A volume is called as what it holds."""
    volumes, mounts = [], []
    for entry in settings.get("pvcMount", []):
        name = _name(entry, "pvcName")
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": name}})
        mounts.append({"name": name, "mountPath": entry["mountPath"], "subPath": entry.get("subPath", "")})
    for field, key, source, inner in (
        ("secretAsVolume", "secretName", "secret", "secretName"),
        ("configMapAsVolume", "configMapName", "configMap", "name"),
    ):
        for entry in settings.get(field, []):
            name = _name(entry, key)
            volumes.append({"name": name, source: {inner: name, "optional": entry.get("optional", False)}})
            mounts.append({"name": name, "mountPath": entry["mountPath"]})
    for entry in settings.get("genericEphemeralVolume", []):
        spec = {"accessModes": entry["accessModes"], "resources": {"requests": {"storage": entry["size"]}}}
        if not entry.get("defaultStorageClass"):
            spec["storageClassName"] = entry["storageClassName"]
        volumes.append({"name": entry["volumeName"], "ephemeral": {"volumeClaimTemplate": {"spec": spec}}})
        mounts.append({"name": entry["volumeName"], "mountPath": entry["mountPath"]})
    for entry in settings.get("emptyDirMounts", []):
        directory = {"medium": entry.get("medium", "")}
        if size := entry.get("sizeLimit"):
            directory["sizeLimit"] = size
        volumes.append({"name": entry["volumeName"], "emptyDir": directory})
        mounts.append({"name": entry["volumeName"], "mountPath": entry["mountPath"]})
    return volumes, mounts


def _toleration(entry: Document) -> Document:
    found: Document = {key: entry[key] for key in ("key", "operator", "value", "effect") if key in entry}
    if "tolerationSeconds" in entry:
        found["tolerationSeconds"] = int(entry["tolerationSeconds"])
    return found


def _security(asked: Document | None) -> Document:
    """The container's: no step gains privileges or has capabilities; who it runs as, the file says, or the image."""
    context: Document = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for key in ("runAsUser", "runAsGroup"):
        if asked and key in asked:
            context[key] = int(asked[key])
    if asked and "runAsNonRoot" in asked:
        context["runAsNonRoot"] = asked["runAsNonRoot"]
    return context
