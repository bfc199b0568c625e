"""``shutterline predict``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from components.shared.command import print_json
from components.shared.errors import EXIT_OK, InputError
from components.shared.extras import extras_named
from components.shared.logs import log_to_stderr
from components.shared.storage.location import parse_location
from pipelines.options import JSON, argument, flag, option, text

if TYPE_CHECKING:
    from components.predict.rows import Format


@click.command()
@argument("model", metavar="MODEL", type=text)
@argument("images", metavar="IMAGES…", nargs=-1, required=True, type=text)
@option("-o", "--output", metavar="FILE", type=text, help="File to write, here or in a bucket, whole or not at all; "
        "default: standard output.")  # fmt: skip
@option("--format", "form", type=click.Choice(["csv", "jsonl", "table"]), help="Form of the rows; default: of FILE "
        "by its ending (.csv, .jsonl), on a terminal a table, else CSV.")  # fmt: skip
@option("--top-k", metavar="N", type=click.IntRange(1), default=3, show_default=True, help="Classes of each image, the "
        "most probable first.")  # fmt: skip
@option("--device", metavar="DEVICE", type=text, default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@flag("--follow-links", "Read what links lead to outside of a folder, too.")
@JSON
def predict(
    *,
    model: str,
    images: Sequence[str],
    output: str | None,
    form: Format | None,
    top_k: int,
    device: str,
    follow_links: bool,
    as_json: bool,
) -> int:
    """Predict the classes of images.

    MODEL is a model directory, a run's directory, or a model.onnx alone; IMAGES are files, folders with all that is
    below them, or - for a list of them, one a line, on standard input. Each is a path, gs://bucket/key or
    s3://bucket/key. Images are decoded, brought upright and resized as in training. Files that cannot be read are
    listed with the reason; if none can be, the exit code is 2.
    """
    if as_json and output is None:
        raise InputError("--json prints one document to standard output; name a file for the predictions by --output")
    log_to_stderr()
    with extras_named("shutterline predict", "predict"):
        from components.predict.step import predict_staged

        result = predict_staged(
            model=parse_location(model),
            images=[parse_location(image) for image in images],
            output=None if output is None else parse_location(output),
            form=form,
            top_k=top_k,
            device=device,
            follow_links=follow_links,
        )
    if as_json:
        print_json({"status": "predicted", **result.report()})
    return EXIT_OK
