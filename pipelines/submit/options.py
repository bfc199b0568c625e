"""Which platform the options of ``shutterline upload`` and ``shutterline submit`` mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.shared.errors import InputError
from pipelines.compiled import PLATFORM_TITLES, PLATFORMS, CompiledPipeline, PlatformName

EPILOG = """\
credentials:
  Kubeflow   SHUTTERLINE_KFP_TOKEN or --token-file, SHUTTERLINE_KFP_COOKIE, and of what kfp.Client reads:
             KF_PIPELINES_ENDPOINT is --host, KF_PIPELINES_SA_TOKEN_PATH is --token-file
  Vertex AI  those that Google's clients find: `gcloud auth application-default login`, GOOGLE_APPLICATION_CREDENTIALS
  HTTP_PROXY, HTTPS_PROXY and NO_PROXY are heeded
  SHUTTERLINE_SUBMIT_TIMEOUT: seconds for which a request is repeated that a platform does not answer; default: 60

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
_NEEDED: dict[PlatformName, tuple[str, ...]] = {"kubeflow": (), "vertex": ("project", "location", "staging_bucket")}


def spelling(name: str) -> str:
    """An option as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def target_for(options: Mapping[str, Any], pipeline: CompiledPipeline | None) -> PlatformName:
    """The platform that is meant.

    Args:
        options: Of the command line.
        pipeline: What is uploaded; None: nothing, and the platform is Vertex AI where an option of its is given.

    Raises:
        InputError: Neither option nor file says which, they contradict each other, or an option is the other's.
    """
    target: PlatformName | None = options["target"]
    given = {each: [name for name in names if options.get(name)] for each, names in _OF_PLATFORM.items()}
    if pipeline is None:
        target = target or ("vertex" if given["vertex"] else "kubeflow")
    elif (target := target or pipeline.target) is None:
        raise InputError(f"{pipeline.file}: does not say for which platform it is; say --target kubeflow or vertex")
    elif pipeline.target not in (None, target):
        raise InputError(
            f"{pipeline.file}: compiled for {PLATFORM_TITLES[pipeline.target]}; compile it with --target {target}"
        )
    other = next(each for each in PLATFORMS if each != target)
    if given[other]:
        names = ", ".join(map(spelling, given[other]))
        raise InputError(f"{names}: for {PLATFORM_TITLES[other]}; the target is {PLATFORM_TITLES[target]}")
    if missing := [spelling(name) for name in _NEEDED[target] if name not in given[target]]:
        raise InputError(f"{', '.join(missing)}: needed for {PLATFORM_TITLES[target]}")
    return target
