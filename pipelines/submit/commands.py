"""``shutterline upload`` and ``shutterline submit``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.shared.command import print_json, print_message
from components.shared.errors import EXIT_OK, InputError, PlatformRefusedError
from components.shared.events.redaction import redact
from components.shared.kubeflow.report import RunState
from components.shared.signals import EXIT_INTERRUPTED
from components.shared.text import shortened
from pipelines.compiled import PLATFORM_TITLES, CompiledPipeline, PlatformName, read_compiled
from pipelines.lint.rules import lint
from pipelines.submit import follow as following
from pipelines.submit.inputs import (
    LONGEST_VERSION,
    as_sent,
    check_file_has_no_secret,
    check_name,
    check_no_secret,
    check_run_name,
    checked_params,
    require_params_for_data,
    run_name,
    run_values,
    without_cache,
)
from pipelines.submit.inputs import version_name as default_version
from pipelines.submit.kubeflow_access import Access, read_access
from pipelines.submit.options import PlatformOptions
from pipelines.submit.platform import Platform, RunRequest, Submitted
from pipelines.submit.run_text import ending, log_lines, rows, run_words, table, utc_now

_MOST_RUNS = 1000
# A run that ended so is started anew; any other is the run that was asked for.
_WORTH_ANOTHER: frozenset[RunState] = frozenset({"failed", "cancelled"})


def upload(
    file: Path,
    where: PlatformOptions,
    *,
    name: str | None = None,
    version_name: str | None = None,
    dry_run: bool = False,
    unchecked: bool = False,
    as_json: bool = False,
) -> int:
    """``shutterline upload``; each argument is its option."""
    pipeline = read_compiled(file)
    target = where.target_for(pipeline)
    access = _access(where, target, dry_run=dry_run)
    _check(pipeline, target, unchecked=unchecked)
    name = pipeline.name if name is None else name
    version = default_version(pipeline) if version_name is None else version_name
    check_name("--name", name)
    check_name("--version-name", version, LONGEST_VERSION[target])
    platform = _platform(where, access, pipeline)
    plan = platform.plan(pipeline, name, version)
    if dry_run:
        return _dry_run(pipeline, target, {"pipeline": name, "version": version} | plan, as_json=as_json)
    try:
        uploaded = platform.upload(pipeline, name, version)
    except KeyboardInterrupt:
        print_message(f"interrupted; {version} may have been uploaded; to repeat the command is harmless")
        return _interrupted({"target": target, "pipeline": name, "version": version}, as_json=as_json)
    if as_json:
        print_json(_redacted({"status": "uploaded", "target": target} | asdict(uploaded)))
    else:
        did = "is there already" if uploaded.existed else "uploaded"
        _print(f"{did}: {uploaded.pipeline}, version {uploaded.version}: {uploaded.place}")
    return EXIT_OK


def submit(
    file: Path | None,
    where: PlatformOptions,
    *,
    params: str | None = None,
    overrides: Sequence[str] = (),
    data: str | None = None,
    checkpoints: str | None = None,
    name: str | None = None,
    again: bool = False,
    use_cache: bool = True,
    follow: bool = False,
    timeout: float | None = None,
    status: str | None = None,
    dry_run: bool = False,
    unchecked: bool = False,
    as_json: bool = False,
) -> int:
    """``shutterline submit``; each argument is its option."""
    if status is not None:
        of_a_start = {
            "PIPELINE.yaml": file, "--params": params, "--set": overrides, "--data": data, "--checkpoints": checkpoints,
            "--name": name, "--again": again, "--experiment": where.experiment, "--follow": follow,
            "--service-account": where.service_account, "--no-cache": not use_cache, "--timeout": timeout,
            "--dry-run": dry_run, "--unchecked": unchecked,
        }  # fmt: skip
        if given := [option for option, value in of_a_start.items() if value]:
            raise InputError(f"--status: looks at a run that is there, and takes no {', '.join(given)}")
        return _status(where, status, as_json=as_json)
    if file is None:
        raise InputError("Missing argument 'PIPELINE.yaml', or --status RUN.")
    if timeout is not None and not follow:
        raise InputError("--timeout: says for how long to --follow; without that a run goes on by itself")
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise InputError("--timeout: must be a number of seconds greater than 0")
    if follow and dry_run:
        raise InputError("--follow: there is nothing to follow in a --dry-run")
    pipeline = read_compiled(file)
    target = where.target_for(pipeline)
    access = _access(where, target, dry_run=dry_run)
    _check(pipeline, target, unchecked=unchecked)
    if name is not None:
        check_run_name(name, target)
    if data is not None and not params:
        require_params_for_data(pipeline)
    checked = checked_params(pipeline, params, list(overrides))
    for warning in checked.warnings if checked else ():
        print_message(f"warning: {warning}")
    values = run_values(pipeline, checked.params if checked else None, data, checkpoints)
    platform = _platform(where, access, pipeline)
    plan = platform.plan(pipeline, pipeline.name, default_version(pipeline))
    if name is None:
        of_run = ("service_account", "network", "staging_bucket")
        name = run_name(pipeline, values, use_cache, **{key: plan[key] for key in of_run if key in plan})
    request = RunRequest(pipeline, name, values, use_cache)
    if dry_run:
        sent = pipeline if use_cache else without_cache(pipeline)
        run = {"name": name, "inputs": values, "cache": "as the file says" if use_cache else "off"}
        named = {"pipeline": pipeline.name, "version": default_version(sent)}
        return _dry_run(sent, target, named | plan | {"run": run}, as_json=as_json)
    try:
        started = submit_run(platform, request, again=again)
    except KeyboardInterrupt:
        harmless = "--again would start another" if again else "to repeat the command is harmless"
        print_message(f"interrupted; {name} may have been started, and goes on then; {harmless}")
        return _interrupted({"target": target, "run": {"name": name}}, as_json=as_json)
    if not as_json:
        page = started.url or started.id
        there = f"{started.name} is there already, {started.state}: {page}; start another by --again or --name"
        _print(there if started.existed else f"submitted {started.name}: {page}")
    if not follow:
        if as_json:
            print_json(_redacted({"status": "submitted", "target": target, "run": asdict(started)}))
        return EXIT_OK
    ended = following.follow(platform, started, timeout)
    if as_json:
        print_json(_document(target, started, ended))
    return ended.exit_code


def submit_run(platform: Platform, request: RunRequest, *, again: bool) -> Submitted:
    """Start a run, unless it is there: one that waits, runs or succeeded under the name is returned.

    One that failed or was cancelled has the next number started, from ``name-2`` on; with `again` any has.

    Raises:
        PlatformRefusedError: There are too many of them.
    """
    for number in range(1, _MOST_RUNS + 1):
        name = request.name if number == 1 else f"{request.name}-{number}"
        submitted = platform.submit(replace(request, name=name))
        if not submitted.existed or not (again or submitted.state in _WORTH_ANOTHER):
            return submitted
    raise PlatformRefusedError(f"{request.name}: there are {_MOST_RUNS} runs of that name; choose another by --name")


def _status(where: PlatformOptions, name: str, *, as_json: bool) -> int:
    if not name.strip():
        raise InputError("--status: must be the name or id of a run")
    target = where.target_for(None)
    access = _access(where, target)
    check_no_secret("--status", name)
    platform = _platform(where, access)
    try:
        run = platform.find(name)
        found = following.look(platform, run)
    except KeyboardInterrupt:
        return _interrupted({"target": target, "run": {"name": name}}, as_json=as_json)
    if as_json:
        print_json(_document(target, run, found))
        return found.exit_code
    _print(f"{run.name} {run_words(found.progress)}: {run.url or run.id}")
    for line in table(rows(found.progress, utc_now())):
        _print(f"  {line}")
    for step, log in found.logs.items():
        for line in log_lines(step, log):
            _print(line)
    if found.exit_code:
        print_message(ending(run, found.progress))
    return found.exit_code


def _document(target: PlatformName, run: Submitted, found: following.Followed) -> Any:
    """What is known of a run, as JSON data."""
    progress = found.progress
    document: dict[str, Any] = {"status": found.status, "target": target, "run": asdict(run)}
    document["run"]["state"] = progress.state
    document |= {"tasks": progress.tasks, "error": progress.error or None, "retried": progress.retried}
    document["steps"] = {}
    for name, step in progress.steps.items():
        shown = document["steps"][name] = asdict(step)
        for attempt in shown["attempts"]:
            for key in ("started", "finished"):
                attempt[key] = attempt[key] and attempt[key].isoformat()
        if (log := found.logs.get(name)) is not None:
            shown["log"] = {"lines": log.own, "launcher": log.launcher, "succeeded": log.succeeded}
    return _redacted(document)


def _check(pipeline: CompiledPipeline, target: PlatformName, *, unchecked: bool) -> None:
    """Refuse to send a file that has errors, unless it is to be sent unchecked."""
    errors = [finding for finding in lint(pipeline, target) if finding.severity == "error"]
    if errors and not unchecked:
        found = "\n".join(f"  {finding}" for finding in errors)
        raise InputError(f"{pipeline.file}: not sent (--unchecked sends it all the same):\n{found}")


def _access(where: PlatformOptions, target: PlatformName, *, dry_run: bool = False) -> Access | None:
    """By what Kubeflow is asked; None: it is not. From here on every secret is known, and no option may hold one.

    Raises:
        InputError: The credentials cannot be used, or an option holds a secret.
    """
    access = None
    if target == "kubeflow":
        try:
            access = read_access(where.token_file, where.ca_file)
        except InputError:
            if not dry_run:  # which sends nothing, and needs none
                raise
            access = Access()
    for option, value in where.given("host").items():  # the host's credentials have a message of their own
        check_no_secret(option, value)
    return access


def _platform(where: PlatformOptions, access: Access | None, pipeline: CompiledPipeline | None = None) -> Platform:
    """The platform; its client takes a second to import, and nothing is connected yet."""
    if pipeline is not None:
        check_file_has_no_secret(pipeline, *(access.secrets if access is not None else ()))
    if access is None:
        from pipelines.submit.vertex import VertexPlatform

        return VertexPlatform(
            project=where.project or "",
            location=where.location or "",
            staging_bucket=where.staging_bucket or "",
            service_account=where.service_account,
            network=where.network,
            endpoint=where.endpoint,
            experiment=where.experiment,
        )
    from pipelines.submit.kubeflow import KubeflowPlatform

    return KubeflowPlatform(
        where.host,
        access,
        namespace=where.namespace,
        experiment=where.experiment,
        service_account=where.service_account,
    )


def _dry_run(pipeline: CompiledPipeline, target: PlatformName, plan: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        documents = [json.loads(document) for document in as_sent(pipeline).split("\n---\n")]
        print_json(
            {"status": "dry run", "target": target, "file": str(pipeline.file)} | plan | {"documents": documents}
        )
    else:
        for line in _summary(pipeline, target, plan):
            _print(line)
    return EXIT_OK


def _summary(pipeline: CompiledPipeline, target: PlatformName, plan: dict[str, Any]) -> Iterator[str]:
    yield f"dry run: nothing is sent; --json prints the whole of {pipeline.file}"
    yield f"upload           {plan['pipeline']}, version {plan['version']}"
    yield f"to               {PLATFORM_TITLES[target]}, {plan['place']}"
    if run := plan.get("run"):
        yield f"start            run {run['name']}, cache {run['cache']}"
    for key, value in plan.items():
        if key not in ("pipeline", "version", "place", "host", "run") and value:
            yield f"{key.replace('_', ' '):<16} {value}"
    for name, value in run["inputs"].items() if run else ():
        yield f"input            {name} = {shortened(value, 100)}"


def _interrupted(document: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print_json(_redacted({"status": "interrupted"} | document))
    return EXIT_INTERRUPTED


def _redacted(value: Any) -> Any:
    """A result without secrets: some of its texts are a server's."""
    if isinstance(value, dict):
        return {key: _redacted(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(each) for each in value]
    return redact(value) if isinstance(value, str) else value


def _print(line: str) -> None:
    sys.stdout.write(f"{redact(line)}\n")
    sys.stdout.flush()
