"""``python -m components.publish``: publishing from a command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from components.shared.command import CommandParser, add_path_option, step_command
from components.shared.events.data import Emit
from components.shared.params.params import Params
from components.shared.step import Reported

DESCRIPTION = """\
Publish a model that passed the gate, with its evaluation and a model card, at publish_uri/VERSION.

VERSION is when the model was evaluated and the digest of what is published: it is never replaced, and publishing the
same again changes nothing.
"""

DOCKER = """\
docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/runs" -v "$PWD/published:/published"
    --entrypoint python IMAGE -m components.publish --model /runs/model --evaluation /runs/evaluation
    --params "$(cat params.json)" --set publish_uri=/published
"""


def _work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
    from components.publish.step import publish_staged

    return publish_staged(model=options.model, evaluation=options.evaluation, params=params, emit=emit)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = CommandParser(prog="python -m components.publish", description=DESCRIPTION)
    add_path_option(parser, "--model", help="model directory from training")
    add_path_option(parser, "--evaluation", help="evaluation directory of that model")
    return step_command("publish", parser, argv, _work, docker=DOCKER)


if __name__ == "__main__":
    sys.exit(main())
