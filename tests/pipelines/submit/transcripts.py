"""What ``shutterline submit --follow`` and ``--status`` print for the runs of a real Kubeflow.

``python -m tests.pipelines.submit.transcripts`` prints all of it, as it is kept in transcripts.txt.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from copy import deepcopy
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from pipelines.cli import main
from pipelines.submit import commands
from tests.peers.kfp_api import KfpApi, Moment, bare, moment
from tests.pipelines.submit.compiled import write_compiled

KEPT = Path(__file__).with_name("transcripts.txt")
_NULL = (
    'failed to update artifact: unknown/unsupported value type *structpb.Value_NullValue for metadata "resumed_from"'
)


def failed() -> Moment:
    """With the log that was not recorded: the launcher's lines as elsewhere, and what our step says."""
    found, log = moment("failed"), moment("oom-killed").logs["train"]
    ours = (
        "06:36:53 train     started\n"
        "06:36:54 train     ERROR failed: /shared/checkpoints: holds checkpoints of another run; name another place\n"
    )
    head, tail = log.split("E1128", 1)
    found.logs["train"] = f"{head}{ours}E1128{tail}".replace("signal: killed", "exit status 2")
    return found


def succeeded_and_failed() -> Moment:
    """As every training of 0.5.0 ended: the step succeeded, and the launcher did not take its artifacts' metadata."""
    found, log = moment("failed"), moment("succeeded").logs["train"]
    error = f"F1128 06:37:57.119872      15 main.go:59] failed to execute component: {_NULL}\n"
    found.logs["train"] = log.partition("I1128 06:37:57.115191")[0] + error
    return found


def unlogged(name: str) -> Moment:
    """Where the pod is gone, and its log with it."""
    found = moment(name)
    found.logs = {}
    return found


SCRIPTS: dict[str, list[Moment]] = {
    "succeeded": [bare("PENDING"), moment("succeeded")],
    "cached": [moment("cached")],
    "oom-killed": [moment("oom-killed")],
    "pod-deleted": [moment("pod-deleted-pending"), moment("pod-deleted-running")],
    "terminated": [moment("pod-deleted-running"), moment("terminating"), moment("terminated")],
    "failed": [failed()],
    "failed, no pod left": [unlogged("failed")],
    "succeeded by its own log": [succeeded_and_failed()],
    "retried": [moment("retrying"), moment("retried")],
    "unschedulable": [moment("unschedulable"), moment("unschedulable")],
    "image-missing": [moment("image-missing"), moment("image-missing")],
}


def transcripts(file: Path) -> Iterator[tuple[str, str]]:
    """Each transcript of a compiled pipeline's runs, with the command as its title."""
    with redirect_stdout(StringIO()):
        for name, script in SCRIPTS.items():
            yield f"submit --follow: {name}", _printed(["submit", str(file), "--name", "night", "--follow"], script)
        for name in ("oom-killed", "pod-deleted", "retried", "unschedulable"):
            script = SCRIPTS[name][-1:]
            yield f"submit --status night: {name}", _printed(["submit", "--status", "night"], script, file)
        old = ["submit", str(file), "--name", "night", "--follow"]
        yield (
            "submit --follow: oom-killed, without v1beta1 and v1alpha1",
            _printed(old, SCRIPTS["oom-killed"], missing={"v1beta1", "v1alpha1"}),
        )


def _printed(
    command: list[str],
    script: list[Moment],
    started: Path | None = None,
    missing: frozenset[str] | set[str] = frozenset(),
) -> str:
    """What a command prints of a run that goes as the script says; it is interrupted where that does not end."""
    out, left = StringIO(), len(script)

    def pause(seconds: float) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    with ExitStack() as stack:
        api = stack.enter_context(KfpApi())
        host = ["--host", api.url]
        if started is not None:
            with redirect_stdout(StringIO()):
                assert main(["submit", str(started), "--name", "night", *host]) == 0
        api.script, api.missing = deepcopy(script), set(missing)
        stack.enter_context(patch.object(time, "sleep", pause))
        stack.enter_context(patch.object(commands, "utc_now", lambda: datetime(2026, 11, 28, 7, 10, 1, tzinfo=UTC)))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(out))
        code = main([*command, *host])
    text = out.getvalue().replace(api.url, "https://kubeflow.example")
    text = re.sub(r"^\d\d:\d\d:\d\d (?=\S+ )", "hh:mm:ss ", text, flags=re.MULTILINE)
    return f"{text}exit code {code}\n"


def document(file: Path) -> str:
    """All transcripts."""
    return "\n".join(f"=== {title}\n{text}" for title, text in transcripts(file))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        with redirect_stdout(StringIO()):
            compiled = write_compiled(Path(directory), "kubeflow", data="gs://bucket/digits")
        sys.stdout.write(document(compiled))
