"""The command line by itself: help, params, what it prints, wrong command lines; outputs that cannot be written."""

from __future__ import annotations

import copy
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from pipelines.params_files import EXAMPLES
from tests.examples import SMALL
from tests.pipelines.command_line import commands
from tests.pipelines.conftest import ROOT, Command, Environment, Refused, Shutterline

REFERENCE = ROOT / "tests" / "reference_params.py"
SECRET = "hunter2hunter2"  # noqa: S105 - of nobody
SHUTTERLINE = f"{sys.executable} -m pipelines.cli"
STEPS = ("data_prep", "train", "evaluate", "publish", "exit_step")

IMPORTS = """
import contextlib, io, runpy, sys
def loaded(): return sorted(m for m in ("torch", "kfp", "numpy") if m in sys.modules)
import pipelines.cli
for step in sys.argv[1:]:
    __import__(f"components.{step}.__main__")
print(loaded())
for step in sys.argv[1:]:
    del sys.modules[f"components.{step}.__main__"]
    sys.argv = ["x", "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as help:
        runpy.run_module(f"components.{step}", run_name="__main__")
    print("exit codes:" in help.getvalue(), loaded())
from pipelines.image_classifier import pipeline_for
print(loaded())
pipeline_for(lambda step, task: None)
print([name for name in sys.modules if "train_job" in name or "nodes_component" in name])
"""


def test_help_and_imports_need_neither_torch_nor_kfp_and_one_node_no_train_job(command: Command) -> None:
    done = command("-W", "ignore", "-c", IMPORTS, *STEPS)

    assert done.stdout.splitlines() == ["[]", *["True []"] * len(STEPS), "['kfp']", "[]"], done.stderr


def test_every_command_has_help(shutterline: Shutterline) -> None:
    shown = shutterline("--help")
    assert (shown.code, "exit codes:" in shown.out) == (0, True)
    for name in commands():
        assert f"  {name.split()[0]} " in shown.out
        done = shutterline(*name.split(), "--help")
        assert (done.code, "--json" in done.out) == (0, True), name


def reference() -> dict[str, Any]:
    """The reference's params as JSON data."""
    raw = runpy.run_path(str(REFERENCE), init_globals={"torch": torch})["params"]
    for entry in [*raw["net_arch"], *raw["learning_rate_schedule"], raw]:
        for key in ("class", "optim_class"):
            if isinstance(entry.get(key), type):
                module = "torch.nn" if "nn" in entry[key].__module__ else "torch.optim"
                if "schedul" in entry[key].__module__:
                    module = "torch.optim.lr_scheduler"
                entry[key] = f"{module}.{entry[key].__name__}"
    plain: dict[str, Any] = json.loads(json.dumps(raw))
    return plain


def test_the_reference_is_refused_naming_its_third_convolution(refused: Refused) -> None:
    message = refused("validate", REFERENCE)

    assert message.startswith(f"{REFERENCE}: net_arch[8].kwargs.in_channels: ")
    assert "is made for 32 channels, but net_arch[7] (torch.nn.MaxPool2d) gives 64 channels" in message


def test_the_reference_as_json_gives_the_same_answers(here: Path, shutterline: Shutterline, refused: Refused) -> None:
    file, raw = Path("params.json"), reference()
    file.write_text(json.dumps(raw))
    assert "net_arch[8].kwargs.in_channels" in refused("validate", file)

    corrected = copy.deepcopy(raw)
    corrected["net_arch"][8]["kwargs"]["in_channels"] = 64
    file.write_text(json.dumps(corrected))
    assert "net_arch[15].kwargs.kernel_size: torch.nn.MaxPool2d: gets a 1×1 image" in refused("validate", file)

    del raw["net_arch"][8:12]
    file.write_text(json.dumps(raw))
    done = shutterline("validate", file)
    assert done.code == 0
    assert "406,218" in done.out
    assert "5,237,760" in done.out


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.json")), ids=lambda file: file.stem)
def test_the_examples_are_sound(file: Path, shutterline: Shutterline) -> None:
    document = shutterline("validate", file, "--json").document

    assert (document["status"], document["warnings"]) == ("valid", [])
    assert sum(layer["parameters"] for layer in document["layers"]) == document["parameters"]


def test_validate_as_json_names_every_problem(here: Path, shutterline: Shutterline) -> None:
    Path("params.json").write_text(json.dumps(SMALL | {"batch_size": 0, "learning_rat": 1}))

    done = shutterline("validate", "params.json", "--json")

    assert (done.code, done.document["status"]) == (2, "failed")
    assert done.document["error"]["problems"] == [
        {"path": "learning_rat", "message": "unknown key; did you mean learning_rate?"},
        {"path": "batch_size", "message": "must be at least 1, got 0"},
    ]


def test_params_prints_every_default_and_the_schema_accepts_it(shutterline: Shutterline) -> None:
    document, schema = shutterline("params").document, shutterline("params", "--schema").document

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema, cls=jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"colour": 1}, schema, cls=jsonschema.Draft202012Validator)


def test_params_as_yaml_are_the_same_params(here: Path, shutterline: Shutterline) -> None:
    Path("params.yaml").write_text(shutterline("params", "--format", "yaml", "--set", "learning_rate=1e-05").out)

    assert shutterline("params", "params.yaml").document["learning_rate"] == 1e-05


def test_what_a_python_file_prints_is_not_what_the_command_prints(here: Path, shutterline: Shutterline) -> None:
    Path("params.py").write_text(f"print('hello')\nparams = {SMALL!r}")

    done = shutterline("validate", "params.py", "--json")

    assert done.document["status"] == "valid"
    assert "hello" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("params --bogus", "No such option '--bogus'."),
        ("submit pipeline.yaml --bogus", "No such option '--bogus'. Did you mean '--host'?"),
        ("submit", "Missing argument 'PIPELINE.yaml', or --status RUN."),
        (
            "events replay --timeout soon spool",
            "Invalid value for '--timeout': must be a number of seconds greater than 0, got 'soon'",
        ),
        *(
            (f"events replay --timeout {span} spool", "Invalid value for '--timeout': must be a number of seconds "
             f"greater than 0, got '{span}'")
            for span in ("0", "-1", "nan", "inf")
        ),
        ("run --runner docker --shm-size lots", "Invalid value for '--shm-size': must be a size such as 512m or 8g, "
         "got 'lots'"),
        ("run --runner docker --memory -1", "Invalid value for '--memory': must be a size such as 512m or 8g, got "
         "'-1'"),
        ("run --runner docker --cpus two", "Invalid value for '--cpus': 'two' is not a valid float range."),
        ("run --runner docker --network=", "Invalid value for '--network': is empty; is a variable of your shell not "
         "set?"),
        ("fly", "No such command 'fly'."),
        ("--bogus params", "No such option '--bogus'."),
        ("compile --target kubflow", "Invalid value for '--target': 'kubflow' is not one of 'kubeflow', 'vertex', "
         "'trainjob'."),
        ("rn", "No such command 'rn'. Did you mean 'run'?"),
        ("Validate", "No such command 'Validate'. Did you mean 'validate'?"),
        ("events repaly spool", "No such command 'repaly'. Did you mean 'replay'?"),
        ("params --formt yaml", "No such option '--formt'. Did you mean '--format'?"),
        ("run --start_over", "No such option '--start_over'. Did you mean '--start-over'?"),
        ("run --num-epochs 5", "No such option '--num-epochs'. Set params by --set num_epochs=VALUE."),
        ("run --data=", "Invalid value for '--data': is empty; is a variable of your shell not set?"),
        ("params one two", "Got unexpected extra argument (two)"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_line_and_a_document(
    shutterline: Shutterline, arguments: str, message: str
) -> None:
    done = shutterline(*arguments.split(), "--json")

    assert done.code == 2
    assert done.document == {"status": "failed", "error": {"type": "InputError", "message": message}}
    assert done.err.count("\n") == 1
    assert f": error: {message} (see shutterline " in done.err


NO_DOCUMENT = ["", "fly", "run --dat x", "run --params=", "run --out=", "validate", "events", "events replay",
               "events replay x --timeout soon", "watch --bogus --json", "watch --kafka a/b --timeout 0"]  # fmt: skip


@pytest.mark.parametrize("words", NO_DOCUMENT)
def test_a_wrong_command_line_leaves_standard_output_alone(shutterline: Shutterline, words: str) -> None:
    code, out, err = shutterline(*words.split())
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_an_interruption_is_a_document(here: Path, shutterline: Shutterline) -> None:
    Path("params.py").write_text("raise KeyboardInterrupt")

    done = shutterline("validate", "params.py", "--json")

    assert (done.code, done.document, done.err) == (130, {"status": "interrupted"}, "interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        ("validate params.py", "params.py: fails when it is run: ValueError: [redacted]"),
        (f"params --set num_epochs={SECRET}", "must be a whole number, got the text '[redacted]'"),
        (f"params --set {SECRET}=1", "[redacted]: unknown key"),
        (f"params {SECRET}.json", "[redacted].json: there is no such file"),
        (f"run --data gs://b/{SECRET}", "gs://b/[redacted]: that is no bucket's name"),
        (f"watch --kafka {SECRET}", "[redacted]"),
        (f"params --format {SECRET}", "'[redacted]' is not one of 'json', 'yaml'."),
    ],
)
def test_no_message_quotes_a_secret_of_the_environment(
    here: Path, shutterline: Shutterline, monkeypatch: Environment, arguments: str, reported: str
) -> None:
    Path("params.py").write_text(f"raise ValueError({SECRET!r})")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", SECRET)

    done = shutterline(*arguments.split(), "--json")

    assert done.code == 2
    assert reported in done.err
    assert SECRET not in done.out + done.err
    assert "watch" in arguments or reported in done.document["error"]["message"]


def test_what_a_message_says_of_an_option_is_kept(here: Path, refused: Refused, monkeypatch: Environment) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", SECRET)
    Path("settings.yaml").write_text("target: kubeflow\nevery-step: {secret_env: {KAFKA_SASL_PASSWORD: 5}}")

    message = refused("settings", "--target", "kubeflow", "--settings", "settings.yaml")

    assert "secret_env.KAFKA_SASL_PASSWORD: must be a mapping" in message


def in_a_shell(command: str, folder: Path, reader: str = "cat") -> tuple[int, str, str]:
    """The exit code of a command, what its reader printed, and its standard error."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{{ {command}; echo $? > code; }} | {reader}"],
        cwd=folder, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    return int((folder / "code").read_text()), done.stdout, done.stderr


# A document, click's own help, an error.
PRINTING = ["params --schema", "--help", "params missing.json --json"]
FULL = "error: standard output, or a file, cannot be written: No space left on device"
CLOSED = "error: standard output is closed; lead it somewhere, such as to /dev/null"


@pytest.mark.parametrize("arguments", PRINTING)
def test_a_reader_that_has_gone_is_not_reported_and_a_full_disk_is_one_message(tmp_path: Path, arguments: str) -> None:
    own = int("missing" in arguments)  # what the command reports by itself

    code, out, err = in_a_shell(f"{SHUTTERLINE} {arguments}", tmp_path, "true")
    assert (code, out, err.count("\n")) == (1, "", own), err
    code, out, err = in_a_shell(f"{SHUTTERLINE} {arguments} > /dev/full", tmp_path)
    assert (code, out, err.splitlines()[own:]) == (1, "", [FULL])


def test_no_standard_output_is_one_message(tmp_path: Path) -> None:
    assert in_a_shell(f"{SHUTTERLINE} params --schema >&-", tmp_path) == (1, "", f"{CLOSED}\n")


def test_what_a_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    code, _, err = in_a_shell(f"PYTHONIOENCODING=ascii {SHUTTERLINE} params é.json", tmp_path)

    assert (code, err) == (2, "error: \\xe9.json: there is no such file\n")


@pytest.mark.parametrize(("where", "message"), [("> /dev/full", FULL), (">&-", CLOSED)])
def test_a_steps_document_that_cannot_be_written_is_one_message(tmp_path: Path, where: str, message: str) -> None:
    step = f"{sys.executable} -m components.data_prep --data . --dataset out --params missing.json --json"

    code, out, err = in_a_shell(f"{step} {where}", tmp_path)

    assert (code, out, err.splitlines()[-1]) == (1, "", message)
    assert "Traceback" not in err


def test_a_standard_error_that_takes_nothing_changes_no_exit_code(tmp_path: Path) -> None:
    code, out, _ = in_a_shell(f"{SHUTTERLINE} params missing.json --json 2>/dev/full", tmp_path)

    assert code == 2
    assert json.loads(out)["error"]["message"] == "missing.json: there is no such file"
