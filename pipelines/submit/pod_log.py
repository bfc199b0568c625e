"""What a step wrote, out of its pod's log: kfp's launcher and executor and Argo write there, too."""

from __future__ import annotations

import re
from dataclasses import dataclass

from components.shared.events.redaction import redact
from pipelines.watch_text import printable

_LINES = 20
# Lines that secrets are looked for in: of a private key that begins above the last ones each line looks like none. One
# of RSA with 16,384 bits has 197.
_LOOKED_AT = 220
_LONGEST = 400  # characters of a line
_ARGO = re.compile(r"time=\S+ level=\w+ ")
_LAUNCHER = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [\w./-]+:\d+\] ?(.*)")
_EXECUTOR = re.compile(r"\[KFP Executor [^\]]*\]: ?(.*)")
_SUCCEEDED = re.compile(r"\d\d:\d\d:\d\d [a-z-]{4,9} +succeeded in [\d,.]+ s")  # as run_step says it


@dataclass(frozen=True)
class PodLog:
    """What matters of a pod's log, without secrets.

    Attributes:
        own: The last lines of the step itself, at most 20.
        launcher: The last error of kfp's launcher, which starts the step and stores what it made; empty: none.
        succeeded: Whether the step says that it succeeded.
    """

    own: tuple[str, ...]
    launcher: str
    succeeded: bool


def read_log(text: str) -> PodLog:
    """Take a pod's log, or its end, apart."""
    own: list[str] = []
    launcher, dumping = "", False
    for line in text.splitlines():
        # Inputs and outputs as indented JSON, hundreds of lines.
        dumping = dumping and line[:1] in (" ", "{", "}", "")
        if dumping:
            dumping = line != "}"
        elif (said := _LAUNCHER.match(line)) is not None:
            launcher = said[2] if said[1] in "EF" else launcher
            dumping = said[2].endswith("{")
        elif (said := _EXECUTOR.match(line)) is not None:
            dumping = said[1].endswith(":")
        elif not _ARGO.match(line):
            own.append(line)
    while own and not own[-1].strip():
        own.pop()
    lines = redact("\n".join(own[-_LOOKED_AT:])).splitlines()[-_LINES:]
    return PodLog(
        tuple(printable(line, _LONGEST) for line in lines),
        printable(redact(launcher), _LONGEST),
        any(_SUCCEEDED.fullmatch(line) for line in own),
    )
