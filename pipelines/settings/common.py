"""What settings of both platforms share: steps by name, retries, and how a step's settings are merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, Field

from components.shared.errors import Problem
from components.shared.params.types import Real, Truth, Whole
from components.shared.run import EVENTS_VARIABLE
from components.shared.step import StepName
from pipelines.settings.fields import Cpu, Memory, SettingsRecord, Variables

# What a file says of all steps; a step's own value goes before it.
EVERY_STEP = "every-step"
# By alias, as files write them.
STEP_FIELDS: dict[StepName, str] = {
    "data-prep": "data_prep",
    "train": "train",
    "evaluate": "evaluate",
    "publish": "publish",
    "exit": "exit",
}


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

    @property
    def is_accelerated(self) -> bool:
        """Whether it gets accelerators."""
        return False

    def problems(self) -> list[Problem]:
        """What contradicts itself, once everything is merged."""
        times = self.retry.times if self.retry else 0
        missing = [name for name in ("pause_s", "factor", "window_s") if times and getattr(self.retry, name) is None]
        return [Problem(f"retry.{name}", f"is required where a step is repeated {times} times") for name in missing]


Step = TypeVar("Step", bound=StepSettings)
Prep = TypeVar("Prep", bound=StepSettings)
Train = TypeVar("Train", bound=StepSettings)


Shards = Annotated[Whole, Field(ge=1, le=1000)]
SHARDS_MEANING = (
    "How many steps share the decoding: each prepares a part of the images and gets what data-prep gets, and one more "
    "joins the parts to the dataset that a single step makes. 1: a single step."
)


class PlatformSettings(SettingsRecord, Generic[Step, Prep, Train]):
    """A settings file; data prep and training may get more than another step."""

    target: str
    checkpoints: str | None = None
    events: str | None = None
    every_step: Step | None = Field(None, alias=EVERY_STEP, description="What all steps get.")
    data_prep: Prep | None = Field(None, alias="data-prep", description="Data prep.")
    train: Train | None = Field(None, description="Training.")
    evaluate: Step | None = Field(None, description="Evaluation.")
    publish: Step | None = Field(None, description="Publishing of a model that passes, where publish_uri is set.")
    exit: Step | None = Field(None, description="The exit step.")

    def document(self) -> dict[str, Any]:
        """These settings as a file of them: what was taken away is null there, so that no default comes back."""
        return {key: _document(value) for key, value in _entries(self)}

    @property
    def shards(self) -> int:
        """How many steps share the decoding."""
        return getattr(self.data_prep, "shards", None) or 1

    def step(self, name: StepName) -> Step:
        """One step's settings, merged."""
        step: Step = getattr(self, STEP_FIELDS[name])
        return step

    def with_cached_data(self) -> Self:
        """These settings with data prep served from the cache, for data that never change below one name."""
        return self.model_copy(update={"data_prep": self.step("data-prep").model_copy(update={"cache": True})})

    def problems(self) -> list[Problem]:
        """What contradicts itself, once everything is merged."""
        found = []
        for name in STEP_FIELDS:
            step = self.step(name)
            found += [Problem(f"{name}.{problem.path}", problem.message) for problem in step.problems()]
            if self.events is not None and EVENTS_VARIABLE in (*step.env, *getattr(step, "secret_env", ())):
                message = "is what the key events sets; only one can be meant"
                found.append(Problem(f"{name}.env.{EVENTS_VARIABLE}", message))
        return found


def merged(base: Any, over: Any) -> Any:
    """`base` with what `over` says: mappings are joined, lists appended; null takes away."""
    if isinstance(base, Mapping) and isinstance(over, Mapping) and "secret" not in over:  # one secret is one value
        return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}
    if isinstance(base, list) and isinstance(over, list):
        return [*base, *(item for item in over if item not in base)]
    return over


def _entries(record: BaseModel) -> Iterator[tuple[str, Any]]:
    for name, field in type(record).model_fields.items():
        if (value := getattr(record, name)) is not None or name in record.model_fields_set:
            yield field.alias or name, value


def _document(value: Any) -> Any:
    if isinstance(value, BaseModel | dict):
        items = _entries(value) if isinstance(value, BaseModel) else value.items()
        return {key: _document(item) for key, item in items}
    return [_document(item) for item in value] if isinstance(value, list) else value
