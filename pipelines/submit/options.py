"""Options of ``shutterline upload`` and ``shutterline submit``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
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
    "kubeflow": ("--host", "--namespace", "--token-file", "--ca-file"),
    "vertex": ("--project", "--location", "--staging-bucket", "--network", "--endpoint"),
}


@dataclass(frozen=True)
class PlatformOptions:
    """Which platform, where, and as whom; None: not given."""

    target: PlatformName | None = None
    host: str | None = None
    namespace: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    project: str | None = None
    location: str | None = None
    staging_bucket: str | None = None
    network: str | None = None
    endpoint: str | None = None
    experiment: str | None = None
    service_account: str | None = None

    def given(self, *without: str) -> dict[str, str]:
        """The options that are given, by their spelling on the command line."""
        names = [each.name for each in fields(self) if each.name not in without]
        return {f"--{name.replace('_', '-')}": str(value) for name in names if (value := getattr(self, name))}

    def target_for(self, pipeline: CompiledPipeline | None) -> PlatformName:
        """The platform that is meant.

        Args:
            pipeline: What is uploaded; None: nothing, and the platform is Vertex AI where an option of its is given.

        Raises:
            InputError: Neither option nor file says which, they contradict each other, or an option is the other's.
        """
        target = self.target
        given = self.given()
        if pipeline is None:
            target = target or ("vertex" if given.keys() & set(_OF_PLATFORM["vertex"]) else "kubeflow")
        elif (target := target or pipeline.target) is None:
            raise InputError(f"{pipeline.file}: does not say for which platform it is; say --target kubeflow or vertex")
        elif pipeline.target not in (None, target):
            raise InputError(
                f"{pipeline.file}: compiled for {PLATFORM_TITLES[pipeline.target]}; compile it with --target {target}"
            )
        others = [name for each in PLATFORMS if each != target for name in _OF_PLATFORM[each] if name in given]
        if others:
            other = next(each for each in PLATFORMS if each != target)
            raise InputError(
                f"{', '.join(others)}: for {PLATFORM_TITLES[other]}; the target is {PLATFORM_TITLES[target]}"
            )
        needed = ("--project", "--location", "--staging-bucket") if target == "vertex" else ()
        if missing := [name for name in needed if name not in given]:
            raise InputError(f"{', '.join(missing)}: needed for {PLATFORM_TITLES[target]}")
        return target


def with_platform(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a command line with those of a platform in one."""
    where = {each.name: options.pop(each.name) for each in fields(PlatformOptions) if each.name in options}
    return options | {"where": PlatformOptions(**where)}
