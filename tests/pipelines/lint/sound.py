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
    image,
    kubernetes,
    option,
    params,
    rename,
    resources,
    secret,
    struct,
    task,
    without_kubernetes,
)

_KEYS_OF_MOUNT = (kubernetes(secretAsVolume=[secret("google", "/var/run/google")]),)

SOUND: dict[str, Sound] = {
    "another known field": Sound("ir-schema", "kubeflow", kubernetes(activeDeadlineSeconds="3600")),
    "an input by its default": Sound(
        "dangling-reference", "vertex", lambda p: p.task("train")["inputs"]["parameters"].pop("checkpoints")
    ),
    "a second document on Kubeflow": Sound("foreign-platform", "kubeflow", kubernetes(imagePullPolicy="Always")),
    "a password's file": Sound("secret-value", "kubeflow", env("KAFKA_SASL_PASSWORD_FILE", "/var/run/kafka/password")),
    "a reference": Sound("secret-value", "vertex", env("API_TOKEN", "sm://projects/p/secrets/s/versions/1")),
    "an empty password": Sound("secret-value", "vertex", env("KAFKA_SASL_PASSWORD", "")),
    "a password filled in later": Sound("secret-value", "vertex", env("PASSWORD", "{{$.inputs.parameters['x']}}")),
    "a number of tokens": Sound("secret-value", "vertex", env("MAX_TOKENS", "4096")),
    "a digest": Sound("secret-value", "vertex", env("DATASET", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d")),
    "a URL with a user": Sound("secret-value", "vertex", env("TRACKING", "https://me@tracking.example/x")),
    "a credentials file": Sound(
        "secret-value", "vertex", env("GOOGLE_APPLICATION_CREDENTIALS", "/var/run/google/key.json")
    ),
    "an example's key": Sound("secret-value", "vertex", env("USER", "AKIAIOSFODNN7EXAMPLE")),
    "an option without a value": Sound("secret-value", "vertex", option("--token", "--verbose")),
    "source that puts a URL together": Sound("secret-value", "vertex", option('f"https://{user}:{password}@{host}"')),
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
    "a request below the limit": Sound("limits", "kubeflow", resources(resourceMemoryRequest="1.5Gi")),
    "shared memory by its own field": Sound(
        "shared-memory", "kubeflow",
        both(without_kubernetes("emptyDirMounts"), kubernetes(enabledSharedMemory={"volumeName": "m", "size": "1Gi"})),
    ),
    "no accelerator, no shared memory": Sound(
        "shared-memory", "kubeflow",
        both(without_kubernetes("emptyDirMounts"), lambda p: p.resources("train").pop("accelerator")),
    ),
    "a user": Sound("security", "kubeflow", kubernetes(securityContext={"runAsUser": "1000"})),
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
    "no retries": Sound("retries", "vertex", task("train", retryPolicy={"maxRetryCount": 0, "backoffDuration": "0s"})),
    "checkpoints in a bucket": Sound("checkpoint-place", "vertex", default("checkpoints", "gs://bucket/checkpoints")),
    "checkpoints in a mounted bucket": Sound(
        "checkpoint-place", "vertex", default("checkpoints", "/gcs/bucket/checkpoints")
    ),
    "checkpoints on a claim": Sound(
        "checkpoint-place", "kubeflow",
        both(default("checkpoints", "/shared/checkpoints"), kubernetes(pvcMount=[claim("shared", "/shared")])),
    ),
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
