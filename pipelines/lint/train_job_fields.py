"""The fields of a TrainJob, v1alpha1 as Kubeflow Trainer 2.3.0 has it, down to where Kubernetes' own begin.

The API server drops a field that the CRD does not know, and kubectl warns of it; a text that YAML takes for a number or
for true is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipelines.compiled import child

# What a field holds: a type; None: anything; a mapping by its fields, by "*" of any; a list of one kind; a text or a
# whole number of a form.
Fields = type | None | dict[str, Any] | list[Any] | re.Pattern[str]

_TEXTS = {"*": str}
# An amount, which the CRD takes as a text or a whole number: of a pod itself 0.5 without quotes would do, too.
_QUANTITY = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?")
_QUANTITIES = {"*": _QUANTITY}
_METADATA = {"labels": _TEXTS, "annotations": _TEXTS}
_ENV = [{"name": str, "value": str, "valueFrom": None}]
_MOUNTS = [{
    "name": str, "mountPath": str, "subPath": str, "subPathExpr": str, "readOnly": bool, "recursiveReadOnly": str,
    "mountPropagation": str,
}]  # fmt: skip
_CONTAINERS = [{"name": str, "env": _ENV, "volumeMounts": _MOUNTS, "securityContext": None}]
_TOLERATIONS = [{"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}]
_NAMES = [{"name": str}]
_INITIALIZER = {"storageUri": str, "env": _ENV, "secretRef": {"name": str}}
_POD = {
    "serviceAccountName": str, "volumes": [None], "initContainers": _CONTAINERS, "containers": _CONTAINERS,
    "imagePullSecrets": _NAMES, "securityContext": None, "nodeSelector": _TEXTS, "affinity": None,
    "tolerations": _TOLERATIONS, "schedulingGates": _NAMES, "terminationGracePeriodSeconds": int,
}  # fmt: skip
_JOB = {"metadata": _METADATA, "spec": {"template": {"metadata": _METADATA, "spec": _POD}}}
_PATCH = {
    "manager": str,
    "time": None,
    "trainingRuntimeSpec": {
        "template": {"metadata": _METADATA, "spec": {"replicatedJobs": [{"name": str, "template": _JOB}]}}
    },
}
FIELDS: dict[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"*": None},
    "status": None,
    "spec": {
        "runtimeRef": {"name": str, "apiGroup": str, "kind": str},
        "initializer": {"dataset": _INITIALIZER, "model": _INITIALIZER},
        "trainer": {
            "image": str, "command": [str], "args": [str], "env": _ENV, "numNodes": int, "numProcPerNode": int,
            "resourcesPerNode": {"limits": _QUANTITIES, "requests": _QUANTITIES, "claims": None},
        },
        "runtimePatches": [_PATCH],
        "suspend": bool,
        "activeDeadlineSeconds": int,
        "managedBy": str,
    },
}  # fmt: skip
_TITLES = {str: "a text; put it in quotes", int: "a whole number", bool: "true or false"}


def misfits(value: Any, fields: Fields = FIELDS, where: str = "") -> Iterator[tuple[str, str, bool]]:
    """What does not fit: its path, what it is instead, and whether the field is not known at all."""
    if value is None or fields is None:
        return
    if isinstance(fields, type):
        if type(value) is not fields:
            yield where, f"must be {_TITLES[fields]}", False
    elif isinstance(fields, re.Pattern):
        if type(value) not in (str, int) or not fields.fullmatch(str(value)):
            yield where, 'must be an amount such as 4, "0.5" in quotes, 500m or 16Gi', False
    elif isinstance(fields, list):
        if not isinstance(value, list):
            yield where, "must be a list", False
            return
        for index, item in enumerate(value):
            yield from misfits(item, fields[0], child(where, index))
    elif not isinstance(value, dict):
        yield where, "must be a mapping", False
    else:
        for key, item in value.items():
            if key in fields or "*" in fields:
                yield from misfits(item, fields.get(key, fields.get("*")), child(where, key))
            else:
                yield child(where, key), f"allowed are {', '.join(fields)}", True
