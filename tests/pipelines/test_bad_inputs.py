"""Params that must be refused, each with one message and exit code 2; with the bad data of tests/data_prep they make
the table that closes a run of the tests."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.params_files import EXAMPLE_DATA
from tests.conftest import BAD_INPUT
from tests.examples import SMALL
from tests.pipelines.conftest import Capsys, Command, Environment

CONV = {"class": "torch.nn.Conv2d", "kwargs": {"in_channels": 1, "out_channels": 8, "kernel_size": 3}}


def key(**changes: Any) -> str:
    """The small params with some keys changed, as JSON."""
    return json.dumps(SMALL | changes)


def layer(**kwargs: Any) -> str:
    return key(net_arch=[CONV | {"kwargs": CONV["kwargs"] | kwargs}])  # type: ignore[operator] # a dict as written


def layers(*entries: Any) -> str:
    return key(net_arch=list(entries))


def schedule(name: str, **kwargs: Any) -> str:
    entry = {"name": "s", "class": f"torch.optim.lr_scheduler.{name}", "kwargs": kwargs}
    return key(learning_rate_schedule=[entry])


def transform(name: str, **kwargs: Any) -> str:
    return key(additional_transforms=[{"class": f"torchvision.transforms.v2.{name}", "kwargs": kwargs}])


def without(name: str) -> str:
    raw = copy.deepcopy(SMALL)
    del raw[name]
    return json.dumps(raw)


BAD_PARAMS: dict[str, tuple[str | bytes, str]] = {
    "params: empty file": ("", "is empty"),
    "params: not JSON": ("{batch_size: 3}", "is not JSON"),
    "params: a key twice": ('{"batch_size": 1, "batch_size": 2}', "twice"),
    "params: NaN": (key().replace("0.01", "NaN"), "NaN is not a number"),
    "params: infinity by overflow": (key().replace("0.01", "1e999"), "1e999 is beyond what a number can be"),
    "params: an integer of 5,000 digits": (key().replace("0.01", "9" * 5000), "thousands of digits"),
    "params: nested 100,000 deep": ("[" * 100_000, "nested too deep"),
    "params: Latin-1": (key().encode() + b"\xe9", "is not UTF-8"),
    "params: unknown key": (key(batchsize=3), "did you mean batch_size?"),
    "params: a required key missing": (without("net_arch"), "net_arch: is required"),
    "params: batch_size 0": (key(batch_size=0), "must be at least 1"),
    "params: device gpu": (key(device="gpu"), 'must be "auto", "cpu"'),
    "params: three means for grayscale": (key(normalise_mean=[0, 0, 0]), "must have 1 number(s) for grayscale"),
    "params: a port of 99999": (key(KAFKA_HOST="a:99999", KAFKA_TOPIC="t"), "is not host or host:port"),
    "params: a credential's content": (
        key(GOOGLE_APPLICATION_CREDENTIALS='{"private_key": "hidden"}'),
        "never its content",
    ),
    "network: no layers": (layers(), "must have at least 1 entry"),
    "network: a class that runs code": (layers({"class": "os.system"}), "os.system is not an allowed layer"),
    "network: a loss": (layers({"class": "torch.nn.CrossEntropyLoss"}), "it is a loss"),
    "network: an unknown argument": (layer(kernel=3), "did you mean kernel_size?"),
    "network: stride 0": (layer(stride=0), "net_arch[0]"),
    "network: a negative kernel": (layer(kernel_size=-3), "net_arch[0]"),
    "network: groups that do not divide": (layer(groups=3), "net_arch[0].kwargs: Conv2d refuses them"),
    "network: a size beyond 64 bits": (layer(out_channels=10**30), "net_arch[0]"),
    "network: three channels into one": (
        layer(in_channels=3),
        "is made for 3 channels, but the images give 1 channels",
    ),
    "network: a window larger than the image": (layer(kernel_size=9), "a window of 9×9 needs at least 9×9"),
    "network: images mixed": (layers({"class": "torch.nn.Flatten", "kwargs": {"start_dim": 0}}), "mixes the images"),
    "optimiser: not one": (key(optim_class="torch.optim.Adom"), "did you mean torch.optim.Adam?"),
    "optimiser: betas out of range": (key(optim_kwargs={"betas": [2, 2]}), "refuses them"),
    "schedule: a function": (schedule("LambdaLR"), "it takes a function"),
    "schedule: shorter than the run": (schedule("OneCycleLR", max_lr=1, total_steps=1), "fails in epoch 2 of 2"),
    "schedule: not from the start": (schedule("StepLR", step_size=1, last_epoch=3), "must be -1"),
    "schedule: a name twice": (
        key(learning_rate_schedule=[json.loads(schedule("ConstantLR"))["learning_rate_schedule"][0]] * 2),
        "is taken by an earlier entry",
    ),
    "transform: a function": (transform("Lambda", lambd="x"), "it takes a function"),
    "transform: five images of one": (transform("FiveCrop", size=4), "does not turn one image into one image"),
    "transform: another shape": (transform("CenterCrop", size=4), "turns (1, 8, 8) into (1, 4, 4)"),
    "transform: refused by its class": (transform("RandomErasing", p=7), "RandomErasing refuses them"),
    "transform: an argument that does not fit": (transform("RandomErasing", p="often"), "must be a number"),
}


def refused(arguments: list[str], capsys: Capsys) -> str:
    """The one message of a command that must end with exit code 2."""
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err
    assert told.err.count("\n") == 1, told.err
    assert told.err.startswith("error: ")
    return told.err.removeprefix("error: ").strip()


@pytest.mark.parametrize("name", BAD_PARAMS)
def test_bad_params_end_with_one_line(
    tmp_path: Path, capsys: Capsys, monkeypatch: Environment, record_property: Callable[[str, object], None], name: str
) -> None:
    content, expected = BAD_PARAMS[name]
    monkeypatch.chdir(tmp_path)
    Path("params.json").write_bytes(content if isinstance(content, bytes) else content.encode())

    message = refused(["validate", "params.json"], capsys)

    assert message.startswith("params.json: ")
    assert expected in message
    assert "hidden" not in message
    record_property(BAD_INPUT, (name, message))


@pytest.mark.parametrize(
    ("name", "file", "content", "expected"),
    [
        ("params: no such file", "params.json", None, "there is no such file"),
        ("params: another kind of file", "params.toml", "", "ends in .json, .yaml or .yml"),
        ("yaml: not YAML", "params.yaml", "a: [1", "is not YAML"),
        ("yaml: a Python object", "params.yaml", "a: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("yaml: aliases that multiply", "params.yaml", "\n".join(
            ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
            + [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdef", "bcdefg", strict=True)]
        ), "more than 100,000 values"),
        ("yaml: a key twice", "params.yaml", "a: 1\na: 2", "stands twice"),
        ("yaml: infinity", "params.yaml", "learning_rate: .inf", "learning_rate: must be a finite number"),
        ("python: fails when run", "params.py", "1 / 0", "ZeroDivisionError"),
        ("python: no params in it", "params.py", "x = 1", "defines no dict called params"),
    ],
)  # fmt: skip
def test_bad_files_end_with_one_message(
    tmp_path: Path,
    capsys: Capsys,
    monkeypatch: Environment,
    record_property: Callable[[str, object], None],
    name: str,
    file: str,
    content: str | None,
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(file).write_text(content)

    assert main(["validate", file]) == 2

    told = capsys.readouterr().err
    assert expected in told
    assert "Traceback" not in told
    line = next(line for line in told.splitlines() if expected in line)
    record_property(BAD_INPUT, (name, line.removeprefix("error: ").strip()))


def test_the_same_in_a_process_of_its_own(tmp_path: Path, command: Command) -> None:
    (tmp_path / "params.json").write_text(layer(kernel_size=9))

    for arguments in (
        ["-m", "pipelines.cli", "validate", "params.json"],
        ["-m", "pipelines.cli", "run", "--params", "params.json"],
        ["-m", "components.train", "--dataset", "d", "--model", "m", "--params", "params.json"],
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert "a window of 9×9 needs at least 9×9" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--data", "photos"],
        ["run", "--data", "photos", "--set", "n_classes=2"],
        ["run", "--runner", "docker", "--data", "gs://bucket/photos"],
        ["compile", "--data", "gs://bucket/photos"],
        ["submit", "pipeline.yaml", "--data", "gs://bucket/photos", "--host", "http://localhost:1"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_data_without_params_is_refused(
    tmp_path: Path, capsys: Capsys, monkeypatch: Environment, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "submit":
        assert main(["compile", "--target", "kubeflow", "-o", "pipeline.yaml"]) == 0
        capsys.readouterr()

    message = refused(arguments, capsys)

    assert message.startswith("--data needs --params: ")
    for word in ("digits", "`shutterline params > params.json`", "image_height", "n_classes", "net_arch"):
        assert word in message
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pipeline.yaml"] * (arguments[0] == "submit")


def test_the_examples_data_need_no_params(tmp_path: Path) -> None:
    link = tmp_path / "digits"
    link.symlink_to(EXAMPLE_DATA)
    for data in (str(link), f"{EXAMPLE_DATA}/"):
        assert main(["compile", "--unchecked", "--data", data, "-o", str(tmp_path / "pipeline.yaml")]) == 0


@pytest.mark.parametrize("option", ["--params", "--data", "--out"])
def test_an_option_of_a_variable_that_is_not_set_is_refused(
    tmp_path: Path, capsys: Capsys, monkeypatch: Environment, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", option, ""]) == 2

    err = capsys.readouterr().err
    assert f"Invalid value for '{option}': is empty; is a variable of your shell not set?" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
