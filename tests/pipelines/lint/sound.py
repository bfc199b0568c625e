"""For each rule: pipelines that only seem to have what it looks for."""

from __future__ import annotations

from tests.pipelines.lint.bases import DIGEST
from tests.pipelines.lint.cases import (
    Sound,
    accelerator,
    both,
    claim,
    default,
    env,
    foreign,
    image,
    kubernetes,
    makes_a_claim,
    option,
    params,
    rename,
    resources,
    secret,
    spot,
    struct,
    task,
    without_kubernetes,
)
from tests.pipelines.lint.secrets_cases import SECRETS_SOUND

_KEYS_OF_MOUNT = (kubernetes(secretAsVolume=[secret("google", "/var/run/google")]),)

SOUND: dict[str, Sound] = {
    "another known field": Sound("ir-schema", "kubeflow", kubernetes(activeDeadlineSeconds="3600")),
    "an input by its default": Sound(
        "dangling-reference", "vertex", lambda p: p.task("train")["inputs"]["parameters"].pop("checkpoints")
    ),
    "a second document on Kubeflow": Sound("foreign-platform", "kubeflow", kubernetes(imagePullPolicy="Always")),
    **SECRETS_SOUND,
    "a tag and a digest": Sound("unpinned-image", "vertex", image(f"registry.example:5000/train:1.0@{DIGEST}")),
    "an image that a run names": Sound("unpinned-image", "vertex", image("{{$.inputs.parameters['image']}}")),
    "an official image": Sound("local-image", "vertex", image(f"python@{DIGEST}")),
    "a registry by its port": Sound("local-image", "vertex", image(f"registry:5000/train@{DIGEST}")),
    "other params": Sound("params", "vertex", params(eval_batch_size="7")),
    "a fraction in a struct": Sound("numbers-in-struct", "vertex", struct("STRUCT", {"a": 0.5, "b": True, "c": "3"})),
    "a whole number": Sound("numbers-in-struct", "vertex", struct("NUMBER_INTEGER", 3.0)),
    "another vendor's accelerator": Sound("foreign-accelerator", "kubeflow", accelerator("amd.com/gpu")),
    "another of Google's accelerators": Sound("foreign-accelerator", "vertex", accelerator("NVIDIA_L4")),
    "two T4": Sound("vertex-machine", "vertex", accelerator("NVIDIA_TESLA_T4", "2")),
    "four A100": Sound("vertex-machine", "vertex", accelerator("NVIDIA_TESLA_A100", "4")),
    "a limit that a run names": Sound(
        "limits", "kubeflow", resources(resourceMemoryLimit="{{$.inputs.parameters['memory']}}")
    ),
    "half a processor, as Kubernetes takes it too": Sound("limits", "kubeflow", resources(resourceCpuLimit=".5")),
    "many processors": Sound("limits", "kubeflow", resources(resourceCpuLimit="100000m")),
    "memory by an exponent": Sound("limits", "kubeflow", resources(resourceMemoryLimit="17e9")),
    "memory in thousandths": Sound("limits", "kubeflow", resources(resourceMemoryLimit="17000000000000m")),
    "memory in k": Sound("limits", "kubeflow", resources(resourceMemoryLimit="19000000k")),
    "a request below the limit": Sound("limits", "kubeflow", resources(resourceMemoryRequest="1.5Gi")),
    "shared memory by its own field": Sound(
        "shared-memory", "kubeflow",
        both(without_kubernetes("emptyDirMounts"), kubernetes(enabledSharedMemory={"volumeName": "m", "size": "1Gi"})),
    ),
    "no accelerator, no shared memory": Sound(
        "shared-memory", "kubeflow",
        both(without_kubernetes("emptyDirMounts"), lambda p: p.resources("train").pop("accelerator")),
    ),
    "our image's own user": Sound("security", "kubeflow", kubernetes(securityContext={"runAsGroup": "0"})),
    "a foreign image by a user id": Sound(
        "security", "kubeflow", both(foreign("train"), kubernetes(securityContext={"runAsUser": "1000"}))
    ),
    "a foreign image, root refused": Sound(
        "security", "kubeflow", both(foreign("train"), kubernetes(securityContext={"runAsNonRoot": True}))
    ),
    "a whole claim": Sound("backend", "kubeflow", kubernetes(pvcMount=[claim("shared", "/shared")])),
    "a label of any key": Sound("backend", "kubeflow", kubernetes(podMetadata={"labels": {"subPath": "x"}})),
    "what Vertex AI is not asked about": Sound("backend", "vertex", kubernetes(securityContext={"runAsUser": "7"})),
    "two secrets": Sound(
        "pod-conflicts", "kubeflow", kubernetes(secretAsVolume=[secret("a", "/a"), secret("b", "/b")])
    ),
    "a secret with a dot as a variable": Sound(
        "names", "kubeflow",
        kubernetes(secretAsEnv=[{"secretName": "kafka.tls", "keyToEnv": [{"secretKey": "a.b", "envVar": "A"}]}]),
    ),
    "128 characters on Vertex AI": Sound("names", "vertex", rename("a" * 128)),
    "63 characters on Kubeflow": Sound("names", "kubeflow", rename("a" * 63)),
    "a label with a prefix": Sound(
        "names", "kubeflow", kubernetes(podMetadata={"labels": {"shutterline.example/team": "Vision_1.0"}})
    ),
    "a step without outputs that is not cached": Sound(
        "cached-side-effects", "vertex",
        both(
            lambda p: p.spec["components"]["comp-evaluate"].pop("outputDefinitions"),
            task("evaluate", cachingOptions={}),
        ),
    ),
    "a task that ignores what failed": Sound(
        "cached-side-effects", "vertex", task("evaluate", triggerPolicy={"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"})
    ),
    "a claim of a new name each time": Sound(
        "cached-side-effects", "kubeflow", makes_a_claim(pvc_name_suffix="-work")
    ),
    "retries of a task that ignores what failed": Sound(
        "retries", "vertex", task("evaluate", triggerPolicy={"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"})
    ),
    "a time limit without retries": Sound(
        "retries", "kubeflow",
        both(kubernetes(activeDeadlineSeconds="60"), lambda p: p.task("train").pop("retryPolicy")),
    ),
    "no retries": Sound("retries", "vertex", task("train", retryPolicy={"maxRetryCount": 0, "backoffDuration": "0s"})),
    "a checkpoint by name": Sound("checkpoint-place", "kubeflow", option("--checkpoint", "resnet50")),
    "a checkpoint by an option, on a claim": Sound(
        "checkpoint-place", "kubeflow",
        both(option("--checkpoint-dir", "/shared/c"), kubernetes(pvcMount=[claim("shared", "/shared")])),
    ),
    "checkpoints in a bucket": Sound("checkpoint-place", "vertex", default("checkpoints", "gs://bucket/checkpoints")),
    "checkpoints in a mounted bucket": Sound(
        "checkpoint-place", "vertex", default("checkpoints", "/gcs/bucket/checkpoints")
    ),
    "checkpoints on a claim": Sound(
        "checkpoint-place", "kubeflow",
        both(default("checkpoints", "/shared/checkpoints"), kubernetes(pvcMount=[claim("shared", "/shared")])),
    ),
    "spot nodes and checkpoints often": Sound("checkpoint-place", "kubeflow", spot(checkpoint_minutes=2)),
    "evaluation on spot nodes": Sound("checkpoint-place", "kubeflow", spot("evaluate")),
    "data in a bucket": Sound("data-place", "vertex", default("data", "gs://bucket/images")),
    "data on a claim": Sound(
        "data-place", "kubeflow",
        both(default("data", "/shared/images"), kubernetes("data-prep", pvcMount=[claim("shared", "/shared")])),
    ),
    "credentials that a secret mounts": Sound(
        "credentials-file", "kubeflow",
        both(env("GOOGLE_APPLICATION_CREDENTIALS", "/var/run/google/key.json"), *_KEYS_OF_MOUNT),
    ),
    "the image's own certificates": Sound(
        "credentials-file", "kubeflow", env("KAFKA_SSL_CAFILE", "/etc/ssl/certs/ca-certificates.crt")
    ),
    "a password in Secret Manager": Sound(
        "credentials-file", "vertex", env("KAFKA_SASL_PASSWORD_FILE", "sm://projects/p/secrets/s/versions/1")
    ),
    "a password in a bucket that Vertex AI mounts": Sound(
        "credentials-file", "vertex", env("KAFKA_SASL_PASSWORD_FILE", "/gcs/my-secrets/kafka-password")
    ),
    "an hour": Sound(
        "vertex-limits", "vertex", lambda p: p.task("train")["retryPolicy"].update(backoffMaxDuration="3600s")
    ),
    "half a megabyte": Sound("size", "kubeflow", default("data", "x" * 500_000)),
}  # fmt: skip
