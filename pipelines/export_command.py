"""``shutterline export``: a trained model as a repository that model servers load."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

import click

from components.shared.artifacts.model import MODEL, onnx_file, onnx_of, open_model
from components.shared.command import print_json, print_message
from components.shared.errors import EXIT_OK, InputError
from components.shared.storage.fetch import fetch_artifact
from components.shared.storage.location import Location, parse_location
from pipelines.options import JSON, argument, option, text
from pipelines.serving.layouts import SERVICE_FILE, LayoutName, advice_for_clients, repository
from pipelines.serving.repository_writer import write_version


@click.command()
@argument("model", metavar="MODEL", type=text)
@option("--layout", type=click.Choice(get_args(LayoutName)), required=True, help="The server that shall load it.")
@option("-o", "--output", metavar="DIR", type=text, required=True, help="The repository: a new or empty directory, "
        "gs://… or s3://…, or one that this command has written before.")  # fmt: skip
@option("--name", metavar="NAME", default="classifier", show_default=True, help="What the server calls the model.")
@option("--version", metavar="N", type=click.IntRange(1, 2**31 - 1), default=1, show_default=True, help="Version to "
        "add; a server starts the highest.")  # fmt: skip
@option("--max-batch", metavar="N", type=click.IntRange(1, 2**16), default=64, show_default=True, help="Most images "
        "that the server puts into one batch.")  # fmt: skip
@option("--storage-uri", metavar="URI", type=text, help="KServe: where the cluster finds the repository; default: DIR, "
        "if it is in a bucket.")  # fmt: skip
@JSON
def export(
    *,
    model: str,
    layout: LayoutName,
    output: str,
    name: str,
    version: int,
    max_batch: int,
    storage_uri: str | None,
    as_json: bool,
) -> int:
    """Write a trained model as a repository that a model server loads.

    MODEL is the directory that training made, here or in a bucket, or a run's directory. Triton is given DIR as its
    model repository. For KServe, whose stock runtime for ONNX is Triton, inference-service.yaml is written beside the
    model: kubectl apply -f it. Clients send uint8 images (batch, height, width, channels) as "images" and get
    "probabilities" (batch, classes). Of a model with a stored size they resize images to that and send the middle,
    whose rows and columns are printed.

    A version that is there is never replaced; what could not be written whole cannot be seen.
    """
    source, target = parse_location(model), parse_location(output)
    if isinstance(source, Path) and source.is_file():
        raise InputError(f"{source}: is a file; name the model's directory, whose model.json is needed, too")
    with tempfile.TemporaryDirectory(prefix="shutterline-export-") as scratch:
        opened = open_model(
            fetch_artifact(source, MODEL, Path(scratch), wanted=onnx_file) if isinstance(source, Location) else source,
            onnx_file,
        )
        record = onnx_of(opened.manifest, source)
        content = (opened.path / record.file).read_bytes()
    default = str(target) if isinstance(target, Location) else None
    wanted = repository(opened.manifest, layout, name, version, max_batch, storage_uri or default)
    is_new = write_version(target, wanted, content)
    files, image, stored = [*wanted.beside, wanted.model_file], opened.manifest.image, opened.manifest.resized
    if as_json:
        print_json(
            {
                "status": "exported" if is_new else "present",
                "repository": str(target),
                "name": name,
                "version": version,
                "files": files,
                "model": {
                    "from": model,
                    "sha256": record.sha256,
                    "classes": len(opened.manifest.classes),
                    "image": image.as_tuple(),
                    "stored_image": stored.as_tuple(),
                },
            }
        )
    else:
        print_message(f"{'wrote' if is_new else 'is there already:'} version {version} of {name} in {target}")
        if advice := advice_for_clients(opened.manifest):
            print_message(advice)
        if layout == "kserve":
            print_message(f"start it by kubectl apply -f {SERVICE_FILE}")
    return EXIT_OK
