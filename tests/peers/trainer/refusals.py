"""How Kubernetes says no: `Status` objects, by k8s.io/apimachinery/pkg/api/errors/errors.go."""

from __future__ import annotations

from typing import Any

GROUPS = {
    "trainjobs": "trainer.kubeflow.org",
    "trainingruntimes": "trainer.kubeflow.org",
    "clustertrainingruntimes": "trainer.kubeflow.org",
    "jobs": "batch",
    "selfsubjectaccessreviews": "authorization.k8s.io",
}  # others are of the core group, which has no name


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is refused.

    Attributes:
        code: The HTTP status.
        headers: Those of the answer.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self._reason = reason
        self._details = dict(details or {})
        self.headers: list[tuple[str, str]] = []
        if retry_after is not None:
            self.headers.append(("Retry-After", str(retry_after)))
            self._details["retryAfterSeconds"] = retry_after

    @property
    def document(self) -> dict[str, Any]:
        """The `Status`."""
        found = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": str(self)}
        found |= {"reason": self._reason} if self._reason else {}
        found |= {"details": self._details} if self._details else {}
        return found | {"code": self.code}


def qualified(resource: str) -> str:
    """A resource with its group, as messages name it."""
    return f"{resource}.{group}" if (group := GROUPS.get(resource, "")) else resource


def _details(resource: str, name: str = "") -> dict[str, Any]:
    found = {"name": name, "group": GROUPS.get(resource, ""), "kind": resource}
    return {key: value for key, value in found.items() if value}


def unauthorized() -> Refused:
    return Refused(401, "Unauthorized", "Unauthorized")


def forbidden(user: str, verb: str, resource: str, namespace: str, name: str = "") -> Refused:
    """No right: `resource` is with its subresource, as in pods/log."""
    kind = resource.partition("/")[0]
    what = f'{qualified(kind)} "{name}"' if name else qualified(kind)
    scope = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
    group = GROUPS.get(kind, "")
    text = f'{what} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{group}"{scope}'
    return Refused(403, "Forbidden", text, _details(kind, name))


def not_found(resource: str, name: str) -> Refused:
    return Refused(404, "NotFound", f'{qualified(resource)} "{name}" not found', _details(resource, name))


def already_exists(resource: str, name: str) -> Refused:
    text = f'{qualified(resource)} "{name}" already exists'
    return Refused(409, "AlreadyExists", text, _details(resource, name))


def conflict(resource: str, name: str, why: str) -> Refused:
    text = f'Operation cannot be fulfilled on {qualified(resource)} "{name}": {why}'
    return Refused(409, "Conflict", text, _details(resource, name))


def bad_request(message: str) -> Refused:
    return Refused(400, "BadRequest", message)


def invalid(name: str, causes: list[tuple[str, str, str]]) -> Refused:
    """A TrainJob that its schema refuses; causes are their kinds, fields and messages."""
    lines = [f"{field}: {text}" for _, field, text in causes]
    listed = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    details = {
        "name": name,
        "group": "trainer.kubeflow.org",
        "kind": "TrainJob",
        "causes": [{"reason": reason, "message": text, "field": field} for reason, field, text in causes],
    }
    return Refused(422, "Invalid", f'TrainJob.trainer.kubeflow.org "{name}" is invalid: {listed}', details)


def denied(webhook: str, message: str, code: int = 403) -> Refused:
    """What a webhook refuses: apiserver's pkg/admission/plugin/webhook/errors/statuserror.go."""
    text = f'admission webhook "{webhook}" denied the request: {message}'
    return Refused(code, "Forbidden" if code == 403 else "", text)


def expired(asked: int, oldest: int) -> Refused:
    return Refused(410, "Expired", f"too old resource version: {asked} ({oldest})")


def outage(code: int) -> Refused:
    """What an API server that is overloaded, starts or ends answers."""
    if code == 429:
        return Refused(429, "TooManyRequests", "Too many requests, please try again later.", retry_after=1)
    if code == 503:
        return Refused(503, "ServiceUnavailable", "the server is currently unable to handle the request")
    if code == 504:
        return Refused(504, "Timeout", "request did not complete within the allotted timeout")
    return Refused(code, "InternalError", "Internal error occurred: etcdserver: leader changed")
