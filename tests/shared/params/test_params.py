"""One run, whichever way it is written: nothing is lost between dict, JSON, YAML and the JSON text of a pipeline."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.shared.errors import ParamsError
from components.shared.params.params import Params
from components.shared.params.parsed import ParamsWarning
from pipelines.params_files import EXAMPLE_PARAMS
from tests.configs import REFERENCE_PARAMS, layer, schedule, small, transform

# Params-keys.md, in its order.
REFERENCE_KEYS = """
    GOOGLE_APPLICATION_CREDENTIALS PUB_SUB_PROJECT PUB_SUB_TOPIC PUB_SUB_SUBSCRIPTION TIMEOUT KAFKA_HOST KAFKA_TOPIC
    batch_size image_height image_width is_image_color shuffle_dataset flip_images flip_probability normalise_images
    normalise_mean normalise_std additional_transforms manual_seed net_arch n_classes num_epochs eval_freq save_freq
    optim_class optim_kwargs learning_rate learning_rate_schedule device mode eval_metric_compute_freq eval_batch_size
""".split()

# Every key with a value that is not its default.
EVERY_KEY: dict[str, Any] = {
    "GOOGLE_APPLICATION_CREDENTIALS": "keys/status.json",
    "PUB_SUB_PROJECT": "example.com:vision-1",
    "PUB_SUB_TOPIC": "status",
    "PUB_SUB_SUBSCRIPTION": "status-watch",
    "TIMEOUT": 4.5,
    "KAFKA_HOST": "a,b:9093",
    "KAFKA_TOPIC": "status",
    "batch_size": 7,
    "image_height": 9,
    "image_width": 10,
    "is_image_color": True,
    "shuffle_dataset": False,
    "flip_images": True,
    "flip_probability": 0.25,
    "normalise_images": False,
    "normalise_mean": [0.1, 0.2, 0.3],
    "normalise_std": [0.4, 0.5, 0.6],
    "additional_transforms": [transform("RandomApply", transforms=[transform("RGB")], p=0.5)],
    "manual_seed": 2**62 + 1,
    "net_arch": [layer("Conv2d", in_channels=3, out_channels=4, kernel_size=[2, 3]), layer("Flatten")],
    "n_classes": 11,
    "num_epochs": 12,
    "eval_freq": 13,
    "save_freq": 14,
    "optim_class": "torch.optim.SGD",
    "optim_kwargs": {"momentum": 0.9, "nesterov": True},
    "learning_rate": 0.15,
    "learning_rate_schedule": [
        {**schedule("StepLR", step_size=16), "interval": "batch"},
        {**schedule("StepLR", step_size=16), "interval": "epoch", "name": None},
    ],
    "device": "cuda:1",
    "mode": "notebook",
    "eval_metric_compute_freq": "batch",
    "eval_batch_size": 17,
    "stored_height": 12,
    "stored_width": 13,
    "test_fraction": 0.18,
    "validation_fraction": 0.19,
    "loss": {"class": "torch.nn.CrossEntropyLoss", "kwargs": {"label_smoothing": 0.1}},
    "class_weights": [0.5] * 11,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "ema_decay": 0.999,
    "max_grad_norm": 1.0,
    "gradient_accumulation_steps": 2,
    "early_stopping_patience": 5,
    "warmup_epochs": 0.5,
    "milestones": [2],
    "initial_weights": "gs://bucket/model",
    "frozen_layers": 1,
    "recipe": "finetune",
    "backbone_learning_rate": 0.015,
    "decay_biases_and_norms": False,
    "precision": "bf16",
    "compile": "never",
    "gradient_checkpointing": True,
    "step": "graph",
    "data_placement": "host",
    "sync_batch_norm": True,
    "checkpoint_minutes": 2.5,
    "keep_checkpoints": 20,
    "max_unreadable": 0.21,
    "alpha_background": [1, 2, 3],
    "image_fit": "crop",
    "image_interpolation": "lanczos",
    "data_layout": "idx",
    "on_leakage": "fail",
    "gate": {"vs_baseline": "not_worse", "accuracy": {"min": 0.97}, "recall[a cat]": {"min": 0.5, "max": 1.0}},
    "baseline": "gs://bucket/baseline",
    "publish_uri": "s3://bucket/models",
    "on_status_error": "fail",
}

AS_PYTHON: dict[str, Any] = {
    "image_height": 8,
    "image_width": 8,
    "n_classes": 2,
    "num_epochs": 3,
    "net_arch": [
        {"class": torch.nn.Conv2d, "kwargs": {"in_channels": 1, "out_channels": 4, "kernel_size": (3, 3)}},
        {"class": torch.nn.ELU, "kwargs": {}},
    ],
    "optim_class": torch.optim.SGD,
    "optim_kwargs": {"momentum": 0.9},
    "learning_rate": 1e-5,
    "learning_rate_schedule": [
        {"name": "decay", "class": torch.optim.lr_scheduler.ExponentialLR, "kwargs": {"gamma": 0.99}}
    ],
}
AS_JSON = """{
    "image_height": 8, "image_width": 8, "n_classes": 2, "num_epochs": 3,
    "net_arch": [
        {"class": "torch.nn.Conv2d", "kwargs": {"in_channels": 1, "out_channels": 4, "kernel_size": [3, 3]}},
        {"class": "torch.nn.ELU"}
    ],
    "optim_class": "torch.optim.SGD", "optim_kwargs": {"momentum": 0.9}, "learning_rate": 1e-5,
    "learning_rate_schedule": [
        {"name": "decay", "class": "torch.optim.lr_scheduler.ExponentialLR", "kwargs": {"gamma": 0.99}}
    ]
}"""


def test_dict_with_classes_json_and_yaml_are_the_same_params(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(AS_JSON)
    as_yaml = yaml.safe_dump(json.loads(AS_JSON), sort_keys=False).replace("1.0e-05", "1e-5")
    (tmp_path / "params.yaml").write_text(as_yaml)
    (tmp_path / "params.yml").write_text(as_yaml)
    from_python = Params.from_dict(AS_PYTHON)

    for same in (
        Params.load(AS_PYTHON),
        Params.load(AS_JSON),
        Params.load(tmp_path / "params.json"),
        Params.load(str(tmp_path / "params.yaml")),
        Params.load(tmp_path / "params.yml"),
        Params.load(from_python.to_json()),
        Params.load(from_python.to_json(indent=2)),
        Params.load(from_python.to_form()),
        Params.from_dict(from_python.to_dict()),
    ):
        assert same == from_python
        assert same.digest() == from_python.digest()
        assert same.to_json() == from_python.to_json()


def test_another_value_is_another_digest() -> None:
    digests = {
        Params.from_dict({**AS_PYTHON, **change}).digest()
        for change in ({}, {"manual_seed": 1}, {"learning_rate": 2e-5}, {"net_arch": AS_PYTHON["net_arch"][:1]})
    }
    assert len(digests) == 4


def test_integers_that_kfp_made_floats_are_the_same_run() -> None:
    kernel, as_float = layer("MaxPool2d", kernel_size=2), layer("MaxPool2d", kernel_size=2.0)
    whole = Params.from_dict(small(net_arch=[kernel], batch_size=64, optim_kwargs={"weight_decay": 0}))
    floats = Params.from_dict(small(net_arch=[as_float], batch_size=64.0, optim_kwargs={"weight_decay": 0.0}))

    assert floats == whole
    assert floats.digest() == whole.digest()


def test_every_key_of_the_reference_is_a_field_with_a_description() -> None:
    described = {name for name, field in Params.model_fields.items() if field.description}
    assert described == set(Params.model_fields)
    assert [key for key in REFERENCE_KEYS if key not in described] == []


def test_every_key_survives_to_json_and_back() -> None:
    assert set(EVERY_KEY) == set(Params.model_fields)
    params = Params.from_dict(EVERY_KEY)
    again = Params.load(params.to_json())

    assert params.to_dict() == EVERY_KEY
    assert again.to_dict() == EVERY_KEY
    assert Params.load(params.to_form()).to_dict() == EVERY_KEY
    assert again.digest() == params.digest()


@pytest.mark.parametrize("file", [EXAMPLE_PARAMS, REFERENCE_PARAMS], ids=lambda file: file.stem)
def test_examples_survive_as_json_and_as_yaml(file: Path, tmp_path: Path) -> None:
    params = Params.load(file)
    (tmp_path / "dumped.yaml").write_text(yaml.safe_dump(params.to_dict()))
    (tmp_path / "json.yaml").write_text(params.to_json())

    assert Params.load(params.to_json()) == params
    assert Params.load(params.to_form()) == params
    assert Params.load(tmp_path / "dumped.yaml") == params
    assert Params.load(tmp_path / "json.yaml") == params


def test_named_values_follow_from_the_keys() -> None:
    gray, color = Params.from_dict(small()), Params.from_dict(small(is_image_color=True, image_height=5))
    assert (gray.channels, gray.image_shape) == (1, (8, 8, 1))
    assert (color.channels, color.image_shape) == (3, (5, 8, 3))

    targets = Params.from_dict(EVERY_KEY).status_targets
    assert targets.kafka_servers == ("a:9092", "b:9093")
    assert targets.pub_sub_topic == "projects/example.com:vision-1/topics/status"
    assert targets.pub_sub_subscription == "projects/example.com:vision-1/subscriptions/status-watch"
    assert targets.timeout_s == 4.5


def test_params_never_change() -> None:
    params = Params.from_dict(small())
    for thing in (params, params.net_arch[0]):
        for name in type(thing).model_fields:
            with pytest.raises(ValueError, match="frozen"):
                setattr(thing, name, getattr(thing, name))


def test_a_schedule_option_that_torch_dropped_warns_and_is_ignored() -> None:
    decay = schedule("ExponentialLR", gamma=0.9, verbose=False)
    with pytest.warns(ParamsWarning, match=r"learning_rate_schedule\[0\]\.kwargs\.verbose: torch has dropped"):
        params = Params.from_dict(small(learning_rate_schedule=[decay]))
    assert params.learning_rate_schedule[0].kwargs == {"gamma": 0.9}
    assert decay["kwargs"]["verbose"] is False


def test_seeds_are_intact_on_every_way(tmp_path: Path) -> None:
    for seed in (2**53 + 1, 2**64 - 1):
        config = small(manual_seed=seed)
        (tmp_path / "params.json").write_text(json.dumps(config))
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(config))
        for params in (
            Params.load(tmp_path / "params.json"),
            Params.load(tmp_path / "params.yaml"),
            Params.load(Params.from_dict(config).to_json()),
            Params.load(small(), [f"manual_seed={seed}"]),
        ):
            assert params.manual_seed == seed


@given(seed=st.integers(0, 2**64 - 1), rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False))
@example(seed=2**64 - 1, rate=5e-324)
@example(seed=2**53 + 1, rate=math.nextafter(1e-3, 0))
@settings(max_examples=100, deadline=None)
def test_every_seed_and_learning_rate_survives_bit_for_bit(seed: int, rate: float) -> None:
    params = Params.from_dict(small(manual_seed=seed, learning_rate=rate))
    again = Params.load(params.to_json())

    assert again.manual_seed == seed
    assert again.learning_rate.hex() == rate.hex()
    assert again.digest() == params.digest()


def test_a_form_has_a_line_for_every_option_and_layer_and_none_for_a_default() -> None:
    lines = Params.from_dict(small(net_arch=[layer("ReLU"), layer("Dropout", p=0.5)])).to_form().splitlines()
    assert '    {"class": "torch.nn.Dropout", "kwargs": {"p": 0.5}}' in lines
    assert '  "num_epochs": 1' in [line.rstrip(",") for line in lines]
    assert not any("flip_probability" in line for line in lines)


PLAIN_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64) + 1, 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), PLAIN_VALUES, max_size=4))
@example({"text": "{{$.inputs.parameters['x']}}", "more": "{{{{", "brace": "{", "nested": {"{{": "}}"}})
@example({"quotes": "\"'`\\", "lines": "a\nb\r\n\t\x00\x7f\u2028", "lone": "\ud800"})
@settings(max_examples=80, deadline=None)
def test_any_plain_kwargs_survive_and_hold_no_placeholder(kwargs: dict[str, Any]) -> None:
    params = Params.from_dict(small(net_arch=[layer("Identity", **kwargs)]))
    text = params.to_json()
    again = Params.load(text)

    assert "{{" not in text
    assert "{{" not in params.to_json(indent=2)
    assert "{{" not in params.to_form()
    assert Params.load(params.to_form()).digest() == params.digest()
    assert "\n" not in text
    # repr, because 1, 1.0 and True are equal.
    assert repr(again.net_arch[0].kwargs) == repr(kwargs)
    assert again.digest() == params.digest()


def test_what_is_behind_transparent_parts_is_a_color() -> None:
    for value, background in (("black", (0, 0, 0)), ([7], (7, 7, 7)), ([7.0, 8, 255], (7, 8, 255))):
        assert Params.from_dict(small(alpha_background=value)).background == background
    assert Params.from_dict(small()).background == (255, 255, 255)


def test_every_wrong_level_of_a_color_is_named() -> None:
    with pytest.raises(ParamsError) as refused:
        Params.from_dict(small(alpha_background=[256, -1, 0.5]))
    assert "alpha_background[0]: must be from 0 to 255, got 256" in str(refused.value)
    assert "alpha_background[1]: must be from 0 to 255, got -1" in str(refused.value)
    assert "alpha_background[2]: must be a whole number" in str(refused.value)
