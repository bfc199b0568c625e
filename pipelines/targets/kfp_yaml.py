"""The pipeline as KFP's YAML, for upload."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from components.shared.artifacts.artifact import write_atomically
from components.shared.errors import InputError
from components.shared.files import is_full
from components.shared.images import Image, ImageStep
from components.shared.params.params import Params
from components.shared.step import StepName
from components.shared.storage.location import place
from components.shared.version import __version__
from pipelines.compiled import PLATFORM_TITLES, secret_named_by
from pipelines.compiled_yaml import Dumper, documents_of
from pipelines.settings.kubeflow import KubeflowSettings
from pipelines.settings.read import AnySettings
from pipelines.targets.kfp_start import started_itself
from pipelines.targets.kubeflow import configure_kubeflow
from pipelines.targets.pipeline_images import reference_of
from pipelines.targets.vertex import configure_vertex


@dataclass(frozen=True)
class Defaults:
    """Defaults of a compiled pipeline's inputs, which every run may replace.

    Attributes:
        params: Checked params.
        data: Where the images are; None: every run must say.
        checkpoints: Where training keeps its checkpoints; None: as the settings say.
    """

    params: Params
    data: str | None = None
    checkpoints: str | None = None


def check_output(file: Path) -> None:
    """See that a compiled pipeline can be called so.

    Raises:
        InputError: It cannot: kfp and Kubeflow go by the ending.
    """
    if file.suffix not in (".yaml", ".yml"):
        raise InputError(f"--output {file}: a compiled pipeline's name ends in .yaml")


def write_pipeline(file: Path, text: str) -> None:
    """Write a compiled pipeline; a link stays one, to the file that is written.

    Raises:
        InputError: It cannot be written.
        OSError: The disk is full.
    """
    try:
        place = file.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, text.encode())
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        if isinstance(error, OSError) and is_full(error):
            raise
        raise InputError(f"--output {file}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


def load_kfp() -> None:
    """Import kfp and the pipeline ahead of time."""
    for module in ("kfp.compiler", "kfp.kubernetes", "pipelines.image_classifier"):
        importlib.import_module(module)


def compiled_pipeline(defaults: Defaults, images: Mapping[ImageStep, Image], settings: AnySettings | None) -> str:
    """The pipeline compiled: the text of its file.

    Args:
        defaults: Defaults of its inputs.
        images: What the steps shall run in.
        settings: What the platform shall give each step; None: nothing is asked of any platform.

    Raises:
        InputError: A place is none, or the file would hold a secret of this environment.
    """
    from kfp.compiler import Compiler

    from pipelines.image_classifier import DESCRIPTION, pipeline_for

    inputs = {"params": defaults.params.to_json()}
    checkpoints = defaults.checkpoints or (settings.checkpoints if settings else None)
    for name, value in (("data", defaults.data), ("checkpoints", checkpoints)):
        if value is not None:
            if "{{" in value:  # a platform would fill something in
                raise InputError(f"{name} {value}: must not have {{{{ in it, by which KFP marks what it fills in")
            place(value)
            inputs[name] = value
    with tempfile.TemporaryDirectory(prefix="shutterline-") as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own deprecations
        compiled = Path(directory) / "pipeline.yaml"
        Compiler().compile(
            pipeline_func=pipeline_for(partial(_configure, images, settings)),
            package_path=str(compiled),
            pipeline_parameters=inputs,
        )
        documents = documents_of(compiled.read_text(encoding="utf-8"))
    # kfp repeats defaults in comments of one line each, so a text of several lines would break its file.
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    parameters["params"]["defaultValue"] = defaults.params.to_form()
    for executor in documents[0]["deploymentSpec"]["executors"].values():
        executor["container"]["command"] = started_itself(executor["container"]["command"])
    if (variable := secret_named_by(documents)) is not None:
        raise InputError(
            f"the compiled pipeline would hold the secret that {variable} has here; leave it out, and "
            "name where it is kept: secret_env, secret_files or sm://…"
        )
    text = _HEADER.format(
        name=documents[0]["pipelineInfo"]["name"],
        description=DESCRIPTION,
        target=PLATFORM_TITLES[settings.target] if settings else "any platform",
        version=__version__,
    )
    return text + str(yaml.dump_all(documents, Dumper=Dumper, sort_keys=True, width=120, allow_unicode=True))


# The first lines are kfp's: its loader takes a component's description from them.
_HEADER = """\
# PIPELINE DEFINITION
# Name: {name}
# Description: {description}
# Compiled for {target} by Shutterline {version}; `shutterline validate` checks it, `shutterline submit` runs it.
"""


def _configure(images: Mapping[ImageStep, Image], settings: AnySettings | None, step: StepName, task: Any) -> None:
    task.set_container_image(reference_of(step, images))
    if isinstance(settings, KubeflowSettings):
        configure_kubeflow(settings, step, task)
    elif settings is not None:
        configure_vertex(settings, step, task)
