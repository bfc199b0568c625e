"""A settings file read, checked against its platform and put together with the defaults."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from components.shared.errors import ParamsError, Problem, SettingsError
from components.shared.params.messages import as_problems
from components.shared.params.params import Params
from components.shared.params.source import read_params_file
from pipelines.compiled import PLATFORM_TITLES, PLATFORMS, PlatformName
from pipelines.settings.common import EVERY_STEP, STEP_FIELDS
from pipelines.settings.kubeflow import BACKEND, KubeflowSettings, KubeflowStep, kubeflow_defaults
from pipelines.settings.vertex import VertexSettings, VertexStep, vertex_defaults

AnySettings = KubeflowSettings | VertexSettings
SETTINGS: dict[PlatformName, type[AnySettings]] = {"kubeflow": KubeflowSettings, "vertex": VertexSettings}
STEPS: dict[PlatformName, type[KubeflowStep | VertexStep]] = {"kubeflow": KubeflowStep, "vertex": VertexStep}


def read_settings(file: Path | None, target: PlatformName, params: Params) -> AnySettings:
    """The settings of a run on a platform.

    Args:
        file: A .yaml or .json file; None: the defaults alone.
        target: The platform.
        params: The run's params; a run on the CPU gets no accelerator by default.

    Raises:
        SettingsError: With every problem found, each with its path.
    """
    raw: dict[str, Any] = {}
    if file is not None:
        try:
            raw = read_params_file(file, "settings")
        except ParamsError as error:
            raise SettingsError(error.problems, error.source) from error
    return settings_from(raw, target, params, str(file) if file else None)


def settings_from(raw: Mapping[str, Any], target: PlatformName, params: Params, source: str | None) -> AnySettings:
    """As :func:`read_settings`, of what a file holds."""
    given = raw.get("target", target)
    if given != target and given in PLATFORMS:
        advice = f"these are settings for {PLATFORM_TITLES[given]}; compile with --target {given}"
        raise SettingsError([Problem("target", advice)], source)
    try:
        settings = SETTINGS[target].model_validate({**raw, "target": given})
    except ValidationError as error:
        known = [field.alias or name for name, field in SETTINGS[target].model_fields.items()]
        found = as_problems(error, known, lambda where: _unknown(where, target))
        raise SettingsError([_unsaid(problem) for problem in found], source) from error
    gpu = params.device != "cpu"
    whole: AnySettings
    if isinstance(settings, VertexSettings):
        whole = settings.put_together(vertex_defaults(gpu=gpu))
    else:
        whole = settings.put_together(kubeflow_defaults(gpu=gpu))
    problems = whole.problems()
    if params.device.startswith("cuda") and not _accelerated(whole.train):
        problems.append(Problem("train", f"has no accelerator, but the params ask for device {params.device}"))
    if problems:
        raise SettingsError(problems, source)
    return whole


# Where somebody may have written a secret instead of its name.
_OF_SECRETS = re.compile(r"\.(env|secret_env|secret_files|pull_secrets)(?![a-z_])")


def _unsaid(problem: Problem) -> Problem:
    """A problem without the value that was given, where that may be a secret."""
    if _OF_SECRETS.search(problem.path) is None:
        return problem
    return Problem(problem.path, problem.message.partition(", got ")[0])


def _accelerated(step: KubeflowStep | VertexStep) -> bool:
    if isinstance(step, VertexStep):
        return step.accelerates is not None
    return step.gpu is not None and step.gpu.count > 0


def settings_warnings(settings: AnySettings, params: Params) -> list[str]:
    """What is allowed and costs money for nothing, and what not every release of the platform takes."""
    newer = {key: release for step in STEP_FIELDS for key, release in _newer_keys(settings.step(step))}
    told = [
        f"{', '.join(sorted(key for key in newer if newer[key] == release))}: Kubeflow Pipelines before {release} "
        "refuses a pipeline compiled with this"
        for release in sorted({*newer.values()})
    ]
    if params.device == "cpu" and _accelerated(settings.train):
        told.append("train: an accelerator is rented, but the params say device cpu")
    if _accelerated(settings.evaluate):
        told.append("evaluate: an accelerator is rented, which only an image built with --cuda-evaluate uses")
    return told


def _newer_keys(settings: BaseModel, where: str = "") -> Iterator[tuple[str, str]]:
    """The keys with a value that not every release of Kubeflow Pipelines takes, and the first release that does."""
    for name, field in type(settings).model_fields.items():
        given, key, extra = getattr(settings, name), f"{where}{name}", field.json_schema_extra
        said = given.model_dump(exclude_none=True) if isinstance(given, BaseModel) else given
        if said and isinstance(extra, dict) and BACKEND in extra:
            yield key, str(extra[BACKEND])
        for inner in given if isinstance(given, list) else [given]:
            if isinstance(inner, BaseModel):
                yield from _newer_keys(inner, f"{key}.")


def _unknown(where: tuple[int | str, ...], target: PlatformName) -> str:
    """A hint for a key that is not known: the nearest, or whose it is."""
    key = str(where[-1])
    allowed = _keys_at(SETTINGS[target], where[:-1])
    other: PlatformName = "vertex" if target == "kubeflow" else "kubeflow"
    if key in _keys_at(SETTINGS[other], where[:-1]):
        return f"unknown key: it belongs to {PLATFORM_TITLES[other]}; allowed are {', '.join(allowed)}"
    near = difflib.get_close_matches(key, allowed, 1)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; allowed are {', '.join(allowed)}"


def _keys_at(model: type[BaseModel], way: tuple[int | str, ...]) -> list[str]:
    """The keys a mapping may have that this way down from a settings class leads to; none where it leads nowhere."""
    inside = False  # a list or a mapping of any keys: the next part is an index or such a key
    for part in way:
        if inside:
            inside = False
            continue
        field = next((field for name, field in model.model_fields.items() if part in (name, field.alias)), None)
        nested = _models_in(field.annotation) if field else []
        if field is None or not nested:
            return []
        model, inside = nested[0], field.default_factory in (dict, list)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _models_in(part)]


__all__ = ["EVERY_STEP", "STEP_FIELDS", "AnySettings", "read_settings", "settings_from", "settings_warnings"]
