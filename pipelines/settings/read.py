"""A settings file read, checked against its platform and merged with the defaults."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from components.shared.errors import ParamsError, Problem, SettingsError
from components.shared.params.params import Params
from components.shared.params.parsed import as_problems
from components.shared.params.source import read_params_file
from pipelines.compiled import PLATFORM_TITLES, PLATFORMS, PlatformName
from pipelines.settings.common import EVERY_STEP, STEP_FIELDS, merged
from pipelines.settings.kubeflow import FIELD_OF, FIRST_RELEASE, KubeflowSettings, KubeflowStep, kubeflow_defaults
from pipelines.settings.vertex import VertexSettings, VertexStep, vertex_defaults

AnySettings = KubeflowSettings | VertexSettings
SETTINGS: dict[PlatformName, type[AnySettings]] = {"kubeflow": KubeflowSettings, "vertex": VertexSettings}
STEPS: dict[PlatformName, type[KubeflowStep | VertexStep]] = {"kubeflow": KubeflowStep, "vertex": VertexStep}
_DEFAULTS = {"kubeflow": kubeflow_defaults, "vertex": vertex_defaults}
# Where somebody may have written a secret instead of its name.
_OF_SECRETS = re.compile(r"\.(env|secret_env|secret_files|pull_secrets)(?![a-z_])")


def read_settings(file: Path | None, target: PlatformName, params: Params) -> AnySettings:
    """The settings of a run on a platform.

    Args:
        file: A .yaml or .json file; None: the defaults alone.
        target: The platform.
        params: The run's params; a run on the CPU gets no accelerator by default.

    Raises:
        SettingsError: With every problem found, each with its path.
    """
    source = str(file) if file else None
    try:
        raw = read_params_file(file, "settings") if file else {}
    except ParamsError as error:
        raise SettingsError(error.problems, error.source) from error
    given = raw.get("target", target)
    if given != target and given in PLATFORMS:
        advice = f"these are settings for {PLATFORM_TITLES[given]}; compile with --target {given}"
        raise SettingsError([Problem("target", advice)], source)
    try:
        SETTINGS[target].model_validate({**raw, "target": given})
    except ValidationError as error:
        known = [field.alias or name for name, field in SETTINGS[target].model_fields.items()]
        found = as_problems(error, known, lambda where: _unknown(where, target))
        raise SettingsError([_without_secrets(problem) for problem in found], source) from error
    rest = {key.replace("-", "_"): value for key, value in raw.items()}
    every = rest.pop(EVERY_STEP.replace("-", "_"), None) or {}
    whole = _DEFAULTS[target](gpu=params.device != "cpu")
    for name in STEP_FIELDS.values():
        whole[name] = merged(merged(whole[name], every), rest.pop(name, None) or {})
    settings = SETTINGS[target].model_validate({**whole, **rest, "target": target})
    problems = settings.problems()
    if params.device.startswith("cuda") and not settings.step("train").is_accelerated:
        problems.append(Problem("train", f"has no accelerator, but the params ask for device {params.device}"))
    if problems:
        raise SettingsError(problems, source)
    return settings


def _without_secrets(problem: Problem) -> Problem:
    """A problem without the value that was given, where that may be a secret."""
    if _OF_SECRETS.search(problem.path) is None:
        return problem
    return Problem(problem.path, problem.message.partition(", got ")[0])


def settings_warnings(settings: AnySettings, params: Params) -> list[str]:
    """What costs money for nothing or has no effect, and what not every release of the platform takes."""
    newer = settings.newer() if isinstance(settings, KubeflowSettings) else []
    before = "Kubeflow Pipelines before {} refuses a pipeline compiled with this"
    found = [f"{key}: {before.format(FIRST_RELEASE[FIELD_OF[key]])}" for key in newer]
    if isinstance(settings, KubeflowSettings) and settings.train:
        found += [f"train.{warning}" for warning in settings.train.warnings()]
    if params.device == "cpu" and settings.step("train").is_accelerated:
        found.append("train: an accelerator is rented, but the params say device cpu")
    if settings.step("evaluate").is_accelerated:
        found.append("evaluate: an accelerator is rented, which only an image built with --cuda-evaluate uses")
    return found


def _unknown(where: tuple[int | str, ...], target: PlatformName) -> str:
    """A hint for a key that is not known: the nearest, or the platform that has it."""
    key, other = str(where[-1]), next(each for each in PLATFORMS if each != target)
    allowed = _keys_at(SETTINGS[target], where[:-1])
    for step in ("data-prep", "train") if len(where) <= 2 else ():
        if key in set(_keys_at(SETTINGS[target], (step,))) - STEPS[target].model_fields.keys():
            return f"unknown key: it belongs to {step} alone"
    if key in _keys_at(SETTINGS[other], where[:-1]):
        return f"unknown key: it belongs to {PLATFORM_TITLES[other]}; allowed are {', '.join(allowed)}"
    near = difflib.get_close_matches(key, allowed, 1)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; allowed are {', '.join(allowed)}"


def _keys_at(model: type[BaseModel], way: tuple[int | str, ...]) -> list[str]:
    """The keys of the mapping that this way down from a settings class leads to; none where it leads nowhere."""
    for part in way:
        for name, field in model.model_fields.items():
            if part in (name, field.alias):  # else an index of a list, or the key of a mapping of any keys
                if not (nested := _models_in(field.annotation)):
                    return []
                model = nested[0]
                break
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _models_in(part)]
