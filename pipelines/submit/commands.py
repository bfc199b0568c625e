"""``shutterline upload`` and ``shutterline submit``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

from components.shared.command import print_json, tell
from components.shared.errors import EXIT_OK, InputError
from components.shared.events.redaction import redact
from components.shared.signals import EXIT_INTERRUPTED
from pipelines.compiled import CompiledPipeline, PlatformName, read_compiled
from pipelines.lint.rules import lint
from pipelines.submit.follow import Followed, ending, follow, log_lines, look
from pipelines.submit.kubeflow_access import Access, dry_access, read_access
from pipelines.submit.names import (
    check_name,
    check_run_name,
    check_version_name,
    run_name,
    submit_run,
    version_name,
)
from pipelines.submit.options import check_following, check_status, shown_options, target_of
from pipelines.submit.platform import Platform, RunRequest, Submitted
from pipelines.submit.step_text import rows, run_words, table, utc_now
from pipelines.submit.values import (
    check_file_has_no_secret,
    check_no_secret,
    checked_params,
    require_params_for_data,
    run_values,
)
from pipelines.submit.vertex.request import staging_place


def upload(options: argparse.Namespace) -> int:
    """``shutterline upload``."""
    pipeline = read_compiled(options.file)
    target = target_of(options, pipeline)
    access = _access(options, target)
    _check(pipeline, target, unchecked=options.unchecked)
    name = pipeline.name if options.name is None else options.name
    version = version_name(pipeline) if options.version_name is None else options.version_name
    check_name("--name", name)
    check_no_secret("--name", name)
    check_version_name(version, target)
    check_no_secret("--version-name", version)
    platform = _platform(options, access, pipeline)
    if options.dry_run:
        return _dry_run(platform.upload_requests(pipeline, name, version))
    try:
        uploaded = platform.upload(pipeline, name, version)
    except KeyboardInterrupt:
        tell(f"interrupted; {version} may have been uploaded; to repeat the command is harmless")
        return _interrupted(options, {"target": target, "pipeline": name, "version": version})
    if options.json:
        print_json(_redacted({"status": "uploaded", "target": target} | asdict(uploaded)))
    else:
        did = "is there already" if uploaded.existed else "uploaded"
        _say(f"{did}: {uploaded.pipeline}, version {uploaded.version}: {uploaded.place}")
    return EXIT_OK


def submit(options: argparse.Namespace) -> int:
    """``shutterline submit``."""
    check_status(options)
    if options.status is not None:
        return _status(options)
    pipeline = read_compiled(options.file)
    target = target_of(options, pipeline)
    check_following(options)
    access = _access(options, target)
    _check(pipeline, target, unchecked=options.unchecked)
    if options.name is not None:
        check_run_name(options.name, target)
        check_no_secret("--name", options.name)
    request = _request(options, pipeline)
    platform = _platform(options, access, pipeline)
    if options.dry_run:
        return _dry_run(platform.submit_requests(request))
    try:
        run = submit_run(platform, request, again=options.again)
    except KeyboardInterrupt:
        harmless = "--again would start another" if options.again else "to repeat the command is harmless"
        tell(f"interrupted; {request.name} may have been started, and goes on then; {harmless}")
        return _interrupted(options, {"target": target, "run": {"name": request.name}})
    if not options.json:
        _say(_submitted_line(run))
    if not options.follow:
        if options.json:
            print_json(_redacted({"status": "submitted", "target": target, "run": asdict(run)}))
        return EXIT_OK
    ended = follow(platform, run, options.timeout)
    if options.json:
        print_json(_document(target, run, ended))
    return ended.exit_code


def _status(options: argparse.Namespace) -> int:
    """``shutterline submit --status RUN``."""
    target = target_of(options, None)
    access = _access(options, target)
    check_no_secret("--status", options.status)
    platform = _platform(options, access)
    try:
        run = platform.find(options.status)
        found = look(platform, run)
    except KeyboardInterrupt:
        return _interrupted(options, {"target": target, "run": {"name": options.status}})
    progress = found.progress
    if options.json:
        print_json(_document(target, run, found))
        return found.exit_code
    _say(f"{run.name} {run_words(progress)}: {run.url or run.id}")
    for line in table(rows(progress, utc_now())):
        _say(f"  {line}")
    for name, log in found.logs.items():
        for line in log_lines(name, log):
            _say(line)
    if found.exit_code:
        tell(ending(run, progress))
    return found.exit_code


def _document(target: PlatformName, run: Submitted, found: Followed) -> Any:
    """What is known of a run, as JSON data."""
    progress = found.progress
    document: dict[str, Any] = {"status": found.status, "target": target, "run": asdict(run)}
    document["run"]["state"] = progress.state
    document |= {"tasks": progress.tasks, "error": progress.error or None, "retried": progress.retried}
    document["steps"] = {}
    for name, step in progress.steps.items():
        told = document["steps"][name] = asdict(step)
        for attempt in told["attempts"]:
            for key in ("started", "finished"):
                attempt[key] = attempt[key] and attempt[key].isoformat()
        if (log := found.logs.get(name)) is not None:
            told["log"] = {"lines": log.own, "launcher": log.launcher, "succeeded": log.succeeded}
    return _redacted(document)


def _check(pipeline: CompiledPipeline, target: PlatformName, *, unchecked: bool) -> None:
    """Nothing leaves the desk that is known to go wrong.

    Raises:
        InputError: The file has errors, and is not sent in spite of them.
    """
    errors = [finding for finding in lint(pipeline, target) if finding.severity == "error"]
    if errors and not unchecked:
        told = "\n".join(f"  {finding}" for finding in errors)
        raise InputError(f"{pipeline.file}: not sent (--unchecked sends it all the same):\n{told}")


def _request(options: argparse.Namespace, pipeline: CompiledPipeline) -> RunRequest:
    if options.data is not None and not options.params:
        require_params_for_data(pipeline)
    checked = checked_params(pipeline, options.params, options.overrides)
    for warning in checked.warnings if checked else ():
        tell(f"warning: {warning}")
    values = run_values(pipeline, checked.params if checked else None, options.data, options.checkpoints)
    caching = False if options.no_cache else None
    name = options.name
    if name is None:
        staging = options.staging_bucket and str(staging_place(options.staging_bucket))
        asked = {"service_account": options.service_account, "network": options.network, "staging_bucket": staging}
        name = run_name(pipeline, values, caching, **asked)
    return RunRequest(pipeline, name, values, caching)


def _access(options: argparse.Namespace, target: PlatformName) -> Access | None:
    """By what Kubeflow is asked; None: it is not. From here on every secret is known, and no option may hold one.

    Raises:
        InputError: The credentials cannot be used, or an option holds a secret.
    """
    access = None
    if target == "kubeflow":
        dry = options.dry_run
        access = dry_access(options.token_file) if dry else read_access(options.token_file, options.ca_file)
    for option, value in shown_options(options):
        check_no_secret(option, value)
    return access


def _platform(options: argparse.Namespace, access: Access | None, pipeline: CompiledPipeline | None = None) -> Platform:
    """The platform; its client takes a second or two to import, and nothing is connected yet."""
    if pipeline is not None:
        check_file_has_no_secret(pipeline, *(access.secrets if access is not None else ()))
    experiment = getattr(options, "experiment", None)
    service_account = getattr(options, "service_account", None)
    if access is None:
        from pipelines.submit.vertex.platform import VertexPlatform

        return VertexPlatform(
            project=options.project,
            location=options.location,
            staging_bucket=options.staging_bucket,
            service_account=service_account,
            network=options.network,
            endpoint=options.endpoint,
            experiment=experiment,
        )
    from pipelines.submit.kubeflow import KubeflowPlatform

    return KubeflowPlatform(
        options.host,
        access,
        namespace=options.namespace,
        experiment=experiment,
        service_account=service_account,
    )


def _submitted_line(run: Submitted) -> str:
    if not run.existed:
        return f"submitted {run.name}: {run.url or run.id}"
    return f"{run.name} is there already, {run.state}: {run.url or run.id}; start another by --again or --name"


def _interrupted(options: argparse.Namespace, document: dict[str, Any]) -> int:
    if options.json:
        print_json(_redacted({"status": "interrupted"} | document))
    return EXIT_INTERRUPTED


def _redacted(value: Any) -> Any:
    """A result without secrets: some of its texts are a server's."""
    if isinstance(value, dict):
        return {key: _redacted(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(each) for each in value]
    return redact(value) if isinstance(value, str) else value


def _dry_run(requests: list[dict[str, Any]]) -> int:
    print_json({"status": "dry run", "requests": requests})
    return EXIT_OK


def _say(line: str) -> None:
    sys.stdout.write(f"{redact(line)}\n")
    sys.stdout.flush()
