"""publish(): a model that passed the gate becomes a version of its own in a directory or a bucket.

A version's name is when the model was evaluated and the digest of what is in it, so a second attempt finds its own, no
other content has that name, and the newest is the last by name::

    VERSION/model.json, model.onnx, …   the model directory: a location for baseline, initial_weights and predict
    VERSION/evaluation/…                the evaluation directory, with report.html
    VERSION/model_card.md               what the model is, for people
    VERSION/SHA256SUMS                  of every other file, for `sha256sum -c SHA256SUMS`

``model.json`` is written last: without it there is no model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.publish.destination import publish_version
from components.publish.model_card import model_card
from components.shared.artifacts.evaluation import EVALUATION, Evaluation, open_evaluation
from components.shared.artifacts.model import MODEL, Model, onnx_of, open_model
from components.shared.errors import ArtifactError, InputError, ParamsError, Problem
from components.shared.events.data import Succeeded
from components.shared.files import sha256_of
from components.shared.logs import step_logger
from components.shared.params.params import Params
from components.shared.storage.location import AnyPath, Location, lies_within, parse_location
from components.shared.storage.transfer import OnProgress
from components.shared.text import shortened

CARD, SUMS = "model_card.md", "SHA256SUMS"
_DIGITS = 12

_log = step_logger("publish")


# Within it, the progress of an upload is reported.
Reporting = Callable[[str, Location], AbstractContextManager[OnProgress]]


@dataclass(frozen=True)
class PublishResult:
    """A published version.

    Attributes:
        published: Its path or URI.
        is_new: Whether it was published now; False: it was whole already.
        card: Its model card, Markdown.
    """

    published: str
    version: str
    is_new: bool
    files: int
    bytes: int
    card: str = field(repr=False)

    def report(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "published": self.published,
            "version": self.version,
            "is_new": self.is_new,
            "files": self.files,
            "bytes": self.bytes,
        }

    def event(self, seconds: float) -> Succeeded:
        """The result as the step's last status event."""
        return Succeeded(seconds, artifacts={"published": self.published})


def destination(params: Params) -> AnyPath:
    """Where versions are published; ParamsError where the params have no publish_uri."""
    if params.publish_uri is None:
        raise ParamsError([Problem("publish_uri", "is required to publish a model: a directory, gs://… or s3://…")])
    return parse_location(params.publish_uri)


def publish(*, model: Path, evaluation: Path, params: Params, reporting: Reporting | None = None) -> PublishResult:
    """Publish a model with its evaluation and a model card at ``publish_uri/VERSION``.

    Args:
        model: A complete model directory.
        evaluation: The evaluation directory of this model, which passed the gate.
        params: The run's options: ``publish_uri``, ``gate``.
        reporting: Reports the progress of an upload.

    Raises:
        InputError: Model or evaluation is incomplete or damaged, the evaluation is of another model or did not pass,
            something else is there under the version's name, or the destination cannot be written.
        StorageUnavailableError: The store does not answer.
    """
    where = destination(params)
    for what, directory in (("model", model), ("evaluation", evaluation)):
        if lies_within(where, directory):
            raise InputError(f"publish_uri {where}: is in the {what} directory, {directory}; name another directory")
    opened, evaluated = open_model(model), open_evaluation(evaluation)
    require_passed(opened, evaluated, params)
    with tempfile.TemporaryDirectory(prefix="shutterline-publish-") as folder:
        files = _files(opened, evaluated, Path(folder))
        version = f"{_moment(evaluated.manifest.ended)}-{sha256_of(files[SUMS])[:_DIGITS]}"
        uri = where.child(version) if isinstance(where, Location) else where.absolute() / version
        reported = reporting("publish", where) if reporting and isinstance(where, Location) else nullcontext()
        with reported as progress:
            is_new = publish_version(where, version, files, MODEL.manifest_file, progress)
        size = sum(file.stat().st_size for file in files.values())
        _log.info("%s %s", "published" if is_new else "was published already:", uri)
        return PublishResult(str(uri), version, is_new, len(files), size, files[CARD].read_text(encoding="utf-8"))


def require_passed(model: Model, evaluation: Evaluation, params: Params) -> None:
    """Refuse, by an ArtifactError, a model that is not the one evaluated, or did not pass the gate."""
    found, expected = sha256_of(model.path / MODEL.manifest_file), evaluation.manifest.model_sha256
    if found != expected:
        raise ArtifactError(
            f"{model.path}: is not the model that was evaluated in {evaluation.path} (SHA-256 {found[:12]}…, and "
            f"{expected[:12]}… was evaluated); evaluate this one"
        )
    onnx_of(model.manifest, model.path)
    gate = evaluation.manifest.gate
    held = {(one.metric, one.wanted) for one in gate.thresholds} if gate is not None else set()
    if params.gate is not None and not held.issuperset(params.gate.wanted().items()):
        raise ArtifactError(
            f"{evaluation.path}: was evaluated without the gate of the params; evaluate the model again"
        )
    if gate is not None and not gate.passed:
        first = "; ".join(str(threshold) for threshold in gate.failed[:3])
        raise ArtifactError(f"{evaluation.path}: the model does not pass the gate, and is not published: {first}")


def _files(model: Model, evaluation: Evaluation, folder: Path) -> dict[str, Path]:
    """Every file of the version by its name there; those that are made are put into a folder."""
    files, digests = {}, {}
    for prefix, opened, manifest_file in (
        ("", model, MODEL.manifest_file),
        ("evaluation/", evaluation, EVALUATION.manifest_file),
    ):
        for record in opened.manifest.files():  # each was checked against its digest as the directory was opened
            files[prefix + record.file], digests[prefix + record.file] = opened.path / record.file, record.sha256
        files[prefix + manifest_file] = opened.path / manifest_file
    files[CARD] = folder / CARD
    files[CARD].write_bytes(model_card(model, evaluation).encode("utf-8", "backslashreplace"))
    sums = "".join(f"{digests.get(name) or sha256_of(file)}  {name}\n" for name, file in sorted(files.items()))
    files[SUMS] = folder / SUMS
    files[SUMS].write_text(sums, encoding="utf-8")
    return files


def _moment(ended: str) -> str:
    """A time of a manifest as a name begins with it: 20261128-065312."""
    try:
        return datetime.fromisoformat(ended).astimezone(UTC).strftime("%Y%m%d-%H%M%S")
    except (ValueError, OverflowError) as error:
        raise ArtifactError(f"{EVALUATION.manifest_file}: ended is no time: {shortened(ended)}") from error
