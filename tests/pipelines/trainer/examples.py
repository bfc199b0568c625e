"""The manifests that are shipped, read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from components.shared.strict_yaml import parse_yaml
from tests.pipelines.conftest import ROOT

FOLDER = ROOT / "pipelines" / "examples" / "trainer"
TRAIN_JOB_FILES = sorted(FOLDER.glob("trainjob-*.yaml"))


def manifest(file: Path) -> dict[str, Any]:
    """The one document of a file, the same by YAML 1.1 and 1.2."""
    text = file.read_text(encoding="utf-8")
    (found,) = parse_yaml(text, 10_000, core=True)
    assert parse_yaml(text, 10_000, core=False) == [found]
    return found  # type: ignore[no-any-return]


RUNTIME = manifest(FOLDER / "runtime.yaml")
TRAIN_JOBS = {file.stem: manifest(file) for file in TRAIN_JOB_FILES}
(README,) = re.findall(r"```yaml\n(apiVersion: trainer.*?)```", (ROOT / "components" / "README.md").read_text(), re.S)
TRAIN_JOBS["README"] = yaml.safe_load(README)
