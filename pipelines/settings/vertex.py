"""Settings of Vertex AI: what machine each step runs on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from components.shared.errors import Problem
from components.shared.params.types import Whole, described, refusal
from components.shared.run import CHECKPOINTS_AUTO, EVENTS_AUTO, EVENTS_VARIABLE
from components.shared.step import StepName
from pipelines.settings.common import STEP_FIELDS, PlatformSettings, Retry, StepSettings
from pipelines.settings.fields import SettingsRecord, durable_location
from pipelines.vertex_limits import ACCELERATORS, MAX_RETRY_WINDOW_S, machine_problem


def _accelerator(value: object) -> str:
    if not isinstance(value, str) or value not in ACCELERATORS:
        raise refusal(f"must be one of {', '.join(ACCELERATORS)}, got {described(value)}")
    return value


class Accelerator(SettingsRecord):
    """The accelerators of a step."""

    type: Annotated[str, BeforeValidator(_accelerator)] = Field(description="As Vertex AI calls it, such as NVIDIA_L4.")
    count: Annotated[Whole, Field(ge=0, le=16)] = Field(1, description="How many; 0: none.")


class VertexStep(StepSettings):
    """What machine a step runs on: Vertex AI takes the smallest that has all of it."""

    accelerator: Accelerator | None = Field(None, description="Accelerators.")

    @property
    def accelerates(self) -> Accelerator | None:
        """The accelerators, if there are any."""
        return self.accelerator if self.accelerator and self.accelerator.count else None

    def problems(self) -> list[Problem]:
        """What contradicts itself, or is more than Vertex AI has."""
        found = super().problems()
        accelerator = self.accelerates
        kind, count = (accelerator.type, accelerator.count) if accelerator else (None, 0)
        if problem := machine_problem(self.cpu, self.memory, kind, count):
            too_much = "memory" if machine_problem(None, self.memory, kind, count) else "cpu"
            found.append(Problem("accelerator" if accelerator else too_much, problem))
        if self.retry and self.retry.window_s and self.retry.window_s > MAX_RETRY_WINDOW_S:
            found.append(Problem("retry.window_s", f"is at most {MAX_RETRY_WINDOW_S} on Vertex AI"))
        return found


def _durable(value: object) -> str:
    named = durable_location(value)
    if named.startswith("/") and not named.startswith("/gcs/"):
        raise refusal('must be "auto" or gs://bucket/…: a path ends with its machine')
    return named


class VertexSettings(PlatformSettings):
    """A settings file for Vertex AI."""

    target: Literal["vertex"] = Field("vertex", description="The platform.")
    checkpoints: Annotated[str, BeforeValidator(_durable)] | None = Field(
        None,
        description='Where training keeps its checkpoints: gs://…, or "auto", the default: beside the artifacts.',
    )
    events: Annotated[str, BeforeValidator(_durable)] | None = Field(
        None,
        description="Where the events that a step could not deliver are kept, for a later step, the exit step and "
        '`shutterline events replay` to deliver: gs://…, or "auto", the default: beside the artifacts.',
    )
    every_step: VertexStep | None = Field(None, alias="every-step", description="What all steps get.")
    data_prep: VertexStep = Field(default_factory=VertexStep, alias="data-prep", description="Data prep.")
    train: VertexStep = Field(default_factory=VertexStep, description="Training.")
    evaluate: VertexStep = Field(default_factory=VertexStep, description="Evaluation.")
    exit: VertexStep = Field(default_factory=VertexStep, description="The exit step.")

    def problems(self) -> list[Problem]:
        """What contradicts itself, once everything is put together."""
        steps: dict[StepName, VertexStep] = {name: self.step(name) for name in STEP_FIELDS}
        found = [
            Problem(f"{name}.{problem.path}", problem.message)
            for name, step in steps.items()
            for problem in step.problems()
        ]
        if self.events is not None:
            found += [
                Problem(f"{name}.env.{EVENTS_VARIABLE}", "is what the key events sets; only one can be meant")
                for name, step in steps.items()
                if EVENTS_VARIABLE in step.env
            ]
        return found


def vertex_defaults(*, gpu: bool) -> VertexSettings:
    """What a step gets where nothing is said.

    Args:
        gpu: Whether training gets one: the cheapest that there is.
    """

    def step(cpu: str, memory: str, retry: Retry, *, cache: bool) -> VertexStep:
        return VertexStep(cpu=cpu, memory=memory, cache=cache, retry=retry)

    # A step publishes whole or not at all, so repeating it is safe; the exit step would tell the end twice.
    again = Retry(times=2, pause_s=30, factor=2.0, window_s=MAX_RETRY_WINDOW_S)
    training = step("4", "15G", again, cache=True)
    return VertexSettings(
        checkpoints=CHECKPOINTS_AUTO,
        events=EVENTS_AUTO,
        # What its input names may have changed, which a cache cannot see.
        data_prep=step("4", "16G", again, cache=False),
        train=training.model_copy(update={"accelerator": Accelerator(type="NVIDIA_TESLA_T4")}) if gpu else training,
        evaluate=step("4", "16G", again, cache=True),
        exit=step("2", "8G", Retry(times=0, pause_s=30, factor=2.0, window_s=MAX_RETRY_WINDOW_S), cache=False),
    )
