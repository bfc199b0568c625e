"""Settings of Vertex AI: what machine each step runs on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from components.shared.errors import Problem
from components.shared.params.types import Whole, refusal
from components.shared.run import AUTO
from components.shared.text import described
from pipelines.settings.common import SHARDS_MEANING, PlatformSettings, Shards, StepSettings
from pipelines.settings.fields import SettingsRecord, durable_location
from pipelines.vertex_limits import ACCELERATORS, MAX_RETRY_WINDOW_S, MAX_VARIABLES, machine_problem, machine_type

# Each node of a custom job has these from Vertex AI or from torch, each with a value of its own.
_OF_A_NODE = ("CLUSTER_SPEC", "TF_CONFIG", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def _accelerator(value: object) -> str:
    if not isinstance(value, str) or value not in ACCELERATORS:
        raise refusal(f"must be one of {', '.join(ACCELERATORS)}, got {described(value)}")
    return value


def _durable(value: object) -> str:
    location = durable_location(value)
    if location.startswith("/") and not location.startswith("/gcs/"):
        raise refusal('must be "auto" or gs://bucket/…: a path ends with its machine')
    return location


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

    @property
    def cards(self) -> tuple[str | None, int]:
        """The type of its accelerators, and how many there are."""
        return (self.accelerates.type, self.accelerates.count) if self.accelerates else (None, 0)

    @property
    def is_accelerated(self) -> bool:
        """Whether it gets accelerators."""
        return self.accelerates is not None

    def problems(self) -> list[Problem]:
        """What contradicts itself, or is more than Vertex AI has."""
        found = super().problems()
        if problem := machine_problem(self.cpu, self.memory, *self.cards):
            too_much = "memory" if machine_problem(None, self.memory, *self.cards) else "cpu"
            found.append(Problem("accelerator" if self.accelerates else too_much, problem))
        if self.retry and self.retry.window_s and self.retry.window_s > MAX_RETRY_WINDOW_S:
            found.append(Problem("retry.window_s", f"is at most {MAX_RETRY_WINDOW_S} on Vertex AI"))
        return found


class VertexDataPrep(VertexStep):
    """What machine data prep runs on; where there are several shards, each of them."""

    shards: Shards | None = Field(None, description=SHARDS_MEANING)


class VertexTrain(VertexStep):
    """What machines training runs on."""

    nodes: Annotated[Whole, Field(ge=1, le=1000)] | None = Field(
        None,
        description="How many machines train together, as the worker pools of a custom job; what train gets is then "
        "each machine's. 1: without a custom job.",
    )

    @property
    def is_distributed(self) -> bool:
        """Whether several machines train."""
        return (self.nodes or 1) > 1

    @property
    def machine(self) -> str | None:
        """The machine type of each node; None: no machine has what is asked for."""
        return machine_type(self.cpu, self.memory, *self.cards)

    def problems(self) -> list[Problem]:
        """What contradicts itself, or is more than Vertex AI has."""
        found = super().problems()
        if not self.is_distributed:
            return found
        found += [Problem(f"env.{name}", "is each node's own") for name in _OF_A_NODE if name in self.env]
        if len(self.env) > MAX_VARIABLES:
            found.append(Problem("env", f"has {len(self.env)} variables; a custom job takes at most {MAX_VARIABLES}"))
        if not found and self.machine is None:
            asked = ", ".join(filter(None, (self.cpu and f"cpu {self.cpu}", self.memory and f"memory {self.memory}")))
            with_it = f" with {self.accelerates.count} {self.accelerates.type}" if self.accelerates else ""
            found.append(Problem("nodes", f"no machine type{with_it} has {asked}; ask for less, or for one node"))
        return found


class VertexSettings(PlatformSettings[VertexStep, VertexDataPrep, VertexTrain]):
    """A settings file for Vertex AI."""

    target: Literal["vertex"] = Field("vertex", description="The platform.")
    checkpoints: Annotated[str, BeforeValidator(_durable)] | None = Field(
        None, description='Where training keeps its checkpoints: gs://…, or "auto", the default: beside the artifacts.'
    )
    events: Annotated[str, BeforeValidator(_durable)] | None = Field(
        None,
        description="Where the events that a step could not deliver are kept, for a later step, the exit step and "
        '`shutterline events replay` to deliver: gs://…, or "auto", the default: beside the artifacts.',
    )


def vertex_defaults(*, gpu: bool) -> dict[str, Any]:
    """What a step gets by default.

    Args:
        gpu: Whether training gets one: the cheapest that there is.
    """
    # A step publishes whole or not at all, so repeating it is safe; the exit step would report the end twice.
    again = {"times": 2, "pause_s": 30, "factor": 2, "window_s": MAX_RETRY_WINDOW_S}
    accelerated = {"accelerator": {"type": "NVIDIA_TESLA_T4"}} if gpu else {}
    return {
        "checkpoints": AUTO,
        "events": AUTO,
        # What its input names may have changed, which a cache cannot see.
        "data_prep": {"cpu": "4", "memory": "16G", "cache": False, "retry": again},
        "train": {"cpu": "4", "memory": "15G", "cache": True, "retry": again, **accelerated},
        "evaluate": {"cpu": "4", "memory": "16G", "cache": True, "retry": again},
        # What it is run for is not among its outputs; to publish the same again changes nothing.
        "publish": {"cpu": "2", "memory": "8G", "cache": False, "retry": again},
        "exit": {"cpu": "2", "memory": "8G", "cache": False, "retry": again | {"times": 0}},
    }
