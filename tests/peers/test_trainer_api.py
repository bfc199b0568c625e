"""The Kubernetes API of ours, as the official client finds it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, watch
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from tests.peers.trainer.api import TrainerApi
from tests.peers.trainer.clients import GROUP, Clients, train_job

Job = dict[str, Any]


@pytest.fixture
def clients(trainer_api: TrainerApi) -> Iterator[Clients]:
    with Clients(trainer_api) as found:
        yield found


def _refusal(refused: client.ApiException) -> tuple[int, str, str]:
    document = json.loads(refused.body)
    assert (document["kind"], document["code"]) == ("Status", refused.status)
    return refused.status, document.get("reason", ""), document["message"]


def _patch(job: str = "node", container: str = "node", manager: str = "example.com/a", **fields: Any) -> list[Job]:
    pod = {"spec": {"containers": [{"name": container, **fields}]}}
    jobs = [{"name": job, "template": {"spec": {"template": pod}}}]
    return [{"manager": manager, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}]


def _trainer(**fields: Any) -> Job:
    return {"image": "a", **fields}


def test_a_train_job_is_made_found_listed_and_deleted(trainer_api: TrainerApi, clients: Clients) -> None:
    dry = clients.create(train_job(), dry_run="All", field_validation="Strict")
    assert trainer_api.store.select("trainjobs") == []
    made = clients.create(train_job(runtimePatches=_patch()), field_validation="Strict")
    assert made["spec"]["runtimeRef"] == dry["spec"]["runtimeRef"]
    assert made["spec"]["runtimeRef"]["apiGroup"] == "trainer.kubeflow.org"
    assert made["spec"]["suspend"] is False
    assert made["spec"]["runtimePatches"][0]["time"]
    assert clients.get("train-1") == made
    found = clients.custom.list_namespaced_custom_object(*GROUP, "team-a", "trainjobs", label_selector="a=b")
    assert found["items"] == []
    assert clients.patch("train-1", {"suspend": True})["metadata"]["generation"] == 2
    uid = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    with pytest.raises(client.ApiException, match="Precondition failed"):
        clients.delete("train-1", body=uid)
    assert clients.delete("train-1", propagation_policy="Background")["status"] == "Success"
    with pytest.raises(client.ApiException) as refused:
        clients.get("train-1")
    assert _refusal(refused.value) == (404, "NotFound", 'trainjobs.trainer.kubeflow.org "train-1" not found')


@pytest.mark.parametrize(
    ("job", "code", "words"),
    [
        (
            train_job(podTemplateOverrides=[]),
            400,
            'TrainJob in version "v1alpha1" cannot be handled as a TrainJob: strict decoding error: '
            'unknown field "spec.podTemplateOverrides"',
        ),
        (train_job(trainer=_trainer(nodes=2)), 400, 'unknown field "spec.trainer.nodes"'),
        (
            train_job(runtimeRef={"name": "absent"}),
            403,
            'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: spec.RuntimeRef: '
            'Invalid value: {"name":"absent","apiGroup":"trainer.kubeflow.org","kind":"ClusterTrainingRuntime"}: '
            'ClusterTrainingRuntime.trainer.kubeflow.org "absent" not found: '
            "specified clusterTrainingRuntime must be created before the TrainJob is created",
        ),
        (train_job(runtimeRef={"name": "a", "kind": "Other"}), 403, "unsupported runtime: Other.trainer.kubeflow.org"),
        (
            train_job(trainer=_trainer(env=[{"name": "PET_NNODES", "value": "4"}])),
            403,
            'spec.trainer.env: Invalid value: [{"name":"PET_NNODES","value":"4"}]: '
            "must not have reserved envs, invalid envs configured: [PET_NNODES]",
        ),
        (train_job(runtimePatches=_patch(manager="me")), 403, "must be a domain-prefixed path"),
        (train_job(runtimePatches=_patch(job="other")), 403, "must not have replicated job that doesn't exist"),
        (train_job(runtimePatches=_patch(container="other")), 403, "must not have container that doesn't exist"),
        (train_job(runtimePatches=_patch(env=[{"name": "A", "value": "b"}])), 403, "must not have envs for the"),
        (train_job(runtimePatches=_patch(resources={})), 400, 'containers[0].resources"'),
        (train_job("1-train"), 422, "metadata.name must match RFC 1035 DNS label format"),
        (train_job("t" * 64), 422, "metadata.name must be no more than 63 characters"),
        (train_job(trainer=_trainer(numNodes="2")), 400, "json: cannot unmarshal"),
        (train_job(trainer=_trainer(env=[{"name": "A"}, {"name": "A"}])), 422, 'Duplicate value: {"name": "A"}'),
        (
            train_job(trainer=_trainer(resourcesPerNode={"limits": {"cpu": "lots"}})),
            400,
            "quantities must match the regular expression",
        ),
        (train_job(trainer=_trainer(resourcesPerNode={"limits": {"cpu": 0.5}})), 422, "must be of type"),
        (train_job() | {"apiVersion": "trainer.kubeflow.org/v2"}, 400, "does not match the expected API version"),
        (train_job(activeDeadlineSeconds=0), 422, "should be greater than or equal to 1"),
    ],
)
def test_a_train_job_that_trainer_would_not_take_is_refused_in_its_words(
    clients: Clients, job: Job, code: int, words: str
) -> None:
    with pytest.raises(client.ApiException) as refused:
        clients.create(job, field_validation="Strict")
    status, _, message = _refusal(refused.value)
    assert (status, words in message) == (code, True), message


def test_an_earlier_trainer_knows_its_own_overrides_alone(trainer_api: TrainerApi, clients: Clients) -> None:
    trainer_api.crd = (2, 1)
    assert (
        "podTemplateOverrides" in clients.create(train_job(podTemplateOverrides=[]), field_validation="Strict")["spec"]
    )
    with pytest.raises(client.ApiException, match=r'unknown field \\"spec.runtimePatches'):
        clients.create(train_job("train-2", runtimePatches=_patch()), field_validation="Strict")
    assert "runtimePatches" not in clients.create(train_job("train-2", runtimePatches=_patch()))["spec"]


def test_without_the_crd_there_is_no_such_page(trainer_api: TrainerApi, clients: Clients) -> None:
    assert [group.name for group in clients.apis.get_api_versions().groups][-1] == "trainer.kubeflow.org"
    trainer_api.crd = None
    assert [group.name for group in clients.apis.get_api_versions().groups][-1] == "authorization.k8s.io"
    with pytest.raises(client.ApiException) as refused:
        clients.create(train_job())
    assert (refused.value.status, refused.value.body) == (404, "404 page not found\n")


def test_whoever_may_not_is_refused_by_rbac(trainer_api: TrainerApi, clients: Clients) -> None:
    trainer_api.denied |= {("create", "trainjobs"), ("get", "pods/log")}
    with pytest.raises(client.ApiException) as refused:
        clients.create(train_job())
    assert _refusal(refused.value) == (
        403,
        "Forbidden",
        'trainjobs.trainer.kubeflow.org is forbidden: User "system:serviceaccount:team-a:pipeline-runner" '
        'cannot create resource "trainjobs" in API group "trainer.kubeflow.org" in the namespace "team-a"',
    )
    with pytest.raises(client.ApiException, match=r'pods \\"a\\" is forbidden: .* get resource \\"pods/log\\"'):
        clients.core.read_namespaced_pod_log("a", "team-a")
    for verb, allowed in (("create", False), ("get", True)):
        attributes = client.V1ResourceAttributes(verb=verb, resource="trainjobs", group=GROUP[0], namespace="team-a")
        review = client.V1SelfSubjectAccessReview(spec={"resourceAttributes": attributes})
        assert clients.rights.create_self_subject_access_review(review).status.allowed is allowed
    trainer_api.token = "another"  # noqa: S105
    with pytest.raises(client.ApiException, match="Unauthorized"):
        clients.get("train-1")


def test_a_name_that_is_taken_and_a_namespace_that_is_not_there(clients: Clients) -> None:
    clients.create(train_job())
    with pytest.raises(client.ApiException) as refused:
        clients.create(train_job())
    assert _refusal(refused.value) == (409, "AlreadyExists", 'trainjobs.trainer.kubeflow.org "train-1" already exists')
    clients.namespace = "team-b"
    with pytest.raises(client.ApiException, match=r'namespaces \\"team-b\\" not found'):
        clients.create(train_job())


def test_a_spec_that_does_not_change(clients: Clients) -> None:
    clients.create(train_job())
    with pytest.raises(client.ApiException, match=r"spec\.trainer: .*field is immutable"):
        clients.patch("train-1", {"trainer": {"numNodes": 4}})
    with pytest.raises(client.ApiException, match="RuntimePatches can only be modified when the TrainJob is suspended"):
        clients.patch("train-1", {"runtimePatches": _patch()})


def _watched(clients: Clients, **options: Any) -> list[tuple[str, bool | None]]:
    """What a watch sees until its first bookmark: types and whether it is suspended."""
    found: list[tuple[str, bool | None]] = []
    watching = watch.Watch()
    options = {"timeout_seconds": 60, "allow_watch_bookmarks": True} | options
    listing = clients.custom.list_namespaced_custom_object
    for event in watching.stream(listing, *GROUP, "team-a", "trainjobs", **options):
        found.append((event["type"], event["raw_object"].get("spec", {}).get("suspend")))
        if event["type"] == "BOOKMARK":
            watching.stop()
    return found


def test_a_watch_sees_what_changes_and_expires(trainer_api: TrainerApi, clients: Clients) -> None:
    trainer_api.methods.bookmark_every = 0.05
    made = clients.create(train_job())
    clients.patch("train-1", {"suspend": True})
    assert _watched(clients) == [("ADDED", True), ("BOOKMARK", None)]
    version = made["metadata"]["resourceVersion"]
    clients.delete("train-1")
    changes = _watched(clients, resource_version=version, field_selector="metadata.name=train-1")
    assert changes == [("MODIFIED", True), ("DELETED", True), ("BOOKMARK", None)]
    assert _watched(clients, resource_version=version, field_selector="metadata.name=a") == [("BOOKMARK", None)]
    trainer_api.store.forget()
    with pytest.raises(client.ApiException, match="Expired: too old resource version") as refused:
        _watched(clients, resource_version=version)
    assert refused.value.status == 410


def test_requests_fail_once_or_as_long_as_the_server_is_away(trainer_api: TrainerApi, clients: Clients) -> None:
    trainer_api.fail(429, "get", "trainjobs")
    with pytest.raises(client.ApiException) as refused:
        clients.get("train-1")
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
    trainer_api.fail(None, "create", after_work=True)
    with pytest.raises(HTTPError):
        clients.create(train_job())
    assert clients.get("train-1")["spec"]["suspend"] is False
    for how in ("refused", 503, 500):
        trainer_api.go_away(how)
        with pytest.raises((client.ApiException, HTTPError)):
            clients.get("train-1")
        trainer_api.come_back()
        assert clients.get("train-1")
    trainer_api.go_away("hanging")
    with pytest.raises(HTTPError, match="timed out"):
        clients.custom.get_namespaced_custom_object(*GROUP, "team-a", "trainjobs", "train-1", _request_timeout=(1, 0.2))
    trainer_api.come_back()
    assert len(trainer_api.requests("create", "trainjobs")) == 1


def test_a_log_is_followed_to_the_containers_end(trainer_api: TrainerApi, clients: Clients) -> None:
    pod = {"metadata": {"name": "a", "namespace": "team-a"}, "spec": {"containers": [{"name": "node"}]}}
    trainer_api.store.create("pods", pod | {"status": {"containerStatuses": [{"state": {"waiting": {}}}]}})
    with pytest.raises(client.ApiException, match="is waiting to start: ContainerCreating"):
        clients.core.read_namespaced_pod_log("a", "team-a")
    trainer_api.logs.start("team-a", "a")
    trainer_api.logs.write("team-a", "a", "one", "two")
    assert clients.core.read_namespaced_pod_log("a", "team-a", container="node", tail_lines=1) == "two\n"
    stamped = clients.core.read_namespaced_pod_log("a", "team-a", timestamps=True, since_seconds=600)
    assert [line.partition("Z ")[2] for line in stamped.splitlines()] == ["one", "two"]
    followed: list[str] = []
    reader = threading.Thread(
        target=lambda: followed.extend(watch.Watch().stream(clients.core.read_namespaced_pod_log, "a", "team-a"))
    )
    reader.start()
    trainer_api.logs.write("team-a", "a", "three")
    trainer_api.logs.end("team-a", "a")
    reader.join()
    assert followed == ["one", "two", "three"]
    trainer_api.logs.start("team-a", "a")
    assert clients.core.read_namespaced_pod_log("a", "team-a", previous=True) == "one\ntwo\nthree\n"
    with pytest.raises(client.ApiException, match="container other is not valid for pod a"):
        clients.core.read_namespaced_pod_log("a", "team-a", container="other")


def test_what_a_pod_reports_is_in_the_status_at_once(trainer_api: TrainerApi, clients: Clients) -> None:
    clients.create(train_job())
    trainer_api.methods.tokens["team-a", "train-1"] = "a pod's"
    path = f"/apis/{'/'.join(GROUP)}/namespaces/team-a/trainjobs/train-1/status"
    good = {
        "progressPercentage": 40,
        "lastUpdatedTime": "2026-11-28T07:02:41Z",
        "metrics": [{"name": "a", "value": "1"}],
    }

    def report(status: Job, token: str = "a pod's") -> int:  # noqa: S107 # opens nothing
        pool = clients.custom.api_client.rest_client.pool_manager
        answer = pool.request(
            "POST", trainer_api.url + path, body=json.dumps({"trainerStatus": status}),
            headers={"Authorization": f"Bearer {token}"}, retries=Retry(False),
        )  # fmt: skip
        return int(answer.status)

    assert report(good) == 200
    assert clients.get("train-1")["status"] == {"trainerStatus": good}
    for wrong in (
        good | {"progressPercentage": 140},
        {"progressPercentage": 4},
        good | {"metrics": [{"name": "a", "value": "1" * 65}]},
        good | {"metrics": [{"name": str(at), "value": "1"} for at in range(257)]},
        good | {"metrics": [{"name": "a", "value": 1}]},
    ):
        assert report(wrong) == 422
    assert report(good, "another job's") == 403
    assert clients.get("train-1")["status"] == {"trainerStatus": good}
