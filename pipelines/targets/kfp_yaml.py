"""The pipeline as KFP's YAML, for upload."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from components.shared.artifacts import write_atomically
from components.shared.errors import InputError
from components.shared.images import Image, ImageStep
from components.shared.params import Params
from pipelines.targets.pipeline_images import pipeline_with


def write_pipeline(params: Params, file: Path, images: Mapping[ImageStep, Image]) -> None:
    """Compile the pipeline with `params` as the default of its params input.

    Args:
        params: Checked params.
        file: Where to write, .yaml.
        images: What the steps shall run in.

    Raises:
        InputError: The file's name does not end in .yaml, or it cannot be written.
    """
    from kfp.compiler import Compiler

    if file.suffix not in (".yaml", ".yml"):
        raise InputError(f"--output {file}: a compiled pipeline's name ends in .yaml")
    with tempfile.TemporaryDirectory(prefix="shutterline-") as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own deprecations
        compiled = Path(directory) / "pipeline.yaml"
        Compiler().compile(
            pipeline_func=pipeline_with(images),
            package_path=str(compiled),
            pipeline_parameters={"params": params.to_json()},
        )
        data = compiled.read_bytes()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, data)
    except OSError as error:
        raise InputError(f"--output {file}: cannot be written: {error.strerror}") from error
