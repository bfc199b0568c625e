from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.evaluate.evaluate import evaluate
from components.shared.artifacts.model import MODEL
from tests.evaluate.conftest import Parts, parts_in, write_model
from tests.peers.fixtures import bucket, gcs_bucket, gcs_server, s3_bucket, s3_server, seaweed

__all__ = ["bucket", "gcs_bucket", "gcs_server", "s3_bucket", "s3_server", "seaweed"]


def whole_parts(folder: Path, **changes: Any) -> Parts:
    """A model all of whose files are there, its dataset, and where its evaluation goes."""
    parts = parts_in(folder)
    write_whole_model(parts, **changes)
    return parts


def write_whole_model(parts: Parts, **changes: Any) -> None:
    """Write the model anew, with every file that its manifest names."""
    write_model(parts.model, parts.params, dataset=parts.dataset, **changes)
    file = parts.model / MODEL.manifest_file
    manifest = json.loads(file.read_text())
    manifest |= {"last_weights": manifest["weights"]} if "last_weights" in manifest else {}
    file.write_text(json.dumps(manifest))


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A model and its evaluation, to be read alone."""
    parts = whole_parts(tmp_path_factory.mktemp("ready"))
    evaluate(**parts.arguments())
    return parts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where versions are published."""
    return tmp_path / "published"
