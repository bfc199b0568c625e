"""What becomes of a TrainJob before it is kept: Trainer's models, its CRD's rules, its webhooks.

Follows Trainer 2.3.0: pkg/apis/trainer/v1alpha1 (which kubeflow_trainer_api is made from), manifests/base/crds,
pkg/webhooks, pkg/runtime/core and the plugins torch and jobset of pkg/runtime/framework.
"""

from __future__ import annotations

import copy
import json
import re
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from tests.peers.trainer.refusals import Refused, bad_request, denied, invalid
from tests.peers.trainer.store import Object, Store, now

_RESERVED = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
_DEFAULTER = "defaulter.trainjob.trainer.kubeflow.org"
_VALIDATOR = "validator.trainjob.trainer.kubeflow.org"
_RUNTIMES = {"TrainingRuntime": "trainingruntimes", "ClusterTrainingRuntime": "clustertrainingruntimes"}
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_REPLICATED = "spec.runtimePatches"
_API_VERSION = "trainer.kubeflow.org/v1alpha1"
# k8s.io/apimachinery/pkg/api/resource/quantity.go
_QUANTITY = r"[+-]?[0-9.]+([eEinumkKMGTP]*[-+]?[0-9]*)"
_SUFFIX = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?"

# What an earlier Trainer has instead of runtimePatches.
OVERRIDES = {(2, 0): "podSpecOverrides", (2, 1): "podTemplateOverrides"}


def admit(given: Object, store: Store, version: tuple[int, int], strictness: str) -> Object:
    """A new TrainJob as it is kept: with its defaults, without what the CRD does not have.

    Args:
        given: As it was sent, with its namespace.
        store: Where the runtimes are.
        version: Trainer's.
        strictness: fieldValidation: "Strict" refuses unknown fields, others drop them.

    Raises:
        Refused: By the strict decoder, the schema or a webhook.
    """
    made = copy.deepcopy(given)
    if (sent := made.get("apiVersion")) != _API_VERSION:
        words = f"the API version in the data ({sent}) does not match the expected API version ({_API_VERSION})"
        raise bad_request(words)
    if unknown := list(_unknown_fields(made, version)):
        if strictness == "Strict":
            words = ", ".join(f'unknown field "{path}"' for path in unknown)
            raise bad_request(
                f'TrainJob in version "v1alpha1" cannot be handled as a TrainJob: strict decoding error: {words}'
            )
        for path in unknown:
            _drop(made, path)
    made.pop("status", None)  # a subresource
    spec = made.setdefault("spec", {})
    spec.setdefault("suspend", False)
    if isinstance(reference := spec.get("runtimeRef"), dict):
        reference.setdefault("apiGroup", "trainer.kubeflow.org")
        reference.setdefault("kind", "ClusterTrainingRuntime")
    _check_types(made)
    for patch in spec.get("runtimePatches", []):
        patch.setdefault("time", now())
    if causes := list(_schema_causes(made)):
        raise invalid(made["metadata"]["name"], causes)
    if errors := list(_webhook_errors(made, store)):
        raise denied(_VALIDATOR, errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]")
    return made


def admit_change(old: Object, new: Object, store: Store) -> None:
    """Check a TrainJob that is to be changed.

    Raises:
        Refused: It must not be changed so.
    """
    _check_types(new)
    causes = [
        ("FieldValueInvalid", f"spec.{name}", 'Invalid value: "object": field is immutable')
        for name in ("trainer", "runtimeRef")
        if old["spec"].get(name) != new["spec"].get(name)
    ]
    if causes := causes + list(_schema_causes(new)):
        raise invalid(new["metadata"]["name"], causes)
    errors = list(_webhook_errors(new, store))
    is_suspended = old["spec"].get("suspend") or new["spec"].get("suspend")
    if old["spec"].get("runtimePatches") != new["spec"].get("runtimePatches") and not is_suspended:
        words = "RuntimePatches can only be modified when the TrainJob is suspended before or after the update"
        errors.append(f"{_REPLICATED}: Forbidden: {words}")
    if errors:
        raise denied(_VALIDATOR, errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]")


def check_trainer_status(name: str, status: Any) -> None:
    """Check what a pod reports by the CRD's limits.

    Raises:
        Refused: It is beyond them.
    """
    from kubeflow_trainer_api.models import trainer_v1alpha1_trainer_status as model

    field = "status.trainerStatus"
    causes: list[tuple[str, str, str]] = []
    payload = Refused(422, "Invalid", "Invalid payload")  # what is none of the types in Go
    try:
        read = model.TrainerV1alpha1TrainerStatus.from_dict(status)
    except (ValidationError, ValueError, TypeError, AttributeError) as error:
        raise payload from error
    numbers = [status.get(key) or 0 for key in ("progressPercentage", "estimatedRemainingSeconds")]
    is_zoneless = read is not None and read.last_updated_time is not None and read.last_updated_time.tzinfo is None
    if is_zoneless or any(abs(number) >= 2**31 for number in numbers):
        raise payload
    for key, most in (("progressPercentage", 100), ("estimatedRemainingSeconds", None)):
        value = status.get(key)
        if value is not None and value < 0:
            words = f"Invalid value: {value}: {field}.{key} in body should be greater than or equal to 0"
            causes.append(("FieldValueInvalid", f"{field}.{key}", words))
        if value is not None and most is not None and value > most:
            words = f"Invalid value: {value}: {field}.{key} in body should be less than or equal to {most}"
            causes.append(("FieldValueInvalid", f"{field}.{key}", words))
    metrics = status.get("metrics") or []
    if len(metrics) > 256:
        causes.append(
            ("FieldValueTooMany", f"{field}.metrics", f"Too many: {len(metrics)}: must have at most 256 items")
        )
    for at, metric in enumerate(metrics):
        for key in ("name", "value"):
            where, length = f"{field}.metrics[{at}].{key}", len(metric[key])
            if length > 64:
                causes.append(("FieldValueTooLong", where, "Too long: may not be more than 64 bytes"))
            if length < 1:
                words = f'Invalid value: "": {where} in body should be at least 1 chars long'
                causes.append(("FieldValueInvalid", where, words))
    if "lastUpdatedTime" not in status:
        words = 'Invalid value: "object": lastUpdatedTime is required when trainerStatus is present'
        causes.append(("FieldValueInvalid", field, words))
    if causes:
        raise invalid(name, causes)


def _unknown_fields(given: Object, version: tuple[int, int]) -> Iterator[str]:
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

    older = OVERRIDES.get(version)
    for path in _unknown(TrainerV1alpha1TrainJob, given, ""):
        if path != f"spec.{older}":
            yield path
    if older and "runtimePatches" in given.get("spec", {}):
        yield "spec.runtimePatches"


def _unknown(annotation: Any, value: Any, path: str) -> Iterator[str]:
    """The paths of what a model does not have, as a strict decoder names them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not isinstance(value, dict) or "actual_instance" in annotation.model_fields:
            return
        known = {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
        for key, item in value.items():
            where = f"{path}.{key}" if path else key
            if key in known:
                yield from _unknown(known[key], item, where)
            else:
                yield where
    elif typing.get_origin(annotation) is dict:
        for key, item in value.items() if isinstance(value, dict) else ():
            yield from _unknown(typing.get_args(annotation)[1], item, f"{path}.{key}")
    elif typing.get_origin(annotation) is list:
        for at, item in enumerate(value if isinstance(value, list) else ()):
            yield from _unknown(typing.get_args(annotation)[0], item, f"{path}[{at}]")
    else:
        for each in typing.get_args(annotation):
            yield from _unknown(each, value, path)


def _drop(item: Any, path: str) -> None:
    *parents, last = re.findall(r"[^.\[\]]+", path)
    for name in parents:
        item = item[int(name)] if isinstance(item, list) else item[name]
    item.pop(last, None)


def _check_types(made: Object) -> None:
    """Trainer's defaulting webhook is the first to read a TrainJob into Go's types."""
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

    try:
        TrainerV1alpha1TrainJob.from_dict(made)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "missing":
            return  # the schema's matter
        # Go's message names the type, too; this is its beginning.
        where = ".".join(str(part) for part in first["loc"])
        message = f"json: cannot unmarshal {type(first['input']).__name__} into Go struct field {where}: {first['msg']}"
        raise denied(_DEFAULTER, message, 400) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise denied(_DEFAULTER, f"json: cannot unmarshal: {error}", 400) from error
    for _, amount in _amounts(made):
        if not re.fullmatch(_QUANTITY, str(amount)):
            words = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            raise denied(_DEFAULTER, words, 400)
        if not re.fullmatch(_SUFFIX, str(amount)):
            raise denied(_DEFAULTER, "unable to parse quantity's suffix", 400)


def _amounts(made: Object) -> Iterator[tuple[str, Any]]:
    resources = (made["spec"].get("trainer") or {}).get("resourcesPerNode") or {}
    for kind in ("limits", "requests"):
        for name, amount in (resources.get(kind) or {}).items():
            yield f"spec.trainer.resourcesPerNode.{kind}.{name}", amount


def _schema_causes(made: Object) -> Iterator[tuple[str, str, str]]:
    name, spec = made["metadata"]["name"], made["spec"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        words = 'Invalid value: "object": metadata.name must match RFC 1035 DNS label format'
        yield "FieldValueInvalid", "<nil>", words
    if len(name) > 63:
        yield "FieldValueInvalid", "<nil>", 'Invalid value: "object": metadata.name must be no more than 63 characters'
    if "runtimeRef" not in spec:
        yield "FieldValueRequired", "spec.runtimeRef", "Required value"
    elif not spec["runtimeRef"].get("name"):
        yield "FieldValueRequired", "spec.runtimeRef.name", "Required value"
    if (seconds := spec.get("activeDeadlineSeconds")) is not None and seconds < 1:
        where = "spec.activeDeadlineSeconds"
        words = f"Invalid value: {seconds}: {where} in body should be greater than or equal to 1"
        yield "FieldValueInvalid", where, words
    for where, amount in _amounts(made):
        if isinstance(amount, float):
            yield (
                "FieldValueTypeInvalid",
                where,
                f'Invalid value: "number": {where} in body must be of type integer,string',
            )
    trainer = spec.get("trainer") or {}
    if len(trainer.get("image") or "") > 500:
        yield "FieldValueTooLong", "spec.trainer.image", "Too long: may not be more than 500 bytes"
    for field in ("args", "command", "env"):
        if len(trainer.get(field) or []) > 128:
            words = f"Too many: {len(trainer[field])}: must have at most 128 items"
            yield "FieldValueTooMany", f"spec.trainer.{field}", words
    patches = spec.get("runtimePatches") or []
    if len(patches) > 16:
        yield "FieldValueTooMany", _REPLICATED, f"Too many: {len(patches)}: must have at most 16 items"
    for field, key, items in (
        ("spec.trainer.env", "name", trainer.get("env") or []),
        (_REPLICATED, "manager", patches),
    ):
        seen = set()
        for at, item in enumerate(items):
            if item.get(key) in seen:
                yield "FieldValueDuplicate", f"{field}[{at}]", f"Duplicate value: {json.dumps({key: item.get(key)})}"
            seen.add(item.get(key))


def _webhook_errors(made: Object, store: Store) -> Iterator[str]:
    spec, namespace = made["spec"], made["metadata"]["namespace"]
    reference = {key: spec["runtimeRef"][key] for key in ("name", "apiGroup", "kind")}
    resource = _RUNTIMES.get(reference["kind"]) if reference["apiGroup"] == "trainer.kubeflow.org" else None
    if resource is None:
        yield f"unsupported runtime: {reference['kind']}.{reference['apiGroup']}"
        return
    is_clusters = resource == "clustertrainingruntimes"
    try:
        runtime = store.get(resource, "" if is_clusters else namespace, reference["name"])
    except Refused as missing:
        kind = f"{reference['kind'][0].lower()}{reference['kind'][1:]}"
        yield (
            f"spec.{'RuntimeRef' if is_clusters else 'runtimeRef'}: Invalid value: {_json(reference)}: {_go(missing)}: "
            f"specified {kind} must be created before the TrainJob is created"
        )
        return
    if "torch" in runtime["spec"].get("mlPolicy", {}):
        env = (spec.get("trainer") or {}).get("env") or []
        if taken := sorted({each["name"] for each in env} & _RESERVED):
            words = f"must not have reserved envs, invalid envs configured: [{' '.join(taken)}]"
            yield f"spec.trainer.env: Invalid value: {_json(env)}: {words}"
    yield from _patch_errors(spec.get("runtimePatches") or [], runtime)


def _patch_errors(patches: list[Object], runtime: Object) -> Iterator[str]:
    names = {
        each["name"]: {
            container["name"]
            for kind in ("initContainers", "containers")
            for container in each["template"]["spec"]["template"]["spec"].get(kind, [])
        }
        for each in runtime["spec"]["template"]["spec"]["replicatedJobs"]
    }
    value = f"{_REPLICATED}: Invalid value: {_json(patches)}"
    for patch in patches:
        if not re.fullmatch(rf"{_LABEL}(\.{_LABEL})*/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", patch["manager"]):
            words = 'must be a domain-prefixed path (such as "acme.io/foo")'
            yield f"{_REPLICATED}.manager: Invalid value: {json.dumps(patch['manager'])}: {words}"
        for job in _at(patch, "trainingRuntimeSpec", "template", "spec", "replicatedJobs") or []:
            if job["name"] not in names:
                yield f"{value}: must not have replicated job that doesn't exist in the runtime job template"
                continue
            pod = _at(job, "template", "spec", "template", "spec") or {}
            for kind in ("initContainers", "containers"):
                for container in pod.get(kind, []):
                    if container["name"] not in names[job["name"]]:
                        words = f"must not have {kind[:-1]} that doesn't exist in the runtime job {job['name']}"
                        yield f"{value}: {words}"
                    elif kind == "containers" and container.get("env"):
                        words = "must not have envs for the dataset-initializer, model-initializer, node containers"
                        yield f"{value}: {words}"


def _at(item: Any, *names: str) -> Any:
    for name in names:
        item = (item or {}).get(name)
    return item


def _go(missing: Refused) -> str:
    """Trainer looks up by its cache, which names the kind and not the resource."""
    return re.sub(
        r"^(cluster)?trainingruntimes", lambda found: f"{'Cluster' if found[1] else ''}TrainingRuntime", str(missing)
    )


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
