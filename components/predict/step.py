"""Prediction wherever model and images are: fetch the model, predict while images come, write each row at once."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from components.predict.image_files import STANDARD_INPUT, ImageFile, ImageFiles
from components.predict.predict import TOP_K, Predictor, check_top_k
from components.predict.progress import PredictionProgress
from components.predict.rows import Format, Rows
from components.shared.artifacts.model import MODEL, onnx_file
from components.shared.decoding.file_names import ending_of
from components.shared.decoding.images import image_extensions
from components.shared.decoding.pixels import note_lines
from components.shared.decoding.rendering import WHITE
from components.shared.errors import DataError, InputError, ShutterlineError
from components.shared.events.data import Emit, Succeeded, ignore_events
from components.shared.files import Output, is_full, replacing, writing
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.staging import SCRATCH_VARIABLE, Staging
from components.shared.storage.location import AnyPath, Location
from components.shared.storage.publish import write_file
from components.shared.storage.store import connect
from components.shared.storage.transfer import Transfer
from components.shared.text import shown

# Files that are listed before the first is predicted, so that it is known how many there are.
_LISTED_FIRST = 10_000
_FORMS: dict[str, Format] = {"": "csv", ".csv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}

_log = step_logger("predict")


@dataclass(frozen=True)
class PredictResult:
    """How many files were predicted, and where the rows are; None: on standard output."""

    predictions: str | None
    images: int
    unreadable: int
    left_out: dict[str, int]
    images_per_second: float
    device: str
    classes: list[str] = field(repr=False)

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "predictions": self.predictions,
            "images": self.images,
            "unreadable": self.unreadable,
            "left_out": self.left_out,
            "images_per_second": self.images_per_second,
            "device": self.device,
            "classes": self.classes,
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        unreadable = {"unreadable images": self.unreadable} if self.unreadable else {}
        return Succeeded(
            seconds=seconds,
            metrics={"images": float(self.images), "images_per_second": self.images_per_second},
            artifacts={"predictions": self.predictions} if self.predictions else {},
            left_out=self.left_out | unreadable,
        )


def predict_staged(
    *,
    model: AnyPath,
    images: Iterable[AnyPath],
    output: AnyPath | None = None,
    form: Format | None = None,
    top_k: int = TOP_K,
    device: str | None = None,
    follow_links: bool = False,
    params: Params | None = None,
    emit: Emit = ignore_events,
) -> PredictResult:
    """As :func:`~components.predict.predict.predict`, of a model that may be in a bucket, and written as rows.

    Args:
        model: As there, or a location in a bucket of a model directory or a model.onnx.
        images: As there; ``-``: one a line of standard input.
        output: File or object to write, whole or not at all; None: standard output, row by row.
        form: Of the rows; None: by the ending of `output`; on a terminal a table, else CSV.
        top_k: As there.
        device: As there; None: that of the params, or else auto.
        follow_links: As there.
        params: Name the brokers for status, the credentials for ``gs://`` and a device; None: none are named.
        emit: Gets the status of the step.

    Raises:
        DataError: There are no images, or none of them can be read.
        InputError, StorageRefusedError, StorageUnavailableError: As there; or `output` cannot be written.
    """
    check_top_k(top_k)
    if output is not None and ending_of(output.name) in image_extensions():  # such as *.png after --output
        raise InputError(f"{output}: is named as an image is; name a file for the predictions, such as .csv or .jsonl")
    locations, is_shown = list(images), output is None and sys.stdout.isatty()
    form = form or _form_of(output, is_shown=is_shown)
    with Staging(_log, emit, params) as staging, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is read, or has a reason not to be
        predictor = Predictor.open(_local_model(staging, model), device or (params.device if params else "auto"))
        classifier, unread, first = predictor.classifier, 0, ""
        files = ImageFiles(locations, follow_links=follow_links)
        found, total = _listed_first(files, locations)
        batches = predictor.batches(found, top_k)
        # Given up, what is being fetched is so first, as threads wait for it.
        with _written(output) as write, closing(batches), files:
            rows = Rows(form, write, classifier.classes, top_k)
            with PredictionProgress(staging.emit, classifier.device, total, shows_bar=not is_shown) as progress:
                for batch in batches:
                    rows.add(batch)
                    progress.add(len(batch))
                    not_read = [prediction for prediction in batch if prediction.error]
                    unread += len(not_read)
                    if not_read and not first:
                        first = f"{not_read[0].file}: {not_read[0].error}"
                rate = progress.images_per_second
            left_out = ", ".join(f"{count} {what}" for what, count in files.left_out.most_common())
            if unread == progress.done:
                others = f"; not images: {left_out}" if left_out else ""
                if unread == 1:
                    raise DataError(f"{first}{others}")
                where = ", ".join("standard input" if each == STANDARD_INPUT else str(each) for each in locations)
                what = f"none of {unread} files can be read; the first is {first}" if unread else "no image is there"
                raise DataError(f"{shown(where)}: {what}{others}")
        color = "white" if predictor.rendering.background == WHITE else list(predictor.rendering.background)
        for level, line in note_lines(predictor.noted, color):
            _log.log(level, "%s", line)
        if left_out:
            _log.info("not images: %s", left_out)
        if unread:
            _log.warning("%d of %d files were not read; the first is %s", unread, progress.done, first)
        images_done, speed = progress.done - unread, f"{rate:,.0f} images/s on {classifier.device}"
        _log.info("images predicted: %s, %s%s", f"{images_done:,}", speed, f"; they are in {output}" if output else "")
        return PredictResult(
            predictions=None if output is None else str(output),
            images=images_done,
            unreadable=unread,
            left_out=dict(files.left_out),
            images_per_second=rate,
            device=classifier.device,
            classes=classifier.classes,
        )


def _local_model(staging: Staging, model: AnyPath) -> Path:
    is_file = isinstance(model, Location) and model.name.endswith(".onnx")
    return staging.tree(model) if is_file else staging.artifact(model, MODEL, onnx_file)


def _form_of(output: AnyPath | None, *, is_shown: bool) -> Format:
    if output is None:
        return "table" if is_shown else "csv"
    form = _FORMS.get(PurePath(output.name).suffix.lower())
    if form is None:
        raise InputError(f"{output}: no format has this ending; name a .csv or .jsonl file, or set --format")
    return form


def _listed_first(files: ImageFiles, locations: list[AnyPath]) -> tuple[Iterator[ImageFile], int | None]:
    """The files, and how many they are, where they are on this machine and few enough to be listed before."""
    rest = iter(files)
    if any(isinstance(location, Location) or location == STANDARD_INPUT for location in locations):
        return rest, None
    listed = list(itertools.islice(rest, _LISTED_FIRST))
    return itertools.chain(listed, rest), len(listed) if len(listed) < _LISTED_FIRST else None


@contextmanager
def _written(output: AnyPath | None) -> Iterator[Callable[[str], object]]:
    """Takes the text of rows: for standard output at once, else for a file that is whole or not there."""
    if output is None:
        yield _print
    elif isinstance(output, Path):
        if output.exists() and not output.is_file():
            raise InputError(f"{output}: is not a file; name one for the predictions")
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(replacing(output))
            except OSError as error:
                if is_full(error):
                    raise
                raise InputError(f"{output}: cannot be written: {error.strerror or error}") from error
            yield partial(_append, stream)
    else:
        if not output.key:
            raise InputError(f"{output}: is a whole bucket; add a key for the predictions")
        with closing(connect(output, Transfer())) as store:
            next(store.list(output.key), None)  # a bucket that is not there is an error now
        folder = Path(tempfile.mkdtemp(prefix="shutterline-", dir=os.environ.get(SCRATCH_VARIABLE)))
        file = folder / output.name
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with writing(file) as stream:
                yield partial(_append, stream)
            try:
                write_file(output, file)
            except ShutterlineError:
                stack.pop_all()  # it stays
                _log.error("%s was made and not written; the predictions are in %s", output, file)
                raise


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _append(stream: Output, text: str) -> None:
    stream.write(text.encode())
    stream.check()  # a full disk ends it now
