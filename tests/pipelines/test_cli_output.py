"""What the command prints: one document, whole, without secrets; and what becomes of it where nobody takes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import main
from tests.pipelines.conftest import Capsys, Environment

SECRET = "hunter2hunter2"  # noqa: S105 - of nobody
SHUTTERLINE = f"{sys.executable} -m pipelines.cli"
PRINTING = [
    "params",
    "params --schema",
    "params --format yaml",
    "settings --target kubeflow",
    "settings --target vertex --json",
    "--help",
    "params missing.json --json",
    "params --bogus --json",
]


def in_a_shell(command: str, folder: Path, reader: str = "cat") -> tuple[int, str, str]:
    """The exit code of a command, what its reader printed, and what was told."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{{ {command}; echo $? > code; }} | {reader}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return int((folder / "code").read_text()), done.stdout, done.stderr


def expected_words(arguments: str) -> int:
    """How many lines a command tells on standard error by itself."""
    return int("missing" in arguments or "bogus" in arguments)


@pytest.mark.parametrize("arguments", PRINTING)
def test_a_reader_that_has_gone_is_not_spoken_of(tmp_path: Path, arguments: str) -> None:
    code, out, err = in_a_shell(f"{SHUTTERLINE} {arguments}", tmp_path, "true")

    assert (code, out, err.count("\n")) == (1, "", expected_words(arguments)), err


@pytest.mark.parametrize("arguments", PRINTING)
def test_a_full_disk_is_one_message(tmp_path: Path, arguments: str) -> None:
    code, out, err = in_a_shell(f"{SHUTTERLINE} {arguments} > /dev/full", tmp_path)

    message = "error: standard output, or a file, cannot be written: No space left on device"
    assert (code, out, err.splitlines()[-1]) == (1, "", message)
    assert err.count("\n") == 1 + expected_words(arguments)


@pytest.mark.parametrize("arguments", PRINTING)
def test_no_standard_output_is_one_message(tmp_path: Path, arguments: str) -> None:
    code, out, err = in_a_shell(f"{SHUTTERLINE} {arguments} >&-", tmp_path)

    assert (code, out) == (1, "")
    assert err == "error: standard output is closed; lead it somewhere, such as to /dev/null\n"


def test_what_a_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    params = Path("pipelines/examples/digits.json").resolve()
    code, out, err = in_a_shell(f"PYTHONIOENCODING=ascii {SHUTTERLINE} validate {params}", tmp_path)

    assert (code, err) == (0, "")
    assert "1\\xd78\\xd78" in out


@pytest.mark.parametrize("where", ["> /dev/full", ">&-"])
def test_a_steps_document_that_cannot_be_written_is_one_message(tmp_path: Path, where: str) -> None:
    step = f"{sys.executable} -m components.data_prep --data . --dataset out --params missing.json --json"

    code, out, err = in_a_shell(f"{step} {where}", tmp_path)

    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: standard output")
    assert "Traceback" not in err


def test_nobody_to_be_told_changes_no_exit_code(tmp_path: Path) -> None:
    code, out, _ = in_a_shell(f"{SHUTTERLINE} params missing.json --json 2>/dev/full", tmp_path)

    assert code == 2
    assert json.loads(out)["error"]["message"] == "missing.json: there is no such file"


def test_what_is_taken_is_printed_whole(tmp_path: Path) -> None:
    code, out, err = in_a_shell(f"{SHUTTERLINE} params --schema", tmp_path)

    assert (code, err) == (0, "")
    assert json.loads(out)["$schema"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("params --bogus", "No such option '--bogus'."),
        ("submit pipeline.yaml --bogus", "No such option '--bogus'. Did you mean '--host'?"),
        ("submit", "Missing argument 'PIPELINE.yaml', or --status RUN."),
        ("events replay --timeout soon spool", "Invalid value for '--timeout': 'soon' is not a valid float."),
        ("fly", "No such command 'fly'."),
        ("--bogus params", "No such option '--bogus'."),
        ("compile --target kubflow", "Invalid value for '--target': 'kubflow' is not one of 'kubeflow', 'vertex'."),
        ("rn", "No such command 'rn'. Did you mean 'run'?"),
        ("Validate", "No such command 'Validate'. Did you mean 'validate'?"),
        ("events repaly spool", "No such command 'repaly'. Did you mean 'replay'?"),
        ("params --formt yaml", "No such option '--formt'. Did you mean '--format'?"),
        ("run --start_over", "No such option '--start_over'. Did you mean '--start-over'?"),
        ("run --num-epochs 5", "No such option '--num-epochs'. Set params by --set num_epochs=VALUE."),
        ("run --data=", "Invalid value for '--data': is empty; is a variable of your shell not set?"),
        ("params one two", "Got unexpected extra argument (two)"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_a_document(capsys: Capsys, arguments: str, message: str) -> None:
    assert main([*arguments.split(), "--json"]) == 2

    out, err = capsys.readouterr()
    assert json.loads(out) == {"status": "failed", "error": {"type": "InputError", "message": message}}
    assert err.count("\n") == 1
    assert f": error: {message} (see shutterline " in err


def test_the_output_of_watch_is_for_events_alone(capsys: Capsys) -> None:
    assert main(["watch", "--bogus", "--json"]) == 2

    assert capsys.readouterr().out == ""


def test_an_interruption_is_a_document(tmp_path: Path, capsys: Capsys) -> None:
    file = tmp_path / "params.py"
    file.write_text("raise KeyboardInterrupt")

    assert main(["validate", str(file), "--json"]) == 130

    out, err = capsys.readouterr()
    assert json.loads(out) == {"status": "interrupted"}
    assert err == "interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["validate", "params.py"], "params.py: fails when it is run: ValueError: [redacted]"),
        (["params", "--set", f"num_epochs={SECRET}"], "must be a whole number, got the text '[redacted]'"),
        (["params", "--set", f"{SECRET}=1"], "[redacted]: unknown key"),
        (["params", f"{SECRET}.json"], "[redacted].json: there is no such file"),
        (["run", "--data", f"gs://b/{SECRET}"], "gs://b/[redacted]: that is no bucket's name"),
        (["watch", "--kafka", f"{SECRET}"], "[redacted]"),
        (["params", "--format", SECRET], "'[redacted]' is not one of 'json', 'yaml'."),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_no_message_quotes_a_secret_of_the_environment(
    tmp_path: Path, capsys: Capsys, monkeypatch: Environment, arguments: list[str], told: str
) -> None:
    (tmp_path / "params.py").write_text(f"raise ValueError({SECRET!r})")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", SECRET)

    assert main([*arguments, "--json"]) == 2

    out, err = capsys.readouterr()
    assert told in err
    assert SECRET not in out + err
    if arguments[0] != "watch":
        assert told in json.loads(out)["error"]["message"]


def test_what_a_message_says_of_an_option_is_kept(tmp_path: Path, capsys: Capsys, monkeypatch: Environment) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", SECRET)
    file = tmp_path / "settings.yaml"
    file.write_text("target: kubeflow\nevery-step: {secret_env: {KAFKA_SASL_PASSWORD: 5}}")

    assert main(["settings", "--target", "kubeflow", "--settings", str(file)]) == 2

    assert "secret_env.KAFKA_SASL_PASSWORD: must be a mapping" in capsys.readouterr().err
