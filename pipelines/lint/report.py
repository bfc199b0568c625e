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
from pipelines.lint.finding import Finding
from pipelines.lint.rules import lint, target_of

# Files of params are told by not having it; in a damaged compiled pipeline it is there all the same.
_MARK = "pipelineInfo"


def is_pipeline_file(file: str) -> bool:
    """Whether a file is, by its content, a compiled pipeline rather than params; one that cannot be read is neither."""
    path = Path(file)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return False
    try:
        return _MARK in read_text(path, LARGEST)
    except DocumentError:
        return False


def validate_pipeline(file: Path, target: PlatformName | None, *, strict: bool, as_json: bool) -> int:
    """Look at a compiled pipeline and print what is wrong with it.

    Args:
        file: The pipeline.
        target: The platform it shall run on; None: as the file says.
        strict: Whether warnings fail too.
        as_json: Whether one JSON document is printed.

    Returns:
        The exit code: 2 if anything fails.

    Raises:
        InputError: The file cannot be read, or is not a compiled pipeline.
    """
    pipeline = read_compiled(file)
    target = target or target_of(pipeline)
    findings = lint(pipeline, target)
    number = Counter[str](finding.severity for finding in findings)
    failed = number["error"] > 0 or (strict and number["warning"] > 0)
    if as_json:
        document = {
            "status": "failed" if failed else "valid",
            "pipeline": str(file),
            "target": target,
            "errors": number["error"],
            "warnings": number["warning"],
            "findings": [asdict(finding) for finding in findings],
        }
        print_json(document)
    else:
        for finding in findings:
            sys.stdout.write("\n".join([*lines_of(finding), "", ""]))
        sys.stdout.write(f"{file}: {_verdict(number, target, failed=failed)}\n")
    return EXIT_BAD_INPUT if failed else EXIT_OK


def lines_of(finding: Finding) -> list[str]:
    """A finding as text."""
    return [
        f"{finding.severity}: {finding.where} ({finding.rule})",
        f"  {finding.message}",
        f"  → {finding.advice}",
    ]


def _verdict(number: Counter[str], target: PlatformName | None, *, failed: bool) -> str:
    counts = [f"{count} {kind}{'s' if count > 1 else ''}" for kind in ("error", "warning") if (count := number[kind])]
    platform = PLATFORM_TITLES[target] if target else "any platform; --target also looks at what one of them needs"
    if failed:
        return f"{' and '.join(counts)}, looked at for {platform}"
    return f"this pipeline is sound{' with ' + counts[0] if counts else ''}, looked at for {platform}"
