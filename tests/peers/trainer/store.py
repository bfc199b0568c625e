"""The objects that the API server keeps, with their versions, and what changed since one."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from tests.peers.trainer.refusals import already_exists, bad_request, expired, not_found

Object = dict[str, Any]

KINDS = {
    "trainjobs": ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
    "trainingruntimes": ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"),
    "clustertrainingruntimes": ("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime"),
    "jobs": ("batch/v1", "Job"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
    "secrets": ("v1", "Secret"),
    "configmaps": ("v1", "ConfigMap"),
}


@dataclass(frozen=True)
class Change:
    """What became of one object at one version."""

    version: int
    resource: str
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: Object


class Store:
    """Objects by resource, namespace and name; every change has a version of its own.

    Attributes:
        changed: Is notified of every change, and holds the lock.
        version: The newest.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = 1000
        self._oldest = 1000
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._changes: list[Change] = []

    def create(self, resource: str, given: Object) -> Object:
        """Keep a new object, with what a server adds to its metadata.

        Raises:
            Refused: One of that name is there.
        """
        made = copy.deepcopy(given)
        made["apiVersion"], made["kind"] = KINDS[resource]
        metadata = made.setdefault("metadata", {})
        with self.changed:
            key = (resource, metadata.get("namespace", ""), metadata["name"])
            if key in self._objects:
                raise already_exists(resource, metadata["name"])
            metadata |= {"uid": str(uuid4()), "creationTimestamp": now()}
            if resource in ("trainjobs", "jobs"):
                metadata["generation"] = 1
            return self._put(key, "ADDED", made)

    def update(self, resource: str, namespace: str, name: str, change: Callable[[Object], None]) -> Object:
        """Change an object: nothing happens where it is the same after that.

        Raises:
            Refused: There is none.
        """
        with self.changed:
            old = self.get(resource, namespace, name)
            new = copy.deepcopy(old)
            change(new)
            if new == old:
                return old
            if "spec" in old and new["spec"] != old["spec"] and "generation" in new["metadata"]:
                new["metadata"]["generation"] += 1
            return self._put((resource, namespace, name), "MODIFIED", new)

    def delete(self, resource: str, namespace: str, name: str) -> Object:
        """Take an object away.

        Raises:
            Refused: There is none.
        """
        with self.changed:
            gone = self.get(resource, namespace, name)
            self._put((resource, namespace, name), "DELETED", gone)
            return gone

    def get(self, resource: str, namespace: str, name: str) -> Object:
        """One object.

        Raises:
            Refused: There is none.
        """
        with self.changed:
            found = self._objects.get((resource, namespace, name))
            if found is None:
                raise not_found(resource, name)
            return copy.deepcopy(found)

    def select(self, resource: str, namespace: str = "", labels: str = "", fields: str = "") -> list[Object]:
        """The objects of a namespace (empty: of all) that selectors choose, by their names."""
        with self.changed:
            found = [
                each
                for (kind, space, _), each in sorted(self._objects.items())
                if kind == resource and namespace in ("", space) and _matches(each, labels, fields)
            ]
            return copy.deepcopy(found)

    def since(
        self, version: int, resource: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> tuple[int, list[Change]]:
        """The newest version, and such changes after another one.

        Raises:
            Refused: What changed since then is forgotten.
        """
        with self.changed:
            if version < self._oldest:
                raise expired(version, self._oldest)
            found = [
                each
                for each in self._changes
                if each.version > version
                and each.resource == resource
                and namespace in ("", each.object["metadata"].get("namespace", ""))
                and _matches(each.object, labels, fields)
            ]
            return self.version, found

    def forget(self) -> None:
        """Forget all changes, as etcd does every 5 minutes: those since an older version are refused."""
        with self.changed:
            self.version += 1
            self._oldest = self.version
            self._changes.clear()
            self.changed.notify_all()

    def _put(self, key: tuple[str, str, str], kind: Literal["ADDED", "MODIFIED", "DELETED"], new: Object) -> Object:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        if kind == "DELETED":
            del self._objects[key]
        else:
            self._objects[key] = new
        self._changes.append(Change(self.version, key[0], kind, copy.deepcopy(new)))
        self.changed.notify_all()
        return copy.deepcopy(new)


def now() -> str:
    """This moment, as Kubernetes writes most: to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _matches(item: Object, labels: str, fields: str) -> bool:
    found = item["metadata"].get("labels", {})
    for each in re.findall(r"(?:[^,(]|\([^)]*\))+", labels):
        if set_based := re.fullmatch(r"\s*(\S+)\s+(in|notin)\s*\(([^)]*)\)\s*", each):
            name, how, values = set_based.groups()
            if (found.get(name) in [value.strip() for value in values.split(",")]) != (how == "in"):
                return False
        elif "=" in each:
            if not _equals(each, found.get):
                return False
        elif (each.strip().lstrip("!") in found) == each.strip().startswith("!"):
            return False
    return all(_equals(each, lambda path: _field(item, path)) for each in fields.split(",") if each)


def _equals(requirement: str, value: Callable[[str], Any]) -> bool:
    parts = re.fullmatch(r"\s*([^=!\s]+)\s*(!=|==?)\s*(\S*)\s*", requirement)
    if parts is None:
        raise bad_request(f"unable to parse requirement: {requirement}")
    return bool(((value(parts[1]) or "") == parts[3]) == (parts[2] != "!="))


def _field(item: Object, path: str) -> Any:
    value: Any = item
    for name in path.split("."):
        value = value.get(name, {}) if isinstance(value, dict) else {}
    return value if isinstance(value, str) else ""
