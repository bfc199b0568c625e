"""For each rule: pipelines that have what it looks for."""

from __future__ import annotations

from tests.pipelines.lint.bases import DIGEST
from tests.pipelines.lint.cases import (
    Found,
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
    shm,
    spot,
    struct,
    takes,
    task,
    without_kubernetes,
)
from tests.pipelines.lint.secrets_cases import SECRETS_FOUND

EXECUTORS = "deploymentSpec.executors"
PLATFORM = "platforms.kubernetes.deploymentSpec.executors"
TASKS = "components.comp-exit-handler-1.dag.tasks"
INPUTS = "root.inputDefinitions.parameters"
TRAIN = f"{EXECUTORS}.exec-train.container"
_SHM_WHERE = f"{PLATFORM}.exec-train.emptyDirMounts[0].sizeLimit"
_ENV = f"{TRAIN}.env[1].value"
_ACCELERATOR = f"{TRAIN}.resources.accelerator"

FOUND: dict[str, Found] = {
    "a field nobody knows": Found(
        "ir-schema", "vertex", lambda p: p.spec.update(pipelineColour="red"), "error", "pipelineInfo"
    ),
    "a field of the container nobody knows": Found(
        "ir-schema", "kubeflow", lambda p: p.container("train").update(colour="red"), "error", f"{EXECUTORS}.exec-train"
    ),
    "a field of the pod nobody knows": Found(
        "ir-schema", "kubeflow", kubernetes(colour="red"), "error", f"{PLATFORM}.exec-train"
    ),
    "a text for a number": Found(
        "ir-schema", "vertex", lambda p: p.task("train")["retryPolicy"].update(maxRetryCount="many"), "error",
        "pipelineInfo",
    ),
    "a component that is not there": Found(
        "dangling-reference", "vertex", task("train", componentRef={"name": "comp-gone"}), "error",
        f"{TASKS}.train.componentRef.name",
    ),
    "an executor that is not there": Found(
        "dangling-reference", "vertex", lambda p: p.spec["components"]["comp-train"].update(executorLabel="exec-gone"),
        "error", "components.comp-train.executorLabel",
    ),
    "a task that is not there": Found(
        "dangling-reference", "vertex", task("train", dependentTasks=["gone"]), "error",
        f"{TASKS}.train.dependentTasks[0]",
    ),
    "a producer that is not there": Found(
        "dangling-reference", "vertex",
        lambda p: p.task("train")["inputs"]["artifacts"]["dataset"]["taskOutputArtifact"].update(producerTask="gone"),
        "error", f"{TASKS}.train.inputs.artifacts.dataset.taskOutputArtifact.producerTask",
    ),
    "an output that is not there": Found(
        "dangling-reference", "vertex",
        lambda p: p.task("train")["inputs"]["artifacts"]["dataset"]["taskOutputArtifact"].update(
            outputArtifactKey="gone"
        ),
        "error", f"{TASKS}.train.inputs.artifacts.dataset.taskOutputArtifact.outputArtifactKey",
    ),
    "an outer input that is not there": Found(
        "dangling-reference", "vertex",
        lambda p: p.task("train")["inputs"]["parameters"].update(params={"componentInputParameter": "gone"}),
        "error", f"{TASKS}.train.inputs.parameters.params.componentInputParameter",
    ),
    "an input that is not given": Found(
        "dangling-reference", "vertex", lambda p: p.task("train")["inputs"]["parameters"].pop("params"), "error",
        f"{TASKS}.train.inputs.parameters",
    ),
    "an executor nobody uses": Found(
        "dangling-reference", "vertex",
        lambda p: p.spec["deploymentSpec"]["executors"].update({"exec-more": p.executor("train")}),
        "warning", f"{EXECUTORS}.exec-more",
    ),
    "settings of an executor that is not there": Found(
        "dangling-reference", "kubeflow", kubernetes("gone", imagePullPolicy="Always"), "error", f"{PLATFORM}.exec-gone"
    ),
    "a second document on Vertex AI": Found(
        "foreign-platform", "vertex", kubernetes(imagePullPolicy="Always"), "error", "platforms"
    ),
    "a step compiled for the other platform": Found(
        "foreign-platform", "kubeflow", lambda p: p.container("train")["env"][0].update(value="vertex"), "error",
        f"{TRAIN}.env[0].value",
    ),
    "a step that makes a claim, on Vertex AI": Found(
        "foreign-platform", "vertex", image("argostub/createpvc"), "error", f"{TRAIN}.image"
    ),
    **SECRETS_FOUND,
    "no tag": Found("unpinned-image", "vertex", image("registry.example/train"), "error", f"{TRAIN}.image"),
    "no tag, a port": Found("unpinned-image", "vertex", image("registry.example:5000/t"), "error", f"{TRAIN}.image"),
    "latest": Found("unpinned-image", "vertex", image("registry.example/train:latest"), "error", f"{TRAIN}.image"),
    "a tag": Found("unpinned-image", "vertex", image("registry.example/train:1.0"), "warning", f"{TRAIN}.image"),
    "half a digest": Found("unpinned-image", "vertex", image("r.example/t@sha256:a1"), "error", f"{TRAIN}.image"),
    "no name of an image": Found("unpinned-image", "vertex", image("r.example/a b:1"), "error", f"{TRAIN}.image"),
    "no image": Found("unpinned-image", "vertex", image(""), "error", f"{TRAIN}.image"),
    "an image of this machine": Found(
        "local-image", "vertex", image(f"localhost:5000/t@{DIGEST}"), "error", f"{TRAIN}.image"
    ),
    "an image without a registry": Found(
        "local-image", "vertex", image(f"shutterline/train@{DIGEST}"), "warning", f"{TRAIN}.image"
    ),
    "params that are wrong": Found(
        "params", "vertex", params(batch_siz="3"), "error", f"{INPUTS}.params.defaultValue"
    ),
    "params that are no JSON": Found("params", "vertex", default("params", "x: 1"), "error",
                                     f"{INPUTS}.params.defaultValue"),
    "params as a mapping": Found("params", "vertex", default("params", {"batch_size": 3}), "error",
                                 f"{INPUTS}.params.defaultValue"),
    "params as a struct": Found("params", "vertex", lambda p: p.input("params").update(parameterType="STRUCT"), "error",
                                f"{INPUTS}.params.parameterType"),
    "a whole number in a struct": Found(
        "numbers-in-struct", "vertex", struct("STRUCT", {"a": [{"b": 3}]}), "warning",
        f"{INPUTS}.options.defaultValue.a[0].b",
    ),
    "a whole number in a list, as kfp writes it": Found(
        "numbers-in-struct", "vertex", struct("LIST", ["x", 3.0]), "warning", f"{INPUTS}.options.defaultValue[1]"
    ),
    "a large number": Found(
        "numbers-in-struct", "vertex", struct("NUMBER_INTEGER", 2.0**60), "error", f"{INPUTS}.options.defaultValue"
    ),
    "a large number in a constant": Found(
        "numbers-in-struct", "vertex",
        lambda p: p.task("train")["inputs"]["parameters"].update(seed={"runtimeValue": {"constant": 2**60}}),
        "error", f"{TASKS}.train.inputs.parameters.seed.runtimeValue.constant",
    ),
    "Kubernetes' accelerator on Vertex AI": Found(
        "foreign-accelerator", "vertex", accelerator("nvidia.com/gpu"), "error", f"{_ACCELERATOR}.type"
    ),
    "Vertex AI's accelerator on Kubeflow": Found(
        "foreign-accelerator", "kubeflow", accelerator("NVIDIA_L4"), "error", f"{_ACCELERATOR}.type"
    ),
    "an accelerator nobody has": Found(
        "foreign-accelerator", "vertex", accelerator("NVIDIA_L5"), "error", f"{_ACCELERATOR}.type"
    ),
    "a node selector on Vertex AI": Found(
        "foreign-accelerator", "vertex",
        kubernetes(nodeSelector={"labels": {"cloud.google.com/gke-accelerator": "nvidia-l4"}}), "error",
        f'{PLATFORM}.exec-train.nodeSelector.labels["cloud.google.com/gke-accelerator"]',
    ),
    "three T4": Found("vertex-machine", "vertex", accelerator("NVIDIA_TESLA_T4", "3"), "error", f"{TRAIN}.resources"),
    "memory no machine has": Found(
        "vertex-machine", "vertex", resources(resourceMemoryLimit="900G"), "error", f"{TRAIN}.resources"
    ),
    "processors no machine has": Found(
        "vertex-machine", "vertex", resources("evaluate", resourceCpuLimit="97"), "error",
        f"{EXECUTORS}.exec-evaluate.container.resources",
    ),
    "memory no machine has, in KFP's older field": Found(
        "vertex-machine", "vertex",
        both(lambda p: p.resources("evaluate").pop("resourceMemoryLimit"), resources("evaluate", memoryLimit=900.5)),
        "error", f"{EXECUTORS}.exec-evaluate.container.resources",
    ),
    "no limit of memory": Found(
        "limits", "kubeflow",
        lambda p: [p.resources("train").pop(key) for key in ("memoryLimit", "resourceMemoryLimit")],
        "warning", f"{TRAIN}.resources",
    ),
    "a request above the limit": Found(
        "limits", "kubeflow", resources(resourceMemoryRequest="17Gi"), "error",
        f"{TRAIN}.resources.resourceMemoryRequest",
    ),
    "a limit that is none": Found(
        "limits", "kubeflow", resources(resourceCpuLimit="many"), "error", f"{TRAIN}.resources.resourceCpuLimit"
    ),
    "an accelerator without a count": Found(
        "limits", "kubeflow", resources(accelerator={"type": "nvidia.com/gpu"}), "error", _ACCELERATOR
    ),
    "a unit that Kubernetes has not": Found(
        "limits", "kubeflow", resources(resourceMemoryLimit="19000000K"), "error",
        f"{TRAIN}.resources.resourceMemoryLimit",
    ),
    "a count of no accelerator": Found("limits", "kubeflow", resources(accelerator={"count": "1"}), "error",
                                       _ACCELERATOR),
    "a node with accelerators for a step without": Found(
        "limits", "kubeflow",
        kubernetes("evaluate", nodeSelector={"labels": {"cloud.google.com/gke-accelerator": "nvidia-l4"}}), "warning",
        f"{PLATFORM}.exec-evaluate.nodeSelector",
    ),
    "no shared memory": Found(
        "shared-memory", "kubeflow", without_kubernetes("emptyDirMounts"), "warning", f"{PLATFORM}.exec-train"
    ),
    "shared memory as large as the memory": Found("shared-memory", "kubeflow", shm("16Gi"), "error", _SHM_WHERE),
    "shared memory without a size": Found("shared-memory", "kubeflow", shm(""), "warning", _SHM_WHERE),
    "shared memory on disk": Found(
        "shared-memory", "kubeflow", shm("2Gi", medium=""), "warning", f"{PLATFORM}.exec-train.emptyDirMounts[0]"
    ),
    "a foreign image's user": Found(
        "security", "kubeflow", foreign("train"), "warning", f"{PLATFORM}.exec-train.securityContext"
    ),
    "root": Found(
        "security", "kubeflow", kubernetes(securityContext={"runAsUser": "0"}), "warning",
        f"{PLATFORM}.exec-train.securityContext",
    ),
    "root, which is refused": Found(
        "security", "kubeflow", kubernetes(securityContext={"runAsUser": "0", "runAsNonRoot": True}), "error",
        f"{PLATFORM}.exec-train.securityContext",
    ),
    "shared memory in a unit that Kubernetes has not": Found(
        "shared-memory", "kubeflow", shm("512000K"), "error", _SHM_WHERE
    ),
    "one secret mounted twice": Found(
        "pod-conflicts", "kubeflow", kubernetes(secretAsVolume=[secret("kafka", "/a"), secret("kafka", "/b")]), "error",
        f"{PLATFORM}.exec-train",
    ),
    "a claim and a secret of one name": Found(
        "pod-conflicts", "kubeflow",
        kubernetes(secretAsVolume=[secret("kafka", "/a")], pvcMount=[claim("kafka", "/b")]), "error",
        f"{PLATFORM}.exec-train",
    ),
    "two mounts at one path": Found(
        "pod-conflicts", "kubeflow", kubernetes(secretAsVolume=[secret("a", "/a"), secret("b", "/a/")]), "error",
        f"{PLATFORM}.exec-train",
    ),
    "a mount without a path": Found(
        "pod-conflicts", "kubeflow", kubernetes(pvcMount=[claim("a", "data")]), "error",
        f"{PLATFORM}.exec-train.pvcMount[0].mountPath",
    ),
    "an effect nobody knows": Found(
        "pod-conflicts", "kubeflow", kubernetes(tolerations=[{"key": "a", "effect": "NoSleep"}]), "error",
        f"{PLATFORM}.exec-train.tolerations[0].effect",
    ),
    "a pull policy nobody knows": Found(
        "pod-conflicts", "kubeflow", kubernetes(imagePullPolicy="Sometimes"), "error",
        f"{PLATFORM}.exec-train.imagePullPolicy",
    ),
    "a long name on Kubeflow": Found("names", "kubeflow", rename("a" * 64), "warning", "pipelineInfo.name"),
    "too long a name on Kubeflow": Found("names", "kubeflow", rename("a" * 129), "error", "pipelineInfo.name"),
    "a long name on Vertex AI": Found("names", "vertex", rename("a" * 129), "error", "pipelineInfo.name"),
    "a name in capitals": Found("names", "vertex", rename("Images"), "error", "pipelineInfo.name"),
    "a secret with a dot as a volume": Found(
        "names", "kubeflow", kubernetes(secretAsVolume=[secret("kafka.tls", "/a")]), "error",
        f"{PLATFORM}.exec-train.secretAsVolume[0].secretNameParameter.runtimeValue.constant",
    ),
    "a claim of a long name": Found(
        "names", "kubeflow", kubernetes(pvcMount=[claim("a" * 64, "/a")]), "error",
        f"{PLATFORM}.exec-train.pvcMount[0].pvcNameParameter.runtimeValue.constant",
    ),
    "a secret in capitals": Found(
        "names", "kubeflow", kubernetes(imagePullSecret=[{"secretName": "Pull"}]), "error",
        f"{PLATFORM}.exec-train.imagePullSecret[0].secretName",
    ),
    "a long label": Found(
        "names", "kubeflow", kubernetes(podMetadata={"labels": {"team": "a" * 64}}), "error",
        f"{PLATFORM}.exec-train.podMetadata.labels.team",
    ),
    "a variable with a hyphen": Found("names", "vertex", env("MY-NAME", "x"), "error", f"{TRAIN}.env[1].name"),
    "a variable twice": Found("names", "kubeflow", both(env("A", ""), env("A", "")), "warning", f"{TRAIN}.env[2].name"),
    "a user that older backends are not told of": Found(
        "backend", "kubeflow", kubernetes("evaluate", securityContext={"runAsUser": "7"}), "warning",
        f"{PLATFORM}.exec-evaluate.securityContext",
    ),
    "a part of a claim, by the field's other name": Found(
        "backend", "kubeflow", kubernetes(pvcMount=[claim("a", "/a"), claim("b", "/b") | {"sub_path": "c"}]), "warning",
        f"{PLATFORM}.exec-train.pvcMount[1].sub_path",
    ),
    "an input's allowed values": Found(
        "backend", "kubeflow", lambda p: p.input("data").update(literals=["gs://a", "gs://b"]), "warning",
        "root.inputDefinitions.parameters.data.literals",
    ),
    "how long a workflow is kept": Found(
        "backend", "kubeflow",
        lambda p: p.platform().update(pipelineConfig={"resourceTtlOnSuccess": 60}), "warning",
        "platforms.kubernetes.pipelineConfig.resourceTtlOnSuccess",
    ),
    "a cached exit step": Found(
        "cached-side-effects", "vertex", task("exit-step", cachingOptions={"enableCache": True}), "warning",
        "root.dag.tasks.exit-step.cachingOptions.enableCache",
    ),
    "cached data prep": Found(
        "cached-side-effects", "vertex", task("data-prep", cachingOptions={"enableCache": True}), "warning",
        f"{TASKS}.data-prep.cachingOptions.enableCache",
    ),
    "a cached step without outputs": Found(
        "cached-side-effects", "vertex",
        both(lambda p: p.spec["components"]["comp-evaluate"].pop("outputDefinitions")), "warning",
        f"{TASKS}.evaluate.cachingOptions.enableCache",
    ),
    "retries without a pause": Found(
        "retries", "vertex", task("train", retryPolicy={"maxRetryCount": 2, "backoffDuration": "0s"}), "warning",
        f"{TASKS}.train.retryPolicy.backoffDuration",
    ),
    "a repeated exit step": Found(
        "retries", "vertex", task("exit-step", retryPolicy={"maxRetryCount": 2, "backoffDuration": "9s"}), "warning",
        "root.dag.tasks.exit-step.retryPolicy.maxRetryCount",
    ),
    "an hour for long training": Found(
        "retries", "kubeflow", lambda p: p.task("train")["retryPolicy"].update(backoffMaxDuration="3600s"), "warning",
        f"{TASKS}.train.retryPolicy.backoffMaxDuration",
    ),
    "retries after a time limit": Found(
        "retries", "kubeflow", kubernetes(activeDeadlineSeconds="60"), "warning",
        f"{PLATFORM}.exec-train.activeDeadlineSeconds",
    ),
    "a claim that the cache has": Found(
        "cached-side-effects", "kubeflow", makes_a_claim(pvc_name="work"), "warning",
        f"{TASKS}.createpvc.cachingOptions.enableCache",
    ),
    "checkpoints seldom on spot nodes": Found(
        "checkpoint-place", "kubeflow", spot(), "warning", "root.inputDefinitions.parameters.params.defaultValue"
    ),
    "checkpoints after epochs alone on spot nodes": Found(
        "checkpoint-place", "kubeflow", spot(checkpoint_minutes=None), "warning",
        "root.inputDefinitions.parameters.params.defaultValue",
    ),
    "a checkpoint in the pod, perhaps": Found(
        "checkpoint-place", "kubeflow", option("--checkpoint-dir=/work/c"), "warning", f"{TRAIN}.args[4]"
    ),
    "a checkpoint in the pod by the next word": Found(
        "checkpoint-place", "vertex", option("--ckpt", "/work/c"), "warning", f"{TRAIN}.args[5]"
    ),
    "another input for checkpoints": Found(
        "checkpoint-place", "kubeflow", takes("ckpt_dir", "/scratch/x"), "warning",
        f"{TASKS}.train.inputs.parameters.ckpt_dir.runtimeValue.constant",
    ),
    "no checkpoints": Found(
        "checkpoint-place", "kubeflow", default("checkpoints", ""), "warning", f"{INPUTS}.checkpoints.defaultValue"
    ),
    "checkpoints in the pod": Found(
        "checkpoint-place", "kubeflow", default("checkpoints", "/work/checkpoints"), "error",
        f"{INPUTS}.checkpoints.defaultValue",
    ),
    "checkpoints in a volume of the pod": Found(
        "checkpoint-place", "kubeflow", default("checkpoints", "/dev/shm/c"), "error",  # noqa: S108 - a mount's path
        f"{INPUTS}.checkpoints.defaultValue",
    ),
    "checkpoints on Vertex AI's machine": Found(
        "checkpoint-place", "vertex", default("checkpoints", "/work/checkpoints"), "error",
        f"{INPUTS}.checkpoints.defaultValue",
    ),
    "data on this machine, for Vertex AI": Found(
        "data-place", "vertex", default("data", "/home/me/images"), "error", f"{INPUTS}.data.defaultValue"
    ),
    "data on this machine, for Kubeflow": Found(
        "data-place", "kubeflow", default("data", "/home/me/images"), "error", f"{INPUTS}.data.defaultValue"
    ),
    "credentials that nothing mounts": Found(
        "credentials-file", "kubeflow", env("GOOGLE_APPLICATION_CREDENTIALS", "/var/run/google/key.json"), "error", _ENV
    ),
    "credentials of params that nothing mounts": Found(
        "credentials-file", "kubeflow", params(GOOGLE_APPLICATION_CREDENTIALS='"/var/run/google/key.json"'), "error",
        f"{INPUTS}.params.defaultValue",
    ),
    "credentials as a file on Vertex AI": Found(
        "credentials-file", "vertex", params(GOOGLE_APPLICATION_CREDENTIALS='"/var/run/google/key.json"'), "error",
        f"{INPUTS}.params.defaultValue",
    ),
    "a password file that nothing mounts": Found(
        "credentials-file", "kubeflow", env("KAFKA_SASL_PASSWORD_FILE", "/var/run/kafka/password"), "error", _ENV
    ),
    "a certificate that nothing mounts": Found(
        "credentials-file", "kubeflow", env("KAFKA_SSL_CAFILE", "/etc/kafka-tls/ca.crt"), "error", _ENV
    ),
    "a retry's window beyond Vertex AI's": Found(
        "vertex-limits", "vertex", lambda p: p.task("train")["retryPolicy"].update(backoffMaxDuration="3601s"), "error",
        f"{TASKS}.train.retryPolicy.backoffMaxDuration",
    ),
    "another schema": Found(
        "vertex-limits", "vertex", lambda p: p.spec.update(schemaVersion="3.0.0"), "error", "schemaVersion"
    ),
    "a request on Vertex AI": Found(
        "vertex-limits", "vertex", resources(resourceMemoryRequest="1Gi"), "warning",
        f"{TRAIN}.resources.resourceMemoryRequest",
    ),
    "more than Kubernetes stores": Found(
        "size", "kubeflow", default("data", "x" * 2_000_000), "error", "pipelineInfo"
    ),
    "nearly more than Kubernetes stores": Found(
        "size", "kubeflow", default("data", "x" * 1_200_000), "warning", "pipelineInfo"
    ),
}  # fmt: skip
