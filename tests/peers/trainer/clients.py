"""The official client of the server, and a TrainJob to try it with."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from kubernetes import client, config

from tests.peers.trainer.api import TrainerApi

GROUP = ("trainer.kubeflow.org", "v1alpha1")


class Clients:
    """The client's parts for a server, as its kubeconfig sets them up."""

    def __init__(self, api: TrainerApi) -> None:
        settings = client.Configuration()
        config.load_kube_config(str(api.kubeconfig), client_configuration=settings)
        settings.retries = False
        self._client = client.ApiClient(settings)
        self.custom = client.CustomObjectsApi(self._client)
        self.core = client.CoreV1Api(self._client)
        self.batch = client.BatchV1Api(self._client)
        self.apis = client.ApisApi(self._client)
        self.rights = client.AuthorizationV1Api(self._client)
        self.namespace = api.namespace

    def create(self, body: dict[str, Any], **options: Any) -> Any:
        """Create a TrainJob."""
        return self.custom.create_namespaced_custom_object(*GROUP, self.namespace, "trainjobs", body, **options)

    def get(self, name: str) -> Any:
        """One TrainJob."""
        return self.custom.get_namespaced_custom_object(*GROUP, self.namespace, "trainjobs", name)

    def delete(self, name: str, **options: Any) -> Any:
        """Delete one."""
        return self.custom.delete_namespaced_custom_object(*GROUP, self.namespace, "trainjobs", name, **options)

    def patch(self, name: str, spec: dict[str, Any]) -> Any:
        """Change one's spec."""
        patch = {"spec": spec}
        return self.custom.patch_namespaced_custom_object(*GROUP, self.namespace, "trainjobs", name, patch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._client.rest_client.pool_manager.clear()


def train_job(name: str = "train-1", **spec: Any) -> dict[str, Any]:
    """A small one of two nodes, under the runtime of ours."""
    trainer = {"image": "shutterline/train:latest", "numNodes": 2, "args": ["--params={}"]}
    return {
        "apiVersion": "/".join(GROUP),
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {"runtimeRef": {"kind": "TrainingRuntime", "name": "shutterline"}, "trainer": trainer} | spec,
    }
