"""The gate in the params: thresholds by metric, lossless in every form, refused in words about metrics."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from components.shared.params.gate import METRIC_RANGES, Gate, check_gate
from components.shared.params.params import Params
from tests.configs import refused, small

GATE: dict[str, Any] = {
    "vs_baseline": "better",
    "accuracy": {"min": 0.97},
    "log_loss": {"max": 0.1},
    "matthews_corrcoef": {"min": -0.5, "max": 1.0},
    "recall[a cat, or ünknown]": {"min": 0.9},
}
BASELINE = "gs://bucket/models/1"


def gate_of(*overrides: str, **changes: Any) -> Gate | None:
    return Params.load(small(**changes), overrides).gate


def test_a_gate_is_the_same_from_a_dict_json_yaml_and_what_params_write() -> None:
    config = small(gate=GATE, baseline=BASELINE)
    params = Params.from_dict(config)

    assert params.to_dict()["gate"] == GATE
    for text in (json.dumps(config), params.to_json(), params.to_form()):
        assert Params.load(text) == params
    assert Params.from_dict(yaml.safe_load(yaml.safe_dump(config))) == params
    # As KFP hands dicts on: numbers as floats.
    as_floats = {**GATE, "matthews_corrcoef": {"min": -0.5, "max": 1}}
    assert Params.from_dict({**config, "gate": as_floats}).digest() == params.digest()


def test_a_threshold_is_set_by_itself() -> None:
    expected = Gate.model_validate({"accuracy": {"min": 0.97}, "recall[cat]": {"min": 0.9}})

    assert gate_of("gate.accuracy.min=0.97", "gate.recall[cat].min=0.9") == expected
    assert gate_of("gate.recall[cat].min=0.9", gate={"accuracy": {"min": 0.97}}) == expected
    assert gate_of('gate={"accuracy": {"min": 0.97}, "recall[cat]": {"min": 0.9}}') == expected
    assert gate_of("gate=null", gate=GATE) is None


def test_a_gates_thresholds_and_the_classes_that_they_name() -> None:
    gate = gate_of(gate=GATE, baseline=BASELINE)
    assert gate is not None

    assert list(gate.thresholds) == [metric for metric in GATE if metric != "vs_baseline"]
    assert (gate.thresholds["log_loss"].min, gate.thresholds["log_loss"].max) == (None, 0.1)
    assert list(gate.classes()) == [("recall[a cat, or ünknown]", "a cat, or ünknown")]


@pytest.mark.parametrize(
    ("gate", "path", "message"),
    [
        (0.9, "gate", "must be a mapping of metrics such as {accuracy: {min: 0.97}}, got 0.9"),
        ({}, "gate", "must have a threshold such as {accuracy: {min: 0.97}}; null: no gate"),
        ({"vs_baseline": None}, "gate", "must have a threshold such as {accuracy: {min: 0.97}}; null: no gate"),
        ({"vs_baseline": "worse"}, "gate.vs_baseline", 'must be "better" or "not_worse", got the text \'worse\''),
        ({"accuracy": 0.9}, "gate.accuracy", "must be a mapping of min, max or both, such as {min: 0.97}, got 0.9"),
        ({"accuracy": {}}, "gate.accuracy", "must have min, max or both"),
        ({"accuracy": {"min": None}}, "gate.accuracy", "must have min, max or both"),
        ({"accuracy": {"least": 1}}, "gate.accuracy.least", "unknown key; allowed are min, max"),
        ({"accuracy": {"min": "0.9"}}, "gate.accuracy.min", "must be a number, got the text '0.9'"),
        ({"accuracy": {"min": True}}, "gate.accuracy.min", "must be a number, got true"),
        ({"accuracy": {"min": float("nan")}}, "gate.accuracy.min", "must be a finite number, got nan"),
        ({"accuracy": {"min": 97}}, "gate.accuracy.min", "must be from 0 to 1, got 97"),
        ({"recall[cat]": {"max": -0.1}}, "gate.recall[cat].max", "must be from 0 to 1, got -0.1"),
        ({"log_loss": {"max": -1}}, "gate.log_loss.max", "must be at least 0, got -1"),
        ({"accuracy": {"min": 0.9, "max": 0.8}}, "gate.accuracy.min", "must be at most max, 0.8, got 0.9"),
    ],
    ids=str,
)
def test_what_is_no_gate_is_refused_where_it_is_wrong(gate: Any, path: str, message: str) -> None:
    problems = refused(Params.from_dict, small(gate=gate))
    assert problems[path] == message


@pytest.mark.parametrize(
    ("metric", "nearest"),
    [
        ("acuracy", "accuracy"),
        ("Accuracy", "accuracy"),
        ("f1", "f1_macro"),
        ("loss", "log_loss"),
        ("auc", "roc_auc_ovr"),
        ("support[cat]", ""),
        ("recall[]", "recall_macro"),
        ("zzz", ""),
    ],
)
def test_an_unknown_metric_is_refused_with_the_nearest_and_the_allowed(metric: str, nearest: str) -> None:
    (message,) = refused(Params.from_dict, small(gate={metric: {"min": 0.5}})).values()

    assert message.startswith(f"unknown metric; {f'did you mean {nearest}? ' if nearest else ''}Allowed are accuracy, ")
    assert all(name in message for name in (*METRIC_RANGES, "recall[CLASS]", "vs_baseline"))


def test_every_problem_comes_at_once_and_a_comparison_needs_a_baseline() -> None:
    changes = {"gate": {"acuracy": {"min": 0.5}, "accuracy": {"min": 2}}, "num_epochs": 0, "publish_uri": "ftp://host"}
    assert list(refused(Params.from_dict, small(**changes))) == [
        "num_epochs",
        "gate.acuracy",
        "gate.accuracy.min",
        "publish_uri",
    ]
    assert refused(Params.from_dict, small(gate={"vs_baseline": "better"})) == {
        "baseline": "is required where gate.vs_baseline is given: the model directory to compare to"
    }


def test_a_class_that_there_is_not_is_refused_with_the_nearest() -> None:
    gate = Gate.model_validate({"recall[kat]": {"min": 0.9}, "f1[dog]": {"min": 0.9}, "precision[x]": {"min": 0.9}})

    assert refused(check_gate, gate, ["cat", "dog"]) == {
        "gate.recall[kat]": "there is no class 'kat' among cat, dog; did you mean 'cat'?",
        "gate.precision[x]": "there is no class 'x' among cat, dog",
    }
    (message,) = refused(
        check_gate, Gate.model_validate({"f1[x]": {"min": 0}}), [f"class {i}" for i in range(40)]
    ).values()
    assert message.endswith("class 19, … (40 in all)")
    check_gate(gate, ["kat", "dog", "x"])
    check_gate(None, ["cat"])


def test_a_figure_that_needs_more_classes_than_there_are_is_refused() -> None:
    top_5 = {"top_5_accuracy": {"min": 0.9}}
    assert refused(Params.from_dict, small(n_classes=5, gate=top_5)) == {
        "gate.top_5_accuracy": "needs more than 5 classes, and n_classes is 5"
    }
    assert Params.from_dict(small(n_classes=6, gate=top_5)).gate is not None
