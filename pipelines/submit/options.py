"""Options of ``shutterline upload`` and ``shutterline submit``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.shared.command import CommandParser, add_json_option, not_empty
from components.shared.errors import InputError
from pipelines.compiled import PLATFORM_TITLES, PLATFORMS, CompiledPipeline, PlatformName

_UPLOAD = """\
Make a compiled pipeline a version of a pipeline at Kubeflow Pipelines, or put it into Vertex AI's staging bucket. What
is there already with the same content is found; a version is never replaced."""
_SUBMIT = """\
Upload a compiled pipeline and start a run of it. The run is named by everything that decides what it does, so to repeat
the command finds the run instead of starting another: one that waits, runs or succeeded. One that failed or was
cancelled is started anew, as NAME-2, NAME-3 …"""
_EPILOG = """\
credentials:
  Kubeflow   SHUTTERLINE_KFP_TOKEN or --token-file, SHUTTERLINE_KFP_COOKIE, and what kfp.Client reads of
             KF_PIPELINES_…: KF_PIPELINES_ENDPOINT is --host, KF_PIPELINES_SA_TOKEN_PATH is --token-file
  Vertex AI  those that Google's clients find: `gcloud auth application-default login`, GOOGLE_APPLICATION_CREDENTIALS
  HTTP_PROXY, HTTPS_PROXY and NO_PROXY are heeded
  SHUTTERLINE_SUBMIT_TIMEOUT: seconds for which a platform that does not answer is asked again; default: 60

exit codes:
  0    done; with --follow: the run succeeded; with --status: it succeeded, or goes on
  1    the platform does not answer; with --follow and --status: the run failed or was cancelled; with --follow:
       --timeout came first
  2    bad input, or the platform refuses: one message says what to change
  130  interrupted; with --follow the run goes on
"""

_OF_PLATFORM: dict[PlatformName, tuple[str, ...]] = {
    "kubeflow": ("host", "namespace", "token_file", "ca_file"),
    "vertex": ("project", "location", "staging_bucket", "network", "endpoint"),
}
# Besides those of the run's values, which are checked where they are read, and --host, whose credentials are told of.
_SHOWN = (
    "namespace", "token_file", "ca_file", "project", "location", "staging_bucket", "network", "endpoint", "experiment",
    "service_account",
)  # fmt: skip
# What --status has no use for.
_OF_A_START = (
    "params", "data", "checkpoints", "name", "again", "experiment", "service_account", "no_cache", "follow", "timeout",
    "dry_run", "unchecked",
)  # fmt: skip
_NEEDED: dict[PlatformName, tuple[str, ...]] = {"kubeflow": (), "vertex": ("project", "location", "staging_bucket")}


def add_upload_parser(commands: Any) -> None:
    """Add ``upload`` to the commands of a parser."""
    parser: CommandParser = commands.add_parser(
        "upload", help="upload a compiled pipeline to Kubeflow or Vertex AI", description=_UPLOAD
    )
    _add_common(parser)
    parser.add_argument("--name", metavar="PIPELINE", help="name of the pipeline; default: the file's")
    parser.add_argument("--version-name", metavar="V", help="name of the version; default: ours and a digest")


def add_submit_parser(commands: Any) -> None:
    """Add ``submit`` to the commands of a parser."""
    parser: CommandParser = commands.add_parser(
        "submit", help="upload a compiled pipeline and run it there", description=_SUBMIT
    )
    file = _add_common(parser)
    file.nargs = "?"  # --status needs none
    add = parser.add_argument
    add("--params", metavar="FILE", type=not_empty, help="params as .json, .yaml or .py; default: those in the file")
    add("--set", metavar="KEY=VALUE", dest="overrides", action="append", default=[],
        help="change one of the params; repeatable")  # fmt: skip
    add("--data", metavar="PLACE", type=not_empty, help="where the images are; default: as the file says")
    add("--checkpoints", metavar="PLACE", help="where checkpoints are kept; default: as the file says")
    add("--name", metavar="RUN", help="name of the run; default: the pipeline's and a digest")
    add("--again", action="store_true", help="start another run although one is there")
    add("--experiment", metavar="E", help="what the run is filed under; default on Kubeflow: shutterline")
    add("--service-account", metavar="S", help="account that the run has; default: the platform's")
    add("--no-cache", action="store_true", help="let no step be served from the cache")
    add("--follow", action="store_true", help="stay until the run is done, and show its steps")
    add("--timeout", metavar="SECONDS", type=float, help="with --follow: for how long at most; that is exit code 1")
    add("--status", metavar="RUN", help="start nothing: show the steps of the run of that name or id once, and why one "
        "waits or failed")  # fmt: skip
    parser.set_defaults(refuse=parser.error)


def _add_common(parser: CommandParser) -> argparse.Action:
    parser.epilog = _EPILOG
    file = parser.add_argument("file", metavar="PIPELINE.yaml", type=Path, help="what `shutterline compile` wrote")
    parser.add_argument("--target", choices=PLATFORMS, help="the platform; default: the one the file was compiled for")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, as JSON, and send nothing")
    parser.add_argument(
        "--unchecked", action="store_true", help="send the file although `shutterline validate` finds errors in it"
    )
    add_json_option(parser)
    kubeflow = parser.add_argument_group("with --target kubeflow")
    kubeflow.add_argument(
        "--host", metavar="URL", help="address of the API, such as https://kubeflow.example.com/pipeline"
    )
    kubeflow.add_argument("--namespace", metavar="N", help="your namespace, where Kubeflow has several users")
    kubeflow.add_argument("--token-file", metavar="FILE", type=Path, help="file with a bearer token")
    kubeflow.add_argument("--ca-file", metavar="FILE", type=Path, help="PEM file of the authorities to trust for TLS")
    vertex = parser.add_argument_group("with --target vertex")
    vertex.add_argument("--project", metavar="P", help="id of the Google Cloud project")
    vertex.add_argument("--location", metavar="L", help="region, such as europe-west4")
    vertex.add_argument("--staging-bucket", metavar="gs://…", help="bucket for pipelines and what runs write")
    vertex.add_argument("--network", metavar="N", help="network of the machines: projects/NUMBER/global/networks/NAME")
    vertex.add_argument("--endpoint", metavar="HOST", help="who answers in the place of the location's own endpoint")
    return file


def target_of(options: argparse.Namespace, pipeline: CompiledPipeline | None) -> PlatformName:
    """The platform that is meant.

    Args:
        options: Of the command.
        pipeline: What is uploaded; None: nothing, and the platform is Vertex AI where an option of its is given.

    Raises:
        InputError: Neither option nor file says which, they contradict each other, or an option is the other's.
    """
    target: PlatformName | None = options.target
    if pipeline is None:
        vertex = any(getattr(options, name) is not None for name in _OF_PLATFORM["vertex"])
        target = target or ("vertex" if vertex else "kubeflow")
    elif (target := target or pipeline.target) is None:
        raise InputError(f"{pipeline.file}: does not say for which platform it is; say --target kubeflow or vertex")
    elif pipeline.target not in (None, target):
        raise InputError(
            f"{pipeline.file}: compiled for {PLATFORM_TITLES[pipeline.target]}; compile it with --target {target}"
        )
    for platform, names in _OF_PLATFORM.items():
        given = [_option(name) for name in names if getattr(options, name) is not None]
        if platform != target and given:
            raise InputError(
                f"{', '.join(given)}: for {PLATFORM_TITLES[platform]}; the target is {PLATFORM_TITLES[target]}"
            )
    missing = [_option(name) for name in _NEEDED[target] if not getattr(options, name)]
    if missing:
        raise InputError(f"{', '.join(missing)}: needed for {PLATFORM_TITLES[target]}")
    return target


def check_status(options: argparse.Namespace) -> None:
    """See that ``--status`` or a file is there, and that nothing is asked for that a look at a run has no use for.

    Raises:
        InputError: An option is of a run that is started.
        SystemExit: There is neither.
    """
    if options.status is None:
        if options.file is None:
            options.refuse("the following arguments are required: PIPELINE.yaml")
        return
    given = ["PIPELINE.yaml"] if options.file is not None else []
    given += [_option(dest) for dest in _OF_A_START if getattr(options, dest)]
    given += ["--set"] if options.overrides else []
    if given:
        raise InputError(f"--status: looks at a run that is there, and takes no {', '.join(given)}")
    if not options.status.strip():
        raise InputError("--status: must be the name or id of a run")


def shown_options(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Every option whose text is sent, or shown in a message, and that text."""
    for name in _SHOWN:
        value = getattr(options, name, None)
        if value is not None:
            yield _option(name), str(value)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check_following(options: argparse.Namespace) -> None:
    """See that ``--follow``, ``--timeout`` and ``--dry-run`` agree.

    Raises:
        InputError: They do not.
    """
    if options.timeout is not None and not options.follow:
        raise InputError("--timeout: says for how long to --follow; without that a run goes on by itself")
    if options.timeout is not None and not (options.timeout > 0 and math.isfinite(options.timeout)):
        raise InputError("--timeout: must be a number of seconds greater than 0")
    if options.follow and options.dry_run:
        raise InputError("--follow: there is nothing to follow in a --dry-run")
