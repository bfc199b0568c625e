"""Addresses in the place of local paths."""

from __future__ import annotations

import pytest

from components.shared.staging import Addresses, addresses_of

TASK = "mlpipeline/v2/artifacts/p/run/train/task"
ON_KUBEFLOW = addresses_of((f"/minio/{TASK}/model", f"minio://{TASK}/model"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"/minio/{TASK}/model", f"minio://{TASK}/model"),
        (f"/minio/{TASK}/model: is missing", f"minio://{TASK}/model: is missing"),
        (f"open '/minio/{TASK}/model/model.json'.", f"open 'minio://{TASK}/model/model.json'."),
        # Beside the model nothing is stored: it ends with the pod.
        (f"/minio/{TASK}/model-checkpoints/epoch-00001.json", "pod:/model-checkpoints/epoch-00001.json"),
        (f"/minio/{TASK}/model.tmp", "pod:/model.tmp"),
        ("/shared/checkpoints/0f1e", "/shared/checkpoints/0f1e"),
        (f"minio://{TASK}/model", f"minio://{TASK}/model"),
    ],
)
def test_a_pods_paths_get_addresses(text: str, expected: str) -> None:
    assert Addresses(ON_KUBEFLOW).text(text) == expected


@pytest.mark.parametrize("variable", ["VERTEX_AI_PIPELINES_RUN_LABELS", "CLUSTER_SPEC"])
def test_on_vertex_the_bucket_is_mounted_so_that_what_is_beside_an_artifact_is_in_it(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "{}")
    known = addresses_of((f"/gcs/{TASK}/model", f"gs://{TASK}/model"))
    assert Addresses(known).text(f"/gcs/{TASK}/model-checkpoints") == f"gs://{TASK}/model-checkpoints"


def test_where_artifacts_are_local_every_path_stays() -> None:
    addresses = Addresses(addresses_of(("/out/run/train/model", "/out/run/train/model"), ("/out/dataset", "")))
    assert not addresses
    assert addresses.document({"model": ["/out/run/train/model"]}) == {"model": ["/out/run/train/model"]}
