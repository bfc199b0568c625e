"""What is wrong with a config: every problem at once, each with its path, in words that lead on."""

from __future__ import annotations

import math
import traceback
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.shared.errors import ParamsError
from components.shared.params.params import Params
from tests.configs import Entry, layer, refused, schedule, small, transform


def problems(**changes: Any) -> dict[str, str]:
    return refused(Params.from_dict, small(**changes))


def test_all_problems_come_at_once_in_the_order_of_the_keys() -> None:
    config = {
        "num_epochs": 0,
        "image_height": "8",
        "learnign_rate": 0.1,
        "net_arch": [
            {"class": "torch.nn.Conv2D", "kwargs": {"in_channels": 1}},
            layer("ReLU"),
            {"clas": "torch.nn.ELU"},
        ],
        "is_image_color": True,
        "normalise_mean": [0.5, "x", math.nan],
        "learning_rate_schedule": [schedule("StepLR", step_size=1), schedule("StepLR", step_size=2)],
        "n_classes": 2,
        "optim_class": "torch.optim.SGDD",
        "TIMEOUT": 0,
    }
    with pytest.raises(ParamsError) as caught:
        Params.from_dict(config, "run.json")

    assert [(problem.path, problem.message) for problem in caught.value.problems] == [
        ("learnign_rate", "unknown key; did you mean learning_rate?"),
        ("TIMEOUT", "must be greater than 0, got 0"),
        ("image_height", "must be a whole number, got the text '8'"),
        ("image_width", "is required"),
        ("normalise_mean[1]", "must be a number, got the text 'x'"),
        ("normalise_mean[2]", "must be a finite number, got nan"),
        ("net_arch[0].class", "torch.nn.Conv2D is not an allowed layer; did you mean torch.nn.Conv2d?"),
        ("net_arch[2].class", "is required"),
        ("net_arch[2].clas", "unknown key; allowed are class, kwargs"),
        ("num_epochs", "must be at least 1, got 0"),
        ("optim_class", "torch.optim.SGDD is not an allowed optimiser; did you mean torch.optim.SGD?"),
        ("learning_rate_schedule[1].name", "the name 'StepLR' is taken by an earlier entry"),
    ]
    assert str(caught.value).startswith("run.json has 12 problems:\n  learnign_rate: unknown key")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "learning_rate"),
        ("seed", "manual_seed"),
        ("normalize_images", "normalise_images"),
        ("Batch_Size", "batch_size"),
        ("PUBSUB_TOPIC", "PUB_SUB_TOPIC"),
    ],
)
def test_an_unknown_key_names_the_known_one(key: str, meant: str) -> None:
    assert problems(**{key: 1}) == {key: f"unknown key; did you mean {meant}?"}
    assert problems(zzz=1) == {"zzz": "unknown key; `shutterline params --schema` lists the known ones"}


def test_unknown_keys_inside_entries_are_named() -> None:
    entry = {**layer("ReLU"), "args": [1], "kwarg": {}}
    inner = {**transform("RGB"), "probability": 1}
    found = problems(
        net_arch=[entry],
        learning_rate_schedule=[{**schedule("StepLR", step_size=1), "after": 3}],
        additional_transforms=[transform("Compose", transforms=[transform("RGB"), inner, {"class": "x"}])],
    )

    assert found["net_arch[0].args"] == found["net_arch[0].kwarg"] == "unknown key; allowed are class, kwargs"
    assert found["learning_rate_schedule[0].after"] == "unknown key; allowed are name, class, kwargs"
    assert "additional_transforms[0].kwargs.transforms[1].probability" in found
    assert "not an allowed transform" in found["additional_transforms[0].kwargs.transforms[2].class"]
    assert len(found) == 5


def test_keys_that_are_no_text_are_refused() -> None:
    assert set(refused(Params.from_dict, {**small(), 5: 1, None: 2})) == {"[5]", "None"}


def named(value: object) -> str | None:
    """pytest cannot print an integer of thousands of digits."""
    return "huge" if isinstance(value, int) and value > 10**1000 else None


def test_numbers_may_be_any_of_python_that_lose_no_digit() -> None:
    for given in (5.0, 1e2, np.int64(5), np.float64(5), 2**31 - 1):
        params = Params.from_dict(small(batch_size=given))
        assert type(params.batch_size) is int
        assert params.batch_size == given
    for real in (1, Fraction(1, 2), np.float32(0.5), 0.5):
        assert Params.from_dict(small(flip_probability=real)).flip_probability == float(real)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 5.5, "must be a whole number, got 5.5"),
        ("batch_size", Decimal(5), "must be a whole number, got a Decimal"),
        ("batch_size", 2**31, "must be at most 2,147,483,647, got 2147483648"),
        ("batch_size", 10**5000, "must be at most 2,147,483,647, got a huge integer"),
        ("manual_seed", 2.0**53 + 2, "has lost digits"),
        ("manual_seed", 2**64, "must be less than 2^64, got 18446744073709551616"),
        ("shuffle_dataset", 1, "must be true or false, got 1"),
        ("flip_probability", True, "must be a number, got true"),
        ("learning_rate", 0, "must be greater than 0, got 0"),
        ("learning_rate", 10**400, "must be a finite number, got 1000000000"),
        ("learning_rate", 2**53 + 1, "must be a number of at most 53 bits, got 9007199254740993"),
        ("mode", "Notebook", 'must be "notebook" or "script", got the text \'Notebook\''),
        ("device", "gpu", 'must be "auto", "cpu", "cuda" or "cuda:N", got the text \'gpu\''),
        ("device", "cuda:1\n", "must be text that can be printed"),
        ("normalise_mean", "mean", "must be a list of numbers or \"auto\", got the text 'mean'"),
        ("normalise_mean", [0.1, 0.2], "must have 1 number (grayscale) or 3 (color), got 2"),
        ("alpha_background", "grey", 'must be "white", "black" or a list of whole numbers from 0 to 255, got the text'),
        ("alpha_background", [1, 2, 3, 4], "must have 1 number (grey) or 3 (red, green, blue), got 4"),
        ("net_arch", [], "must have at least 1 entry"),
        ("net_arch", [layer("ReLU")] * 10_001, "must have at most 10,000 entries"),
        ("optim_kwargs", [1], "must be a mapping of arguments, got a list"),
        ("optim_class", None, "must name a class, got null"),
        ("optim_class", torch.nn.Conv2d, "torch.nn.modules.conv.Conv2d is not an allowed optimiser"),
        ("KAFKA_HOST", "host:99999", "'host:99999' is not host or host:port; several brokers are separated by commas"),
    ],
    ids=named,
)
def test_a_wrong_value_says_what_is_allowed(key: str, value: Any, message: str) -> None:
    found = problems(**{key: value, **({"KAFKA_TOPIC": "t"} if key == "KAFKA_HOST" else {})})
    assert set(found) == {key}
    assert message in found[key]


def test_whatever_is_given_instead_of_a_mapping_is_refused() -> None:
    for entry in (None, "torch.nn.ReLU", 5, torch.nn.ReLU):
        assert "must be a mapping such as {class, kwargs}" in problems(net_arch=[entry])["net_arch[0]"]
    for raw in (None, 5, [1], "text"):
        assert "must be a mapping of options" in refused(Params.from_dict, raw)[""]


@pytest.mark.parametrize(
    ("where", "kwargs", "message"),
    [
        (".inplace", {"inplace": lambda: None}, "true/false, null, lists, mappings), got a function"),
        (".inplace", {"inplace": torch.zeros(1)}, "got a Tensor"),
        (".inplace[1].a", {"inplace": [0, {"a": math.inf}]}, "must be a finite number, got inf"),
        (".inplace", {"inplace": 2**64}, "must be a whole number of at most 64 bits, got 18446744073709551616"),
        (".inplace", {"inplace": 10**5000}, "must be a whole number of at most 64 bits, got a huge integer"),
        (".1st", {"1st": 1}, "an argument's name must be a Python name"),
    ],
)
def test_kwargs_are_plain_data(where: str, kwargs: dict[Any, Any], message: str) -> None:
    found = problems(net_arch=[{"class": "torch.nn.ReLU", "kwargs": kwargs}])
    assert set(found) == {f"net_arch[0].kwargs{where}"}
    assert message in found[f"net_arch[0].kwargs{where}"]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_has_an_end() -> None:
    deep = Params.from_dict(small(net_arch=[layer("Identity", a=nested(31))]))
    assert Params.load(deep.to_json()) == deep
    message = problems(net_arch=[layer("Identity", a=nested(33))])
    assert list(message.values()) == ["is nested more than 32 deep"]
    for depth in (100, 100_000):
        assert problems(net_arch=[layer("Identity", a=nested(depth))]) == {"": "is nested more than 64 deep"}
    itself: list[Any] = []
    itself.append(itself)
    assert problems(net_arch=itself) == {"": "is nested more than 64 deep"}
    assert problems(net_arch=[0] * 100_000) == {"": "holds more than 100,000 values"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"normalise_mean": [0.1, 0.2, 0.3]}, {"normalise_mean": "must have 1 number(s) for grayscale images"}),
        (
            {"is_image_color": True, "normalise_mean": [0.5], "normalise_std": [0.5]},
            {
                "normalise_mean": "must have 3 number(s) for color images (is_image_color), got 1",
                "normalise_std": "must have 3 number(s) for color images",
            },
        ),
        (
            {"is_image_color": True, "normalise_std": [0.5, -1, 0]},
            {"normalise_std[1]": "must be greater than 0, got -1", "normalise_std[2]": "must be greater than 0, got 0"},
        ),
        ({"PUB_SUB_TOPIC": "status"}, {"PUB_SUB_PROJECT": "is required where PUB_SUB_TOPIC is given"}),
        (
            {"compile": "always", "gradient_checkpointing": True},
            {"compile": 'is "always", and layers of gradient_checkpointing are not compiled; set only one of the two'},
        ),
        ({"KAFKA_HOST": "a"}, {"KAFKA_TOPIC": "is required where KAFKA_HOST is given"}),
        ({"KAFKA_HOST": "a", "KAFKA_TOPIC": ".."}, {"KAFKA_TOPIC": "to name a Kafka topic"}),
        (
            {"PUB_SUB_PROJECT": "Vision", "PUB_SUB_TOPIC": "goog-status"},
            {"PUB_SUB_PROJECT": "must be a project id", "PUB_SUB_TOPIC": "start with a letter and not with goog"},
        ),
        ({"KAFKA_HOST": "a,,b", "KAFKA_TOPIC": "a"}, {"KAFKA_HOST": "'' is not host or host:port"}),
        (
            {"stored_height": 7, "stored_width": 8},
            {"stored_height": "must be at least image_height, 8, got 7"},
        ),
        (
            {"image_width": 12, "stored_height": 10},
            {"stored_width": "is required where stored_height is given; 15 keeps the model's proportions"},
        ),
        (
            {"stored_height": 7},
            {
                "stored_height": "must be at least image_height, 8, got 7",
                "stored_width": "is required where stored_height is given; 8 keeps the model's proportions",
            },
        ),
        ({"stored_width": 9, "stored_height": 0}, {"stored_height": "must be at least 1, got 0"}),
    ],
)
def test_keys_that_do_not_fit_each_other(changes: Entry, expected: dict[str, str]) -> None:
    found = problems(**changes)
    assert set(found) == set(expected)
    for path, message in expected.items():
        assert message in found[path]


def test_the_optimiser_takes_its_learning_rate_from_its_own_key() -> None:
    kwargs = {"lr": 0.1, "params": [], "capturable": True, "differentiable": True, "momentum": 0.9}
    assert problems(optim_kwargs=kwargs) == {
        "optim_kwargs.lr": "must not be given here; set learning_rate instead",
        "optim_kwargs.params": "must not be given here; the network's parameters are passed",
        "optim_kwargs.capturable": "must be false; step: graph captures steps, and sets it where that needs it",
        "optim_kwargs.differentiable": "must be false; nothing is differentiated through a step",
    }
    assert Params.from_dict(small(optim_kwargs={"capturable": False})).optim_kwargs == {"capturable": False}


SECRET = "MIIEvQIBADANBgkqhkiG9w0"  # noqa: S105 - looks like one, opens nothing
KEY_FILE = f"""{{
  "type": "service_account",
  "private_key": "-----BEGIN PRIVATE KEY-----{SECRET}"
}}"""


def test_a_credential_given_as_content_is_refused_and_never_shown() -> None:
    line = KEY_FILE.replace("\n", "")
    for content in (KEY_FILE, line, f"-----BEGIN PRIVATE KEY-----{SECRET}", f"{SECRET}\n", [SECRET], {"k": SECRET}):
        with pytest.raises(ParamsError) as caught:
            Params.from_dict(small(GOOGLE_APPLICATION_CREDENTIALS=content))
        assert [problem.path for problem in caught.value.problems] == ["GOOGLE_APPLICATION_CREDENTIALS"]
        assert not any(part in str(caught.value) for part in ("service_account", SECRET[:4], "PRIVATE KEY"))


def test_a_credential_in_a_params_file_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(f"GOOGLE_APPLICATION_CREDENTIALS: |\n  {SECRET}\n  more\n")
    with pytest.raises(ParamsError) as caught:
        Params.load(file)
    assert "never its content" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert traceback.format_exception_only(caught.value)[0].count(SECRET) == 0


def test_names_hold_no_placeholder() -> None:
    config = small(KAFKA_HOST="a", KAFKA_TOPIC="a", PUB_SUB_PROJECT="vision-1", PUB_SUB_TOPIC="status")
    for key in ("KAFKA_TOPIC", "PUB_SUB_TOPIC", "PUB_SUB_PROJECT", "device", "KAFKA_HOST"):
        assert key in refused(Params.from_dict, {**config, key: "{{$.inputs}}"})


def test_a_schedules_name_may_hold_braces_and_quotes_but_no_newline() -> None:
    name = 'decay {{$.inputs}} "x"'
    params = Params.from_dict(small(learning_rate_schedule=[{**schedule("StepLR", step_size=1), "name": name}]))
    assert "{{" not in params.to_json()
    assert Params.load(params.to_json()).learning_rate_schedule[0].name == name

    found = problems(learning_rate_schedule=[{**schedule("StepLR", step_size=1), "name": "a\nb"}])
    assert found == {"learning_rate_schedule[0].name": "must be text that can be printed, got the text 'a\\\\nb'"}
