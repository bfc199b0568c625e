"""The JSON Schema of the params says what Params says, for editors and other programs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from components.shared.params.allowed_classes import LAYERS, LOSSES, OPTIMIZERS, SCHEDULERS, TRANSFORMS
from components.shared.params.params import Params
from components.shared.params.schema import json_schema
from pipelines.params_files import EXAMPLES
from tests.configs import layer, refused, schedule, small, transform
from tests.shared.params.test_params import EVERY_KEY

SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def test_schema_is_valid_itself_and_describes_every_key() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(SCHEMA["properties"]) == set(Params.model_fields)
    assert [key for key, value in SCHEMA["properties"].items() if not value.get("description")] == []
    assert SCHEMA["required"] == ["image_height", "image_width", "net_arch", "n_classes", "num_epochs"]


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.json")), ids=lambda file: file.stem)
def test_schema_accepts_the_examples(file: Any) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(json.loads(file.read_text()))] == []


def test_schema_accepts_every_key_and_what_params_writes() -> None:
    assert [error.message for error in VALIDATOR.iter_errors(EVERY_KEY)] == []
    for config in (small(), EVERY_KEY):
        written = json.loads(Params.from_dict(config).to_json())
        assert [error.message for error in VALIDATOR.iter_errors(written)] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"learnign_rate": 0.1},
        {"batch_size": 0},
        {"batch_size": True},
        {"image_height": 2**16},
        {"manual_seed": 2**64},
        {"learning_rate": 0},
        {"shuffle_dataset": 1},
        {"normalise_mean": "mean"},
        {"mode": "shell"},
        {"net_arch": []},
        {"net_arch": [layer("Conv2D")]},
        {"net_arch": [{**layer("ReLU"), "arguments": {}}]},
        {"optim_class": "torch.optim.LBFGS"},
        {"learning_rate_schedule": [{**schedule("StepLR", step_size=1), "name": 1}]},
        {"learning_rate_schedule": [{"name": "step", "kwargs": {"step_size": 1}}]},
        {"milestones": [0]},
        {"additional_transforms": [transform("Lambda")]},
        {"gate": {}},
        {"gate": {"accuracy": {}}},
        {"gate": {"accuracy": 0.97}},
        {"gate": {"recall[]": {"min": 0.9}}},
        {"gate": {"f1": {"min": 0.9}}},
        {"gate": {"vs_baseline": "worse"}},
    ],
    ids=str,
)
def test_schema_refuses_what_params_refuses(changes: dict[str, Any]) -> None:
    config = small(**changes)
    assert not VALIDATOR.is_valid(config)
    assert refused(Params.from_dict, config)


def test_schema_names_every_allowed_class() -> None:
    definitions = SCHEMA["$defs"]
    families = {"LayerSpec": LAYERS, "LossSpec": LOSSES, "ScheduleSpec": SCHEDULERS, "TransformSpec": TRANSFORMS}
    for name, family in families.items():
        assert definitions[name]["properties"]["class"]["enum"] == family.full_names()
    assert SCHEMA["properties"]["optim_class"]["enum"] == OPTIMIZERS.full_names()
