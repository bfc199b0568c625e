"""The ``shutterline`` command; each of its commands imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from components.shared.command import EXIT_CODES, error_document, last_lines, print_json, print_message, with_output
from components.shared.errors import EXIT_BAD_INPUT, EXIT_FAILURE, InputError, ShutterlineError
from components.shared.extras import extras_named, require_extras
from components.shared.files import disk_message
from components.shared.params.params import Params
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, sigterm_raises
from components.shared.version import __version__
from pipelines.commands import compile, events, params, settings, validate
from pipelines.export_command import export
from pipelines.init_command import init
from pipelines.options import JSON, SET, UNCHECKED, argument, flag, option, options, platform, text, unwrapped
from pipelines.predict_command import predict
from pipelines.run_command import run
from pipelines.submit.options import EPILOG
from pipelines.watch_command import watch

# Commands whose standard output is for other lines than one JSON document.
_WITHOUT_DOCUMENT = ("watch",)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=unwrapped(EXIT_CODES),
    no_args_is_help=False,
)
@click.version_option(__version__, message="shutterline %(version)s")
def cli() -> None:
    """Train image classifiers as a pipeline of containers."""


_of_platform = options(
    platform("The platform; default: the one the file was compiled for."),
    flag("--dry-run", "Show what would be sent, with --json the whole of it, and send nothing."),
    UNCHECKED,
    option("--host", metavar="URL", help="Kubeflow: address of the API, such as "
           "https://kubeflow.example.com/pipeline."),
    option("--namespace", metavar="N", help="Kubeflow: your namespace, where it has several users."),
    option("--token-file", metavar="FILE", type=Path, help="Kubeflow: file with a bearer token."),
    option("--ca-file", metavar="FILE", type=Path, help="Kubeflow: PEM file of the authorities to trust for TLS."),
    option("--project", metavar="P", help="Vertex AI: id of the Google Cloud project."),
    option("--location", metavar="L", help="Vertex AI: region, such as europe-west4."),
    option("--staging-bucket", metavar="gs://…", help="Vertex AI: bucket for pipelines and what runs write."),
    option("--network", metavar="N", help="Vertex AI: network of the machines, projects/NUMBER/global/networks/NAME."),
    option("--endpoint", metavar="HOST", help="Vertex AI: host in the place of the location's own endpoint."),
)  # fmt: skip


# What a look at a run takes of them.
_PLATFORM = ("target", "host", "namespace", "token_file", "ca_file", "project", "location", "staging_bucket", "network",
             "endpoint")  # fmt: skip


def _require_client(command: str, options: dict[str, Any]) -> None:
    is_vertex = options["target"] == "vertex" or options["project"] is not None
    require_extras(f"shutterline {command}", "vertex" if is_vertex else "pipelines")


@click.command(epilog=unwrapped(EPILOG))
@argument("file", metavar="PIPELINE.yaml", type=Path)
@_of_platform
@option("--name", metavar="PIPELINE", help="Name of the pipeline; default: the file's.")
@option("--version-name", metavar="V", help="Name of the version; default: ours and a digest.")
@JSON
def upload(**options: Any) -> int:
    """Upload a compiled pipeline to Kubeflow or Vertex AI.

    It becomes a version of a pipeline at Kubeflow Pipelines, or is put into Vertex AI's staging bucket. What is there
    already with the same content is found; a version is never replaced.
    """
    _require_client("upload", options)
    from pipelines.submit.commands import upload

    return upload(**options)


@click.command(epilog=unwrapped(EPILOG))
@argument("file", metavar="[PIPELINE.yaml]", required=False, type=Path)
@_of_platform
@option("--params", metavar="FILE", type=text, help="Params file or JSON text; default: those in the pipeline.")
@SET
@options(
    option("--data", metavar="LOCATION", type=text, help="Where the images are; default: as the file says."),
    option("--checkpoints", metavar="LOCATION", help="Where checkpoints are kept; default: as the file says."),
    option("--name", metavar="RUN", help="Name of the run; default: the pipeline's and a digest."),
    flag("--again", "Start another run although one is there."),
    option("--experiment", metavar="E", help="What the run is filed under; default on Kubeflow: shutterline."),
    option("--service-account", metavar="S", help="Account that the run has; default: the platform's."),
    option("--no-cache", "use_cache", is_flag=True, flag_value=False, default=True, help="Let no step be served from "
           "the cache."),
    flag("--follow", "Stay until the run is done, and show its steps."),
    option("--timeout", metavar="SECONDS", type=float, help="With --follow: how long at most; then exit code 1."),
    option("--status", metavar="RUN", help="Start nothing: show the steps of the run of that name or id once, and why "
           "one waits or failed."),
)  # fmt: skip
@JSON
def submit(**options: Any) -> int:
    """Upload a compiled pipeline and run it there.

    The run is named by everything that decides what it does, so to repeat the command finds the run instead of starting
    another: one that waits, runs or succeeded. One that failed or was cancelled is started anew, as NAME-2, NAME-3 …
    """
    context, name = click.get_current_context(), options.pop("status")
    if name is None and options["file"] is None:
        raise click.UsageError("Missing argument 'PIPELINE.yaml', or --status RUN.", context)
    _require_client("submit", options)
    from pipelines.submit.commands import status, submit

    if name is None:
        return submit(**options)
    given = [
        option.make_metavar(context).strip("[]") if isinstance(option, click.Argument) else option.opts[0]
        for option in context.command.params
        if option.name not in ("status", "as_json", *_PLATFORM)
        and context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    ]
    if given:
        raise InputError(f"--status: looks at a run that is there, and takes no {', '.join(given)}")
    return status(name, **{key: options[key] for key in ("as_json", *_PLATFORM)})


for each in (init, run, predict, export, validate, compile, settings, params, upload, submit, watch, events):
    cli.add_command(each)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 bad input, 130 or 143 interrupted, 1 anything else."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return with_output(lambda: _exit_code(arguments))


def _exit_code(arguments: list[str]) -> int:
    command = next((word for word in arguments if not word.startswith("-")), "")
    as_json = "--json" in arguments and command not in _WITHOUT_DOCUMENT
    try:
        with sigterm_raises(), extras_named(f"shutterline {command}", "pipelines", "train"):
            with cli.make_context("shutterline", list(arguments)) as context:
                code: int = cli.invoke(context)
            return code
    except click.exceptions.Exit as ended:  # of --help and --version
        return ended.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "shutterline"
        message = f"{error.format_message()}{_advice(error)}".replace("\n", "\\n")  # of what was typed
        print_message(f"{path}: error: {message} (see {path} --help)")
        document: dict[str, Any] = {"status": "failed", "error": error_document(InputError(message))}
        code = EXIT_BAD_INPUT
    except ShutterlineError as error:
        print_message(f"error: {error}")
        document = {"status": "failed", "error": error_document(error)}
        code = error.exit_code
    except OSError as error:
        if error.filename is None or (full := disk_message(error)) is None:
            raise
        print_message(f"error: {full}")
        document = {"status": "failed", "error": {"type": type(error).__name__, "message": full}}
        code = EXIT_FAILURE
    except (KeyboardInterrupt, Terminated) as error:
        how, code = (
            ("terminated", EXIT_TERMINATED) if isinstance(error, Terminated) else ("interrupted", EXIT_INTERRUPTED)
        )
        saved = "; ".join(getattr(error, "__notes__", ()))
        print_message(*(last_lines(code, saved, "shutterline", None) if command == "run" else (how,)))
        document = {"status": how}
    if as_json:
        print_json(document)
    return code


def _advice(error: click.UsageError) -> str:
    """How params are set, where somebody takes one for an option."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        key = error.option_name.lstrip("-").replace("-", "_")
        if key in Params.model_fields and any(option.name == "overrides" for option in error.ctx.command.params):
            return f" Set params by --set {key}=VALUE."
    return ""


if __name__ == "__main__":
    sys.exit(main())
