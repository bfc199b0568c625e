"""The ``shutterline`` command, a function for each of its commands, which imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from components.shared.command import EXIT_CODES, error_document, last_lines, print_json, print_message, with_output
from components.shared.errors import EXIT_BAD_INPUT, EXIT_FAILURE, InputError, ShutterlineError
from components.shared.extras import extras_named, require_extras
from components.shared.files import disk_message
from components.shared.params.params import Params
from components.shared.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, sigterm_raises
from components.shared.version import __version__
from pipelines.compiled import PLATFORMS
from pipelines.submit.options import EPILOG as SUBMIT_EPILOG
from pipelines.watching import EPILOG as WATCH_EPILOG

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

# Commands whose standard output is for other lines than one JSON document.
_WITHOUT_DOCUMENT = ("watch",)


def _as_it_is(text: str) -> str:
    """A text whose lines click does not join."""
    return "\n\n".join(f"\b\n{paragraph}" for paragraph in text.split("\n\n"))


def _options(*options: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """Several options as one decorator, shown in the order given."""

    def add(function: Decorated) -> Decorated:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def text(value: str) -> str:
    """An option's text, which an unset variable of a shell does not give."""
    if not value:
        raise click.BadParameter("is empty; is a variable of your shell not set?")
    return value


def path(value: str) -> Path:
    """An option's path."""
    return Path(text(value))


_option, _argument = click.option, click.argument


def _flag(name: str, help: str) -> Callable[[Decorated], Decorated]:
    return _option(name, is_flag=True, help=help)


def _platform(help: str, *, required: bool = False) -> Callable[[Decorated], Decorated]:
    return _option("--target", type=click.Choice(PLATFORMS), required=required, help=help)


def _params(default: str) -> Callable[[Decorated], Decorated]:
    return _option("--params", metavar="FILE", type=text, help=f"Params file or JSON text; default: {default}.")


_set = _option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change one of the params, such as "
               "num_epochs=5 or net_arch[0].kwargs.out_channels=64; repeatable.")  # fmt: skip
_json = _option("--json", "as_json", is_flag=True, help="Print one JSON document to standard output.")
_settings = _option("--settings", metavar="FILE", type=path, help="What the steps get, as .yaml or .json.")
_images = _option("--images", metavar="FILE", type=path, help="Images of the steps, as `make images` writes them; "
                  "default: tags of this version.")  # fmt: skip
_unchecked = _flag("--unchecked", "Go on although `shutterline validate` finds errors in the file.")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=_as_it_is(EXIT_CODES),
    no_args_is_help=False,
)
@click.version_option(__version__, message="shutterline %(version)s")
def cli() -> None:
    """Train image classifiers as a pipeline of containers."""


@cli.command()
@_params("the example's, which are for its digits alone")
@_set
@_options(
    _option("--data", metavar="DIR", type=text, help="Images or IDX files, here or in a bucket (gs://…, s3://…), with "
            "--params for them; default: the example's digits."),
    _option("--out", metavar="DIR", type=path, help="Directory of the run; one that was interrupted goes on; default: "
            "runs/TIME."),
    _flag("--start-over", "Train anew, whatever run and checkpoints are in DIR."),
    _flag("--follow-links", "Read what links in the data lead to outside of it."),
    _option("--runner", type=click.Choice(["subprocess", "docker"]), default="subprocess", show_default=True,
            help="Steps as processes of this installation, or as containers, to which the options below belong."),
    _images,
    _option("--network", metavar="NAME", type=text, help="Network of the containers, such as host, none or a compose "
            "file's; default: Docker's."),
    _option("--gpus", type=click.Choice(["none", "all", "auto"]), help="GPUs for training and evaluation; default: "
            "auto, all of them if Docker offers any and the device of the params is not cpu."),
    _option("--shm-size", metavar="SIZE", help="Size of /dev/shm, such as 512m; default: 1g."),
    _option("--memory", metavar="SIZE", help="Most memory of a step, such as 8g; default: no limit."),
    _option("--cpus", metavar="N", help="Most processors of a step, such as 1.5; default: no limit."),
)  # fmt: skip
@_json
def run(**options: Any) -> int:
    """Run the whole pipeline on this machine.

    Data prep, training, evaluation and the exit step run with kfp's local runners: in processes of this installation,
    or by --runner docker each in its container, which `make images` builds. Without options it trains a digit
    classifier on the embedded example.

    Containers run as you, on a read-only file system and without any capability. They see the run's directory and,
    read only, the data and the files that settings name; of the environment SHUTTERLINE_*, KAFKA_*, AWS_*, GOOGLE_* and
    the emulators' variables. They are labelled by the run: docker ps --filter label=shutterline.run
    """
    steps = () if options["runner"] == "docker" else ("data-prep", "train", "evaluate")
    require_extras("shutterline run", "pipelines", *steps)
    from pipelines.commands import run

    return run(**options)


@cli.command()
@_argument("file", metavar="FILE", type=text)
@_platform("The platform a pipeline shall run on; default: as it says.")
@_options(
    _flag("--elsewhere", "Let initial_weights be a path on the machine that trains, which this is not."),
    _flag("--strict", "Let a pipeline's warnings fail too."),
)
@_set
@_json
def validate(**options: Any) -> int:
    """Check params, or a compiled pipeline.

    Of params (.json, .yaml or .py) everything is checked, the network is built on torch's meta device, and the shape
    and cost of every layer are printed. A network that does not fit is refused with the first layer that does not.

    Of a compiled pipeline it reports where it would fail, waste money or expose a secret, and what to do; no platform
    is asked. Errors end with exit code 2.
    """
    from pipelines.commands import validate

    return validate(**options)


@cli.command()
@_params("the example's, which are for its digits alone")
@_set
@_option("-o", "--output", metavar="FILE", type=path, default="pipeline.yaml", show_default=True, help="File to write.")
@_platform("The platform.")
@_settings
@_options(
    _option("--data", metavar="LOCATION", type=text, help="Default of the pipeline's input data, gs://… or s3://…, "
            "with --params for them."),
    _option("--checkpoints", metavar="LOCATION", help="Default of its input checkpoints; default: the settings'."),
    _flag("--cache", "With --target: serve data prep from the cache too, and the steps behind it: for data that never "
          "change below one name."),
)  # fmt: skip
@_images
@_unchecked
@_json
def compile(**options: Any) -> int:
    """Write the pipeline as KFP YAML.

    The params become the default of the pipeline's params input, which every run may replace. With --target the steps
    also ask the platform for processors, memory, accelerators, secrets, volumes, retries: as --settings say, or else as
    much as the example needs. Without it nothing is asked of any platform.
    """
    from pipelines.commands import compile_pipeline

    return compile_pipeline(**options)


@cli.command()
@_params("the example's")
@_set
@_platform("The platform.", required=True)
@_settings
@_flag("--schema", "Print the JSON Schema of settings instead.")
@_json
def settings(**options: Any) -> int:
    """Print what every step gets of a platform.

    These are the settings as compile uses them: defaults, what the file says of every step, what it says of each.
    """
    from pipelines.commands import show_settings

    return show_settings(**options)


@cli.command()
@_argument("file", metavar="[FILE]", required=False, type=text)
@_flag("--schema", "Print the JSON Schema of params instead.")
@_option("--format", type=click.Choice(["json", "yaml"]), default="json", show_default=True, help="How to print them.")
@_set
@_json
def params(**options: Any) -> int:
    """Print params with every default, or their JSON Schema; without FILE the example's."""
    from pipelines.commands import show_params

    return show_params(**options)


_of_platform = _options(
    _platform("The platform; default: the one the file was compiled for."),
    _flag("--dry-run", "Show what would be sent, with --json the whole of it, and send nothing."),
    _unchecked,
    _option("--host", metavar="URL", help="Kubeflow: address of the API, such as "
            "https://kubeflow.example.com/pipeline."),
    _option("--namespace", metavar="N", help="Kubeflow: your namespace, where it has several users."),
    _option("--token-file", metavar="FILE", type=Path, help="Kubeflow: file with a bearer token."),
    _option("--ca-file", metavar="FILE", type=Path, help="Kubeflow: PEM file of the authorities to trust for TLS."),
    _option("--project", metavar="P", help="Vertex AI: id of the Google Cloud project."),
    _option("--location", metavar="L", help="Vertex AI: region, such as europe-west4."),
    _option("--staging-bucket", metavar="gs://…", help="Vertex AI: bucket for pipelines and what runs write."),
    _option("--network", metavar="N", help="Vertex AI: network of the machines, projects/NUMBER/global/networks/NAME."),
    _option("--endpoint", metavar="HOST", help="Vertex AI: host in the place of the location's own endpoint."),
)  # fmt: skip


# What a look at a run takes of them.
_PLATFORM = ("target", "host", "namespace", "token_file", "ca_file", "project", "location", "staging_bucket", "network",
             "endpoint")  # fmt: skip


def _require_client(command: str, options: dict[str, Any]) -> None:
    is_vertex = options["target"] == "vertex" or options["project"] is not None
    require_extras(f"shutterline {command}", "vertex" if is_vertex else "pipelines")


@cli.command(epilog=_as_it_is(SUBMIT_EPILOG))
@_argument("file", metavar="PIPELINE.yaml", type=Path)
@_of_platform
@_option("--name", metavar="PIPELINE", help="Name of the pipeline; default: the file's.")
@_option("--version-name", metavar="V", help="Name of the version; default: ours and a digest.")
@_json
def upload(**options: Any) -> int:
    """Upload a compiled pipeline to Kubeflow or Vertex AI.

    It becomes a version of a pipeline at Kubeflow Pipelines, or is put into Vertex AI's staging bucket. What is there
    already with the same content is found; a version is never replaced.
    """
    _require_client("upload", options)
    from pipelines.submit.commands import upload

    return upload(**options)


@cli.command(epilog=_as_it_is(SUBMIT_EPILOG))
@_argument("file", metavar="[PIPELINE.yaml]", required=False, type=Path)
@_of_platform
@_option("--params", metavar="FILE", type=text, help="Params file or JSON text; default: those in the pipeline.")
@_set
@_options(
    _option("--data", metavar="LOCATION", type=text, help="Where the images are; default: as the file says."),
    _option("--checkpoints", metavar="LOCATION", help="Where checkpoints are kept; default: as the file says."),
    _option("--name", metavar="RUN", help="Name of the run; default: the pipeline's and a digest."),
    _flag("--again", "Start another run although one is there."),
    _option("--experiment", metavar="E", help="What the run is filed under; default on Kubeflow: shutterline."),
    _option("--service-account", metavar="S", help="Account that the run has; default: the platform's."),
    _option("--no-cache", "use_cache", is_flag=True, flag_value=False, default=True, help="Let no step be served from "
            "the cache."),
    _flag("--follow", "Stay until the run is done, and show its steps."),
    _option("--timeout", metavar="SECONDS", type=float, help="With --follow: how long at most; then exit code 1."),
    _option("--status", metavar="RUN", help="Start nothing: show the steps of the run of that name or id once, and why "
            "one waits or failed."),
)  # fmt: skip
@_json
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


@cli.command(epilog=_as_it_is(WATCH_EPILOG))
@_options(
    _option("--kafka", metavar="HOST[,HOST]/TOPIC", is_flag=False, flag_value="", help="The topic; without a value, "
            "the params'."),
    _option("--pubsub", metavar="SUBSCRIPTION", is_flag=False, flag_value="", help="projects/P/subscriptions/S or P/S; "
            "without a value, the params'."),
    _option("--params", metavar="FILE", help="Params file or JSON text; they name broker, topic, subscription and "
            "credentials."),
    _set,
    _option("--run", metavar="ID", help="Show this run only."),
    _option("--since", metavar="WHEN", help="Kafka: beginning, now, a span such as 90s, 10m, 24h or 7d, or an ISO "
            "time; default: 24h, but now for --until-done without --run."),
    _option("--group", metavar="NAME", help="Kafka: go on where the watcher before with this consumer group stopped."),
    _option("--json", "as_json", is_flag=True, help="Print each event's CloudEvents JSON on a line of its own."),
    _flag("--until-done", "End with the run and its outcome; without --run, the first one seen."),
    _option("--timeout", metavar="SECONDS", type=float, help="End after so long; with --until-done: exit code 1."),
)  # fmt: skip
def watch(**options: Any) -> int:
    """Show runs as they go.

    Their status events are shown live on a terminal, one line an event elsewhere, or as JSON lines. Events are
    acknowledged once they were shown. A broker that is away is waited for.
    """
    from pipelines.watching import watch

    return watch(**options)


@cli.group(no_args_is_help=False)
def events() -> None:
    """Deliver status events later; print their JSON Schema."""


@events.command()
@_argument("spools", metavar="SPOOL…", nargs=-1, required=True)
@_option("--params", metavar="FILE", help="Deliver to the brokers of these params instead.")
@_option("--timeout", metavar="SECONDS", type=float, default=30.0, show_default=True, help="How long to try.")
@_json
def replay(**options: Any) -> int:
    """Deliver what the brokers of a run do not have yet, in order, under the same ids.

    A SPOOL is a file, or a directory or bucket's prefix of such files: path, gs://… or s3://…. A spool remembers which
    brokers it was meant for and how far each has come, so repeating is harmless.
    """
    from pipelines.events_command import events_replay

    return events_replay(**options)


@events.command()
@_json
def schema(**options: Any) -> int:
    """Print the JSON Schema of status events."""
    from pipelines.events_command import events_schema

    return events_schema()


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
