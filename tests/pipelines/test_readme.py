"""The documents are true: the notebook runs, commands parse, links lead somewhere, tables are the code's."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from components.shared.events.kafka.settings import VARIABLES
from components.shared.version import __version__
from pipelines.cli import main
from tests.pipelines.command_line import commands, parse
from tests.pipelines.conftest import ROOT, Capsys

DOCUMENTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "components/README.md", "pipelines/README.md", "docker/README.md", "CONTRIBUTING.md")
}


def blocks(language: str) -> list[str]:
    """Every block of a language in the documents."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
    return [block for text in DOCUMENTS.values() for block in pattern.findall(text)]


def test_readme_is_short() -> None:
    assert len(DOCUMENTS["README.md"].splitlines()) <= 260


def test_the_complete_params_are_sound(tmp_path: Path, capsys: Capsys) -> None:
    source = next(block for block in blocks("json") if '"num_epochs"' in block)
    (tmp_path / "params.json").write_text(source)

    assert main(["validate", str(tmp_path / "params.json")]) == 0

    assert "warning" not in capsys.readouterr().err


def test_links_lead_to_files_and_headings() -> None:
    for name, text in DOCUMENTS.items():
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, heading = target.partition("#")
            file = (ROOT / name).parent / path if path else ROOT / name
            assert file.exists(), (name, target)
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
            assert not heading or heading in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in titles}


def test_the_table_of_kafkas_settings_is_the_codes() -> None:
    text = DOCUMENTS["components/README.md"]
    shown = re.search(r"<!-- kafka settings: .*? -->\n(.*?)\n<!-- end of kafka settings -->", text, flags=re.DOTALL)
    assert shown is not None
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in VARIABLES.items())
    assert shown[1].split("|---|---|\n", 1)[1] == rows


@pytest.mark.slow
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


def command_lines(language: str = "sh") -> list[str]:
    """Every line of the documents' blocks of commands, continued ones joined."""
    return [line for block in blocks(language) for line in block.replace("\\\n", " ").splitlines()]


COMMANDS = [line for line in command_lines() if re.search(r"(^|[ /])shutterline ", line)]
COMMANDS += [line for line in command_lines("text") if line.startswith("shutterline ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_shutterline_command_parses(line: str) -> None:
    words = shlex.split(line, comments=True)
    to_file = words.index(">") if ">" in words else None
    parse(words[words.index(next(word for word in words if word.endswith("shutterline"))) + 1 : to_file])


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in command_lines()
        if re.match(r"\$step .* shutterline/|docker run .* shutterline/|\$step shutterline/", line)
    ],
)
def test_every_container_is_of_this_version_and_gets_options_that_its_step_has(line: str, capsys: Capsys) -> None:
    step, version, arguments = re.findall(r" shutterline/([a-z-]+):(\S+) (.*)", line)[0]
    assert version == __version__
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"components.{step.replace('-', '_')}.__main__").main(["--help"])
    assert set(re.findall(r"--[a-z-]+", arguments)) <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_every_command_and_option_is_documented() -> None:
    for name, command in commands().items():
        row = next(
            line
            for line in DOCUMENTS["pipelines/README.md"].splitlines()
            if line.startswith("| ") and f"`shutterline {name}" in line
        )
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert options - {"--json", "--output"} <= set(re.findall(r"--[a-z-]+", row)), name


FILES = """
README.md pipelines/README.md Makefile requirements/run.txt pyproject.toml .ci/run .dockerignore docker/Dockerfile
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
