"""``shutterline init``: params to start from, for the data that are there."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from components.shared.command import print_json, print_message
from components.shared.errors import EXIT_OK, InputError
from components.shared.extras import require_extras
from components.shared.files import unwritable, write_atomically
from components.shared.logs import log_to_stderr
from components.shared.params.params import Params
from components.shared.storage.location import AnyPath, parse_location
from components.shared.version import __version__
from pipelines.options import JSON, flag, option, options, path, text
from pipelines.starting_params import Choice, Machine, sizes_text, starting_params

if TYPE_CHECKING:
    from components.data_prep.survey import Survey

_WIDTH = 110
_LAYOUTS = get_args(Params.model_fields["data_layout"].annotation)


@click.command()
@options(
    option("--data", metavar="LOCATION", type=text, required=True, help="Images and their labels, in any layout that "
           "data prep reads, here or in a bucket (gs://…, s3://…)."),
    option("--layout", type=click.Choice(_LAYOUTS), default="auto", show_default=True, help="How the data are laid "
           "out, where they look like several."),
    flag("--follow-links", "Look at what links in the data lead to outside of it."),
    option("-o", "--output", metavar="FILE", type=path, default="params.yaml", show_default=True, help="File to write: "
           "new, and .yaml."),
)  # fmt: skip
@JSON
def init(*, data: str, layout: str, follow_links: bool, output: Path, as_json: bool) -> int:
    """Write params to start from, for data: sizes, splits, a network, augmentation, epochs, each with its reason.

    The names of all images are listed, and some 200 images are looked at. The file is meant to be read and changed.
    """
    require_extras("shutterline init", "data-prep")
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"--output {output}: must end in .yaml or .yml, which can hold the reasons as comments")
    if output.exists():
        raise InputError(f"--output {output}: is there already; name another file, or remove it")
    log_to_stderr()
    found, choices = _chosen(parse_location(data), layout, follow_links=follow_links)
    command = f"shutterline init --data {shlex.quote(data)}"
    facts = _facts(found)
    try:
        write_atomically(output, _yaml(choices, [f"Written by `{command}`, {__version__}.", *facts]).encode())
    except OSError as error:
        raise unwritable("--output", output, error) from error
    if as_json:
        values = {each.key: each.value for each in choices}
        print_json({"status": "written", "file": str(output), "facts": facts, "params": values,
                    "reasons": {each.key: each.why for each in choices if each.why}})  # fmt: skip
    else:
        run = f"shutterline run --data {shlex.quote(data)} --params {shlex.quote(str(output))}"
        facts.append(f"{output}: written, with the reason for each value; next: `{run}`")
        sys.stdout.write("".join(f"{line}\n" for line in facts))
    return EXIT_OK


def params_for(data: str, overrides: Sequence[str], *, follow_links: bool) -> str:
    """Params for data, as a JSON text: those that `shutterline init` writes; what was found is printed.

    Raises:
        DataError: As data prep; or the data are of one class, or no image of the sample can be read.
    """
    layout = next((each.split("=", 1)[1] for each in reversed(overrides) if each.startswith("data_layout=")), "auto")
    if layout not in _LAYOUTS:
        layout = "auto"  # refused with what is allowed when the params are read
    # Data prep will log all of it.
    logging.getLogger("shutterline").addHandler(logging.NullHandler())
    found, choices = _chosen(parse_location(data), layout, follow_links=follow_links)
    values = {each.key: each.value for each in choices}
    print_message("\n".join(_facts(found)))
    print_message(
        f"no params are given; `shutterline init --data {shlex.quote(data)}` writes these, with their reasons, to "
        f"params.yaml: {', '.join(map(_brief, choices))}",
    )
    return json.dumps(values)


def _chosen(data: AnyPath, layout: str, *, follow_links: bool) -> tuple[Survey, list[Choice]]:
    from components.data_prep.survey import survey

    found = survey(data, layout=layout, follow_links=follow_links)
    choices = starting_params(found, Machine.this())
    if layout != "auto":
        choices.append(Choice("data_layout", layout, "as --layout says"))
    return found, choices


def _facts(survey: Survey) -> list[str]:
    splits = ", ".join(f"{sum(counts)} {name} images" for name, counts in survey.counts.items())
    train = survey.counts["train"]
    color = "color" if survey.colored else "grey"
    each = f"{min(train)} to {max(train)}" if min(train) < max(train) else max(train)
    facts = [
        f"{survey.layout}: {splits} in {len(train)} classes, {each} training images each; "
        f"{sizes_text(survey)} pixels, {color}"
    ]
    if survey.unreadable:
        tried = survey.unreadable + len(survey.sizes)
        facts.append(f"{survey.unreadable} of {tried} images cannot be read; max_unreadable is the share that may be")
    return facts


def _brief(choice: Choice) -> str:
    value = choice.value
    if isinstance(value, list):
        return f"{choice.key} of {len(value)}"
    return f"{choice.key} {json.dumps(value) if isinstance(value, bool) else value}"


def _yaml(choices: Sequence[Choice], head: Sequence[str]) -> str:
    """Params as YAML: a key in a line, of a list an entry in a line, below the reason; JSON is YAML."""
    lines = _comments(*head, "All keys: components/shared/params/README.md; `shutterline validate` prints the network.")
    for key, value, why in choices:
        lines += ["", *_comments(why)] if why else []
        if isinstance(value, list):
            lines += [f"{key}:", *(f"  - {_flow(entry)}" for entry in value)]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _comments(*paragraphs: str) -> list[str]:
    return [f"# {line}" for text in paragraphs for line in textwrap.wrap(text, _WIDTH)]
