"""README is the truth: its notebook runs, its commands parse, its table of params is the code's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from components.shared.events.kafka.settings import VARIABLES
from components.shared.params.params import Params
from components.shared.version import __version__
from tests.pipelines.command_line import commands, parse
from tests.pipelines.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def spelled(value: object) -> str:
    """A default as README writes it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"`{value}`"
    return f"{value:g}" if isinstance(value, int | float) else "none"


def params_table() -> str:
    """The rows README must show, made from the fields themselves."""
    return "\n".join(
        f"| `{name}` | "
        + ("required" if field.is_required() else spelled(field.get_default(call_default_factory=True)))
        + f" | {field.description} |"
        for name, field in Params.model_fields.items()
    )


def test_the_table_of_params_is_the_codes() -> None:
    shown = re.search(r"<!-- params: .*? -->\n(.*?)\n<!-- end of params -->", README, flags=re.DOTALL)
    assert shown is not None
    assert shown[1].split("|---|---|---|\n", 1)[1] == params_table()


def test_the_table_of_kafkas_settings_is_the_codes() -> None:
    shown = re.search(r"<!-- kafka settings: .*? -->\n(.*?)\n<!-- end of kafka settings -->", README, flags=re.DOTALL)
    assert shown is not None
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in VARIABLES.items())
    assert shown[1].split("|---|---|\n", 1)[1] == rows


def test_the_notebook_runs_and_shows_a_notebooks_progress(tmp_path: Path) -> None:
    (source,) = blocks("python")
    assert '"mode": "notebook"' in source
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])  # type: ignore[no-untyped-call]

    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = notebook.cells[0].outputs
    text = "".join(output.get("text", "") for output in outputs)
    accuracy = re.search(r"accuracy (0\.\d+)", text)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.9
    widgets = [output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})]
    assert widgets, "mode notebook shows a widget"


def command_lines() -> list[str]:
    """Every line of README's shell blocks, continued ones joined."""
    return [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("line", [line for line in command_lines() if re.search(r"(^|[ /])shutterline ", line)])
def test_every_shutterline_command_parses(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert words[0] == ".venv/bin/shutterline"
    to_file = words.index(">") if ">" in words else None
    parse(words[1:to_file])


@pytest.mark.parametrize("line", [line for line in command_lines() if re.search(r" shutterline/[a-z-]+:", line)])
def test_every_container_is_of_this_version_and_gets_options_that_its_step_has(line: str) -> None:
    step, version, arguments = re.findall(r" shutterline/([a-z-]+):(\S+) (.*)", line)[0]
    assert version == __version__
    told = subprocess.run(
        [sys.executable, "-m", f"components.{step.replace('-', '_')}", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for option in re.findall(r"--[a-z-]+", arguments):
        assert option in told.stdout


def test_every_command_and_option_is_documented() -> None:
    for name, command in commands().items():
        row = next(line for line in README.splitlines() if line.startswith("| ") and f"`shutterline {name}" in line)
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert options - {"--json", "--output"} <= set(re.findall(r"--[a-z-]+", row)), name


FILES = """
README.md pipelines/README.md Makefile constraints.txt pyproject.toml .ci/run .dockerignore docker/Dockerfile
docker/build.py docker/install.py docker/requirements.py docker/pip_settings.py docker/base_image.py
""".split()


def test_nothing_in_the_repository_names_a_machine_or_an_index() -> None:
    listed = [ROOT / name for name in FILES]
    for file in listed:
        text = file.read_text(encoding="utf-8")
        # Names that are reserved for examples lead nowhere, and everybody has a localhost.
        assert not re.search(r"https?://(?!json-schema\.org|[\w.]*example\.com|localhost)[\w-]", text), file
        assert "/root/" not in text
        assert "/work/" not in text
