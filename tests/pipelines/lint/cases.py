"""What changes a sound pipeline into one that a rule is to find, or not to find."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipelines.compiled import PlatformName
from pipelines.lint.finding import Severity
from tests.pipelines.lint.bases import Change, Pipeline


@dataclass(frozen=True)
class Found:
    """A file that has it."""

    rule: str
    target: PlatformName
    change: Change
    severity: Severity
    where: str


@dataclass(frozen=True)
class Sound:
    """A file that has not, though it looks alike."""

    rule: str
    target: PlatformName
    change: Change


def env(name: str, value: str, step: str = "train") -> Change:
    return lambda pipeline: pipeline.set_env(step, name, value)


def image(name: str) -> Change:
    return lambda pipeline: pipeline.container("train").update(image=name)


def resources(step: str = "train", **values: Any) -> Change:
    return lambda pipeline: pipeline.resources(step).update(values)


def accelerator(kind: str, count: str = "1") -> Change:
    return resources(accelerator={"type": kind, "resourceType": kind, "count": count, "resourceCount": count})


def kubernetes(step: str = "train", **values: Any) -> Change:
    return lambda pipeline: pipeline.kubernetes(step).update(values)


def foreign(step: str) -> Change:
    """The step as one of somebody else: what is run is not ours."""
    return lambda pipeline: pipeline.container(step).update(command=["work"], args=[])


def without_kubernetes(key: str, step: str = "train") -> Change:
    return lambda pipeline: pipeline.kubernetes(step).pop(key)


def task(name: str, **values: Any) -> Change:
    return lambda pipeline: pipeline.task(name).update(values)


def default(name: str, value: Any) -> Change:
    return lambda pipeline: pipeline.input(name).update(defaultValue=value)


def option(*words: str) -> Change:
    return lambda pipeline: pipeline.container("train")["args"].extend(words)


def struct(kind: str, value: Any) -> Change:
    def change(pipeline: Pipeline) -> None:
        parameters = pipeline.spec["root"]["inputDefinitions"]["parameters"]
        parameters["options"] = {"parameterType": kind, "defaultValue": value}

    return change


def both(*changes: Change) -> Change:
    return lambda pipeline: [change(pipeline) for change in changes]


def rename(name: str) -> Change:
    return lambda pipeline: pipeline.spec["pipelineInfo"].update(name=name)


def shm(size: str, **values: str) -> Change:
    mount = {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": size}  # noqa: S108 - a mount
    return kubernetes(emptyDirMounts=[mount | values])


def params(**values: Any) -> Change:
    def change(pipeline: Pipeline) -> None:
        text = pipeline.input("params")["defaultValue"]
        for key, value in values.items():
            text = text.replace("{", f'{{"{key}": {value},', 1)
        pipeline.input("params")["defaultValue"] = text

    return change


def spot(step: str = "train", **values: Any) -> Change:
    """A step on spot nodes, and what the params say."""

    def change(pipeline: Pipeline) -> None:
        pipeline.kubernetes(step)["nodeSelector"] = {"labels": {"cloud.google.com/gke-spot": "true"}}
        said = json.loads(pipeline.input("params")["defaultValue"])
        pipeline.input("params")["defaultValue"] = json.dumps(said | values)

    return change


def claim(name: str, path: str) -> dict[str, Any]:
    return {"constant": name, "mountPath": path, "pvcNameParameter": {"runtimeValue": {"constant": name}}}


def secret(name: str, path: str) -> dict[str, Any]:
    parameter = {"runtimeValue": {"constant": name}}
    return {"secretName": name, "mountPath": path, "secretNameParameter": parameter, "optional": False}


def takes(name: str, value: str) -> Change:
    """The training step with one input more."""

    def change(pipeline: Pipeline) -> None:
        definitions = pipeline.spec["components"]["comp-train"]["inputDefinitions"]["parameters"]
        definitions[name] = {"parameterType": "STRING"}
        pipeline.task("train")["inputs"]["parameters"][name] = {"runtimeValue": {"constant": value}}

    return change


def makes_a_claim(**inputs: str) -> Change:
    """A step of KFP's that makes a claim, served from the cache as kfp has it by default."""

    def change(pipeline: Pipeline) -> None:
        pipeline.spec["deploymentSpec"]["executors"]["exec-createpvc"] = {"container": {"image": "argostub/createpvc"}}
        pipeline.spec["components"]["comp-createpvc"] = {
            "executorLabel": "exec-createpvc",
            "inputDefinitions": {"parameters": {name: {"parameterType": "STRING"} for name in inputs}},
        }
        pipeline.spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]["createpvc"] = {
            "cachingOptions": {"enableCache": True},
            "componentRef": {"name": "comp-createpvc"},
            "inputs": {"parameters": {name: {"runtimeValue": {"constant": value}} for name, value in inputs.items()}},
            "taskInfo": {"name": "createpvc"},
        }

    return change


PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"
ACCOUNT = '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkqhkiG9w"}'
AWS_KEY = "AKIA" + "QWERTY12UIOP34AS"
