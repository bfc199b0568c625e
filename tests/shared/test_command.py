from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import components.shared
from components.shared.command import CommandParser, error_document, step_command
from components.shared.errors import DataError, DivergedError, InputError, ParamsError, Problem
from components.shared.events.data import Emit
from components.shared.params.params import Params
from components.shared.step import Reported
from components.shared.storage.location import parse_location
from components.shared.version import __version__
from tests.configs import schedule, small
from tests.shared.test_step import Result

ROOT = Path(__file__).parents[2]
COMPONENTS = ["data_prep", "train", "evaluate", "exit_step"]


def command(*argv: str, error: BaseException | None = None) -> int:
    parser = CommandParser(prog="python -m components.trial", description="Try.")
    parser.add_argument("--dataset", metavar="DIR", type=Path, required=True)

    def work(options: argparse.Namespace, params: Params, emit: Emit) -> Reported:
        if error is not None:
            raise error
        return Result({"dataset": str(options.dataset), "epochs": params.num_epochs})

    return step_command("train", parser, argv, work, docker="docker run IMAGE")


ARGUMENTS = ["--dataset", "data", "--params", json.dumps(small())]


def test_params_come_from_a_file_and_change_by_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(json.dumps(small()))
    argv = ["--dataset", "data", "--params", str(file), "--set", "num_epochs=7", "--set", "num_epochs=8", "--json"]
    assert command(*argv) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["report"] == {"dataset": "data", "epochs": 8}
    assert (document["step"], document["status"], document["exit_code"], document["error"]) == (
        "train",
        "succeeded",
        0,
        None,
    )


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (DataError("no images"), 2, "failed"),
        (DivergedError("nan"), 1, "failed"),
        (ZeroDivisionError("by zero"), 1, "failed"),
        (KeyboardInterrupt(), 130, "cancelled"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_json_is_one_document_however_the_step_ends(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, status: str
) -> None:
    assert command(*ARGUMENTS, "--json", error=error) == code
    document = json.loads(capsys.readouterr().out)
    assert (document["step"], document["status"], document["exit_code"]) == ("train", status, code)
    assert document["error"]["type"] == type(error).__name__
    assert command(*ARGUMENTS, error=error) == code
    assert capsys.readouterr().out == ""


def test_json_of_bad_params_lists_every_problem(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--dataset", "data", "--params", "{}", "--set", "batch_size=0", "--json"]
    assert command(*argv) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["status"] == "failed"
    assert document["error"]["type"] == "ParamsError"
    assert [problem["path"] for problem in document["error"]["problems"]] == [
        "batch_size",
        "image_height",
        "image_width",
        "net_arch",
        "n_classes",
        "num_epochs",
    ]
    assert "ERROR failed: params has 6 problems:" in err
    assert "Traceback" not in err


def test_no_secret_is_in_the_document_of_bad_params(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hunter2hunter2")
    argv = ["--dataset", "data", "--params", json.dumps(small()), "--set", "num_epochs=hunter2hunter2", "--json"]
    assert command(*argv) == 2
    out, err = capsys.readouterr()
    assert "hunter2" not in out + err
    (problem,) = json.loads(out)["error"]["problems"]
    assert problem == {"path": "num_epochs", "message": "must be a whole number, got the text '[redacted]'"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: --dataset, --params"),
        (["--dataset", "d"], "the following arguments are required: --params"),
        ([*ARGUMENTS, "--epochs", "5"], "unrecognized arguments: --epochs 5"),
        ([*ARGUMENTS, "--data", "x"], "unrecognized arguments: --data x; did you mean --dataset?"),
        (
            [*ARGUMENTS, "--parms=x"],
            "unrecognized arguments: --parms=x; did you mean --params?",
        ),
        ([*ARGUMENTS, "--par", "x"], "unrecognized arguments: --par x; did you mean --params?"),
        (
            ["--dateset", "d", "--params", "x"],
            "the following arguments are required: --dataset",
        ),
        (
            [*ARGUMENTS, "--num-epochs", "5"],
            "unrecognized arguments: --num-epochs 5; set params by --set num_epochs=VALUE",
        ),
        ([*ARGUMENTS, "extra"], "unrecognized arguments: extra"),
        (["--dataset"], "argument --dataset: expected one argument"),
    ],
)
def test_a_bad_command_line_is_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        command(*argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"python -m components.trial: error: {message} (see python -m components.trial --help)\n"
    with pytest.raises(SystemExit):
        command("--json", *argv)
    assert json.loads(capsys.readouterr().out)["error"]["message"].startswith(message.partition(";")[0])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--params", "missing.json"], "missing.json: there is no such file"),
        (["--params", "{"], "is not JSON"),
        (["--params", json.dumps(small()), "--set", "num_epochs"], "--set num_epochs: must be key=value"),
        (["--params", json.dumps(small()), "--set", "net_arch[3]=1"], "has 1 entries, so there is no [3] to set"),
    ],
)
def test_bad_params_are_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert command("--dataset", "d", *argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert "ERROR failed: " in line
    assert message in line


def test_what_has_no_effect_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    config = small(learning_rate_schedule=[schedule("ExponentialLR", gamma=0.9, verbose=True)])
    assert command("--dataset", "d", "--params", json.dumps(config)) == 0
    assert capsys.readouterr().err.count("WARNING learning_rate_schedule[0].kwargs.verbose: torch has dropped") == 1


@pytest.mark.parametrize("component", COMPONENTS)
def test_help_tells_the_options_and_the_exit_codes(component: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"components.{component}.__main__").main
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in ("--params FILE", "--set KEY=VALUE", "--json", "exit codes:", "2    bad input", "130  interrupted"):
        assert word in out

    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"shutterline {__version__}\n"


def test_an_error_as_json_keeps_its_problems_apart() -> None:
    error = ParamsError([Problem("a", "is wrong"), Problem("", "is all wrong")])
    assert error_document(error)["problems"] == [
        {"path": "a", "message": "is wrong"},
        {"path": "", "message": "is all wrong"},
    ]
    assert error_document(ValueError("x")) == {"type": "ValueError", "message": "x"}


def loaded_by(modules: list[str]) -> set[str]:
    code = f"""
import sys
for name in {modules!r}:
    __import__(name)
# Some packages make the namespace google at the interpreter's start, which loads nothing.
print(*{{name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def shared_modules() -> list[str]:
    found = pkgutil.walk_packages(components.shared.__path__, "components.shared.")
    return [module.name for module in found]


HEAVY = {
    "torch",
    "torchvision",
    "kfp",
    "safetensors",
    "tensorboard",
    "tqdm",
    "PIL",
    "pandas",
    "scipy",
    "google",
    "kafka",
    "boto3",
    "botocore",
}
# One store each, imported when a place of its kind is first used.
STORES = {f"components.shared.storage.{name}": name for name in ("gcs", "s3")}


# What needs a package: Pillow, ONNX Runtime with protobuf.
ROOMS = ("components.shared.decoding", "components.shared.inference", "components.shared.html.pictures")


def test_shared_modules_load_neither_torch_nor_kfp() -> None:
    modules = [name for name in shared_modules() if name not in STORES and not name.startswith(ROOMS)]
    assert len(modules) > 10
    assert loaded_by(modules) & HEAVY == set()
    of_dataset = {f"dataset{part}" for part in ("", "_part", "_writer")} | {"names", "row_digests", "row_files"}
    of_numpy = {f"components.shared.artifacts.{name}" for name in of_dataset}
    of_numpy |= {"components.shared.metrics", "components.shared.pixel_sums"}
    assert "numpy" not in loaded_by([name for name in modules if name not in of_numpy])


def test_a_store_loads_its_own_client_alone() -> None:
    assert STORES.keys() <= set(shared_modules())
    for module, name in STORES.items():
        clients = {"boto3", "botocore"} if name == "s3" else {"google"}
        assert loaded_by([module]) & HEAVY <= clients


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_command_line_shows_its_help_without_loading_what_its_work_needs(component: str) -> None:
    module: Any = f"components.{component}.__main__"
    assert loaded_by([module]) & (HEAVY | {"numpy"}) == set()


@pytest.mark.parametrize("option", ["--params", "--dataset", "--nothing"])
def test_control_characters_of_a_path_are_shown_as_escapes(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*ARGUMENTS, option, "no\x1b[31m\u202e\x9b\n12:00:00 train     succeeded.json"]
    if option == "--dataset":
        with pytest.raises(InputError) as found:
            parse_location(argv[-1])
        assert r"no\x1b[31m\u202e\x9b\n12:00:00" in str(found.value)
        return
    with suppress(SystemExit):
        command(*argv)
    err = capsys.readouterr().err
    assert r"no\x1b[31m\u202e\x9b\n12:00:00" in err
    assert "\n12:00:00" not in err
