"""``shutterline upload`` and ``shutterline submit``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.shared.command import print_json, print_message
from components.shared.errors import EXIT_OK, InputError, PlatformRefusedError
from components.shared.events.redaction import redact
from components.shared.kubeflow.report import RunState
from components.shared.text import shortened
from pipelines.compiled import PLATFORM_TITLES, CompiledPipeline, PlatformName, read_compiled
from pipelines.lint.rules import lint
from pipelines.submit import follow as following
from pipelines.submit import inputs
from pipelines.submit.options import spelling, target_for
from pipelines.submit.platform import Platform, RunRequest, Submitted
from pipelines.submit.run_text import ending, log_lines, run_state_text, table, utc_now
from pipelines.targets.kfp_import import import_kfp

_MOST_RUNS = 1000
# A run that ended so is started anew; any other is the run that was asked for.
_WORTH_ANOTHER: frozenset[RunState] = frozenset({"failed", "cancelled"})


def upload(
    file: Path,
    *,
    name: str | None,
    version_name: str | None,
    dry_run: bool,
    unchecked: bool,
    as_json: bool,
    **where: Any,
) -> int:
    """``shutterline upload``; each argument is its option, and `where` those of the platforms."""
    pipeline, target = _checked(file, where, unchecked=unchecked)
    name = pipeline.name if name is None else name
    version = inputs.version_name(pipeline) if version_name is None else version_name
    platform = _platform(where, target, pipeline)
    inputs.check_name("--name", name)
    inputs.check_name("--version-name", version, inputs.LONGEST_VERSION[target])
    plan = platform.plan(pipeline, name, version)
    if dry_run:
        return _dry_run(pipeline, target, {"pipeline": name, "version": version} | plan, as_json=as_json)
    try:
        uploaded = platform.upload(pipeline, name, version)
    except KeyboardInterrupt:
        print_message(f"{version} may have been uploaded; to repeat the command is harmless")
        raise
    if as_json:
        print_json(_redacted({"status": "uploaded", "target": target} | asdict(uploaded)))
    else:
        did = "is there already" if uploaded.existed else "uploaded"
        _print(f"{did}: {uploaded.pipeline}, version {uploaded.version}: {uploaded.place}")
    return EXIT_OK


def submit(
    file: Path,
    *,
    params: str | None,
    overrides: Sequence[str],
    data: str | None,
    checkpoints: str | None,
    name: str | None,
    again: bool,
    use_cache: bool,
    follow: bool,
    timeout: float | None,
    dry_run: bool,
    unchecked: bool,
    as_json: bool,
    **where: Any,
) -> int:
    """``shutterline submit``; each argument is its option, and `where` those of the platforms."""
    if timeout is not None and not follow:
        raise InputError("--timeout: says for how long to --follow; without that a run goes on by itself")
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise InputError("--timeout: must be a number of seconds greater than 0")
    if follow and dry_run:
        raise InputError("--follow: there is nothing to follow in a --dry-run")
    pipeline, target = _checked(file, where, unchecked=unchecked)
    platform = _platform(where, target, pipeline)
    if name is not None:
        inputs.check_run_name(name, target)
    checked = inputs.checked_params(pipeline, params, list(overrides), data)
    for warning in checked.warnings if checked else ():
        print_message(f"warning: {warning}")
    values = inputs.run_values(pipeline, checked.params if checked else None, data, checkpoints)
    plan = platform.plan(pipeline, pipeline.name, inputs.version_name(pipeline))
    if name is None:
        of_run = {key: plan[key] for key in ("service_account", "network", "staging_bucket") if key in plan}
        name = inputs.run_name(pipeline, values, use_cache, **of_run)
    if dry_run:
        sent = pipeline if use_cache else inputs.without_cache(pipeline)
        run = {"name": name, "inputs": values, "cache": "as the file says" if use_cache else "off"}
        named = {"pipeline": pipeline.name, "version": inputs.version_name(sent)}
        return _dry_run(sent, target, named | plan | {"run": run}, as_json=as_json)
    try:
        started = submit_run(platform, RunRequest(pipeline, name, values, use_cache), again=again)
    except KeyboardInterrupt:
        harmless = "--again would start another" if again else "to repeat the command is harmless"
        print_message(f"{name} may have been started, and goes on then; {harmless}")
        raise
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
    """
    for number in range(1, _MOST_RUNS + 1):
        name = request.name if number == 1 else f"{request.name}-{number}"
        submitted = platform.submit(replace(request, name=name))
        if not submitted.existed or not (again or submitted.state in _WORTH_ANOTHER):
            return submitted
    raise PlatformRefusedError(f"{request.name}: there are {_MOST_RUNS} runs of that name; choose another by --name")


def status(name: str, *, as_json: bool, **where: Any) -> int:
    """``shutterline submit --status``."""
    if not name.strip():
        raise InputError("--status: must be the name or id of a run")
    target = target_for(where, None)
    platform = _platform(where, target)
    inputs.check_no_secret("--status", name)
    run = platform.find(name)
    found = following.look(platform, run)
    if as_json:
        print_json(_document(target, run, found))
        return found.exit_code
    _print(f"{run.name} {run_state_text(found.progress)}: {run.url or run.id}")
    for line in table(found.progress, utc_now()):
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
            shown["log"] = asdict(log)
    return _redacted(document)


def _checked(file: Path, where: dict[str, Any], *, unchecked: bool) -> tuple[CompiledPipeline, PlatformName]:
    """A file, and the platform it is sent to; one with errors is refused, unless it is to be sent unchecked."""
    pipeline = read_compiled(file)
    target = target_for(where, pipeline)
    errors = [finding for finding in lint(pipeline, target) if finding.severity == "error"]
    if errors and not unchecked:
        found = "\n".join(f"  {finding}" for finding in errors)
        raise InputError(f"{pipeline.file}: not sent (--unchecked sends it all the same):\n{found}")
    return pipeline, target


def _platform(where: dict[str, Any], target: PlatformName, pipeline: CompiledPipeline | None = None) -> Platform:
    """The platform; its client takes a second to import, and nothing is connected yet.

    From here on every secret is known, and neither an option nor the pipeline may hold one.
    """
    options = {name: value for name, value in where.items() if name != "target" and value is not None}
    secrets: list[str] = []
    if target == "kubeflow":
        import_kfp()  # without its client, whose import takes two seconds
        from pipelines.submit.kubeflow import KubeflowPlatform
        from pipelines.submit.kubeflow_access import read_access

        access = read_access(options.pop("token_file", None), options.pop("ca_file", None))
        secrets = access.secrets
    for name, value in where.items():
        if value and name != "host":  # its credentials have a message of their own
            inputs.check_no_secret(spelling(name), str(value))
    if pipeline is not None:
        inputs.check_file_has_no_secret(pipeline, *secrets)
    if target == "kubeflow":
        return KubeflowPlatform(access, **{"host": None} | options)
    from pipelines.submit.vertex import VertexPlatform

    return VertexPlatform(**options)


def _dry_run(pipeline: CompiledPipeline, target: PlatformName, plan: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        documents = [json.loads(document) for document in inputs.as_sent(pipeline).split("\n---\n")]
        about = {"status": "dry run", "target": target, "file": str(pipeline.file)}
        print_json(about | plan | {"documents": documents})
        return EXIT_OK
    _print(f"dry run: nothing is sent; --json prints the whole of {pipeline.file}")
    lines = {
        "upload": f"{plan['pipeline']}, version {plan['version']}",
        "to": f"{PLATFORM_TITLES[target]}, {plan['place']}",
    }
    run = plan.get("run", {"inputs": {}})
    if "name" in run:
        lines["start"] = f"run {run['name']}, cache {run['cache']}"
    about = {key: value for key, value in plan.items() if key not in ("pipeline", "version", "place", "host", "run")}
    lines |= {key.replace("_", " "): value for key, value in about.items() if value}
    for title, value in lines.items():
        _print(f"{title:<16} {value}")
    for name, value in run["inputs"].items():
        _print(f"input            {name} = {shortened(value, 100)}")
    return EXIT_OK


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
