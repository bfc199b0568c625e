"""``shutterline validate`` of a compiled pipeline: its findings as text and as JSON."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from components.shared.command import print_json
from components.shared.errors import EXIT_BAD_INPUT, EXIT_OK
from components.shared.strict_yaml import DocumentError, read_text
from pipelines.compiled import LARGEST, PLATFORM_TITLES, PlatformName, read_compiled
from pipelines.lint.rules import lint


def is_pipeline_file(file: str) -> bool:
    """Whether a file is, by its content, a compiled pipeline rather than params; one that cannot be read is neither."""
    path = Path(file)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return False
    try:
        return "pipelineInfo" in read_text(path, LARGEST)  # also in a damaged one, and in no params
    except DocumentError:
        return False


def validate_pipeline(file: Path, target: PlatformName | None, *, strict: bool, as_json: bool) -> int:
    """Print what is wrong with a compiled pipeline on a platform, or the file's own; 2 if an error fails it."""
    pipeline = read_compiled(file)
    target = target or pipeline.target
    findings = lint(pipeline, target)
    number = Counter[str](finding.severity for finding in findings)
    failed = number["error"] > 0 or (strict and number["warning"] > 0)
    if as_json:
        status = {"status": "failed" if failed else "valid", "pipeline": str(file), "target": target}
        counted = {"errors": number["error"], "warnings": number["warning"]}
        print_json(status | counted | {"findings": [asdict(finding) for finding in findings]})
        return EXIT_BAD_INPUT if failed else EXIT_OK
    counts = [f"{count} {kind}{'s' * (count > 1)}" for kind in ("error", "warning") if (count := number[kind])]
    platform = PLATFORM_TITLES[target] if target else "any platform; --target also looks at what one of them needs"
    verdict = " and ".join(counts) if failed else " with ".join(["this pipeline is sound", *counts])
    sys.stdout.write("".join(f"{finding}\n" for finding in findings))
    sys.stdout.write(f"{file}: {verdict}, looked at for {platform}\n")
    return EXIT_BAD_INPUT if failed else EXIT_OK
