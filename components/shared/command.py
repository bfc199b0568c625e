"""The command line that every component shares: ``--params``, ``--set``, ``--json``, and how it ends."""

from __future__ import annotations

import argparse
import difflib
import errno
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import indent
from typing import Any, NoReturn, TextIO

from components.shared.errors import EXIT_BAD_INPUT, EXIT_FAILURE, InputError, ParamsError
from components.shared.events.data import Emit
from components.shared.events.redaction import redact_message
from components.shared.extras import extras_named
from components.shared.files import disk_message
from components.shared.logs import for_stderr, open_standard_streams, printable
from components.shared.params.params import Params
from components.shared.process_group import Outcome, in_group, is_launched, is_rank_zero, leave_outcome, member
from components.shared.run import step_run
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED
from components.shared.step import Reported, StepFailed, StepName, StepRecord, run_step, run_without_params
from components.shared.storage.location import AnyPath, parse_location
from components.shared.version import __version__

NOTHING_SAVED = "nothing was saved yet"
_CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
_ENDINGS = {EXIT_INTERRUPTED: "interrupted", EXIT_TERMINATED: "terminated"}
EXIT_CODES = """\
exit codes:
  0    done
  2    bad input: params, data or paths cannot be used; one message says where and why
  130  interrupted
  143  terminated
  1    anything else
"""

PLACES = """\
places:
  PLACE is a path, gs://bucket/key or s3://bucket/key. What lies in a bucket is fetched before the work, of an artifact
  the files that are read; what is made for a bucket is published after it, whole or not at all.
"""

CONTAINER = """\
in a container:
{docker}
  Mounts: what the options name, at any path; what is written must be writable for --user, which may be any. /tmp is for
  temporary files (with --read-only: --tmpfs /tmp); what is fetched from buckets goes there, so mount something large
  and name it by SHUTTERLINE_SCRATCH where it does not fit.
"""

ENVIRONMENT = """\
environment:
  SHUTTERLINE_RUN_ID           id of the run that this step belongs to; default: one is made
  SHUTTERLINE_EVENTS           directory for status events that all steps of a run share; default: beside the output
  SHUTTERLINE_STATUS           log: status is printed as lines of the log, and neither sent nor kept
  SHUTTERLINE_RECORDS          directory that gets a record of how the step ended
  SHUTTERLINE_FOLLOW_LINKS     1: data prep reads what links in the data lead to outside of it, as with --follow-links
  SHUTTERLINE_SCRATCH          directory for what is fetched from buckets; what is there is not fetched again
  SHUTTERLINE_STORAGE_TIMEOUT  seconds without a byte from a bucket after which it is given up; default: 120
  SHUTTERLINE_MODULES          modules of your own whose classes params may name
  STORAGE_EMULATOR_HOST, GOOGLE_APPLICATION_CREDENTIALS and what else Google's clients read: gs://
  AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what else boto3 reads: s3://
  KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_… and KAFKA_SSL_…, PUBSUB_EMULATOR_HOST: status
  MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and what else MLflow's client reads: where runs are recorded
  SHUTTERLINE_SECRET_MANAGER_ENDPOINT
                               https://HOST of Google's Secret Manager, where sm://… is fetched; default: Google's own
"""

# What writing to standard output may end with, beside a broken pipe.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EAGAIN)


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 2, with ``--json`` a document, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXIT_CODES, allow_abbrev=False, **options
        )

    def parse_known_args(  # type: ignore[override] # argparse has it twice, by the kind of the namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; what is not known is an error of the command that does not know it."""
        self._as_json = "--json" in (sys.argv if args is None else args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(name, self._option_string_actions, 1) if name.startswith("-") else []
            hint = f"; did you mean {near[0]}?" if near else ""
            if name.lstrip("-").replace("-", "_") in Params.model_fields and "--set" in self._option_string_actions:
                hint = f"; set params by --set {name.lstrip('-').replace('-', '_')}=VALUE"
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """End with one line."""
        in_a_line = message.replace("\n", "\\n")  # of what was typed
        print_message(f"{self.prog}: error: {in_a_line} (see {self.prog} --help)")
        if "--json" in self._option_string_actions and self._as_json:
            print_json({"status": "failed", "error": error_document(InputError(message))})
        self.exit(EXIT_BAD_INPUT)

    def print_help(self, file: Any = None) -> None:
        """Print the help; argparse itself passes over what cannot be written."""
        (file or sys.stdout).write(self.format_help())


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty; is a variable of your shell not set?")
    return text


def path_option(text: str) -> AnyPath:
    """A path, ``gs://…`` or ``s3://…``, for argparse."""
    try:
        return parse_location(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_path_option(parser: argparse.ArgumentParser, name: str, *, required: bool = True, help: str) -> None:
    """Add an option that names a path or a location in a bucket."""
    parser.add_argument(name, metavar="PLACE", type=path_option, required=required, help=help)


def print_json(document: object) -> None:
    """Print one JSON document to standard output, and nothing else."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_message(line: str, command: str = "") -> None:
    """Print something to standard error, without secrets; nothing happens where that takes no more.

    The line is broken where the terminal is not as wide; a command after it, which is to be copied, never.
    """
    with suppress(AttributeError, OSError):  # the first where there is none
        lines = [for_stderr(each) for each in printable(redact_message(line)).split("\n")]
        sys.stderr.write("\n".join([*lines, *([printable(redact_message(command))] if command else [])]) + "\n")
        sys.stderr.flush()


def with_output(work: Callable[[], int]) -> int:
    """Do a command's work, and see that all that it prints arrives; returns its exit code, or 1 where that cannot be.

    Of a reader such as head, which has seen enough, nothing is said.
    """
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show must not end a command
            stream.reconfigure(errors="backslashreplace")
    # What is opened next would have its number, and get what is printed.
    if sys.stdout is None:
        print_message("error: standard output is closed; lead it somewhere, such as to /dev/null")
        return EXIT_FAILURE
    try:
        try:
            return work()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
    except OSError as error:
        if error.filename is not None and (message := disk_message(error)) is not None:
            print_message(f"error: {message}")
            return EXIT_FAILURE
        if error.filename is not None or error.errno not in _UNWRITABLE:
            raise
        print_message(f"error: standard output, or a file, cannot be written: {error.strerror}")
        discard(sys.stdout)
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            discard(sys.stderr)
    return EXIT_FAILURE


def discard(stream: TextIO) -> None:
    """Lead a stream to nowhere, since Python flushes it once more at its end, and would end with exit code 120."""
    with suppress(OSError, ValueError):  # in a test it may have no number
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def last_lines(exit_code: int, saved: str, prog: str, argv: Sequence[str] | None, *added: str) -> tuple[str, str]:
    """What is saved of an interrupted command, and the command that goes on; empty where this process does not know it.

    Args:
        exit_code: The command's: 130 or 143.
        saved: What is saved, and where; empty: nothing.
        prog: The command, where `argv` is given.
        argv: Its arguments; None: this process's own.
        added: Arguments that it needs besides, to find what is saved.
    """
    command = _command(prog, argv, added)
    how = f"{'go on' if saved else 'start again'} by:" if command else "start it again with the same options"
    return f"{_ENDINGS[exit_code]}; {saved or NOTHING_SAVED}; {how}", command


def is_interrupted(exit_code: int) -> bool:
    """Whether an exit code is that of a command that a signal ended."""
    return exit_code in _ENDINGS


def _command(prog: str, argv: Sequence[str] | None, added: Sequence[str]) -> str:
    in_container = "KUBERNETES_SERVICE_HOST" in os.environ or any(Path(file).exists() for file in _CONTAINER_FILES)
    # Where the engine, or its init, started this process, nobody in the container knows the command for that.
    if in_group() or (in_container and 1 in (os.getpid(), os.getppid())):
        return ""
    parts = [prog, *argv] if argv is not None else sys.orig_argv
    if argv is None and len(parts) > 1 and not parts[1].startswith("-") and os.access(parts[1], os.X_OK):
        parts = parts[1:]  # a script that names its interpreter
    # --start-over would remove what is saved; `prog` may have spaces.
    first, *rest = [part for part in parts if part != "--start-over"]
    return f"{first if argv is not None else shlex.quote(first)} {shlex.join([*rest, *added])}".rstrip()


def step_command(
    step: StepName,
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    work: Callable[[argparse.Namespace, Params, Emit], Reported],
    output: str | None = None,
    *,
    without_params: Callable[[argparse.Namespace], Reported] | None = None,
    in_pipeline: bool = False,
    docker: str,
    misuse: Callable[[argparse.Namespace], str | None] = lambda options: None,
    elsewhere: Callable[[argparse.Namespace], Outcome | None] | None = None,
    run_id: Callable[[], str] = lambda: "",
    part: Callable[[argparse.Namespace], tuple[int, int] | None] = lambda options: None,
    is_recorded: bool = True,
) -> int:
    """Run one component from its command line.

    Args:
        step: The step's name.
        parser: Knows the component's own options; the shared ones are added here.
        argv: Arguments, or None for the process's own.
        work: From parsed options, checked params and what takes the status to the result.
        output: The option that names what the step makes; its events are kept beside it.
        without_params: The work where no params are given; None: they must be.
        in_pipeline: Whether the step is a part of the pipeline even when it is started by hand.
        docker: How it is run in a container, for ``--help``.
        misuse: Which options do not go together, in a line, or None.
        elsewhere: Has other processes do the step, if the options say so, and tells how they ended; None: they do not.
        run_id: What the run was called there, so that it is not another one here; empty: it was not.
        part: Which part of the step the options ask for, from 0, and of how many; None: all of it.
        is_recorded: Whether it is recorded in MLflow, where the environment names a server.

    Returns:
        The exit code.
    """
    parser.epilog = f"{PLACES}\n{CONTAINER.format(docker=indent(docker.rstrip(), '  '))}\n{ENVIRONMENT}\n{EXIT_CODES}"
    parser.add_argument(
        "--params",
        metavar="FILE",
        type=_not_empty,
        required=without_params is None,
        help="params as .json or .yaml, or a JSON text" + ("; without, no status is sent" if without_params else ""),
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="change one of the params, such as num_epochs=5 or net_arch[0].kwargs.out_channels=64; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document to standard output")
    parser.add_argument("--version", action="version", version=f"shutterline {__version__}")

    def run() -> int:
        options = parser.parse_args(argv)
        if (wrong := misuse(options)) is not None:
            parser.error(wrong)
        if options.params is None and options.overrides:
            parser.error("--set changes params, and there are none; add --params")
        error: BaseException | None = None
        if elsewhere is not None and (outcome := elsewhere(options)) is not None:
            document, exit_code = outcome.document, outcome.exit_code
        else:
            record, error = own(options)
            document, exit_code = record.model_dump(mode="json"), record.exit_code
            if isinstance(error, ParamsError):
                document["error"] = error_document(error)  # every problem by itself
        if is_interrupted(exit_code) and is_rank_zero() and not is_launched():
            print_message(*last_lines(exit_code, str(document.get("saved", "")), parser.prog, argv))
        if options.json and not member().rank and not is_launched():  # of a node's processes one prints
            print_json(document)
        return leave_outcome(document, exit_code, error)

    def own(options: argparse.Namespace) -> tuple[StepRecord, BaseException | None]:
        def named(worked: Callable[[], Reported]) -> Reported:
            # Without an extra of their own: what these two need is of these.
            extra = {"exit": "status", "publish": "evaluate"}.get(step, step)
            with extras_named(f"the step {step}", extra):
                return worked()

        made = getattr(options, output) if output else None
        try:
            if options.params is None and without_params is not None:
                unasked = without_params
                _, record = run_without_params(step, lambda: named(lambda: unasked(options)))
            else:
                _, record = run_step(
                    step,
                    lambda: Params.load(options.params, options.overrides),
                    lambda params, emit: named(lambda: work(options, params, emit)),
                    lambda: step_run(made, in_pipeline=in_pipeline, platform_run=run_id()),
                    part=part(options),
                    is_recorded=is_recorded,
                )
            return record, None
        except StepFailed as failed:
            return failed.record, failed.__cause__

    return with_output(run)


def error_document(error: BaseException) -> dict[str, Any]:
    """An error as JSON data, without secrets; of params, with every problem by itself."""
    document: dict[str, Any] = {"type": type(error).__name__, "message": redact_message(str(error))}
    problems = getattr(error, "problems", None)
    if problems is not None:
        source = getattr(error, "source", None)
        document["source"] = None if source is None else redact_message(source)
        document["problems"] = [
            {"path": redact_message(problem.path), "message": redact_message(problem.message)} for problem in problems
        ]
    return document
