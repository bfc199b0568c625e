"""``shutterline validate`` of a compiled pipeline or a TrainJob: its findings as text and as JSON."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from components.shared.command import print_json
from components.shared.errors import EXIT_BAD_INPUT, EXIT_OK
from components.shared.kubeflow.train_job import GROUP, KIND
from components.shared.strict_yaml import DocumentError, read_text
from pipelines.compiled import LARGEST, PLATFORM_TITLES, PlatformName, read_compiled
from pipelines.lint.findings import Finding
from pipelines.lint.rules import lint
from pipelines.lint.train_job_rules import lint_train_jobs
from pipelines.lint.train_job_view import read_train_jobs

_SETTINGS = re.compile(r"^\W*target\W+(kubeflow|vertex)\b", re.MULTILINE)


def kind_of(file: str) -> Literal["pipeline", "TrainJob", "settings"] | None:
    """What a file is by its content, damaged or not; None: none of these, such as params, or it cannot be read."""
    path = Path(file)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return None
    try:
        content = read_text(path, LARGEST)
    except DocumentError:
        return None
    if "pipelineInfo" in content:
        return "pipeline"
    if KIND in content and f"{GROUP}/" in content:
        return KIND
    return "settings" if _SETTINGS.search(content) else None


def validate_pipeline(file: Path, target: PlatformName | None, *, strict: bool, as_json: bool) -> int:
    """Print what is wrong with a compiled pipeline on a platform, or the file's own; 2 if an error fails it."""
    pipeline = read_compiled(file)
    target = target or pipeline.target
    platform = PLATFORM_TITLES[target] if target else "any platform; --target also looks at what one of them needs"
    document = {"pipeline": str(file), "target": target}
    about = ("this pipeline is sound", f", looked at for {platform}")
    return _report(file, lint(pipeline, target), document, about, strict=strict, as_json=as_json)


def validate_train_jobs(file: Path, *, strict: bool, as_json: bool) -> int:
    """Print what is wrong with the TrainJobs of a file; 2 if an error fails it."""
    found = read_train_jobs(file)
    document, count = {"train_job": str(file)}, len(found.jobs)
    sound = "this TrainJob is sound" if count == 1 else f"these {count} TrainJobs are sound"
    return _report(file, lint_train_jobs(found), document, (sound, ""), strict=strict, as_json=as_json)


def _report(
    file: Path,
    findings: Sequence[Finding],
    document: Mapping[str, Any],
    about: tuple[str, str],
    *,
    strict: bool,
    as_json: bool,
) -> int:
    number = Counter[str](finding.severity for finding in findings)
    failed = number["error"] > 0 or (strict and number["warning"] > 0)
    if as_json:
        counted = {"errors": number["error"], "warnings": number["warning"]}
        status = {"status": "failed" if failed else "valid"}
        print_json({**status, **document, **counted, "findings": [asdict(finding) for finding in findings]})
        return EXIT_BAD_INPUT if failed else EXIT_OK
    counts = [f"{count} {kind}{'s' * (count > 1)}" for kind in ("error", "warning") if (count := number[kind])]
    sound, looked_at = about
    verdict = " and ".join(counts) if failed else " with ".join([sound, *counts])
    sys.stdout.write("".join(f"{finding}\n" for finding in findings))
    sys.stdout.write(f"{file}: {verdict}{looked_at}\n")
    return EXIT_BAD_INPUT if failed else EXIT_OK
