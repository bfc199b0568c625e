"""What the API server does for each request that it admits."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tests.peers.trainer.admission import admit, admit_change, check_trainer_status
from tests.peers.trainer.pod_logs import LogQuery, PodLogs
from tests.peers.trainer.refusals import GROUPS, Refused, bad_request, conflict, not_found
from tests.peers.trainer.store import KINDS, Object, Store

if TYPE_CHECKING:
    from tests.peers.trainer.api import Asked, TrainerApi

_VERBS = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"]
_STATUS_PATH = re.compile(r"/apis/trainer\.kubeflow\.org/v1alpha1/namespaces/([^/]+)/trainjobs/([^/]+)/status")
_NO_PAGE = (404, "404 page not found\n")
_LISTED = ("trainjobs", "trainingruntimes", "clustertrainingruntimes", "jobs", "pods", "events")


class Methods:
    """The methods.

    Attributes:
        tokens: What pods' status reports must show: for each TrainJob's namespace and name.
        bookmark_every: Seconds between two bookmarks of a watch that asks for them.
    """

    def __init__(self, api: TrainerApi) -> None:
        self._api = api
        self._store: Store = api.store
        self.logs = PodLogs(api.store)
        self.tokens: dict[tuple[str, str], str] = {}
        self.bookmark_every = 0.5

    def answer(self, asked: Asked, is_over: Callable[[], bool]) -> Object | Iterator[bytes] | tuple[int, str]:
        """A document, a stream that ends when `is_over`, or a status and a text.

        Raises:
            Refused: As Kubernetes refuses.
        """
        if not asked.resource:
            return self._discover(asked.path.rstrip("/"))
        resource, _, subresource = asked.resource.partition("/")
        if not self._is_served(resource, asked.path):
            return _NO_PAGE
        if asked.resource == "pods/log":
            query = LogQuery.read(asked.query)
            container = asked.query.get("container", "")
            return self.logs.read(asked.namespace, asked.name, container, query, is_over)
        if resource == "selfsubjectaccessreviews":
            return self._review(asked.body)
        if asked.verb == "get" and subresource in ("", "status"):
            return self._store.get(resource, asked.namespace, asked.name)
        if asked.verb == "list":
            return self._list(resource, asked)
        if asked.verb == "watch":
            return self._watch(resource, asked, is_over)
        if asked.verb == "delete" and resource in ("trainjobs", "pods"):
            return self._delete(resource, asked)
        if resource == "trainjobs" and not subresource and asked.verb in ("create", "patch"):
            return self._create(asked) if asked.verb == "create" else self._patch(asked)
        raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def is_status_report(self, asked: Asked) -> bool:
        """Whether a pod reports to Trainer's own server, which has another address on a cluster."""
        return asked.method == "POST" and _STATUS_PATH.fullmatch(asked.path) is not None

    def report_status(self, asked: Asked, authorization: str) -> Object:
        """What a pod reports of its training: pkg/statusserver/server.go.

        Raises:
            Refused: Without the job's own token, or beyond the limits.
        """
        token = self.tokens.get((asked.namespace, asked.name))
        if token is None or authorization != f"Bearer {token}":
            raise Refused(403, "Forbidden", "Forbidden")
        if not isinstance(asked.body, dict):
            raise Refused(422, "Invalid", "Invalid payload")
        status = asked.body.get("trainerStatus")
        if status is not None:
            check_trainer_status(asked.name, status)
            self.set_status(asked.namespace, asked.name, trainerStatus=status)
        return {} if status is None else {"trainerStatus": status}

    def set_status(self, namespace: str, name: str, **status: Any) -> None:
        """Change parts of a TrainJob's status."""

        def change(job: Object) -> None:
            job["status"] = job.get("status", {}) | copy.deepcopy(status)

        try:
            self._store.update("trainjobs", namespace, name, change)
        except Refused as gone:
            raise Refused(404, "NotFound", "Train job not found") from gone

    def _is_served(self, resource: str, path: str) -> bool:
        group = GROUPS.get(resource, "")
        version = "v1alpha1" if group == "trainer.kubeflow.org" else "v1"
        beginning = f"/apis/{group}/{version}/" if group else f"/api/{version}/"
        if group == "trainer.kubeflow.org" and self._api.crd is None:
            return False
        return path.startswith(beginning) and resource in (*_LISTED, "selfsubjectaccessreviews")

    def _discover(self, path: str) -> Object | tuple[int, str]:
        found: dict[str, Object] = {
            "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.4", "platform": "linux/amd64"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        }
        groups = ["batch", "authorization.k8s.io"] + (["trainer.kubeflow.org"] if self._api.crd else [])
        for group in groups:
            version = "v1alpha1" if group == "trainer.kubeflow.org" else "v1"
            each = {"groupVersion": f"{group}/{version}", "version": version}
            document: Object = {"name": group, "versions": [each], "preferredVersion": each}
            found["/apis"]["groups"].append(document)
            found[f"/apis/{group}"] = {"kind": "APIGroup", "apiVersion": "v1"} | document
            names = [name for name in _LISTED if GROUPS.get(name, "") == group]
            resources = [
                {"name": name, "kind": KINDS[name][1], "verbs": _VERBS, "singularName": KINDS[name][1].lower()}
                | {"namespaced": not name.startswith("cluster")}
                for name in names
            ]
            listed = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{group}/{version}"}
            found[f"/apis/{group}/{version}"] = listed | {"resources": resources}
        return found.get(path, _NO_PAGE)

    def _review(self, body: Any) -> Object:
        attributes = body["spec"]["resourceAttributes"]
        parts = [attributes.get("resource", ""), attributes.get("subresource", "")]
        allowed = self._api.may(attributes["verb"], "/".join(part for part in parts if part))
        made = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        return {**body, **made, "metadata": {}, "status": {"allowed": allowed}}

    def _list(self, resource: str, asked: Asked) -> Object:
        with self._store.changed:
            items = self._store.select(resource, asked.namespace, *_selectors(asked))
            version = str(self._store.version)
        if GROUPS.get(resource) != "trainer.kubeflow.org":
            items = [{key: item[key] for key in item if key not in ("apiVersion", "kind")} for item in items]
        api_version, kind = KINDS[resource]
        return {
            "apiVersion": api_version,
            "kind": f"{kind}List",
            "metadata": {"resourceVersion": version},
            "items": items,
        }

    def _watch(self, resource: str, asked: Asked, is_over: Callable[[], bool]) -> Iterator[bytes]:
        """Events as lines, until the time that was asked for is over; without one, half an hour or more."""
        end = time.monotonic() + float(asked.query.get("timeoutSeconds") or 1800)
        version = int(asked.query.get("resourceVersion") or 0)
        if not version:
            with self._store.changed:
                version = self._store.version
                present = self._store.select(resource, asked.namespace, *_selectors(asked))
            yield from (_event("ADDED", item) for item in present)
        bookmarks = asked.query.get("allowWatchBookmarks") in ("true", "True", "1")
        bookmark = time.monotonic() + self.bookmark_every
        while time.monotonic() < end and not is_over():
            try:
                version, changes = self._store.since(version, resource, asked.namespace, *_selectors(asked))
            except Refused as refused:
                yield _event("ERROR", refused.document)  # k8s.io/apiserver/pkg/storage/cacher/cacher.go
                return
            yield from (_event(each.type, each.object) for each in changes)
            if bookmarks and time.monotonic() > bookmark:
                bookmark = time.monotonic() + self.bookmark_every
                api_version, kind = KINDS[resource]
                metadata = {"resourceVersion": str(version), "creationTimestamp": None}
                yield _event("BOOKMARK", {"apiVersion": api_version, "kind": kind, "metadata": metadata})
            with self._store.changed:
                if self._store.version == version and not is_over():
                    self._store.changed.wait(min(0.2, max(0.0, end - time.monotonic())))

    def _create(self, asked: Asked) -> Object:
        if asked.namespace != self._api.namespace:
            raise not_found("namespaces", asked.namespace)
        given = copy.deepcopy(asked.body)
        metadata = given.setdefault("metadata", {})
        if metadata.setdefault("namespace", asked.namespace) != asked.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                words = "metadata.name: Required value: name or generateName is required"
                raise Refused(422, "Invalid", f'TrainJob.trainer.kubeflow.org "" is invalid: {words}')
            metadata["name"] = metadata["generateName"] + f"{time.monotonic_ns() % 36**5:05d}"[-5:]
        assert self._api.crd is not None
        made = admit(given, self._store, self._api.crd, asked.query.get("fieldValidation", "Warn"))
        if asked.query.get("dryRun") == "All":
            try:
                self._store.get("trainjobs", asked.namespace, metadata["name"])
            except Refused:
                dry = Store()
                return dry.create("trainjobs", made)
        made = self._store.create("trainjobs", made)
        self._api.on_create(made)
        return made

    def _patch(self, asked: Asked) -> Object:
        if not isinstance(asked.body, dict):
            raise Refused(415, "UnsupportedMediaType", "of patches, merge patches alone are made here")

        def change(job: Object) -> None:
            old = copy.deepcopy(job)
            merged = _merged(job, asked.body)
            admit_change(old, merged, self._store)
            job.clear()
            job.update(merged)

        made = self._store.update("trainjobs", asked.namespace, asked.name, change)
        self._api.on_change(made)
        return made

    def _delete(self, resource: str, asked: Asked) -> Object:
        options = (asked.body or {}) | asked.query
        item = self._store.get(resource, asked.namespace, asked.name)
        wanted = options.get("preconditions", {}).get("uid")
        if wanted not in (None, item["metadata"]["uid"]):
            words = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {item['metadata']['uid']}"
            raise conflict(resource, asked.name, words)
        details = {"name": asked.name, "group": GROUPS.get(resource, ""), "kind": resource}
        details["uid"] = item["metadata"]["uid"]
        done = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        if options.get("dryRun") in ("All", ["All"]):
            return done
        if resource == "pods":
            self._api.on_delete(item)
            return item
        self._store.delete(resource, asked.namespace, asked.name)
        self._api.on_delete(item)
        return done


def _selectors(asked: Asked) -> tuple[str, str]:
    names = [f"metadata.name={asked.name}"] if asked.name else []
    fields = [asked.query["fieldSelector"]] if asked.query.get("fieldSelector") else []
    return asked.query.get("labelSelector", ""), ",".join(names + fields)


def _event(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def _merged(old: Any, patch: Any) -> Any:
    """A merge patch, by RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    made = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made
