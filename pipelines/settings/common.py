"""What settings of both platforms share: steps by name, retries, and how a step's settings are put together."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field

from components.shared.errors import Problem
from components.shared.params.types import Real, Truth, Whole
from components.shared.step import StepName
from pipelines.settings.fields import Cpu, Memory, SettingsRecord, Variables

# What a file says of all steps; a step's own word goes before it.
EVERY_STEP = "every-step"


class Retry(SettingsRecord):
    """How a step is started again."""

    times: Annotated[Whole, Field(ge=0, le=20)] | None = Field(None, description="How often; 0: not at all.")
    pause_s: Annotated[Whole, Field(ge=1, le=3600)] | None = Field(
        None, description="Seconds before the first time; factor times as long before each further one."
    )
    factor: Annotated[Real, Field(ge=1, le=10)] | None = Field(
        None, description="How many times longer each further pause is."
    )
    window_s: Annotated[Whole, Field(ge=60, le=30 * 24 * 3600)] | None = Field(
        None,
        description="Seconds from the first start after which a step is not started again. The platforms count the "
        "step's own running time too, and kfp alone would make it one hour: longer training would never be repeated.",
    )


class StepSettings(SettingsRecord):
    """What a step gets on either platform."""

    cpu: Cpu | None = Field(None, description="Most processors.")
    memory: Memory | None = Field(None, description="Most memory.")
    env: Variables = Field(default_factory=dict, description="Environment variables; secrets are refused here.")
    cache: Truth | None = Field(
        None, description="Whether an earlier result for the same inputs is taken instead of running the step."
    )
    retry: Retry | None = Field(
        None,
        description="How a step is started again; after which ends, the platform says. Kubeflow Pipelines 2.17 as it "
        "is installed: where the pod was deleted, not where the step failed; up to 2.16 where it failed.",
    )

    def problems(self) -> list[Problem]:
        """What contradicts itself, once everything is put together."""
        retry = self.retry
        if retry is None or not retry.times:
            return []
        needed = {"pause_s": retry.pause_s, "factor": retry.factor, "window_s": retry.window_s}
        return [
            Problem(f"retry.{name}", f"is required where a step is repeated {retry.times} times")
            for name, value in needed.items()
            if value is None
        ]


# By alias, as files write them; every settings class has these four and EVERY_STEP.
STEP_FIELDS: dict[StepName, str] = {
    "data-prep": "data_prep",
    "train": "train",
    "evaluate": "evaluate",
    "exit": "exit",
}


_Model = TypeVar("_Model", bound=SettingsRecord)


def merged(base: _Model, over: _Model | None) -> _Model:
    """`base` with what `over` says: mappings are joined, lists appended, mappings of known keys merged likewise.

    What `over` has null for is taken away, be it the whole of a field or one entry of it.
    """
    if over is None:
        return base
    changes: dict[str, Any] = {way[0]: type(getattr(base, way[0]))() for way in over.taken if len(way) == 1}
    for name in over.model_fields_set:
        before, now = getattr(base, name), getattr(over, name)
        if isinstance(before, SettingsRecord) and isinstance(now, type(before)):
            now = merged(before, now)
        elif isinstance(before, dict) and isinstance(now, dict):
            now = before | now
        elif isinstance(before, list) and isinstance(now, list):
            now = [*before, *(item for item in now if item not in before)]
        changes[name] = now
    for name, entry in (way for way in over.taken if len(way) == 2):
        held = changes.get(name, getattr(base, name))
        changes[name] = {key: item for key, item in held.items() if key != entry}
    return base.model_copy(update=changes)


def _document(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {
            field.alias or name: _document(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if getattr(value, name) is not None or name in value.model_fields_set
        }
    if isinstance(value, dict):
        return {key: _document(item) for key, item in value.items()}
    return [_document(item) for item in value] if isinstance(value, list) else value


class PlatformSettings(SettingsRecord):
    """What both platforms' files have at the top."""

    target: Literal["kubeflow", "vertex"]

    def document(self) -> dict[str, Any]:
        """These settings as a file of them: what was taken away is null there, so that no default comes back."""
        return {
            key: value
            for key, value in _document(self).items()
            if key != EVERY_STEP  # once put together, each step has it
        }

    def step(self, name: StepName) -> Any:
        """One step's settings, put together."""
        return getattr(self, STEP_FIELDS[name])

    def with_cached_data(self) -> Self:
        """These settings with data prep served from the cache, for data that never change below one name."""
        field = STEP_FIELDS["data-prep"]
        return self.model_copy(update={field: self.step("data-prep").model_copy(update={"cache": True})})

    def put_together(self, defaults: Self) -> Self:
        """These settings on top of the defaults: of a step the defaults, then every-step, then its own."""
        whole = merged(defaults, self)
        common = getattr(self, "every_step")  # noqa: B009 - each platform's class has its own
        changes = {
            field: merged(merged(getattr(defaults, field), common), getattr(self, field))
            for field in STEP_FIELDS.values()
        }
        return whole.model_copy(update=changes)
