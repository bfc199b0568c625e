"""Params, files and data that every command refuses alike, each with one message and exit code 2."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.shared.params.params import Params
from components.train.__main__ import main as train
from pipelines.params_files import EXAMPLE_DATA, MAX_ARGUMENT
from tests import configs
from tests.configs import Entry, digits_config
from tests.examples import DIGITS, SMALL, write_params
from tests.pipelines.conftest import Capsys, Command, Refused, Shutterline

pytestmark = pytest.mark.usefixtures("here")
FILE = Path("params.json")
CONV = {"class": "torch.nn.Conv2d", "kwargs": {"in_channels": 1, "out_channels": 8, "kernel_size": 3}}


def key(**changes: Any) -> str:
    """The small params with some keys changed, as JSON."""
    return json.dumps(SMALL | changes)


def layer(**kwargs: Any) -> str:
    return key(net_arch=[CONV | {"kwargs": CONV["kwargs"] | kwargs}])  # type: ignore[operator] # a dict as written


def layers(*entries: Any) -> str:
    return key(net_arch=list(entries))


def schedule(name: str, **kwargs: Any) -> str:
    return key(learning_rate_schedule=[configs.schedule(name, **kwargs)])


def transform(name: str, **kwargs: Any) -> str:
    return key(additional_transforms=[configs.transform(name, **kwargs)])


def without(name: str) -> str:
    return json.dumps({other: value for other, value in SMALL.items() if other != name})


BAD_PARAMS: dict[str, tuple[str | bytes, str]] = {
    "params: empty file": ("", "is empty"),
    "params: a key twice": ('{"batch_size": 1, "batch_size": 2}', "twice"),
    "params: NaN": (key().replace("0.01", "NaN"), "NaN is not a number"),
    "params: Latin-1": (key().encode() + b"\xe9", "is not UTF-8"),
    "params: unknown key": (key(batchsize=3), "did you mean batch_size?"),
    "params: a required key missing": (without("net_arch"), "net_arch: is required"),
    "params: device gpu": (key(device="gpu"), 'must be "auto", "cpu"'),
    "params: a credential's content": (
        key(GOOGLE_APPLICATION_CREDENTIALS='{"private_key": "hidden"}'),
        "never its content",
    ),
    "network: a class that runs code": (layers({"class": "os.system"}), "os.system is not an allowed layer"),
    "network: a loss": (layers({"class": "torch.nn.CrossEntropyLoss"}), "it is a loss"),
    "network: an unknown argument": (layer(kernel=3), "did you mean kernel_size?"),
    "network: a negative kernel": (layer(kernel_size=-3), "net_arch[0]"),
    "network: stride 0": (layer(stride=0), "net_arch[0]"),
    "network: groups that do not divide": (layer(groups=3), "net_arch[0].kwargs: Conv2d refuses them"),
    "network: a size beyond 64 bits": (layer(out_channels=10**30), "net_arch[0]"),
    "network: three channels into one": (
        layer(in_channels=3),
        "is made for 3 channels, but the images give 1 channels",
    ),
    "network: a window larger than the image": (layer(kernel_size=9), "a window of 9×9 needs at least 9×9"),
    "optimiser: not one": (key(optim_class="torch.optim.Adom"), "did you mean torch.optim.Adam?"),
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


BAD_FILES = {
    "params: no such file": ("params.json", None, "there is no such file"),
    "params: another kind of file": ("params.toml", "", "ends in .json, .yaml or .yml"),
    "yaml: not YAML": ("params.yaml", "a: [1", "is not YAML"),
    "yaml: a Python object": ("params.yaml", "a: !!python/object/apply:os.system [ls]", "is not YAML"),
    "yaml: aliases that multiply": ("params.yaml", "\n".join(
        ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
        + [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdef", "bcdefg", strict=True)]
    ), "more than 100,000 values"),
    "yaml: a key twice": ("params.yaml", "a: 1\na: 2", "stands twice"),
    "yaml: infinity": ("params.yaml", "learning_rate: .inf", "learning_rate: must be a finite number"),
    "python: fails when run": ("params.py", "1 / 0", "ZeroDivisionError"),
    "python: not Python": ("params.py", "params = {", "SyntaxError"),
    "python: a module that is not here": ("params.py", "import nowhere", "ModuleNotFoundError"),
    "python: ends itself": ("params.py", "raise SystemExit(3)", "SystemExit"),
    "python: no params in it": ("params.py", "x = 1", "defines no dict called params"),
    "python: params that are no dict": ("params.py", "params = 3", "defines no dict called params"),
    "python: a function for a class": ("params.py", "params = {'net_arch': [{'class': print}]}", "must name a class"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PARAMS)
def test_bad_params_end_with_one_line(refused: Refused, name: str) -> None:
    content, expected = BAD_PARAMS[name]
    FILE.write_bytes(content if isinstance(content, bytes) else content.encode())

    message = refused("validate", FILE)

    assert message.startswith("params.json: ")
    assert expected in message
    assert "hidden" not in message


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_end_with_one_message(shutterline: Shutterline, name: str) -> None:
    file, content, expected = BAD_FILES[name]
    if content is not None:
        Path(file).write_text(content)

    done = shutterline("validate", file)

    assert done.code == 2
    assert expected in done.err


def test_the_same_in_a_process_of_its_own(command: Command) -> None:
    FILE.write_text(layer(kernel_size=9))
    done = command("-m", "pipelines.cli", "run", "--params", FILE)
    assert (done.returncode, done.stdout) == (2, "")
    assert "a window of 9×9 needs at least 9×9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "compile --data gs://bucket/photos",
        "submit pipeline.yaml --data gs://bucket/photos --host http://localhost:1",
    ],
)
def test_data_without_params_is_refused(here: Path, shutterline: Shutterline, refused: Refused, arguments: str) -> None:
    if "pipeline.yaml" in arguments:
        assert shutterline("compile", "--target", "kubeflow", "-o", "pipeline.yaml").code == 0

    message = refused(*arguments.split())

    assert message.startswith("--data needs --params: ")
    assert "the example's digits" in message
    assert "`shutterline init --data DIR` writes params.yaml" in message
    assert [file.name for file in here.iterdir()] == ["pipeline.yaml"] * ("pipeline.yaml" in arguments)


def test_the_examples_data_need_no_params(here: Path, shutterline: Shutterline) -> None:
    (here / "digits").symlink_to(EXAMPLE_DATA)
    for data in (here / "digits", f"{EXAMPLE_DATA}/"):
        assert shutterline("compile", "--unchecked", "--data", data).code == 0


UNSCALED = [configs.transform("ToDtype", dtype="torch.float32")]
NORMALISED = [
    configs.transform("ToImage"),
    configs.transform("ToDtype", dtype="torch.float32", scale=True),
    configs.transform("Normalize", mean=[0.1307], std=[0.3081]),
]
OF_COMMAND: dict[str, list[object]] = {
    "validate": [FILE],
    "run": ["--params", FILE, "--data", DIGITS, "--out", "out"],
    "compile": ["--params", FILE, "-o", "pipeline.yaml"],
    "train": ["--params", FILE, "--dataset", "dataset", "--model", "model"],
    "submit": ["p.yaml", "--params", FILE, "--target", "kubeflow", "--host", "http://x", "--dry-run"],
}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            UNSCALED,
            "additional_transforms[0]: torchvision.transforms.v2.ToDtype gives values up to 255 as "
            "float32 where 0..1 is read; set scale: true in the kwargs of ToDtype",
        ),
        (
            NORMALISED,
            "additional_transforms[2].class: torchvision.transforms.v2.Normalize cannot be used as a "
            "transform: it would go for training images alone; set normalise_images, normalise_mean and normalise_std, "
            "which go for the images of every split",
        ),
    ],
    ids=["ToDtype", "Normalize"],
)
@pytest.mark.parametrize("command", ["validate", "run", "compile", "train"])
def test_every_command_refuses_transforms_that_held_out_images_would_lack(
    here: Path, shutterline: Shutterline, capsys: Capsys, entries: list[Entry], message: str, command: str
) -> None:
    FILE.write_text(json.dumps(digits_config(additional_transforms=entries)))

    if command == "train":  # which checks what it has read, and reports it by its events
        assert train([str(word) for word in OF_COMMAND["train"]]) == 2
        out, err = capsys.readouterr()
    else:
        code, out, err = shutterline(command, *OF_COMMAND[command])
        assert code == 2
        message = f"params.json: {message}"

    assert message in err
    assert (out, "Traceback" in err) == ("", False)
    assert {path.name for path in here.iterdir()} - {"events"} == {"params.json"}


def test_validate_shows_what_has_no_effect(shutterline: Shutterline) -> None:
    entries = [configs.transform("RandomGrayscale"), configs.transform("RandomErasing")]
    FILE.write_text(json.dumps(digits_config(additional_transforms=entries)))

    done = shutterline("validate", FILE)

    assert done.code == 0
    expected = "additional_transforms[0]: torchvision.transforms.v2.RandomGrayscale has no effect"
    assert expected in done.out + done.err


@pytest.mark.parametrize("command", ["validate", "run"])
def test_weights_that_are_not_there_are_refused_before_anything_starts(
    here: Path, refused: Refused, command: str
) -> None:
    FILE.write_text(json.dumps(digits_config(initial_weights="nothere.pth")))

    message = refused(command, *OF_COMMAND[command])

    expected = "initial_weights: nothere.pth: there is no such file or model directory on this machine"
    assert message.startswith(f"params.json: {expected}")
    assert [path.name for path in here.iterdir()] == ["params.json"]


def test_weights_of_another_machine_need_not_be_here(shutterline: Shutterline) -> None:
    FILE.write_text(json.dumps(digits_config(initial_weights="nothere.pth")))
    assert shutterline("validate", FILE, "--elsewhere").code == 0
    assert shutterline("compile", *OF_COMMAND["compile"]).code == 0
    FILE.write_text(json.dumps(digits_config(initial_weights="gs://bucket/weights.pth")))
    assert shutterline("validate", FILE).code == 0
    Path("nothere.pth").touch()
    FILE.write_text(json.dumps(digits_config(initial_weights="nothere.pth")))
    assert shutterline("validate", FILE).code == 0


def long_params(layers: int) -> dict[str, Any]:
    return SMALL | {"net_arch": [*SMALL["net_arch"], *[{"class": "torch.nn.Identity", "kwargs": {}}] * layers]}


def as_argument(params: dict[str, Any]) -> int:
    checked = Params.from_dict(params)
    return max(len(json.dumps(checked.to_json())), len(json.dumps(checked.to_form())))


@pytest.fixture(scope="module")
def longest() -> int:
    """How many layers of Identity are as long as an argument may be."""
    start, two = as_argument(long_params(1)), as_argument(long_params(2))
    return 1 + (MAX_ARGUMENT - start) // (two - start)


@pytest.mark.parametrize("command", ["validate", "run", "compile", "submit"])
def test_params_that_no_step_could_be_handed_are_refused_alike(
    here: Path, shutterline: Shutterline, refused: Refused, longest: int, command: str
) -> None:
    if command == "submit":
        write_params(FILE)
        assert shutterline("compile", "--params", FILE, "-o", "p.yaml").code == 0
    too_long = long_params(longest + 1)
    FILE.write_text(json.dumps(too_long))

    message = refused(command, *OF_COMMAND[command])

    assert message.startswith(f"params.json: take {as_argument(too_long):,} bytes as an argument")
    assert f"at most {MAX_ARGUMENT:,} reach it; write many layers" in message
    assert {path.name for path in here.iterdir()} - {"p.yaml"} == {"params.json"}


def test_params_of_just_that_length_are_sound(shutterline: Shutterline, longest: int) -> None:
    FILE.write_text(json.dumps(long_params(longest)))
    assert shutterline("validate", FILE).out.endswith("these params are sound\n")


def test_the_limit_leaves_room_for_where_artifacts_are() -> None:
    subprocess.run(["/bin/true", "x" * (MAX_ARGUMENT + 24 * 1024)], check=True)
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["/bin/true", "x" * 131_072], check=True)
