"""Options of ``shutterline upload`` and ``shutterline submit``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

from components.shared.errors import InputError
from pipelines.compiled import PLATFORM_TITLES, CompiledPipeline, PlatformName

EPILOG = """\
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
    """See that nothing is asked for that ``--status`` has no use for.

    Raises:
        InputError: An option is of a run that is started.
    """
    if options.status is None:
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
