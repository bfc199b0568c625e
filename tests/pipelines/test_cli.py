from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from pipelines.cli import main
from pipelines.params_files import EXAMPLES
from tests.examples import SMALL
from tests.pipelines.command_line import commands
from tests.pipelines.conftest import ROOT, Capsys, Command

REFERENCE = ROOT / "tests" / "reference_params.py"


def test_help_and_imports_need_neither_torch_nor_kfp(command: Command) -> None:
    probe = "import sys; code = {}; print(sorted(m for m in ('torch', 'kfp', 'numpy') if m in sys.modules), code)"
    for statement, loaded in (
        ("__import__('pipelines.image_classifier')", "['kfp']"),
        ("__import__('pipelines.cli')", "[]"),
        ("__import__('components.data_prep.__main__')", "[]"),
        ("__import__('components.train.__main__')", "[]"),
        ("__import__('components.evaluate.__main__')", "[]"),
        ("__import__('components.exit_step.__main__')", "[]"),
    ):
        done = command("-W", "ignore", "-c", probe.format(f"bool({statement})"))
        assert done.stdout.strip() == f"{loaded} True", done.stderr


@pytest.mark.parametrize("module", ["data_prep", "train", "evaluate", "exit_step"])
def test_a_components_help_imports_no_torch(command: Command, module: str) -> None:
    statement = (
        f"import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('components.{module}', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )

    done = command("-c", statement)

    assert done.stdout.splitlines()[-1] == "0 False"
    assert "exit codes:" in done.stdout


def test_every_command_has_help(capsys: Capsys) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "exit codes:" in shown
    for name in commands():
        assert f"  {name.split()[0]} " in shown
        assert main([*name.split(), "--help"]) == 0
        assert "--json" in capsys.readouterr().out


def validate(tmp_path: Path, capsys: Capsys, raw: dict[str, Any]) -> tuple[int, str]:
    file = tmp_path / "params.json"
    file.write_text(json.dumps(raw))
    code = main(["validate", str(file)])
    told = capsys.readouterr()
    return code, told.err if code else told.out


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


def test_the_reference_is_refused_naming_its_third_convolution(capsys: Capsys) -> None:
    assert main(["validate", str(REFERENCE)]) == 2

    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"error: {REFERENCE}: net_arch[8].kwargs.in_channels: ")
    assert "is made for 32 channels, but net_arch[7] (torch.nn.MaxPool2d) gives 64 channels" in told


def test_the_reference_as_json_gives_the_same_answers(tmp_path: Path, capsys: Capsys) -> None:
    raw = reference()
    code, told = validate(tmp_path, capsys, raw)
    assert code == 2
    assert "net_arch[8].kwargs.in_channels" in told

    mended = copy.deepcopy(raw)
    mended["net_arch"][8]["kwargs"]["in_channels"] = 64
    code, told = validate(tmp_path, capsys, mended)
    assert code == 2
    assert "net_arch[15].kwargs.kernel_size: torch.nn.MaxPool2d: gets a 1×1 image" in told

    dropped = copy.deepcopy(raw)
    del dropped["net_arch"][8:12]
    code, told = validate(tmp_path, capsys, dropped)
    assert code == 0
    assert "406,218" in told
    assert "5,237,760" in told


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.json")), ids=lambda file: file.stem)
def test_the_examples_are_sound(file: Path, capsys: Capsys) -> None:
    assert main(["validate", str(file), "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "valid"
    assert document["warnings"] == []
    assert sum(layer["parameters"] for layer in document["layers"]) == document["parameters"]


def test_validate_as_json_names_every_problem(tmp_path: Path, capsys: Capsys) -> None:
    file = tmp_path / "params.json"
    file.write_text(json.dumps(SMALL | {"batch_size": 0, "learning_rat": 1}))

    assert main(["validate", str(file), "--json"]) == 2

    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "failed"
    assert document["error"]["problems"] == [
        {"path": "learning_rat", "message": "unknown key; did you mean learning_rate?"},
        {"path": "batch_size", "message": "must be at least 1, got 0"},
    ]


def test_params_prints_every_default_and_the_schema_accepts_it(capsys: Capsys) -> None:
    assert main(["params"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(["params", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema, cls=jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"colour": 1}, schema, cls=jsonschema.Draft202012Validator)


def test_params_as_yaml_are_the_same_params(tmp_path: Path, capsys: Capsys) -> None:
    assert main(["params", "--format", "yaml", "--set", "learning_rate=1e-05"]) == 0
    (tmp_path / "params.yaml").write_text(capsys.readouterr().out)

    assert main(["params", str(tmp_path / "params.yaml")]) == 0

    assert json.loads(capsys.readouterr().out)["learning_rate"] == 1e-05


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("params = 3", "defines no dict called params"),
        ("other = {}", "defines no dict called params"),
        ("params = {", "SyntaxError"),
        ("import nowhere", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("params = {'net_arch': [{'class': print}]}", "must name a class"),
    ],
)
def test_a_python_file_that_is_no_params_file(tmp_path: Path, capsys: Capsys, source: str, message: str) -> None:
    (tmp_path / "params.py").write_text(source)

    assert main(["validate", str(tmp_path / "params.py")]) == 2

    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_what_a_python_file_prints_is_not_what_the_command_prints(tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "params.py").write_text(f"print('hello')\nparams = {SMALL!r}")

    assert main(["validate", str(tmp_path / "params.py"), "--json"]) == 0

    told = capsys.readouterr()
    assert json.loads(told.out)["status"] == "valid"
    assert "hello" in told.err


@pytest.mark.parametrize("words", [[], ["fly"], ["run", "--dat", "x"], ["validate"], ["events"]])
def test_a_wrong_command_line_is_one_line_and_exit_code_2(capsys: Capsys, words: list[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
