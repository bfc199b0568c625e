"""The shutterline command's own description of itself."""

from __future__ import annotations

from collections.abc import Sequence

import click

from pipelines.cli import cli


def commands(group: click.Group = cli, prefix: str = "") -> dict[str, click.Command]:
    """Every command by its full name; a group is described by its commands."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found |= commands(command, f"{prefix}{name} ") if isinstance(command, click.Group) else {prefix + name: command}
    return found


def parse(words: Sequence[str]) -> None:
    """Parse a command line, without the command's name, and run nothing.

    Raises:
        click.UsageError: It cannot be parsed.
    """
    command: click.Command = cli
    left = list(words)
    while isinstance(command, click.Group):
        command = command.commands[left.pop(0)]
    command.make_context(command.name, left)
