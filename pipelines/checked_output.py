"""A file that a platform is to take: written if it has no errors, and its findings reported."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.shared.command import print_json, print_message
from components.shared.errors import EXIT_BAD_INPUT, EXIT_OK
from pipelines.lint.findings import Finding
from pipelines.targets.compiling import write_pipeline


def write_checked(
    file: Path,
    text: str,
    findings: Sequence[Finding],
    document: Mapping[str, Any],
    *,
    unchecked: bool,
    as_json: bool,
    warns: bool = True,
) -> int:
    """Write a file and say so; returns the exit code, 2 with errors, for which nothing is written.

    Args:
        file: Where to write.
        text: What to write.
        findings: What lint finds in it.
        document: What is printed of it as JSON; its first entry is the file.
        unchecked: Write it although there are errors.
        as_json: Print JSON.
        warns: Whether to say how many warnings there are.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    written = not errors or unchecked
    if written:
        write_pipeline(file, text)
    if as_json:
        shown = dict(document) if written else {**document, next(iter(document)): None}
        status = {"status": "compiled" if written else "failed"}
        print_json(status | shown | {"findings": [asdict(finding) for finding in findings]})
    for finding in errors:
        print_message(str(finding))
    if not written:
        print_message(f"error: {file}: not written (--unchecked writes it all the same)")
    elif not as_json:
        sys.stdout.write(f"wrote {file}\n")
        if warns and len(findings) > len(errors):
            count = len(findings) - len(errors)
            sys.stdout.write(f"{count} warnings; `shutterline validate {file}` prints them\n")
    return EXIT_OK if written else EXIT_BAD_INPUT
