"""``--set key=value``: one option changed, at any depth, and nothing else."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.errors import ParamsError
from components.shared.params.params import Params
from components.shared.params.source import with_overrides
from tests.configs import digits_config, refused, small

RAW: dict[str, Any] = {"a": 1, "list": [{"b": {"c": 1}}, [5, 6]], "text": "x", "none": None}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=2", {"a": 2}),
        ("new=2", {"new": 2}),
        ("list[0].b.c=2", {"list": [{"b": {"c": 2}}, [5, 6]]}),
        ("list[0].b.d=2", {"list": [{"b": {"c": 1, "d": 2}}, [5, 6]]}),
        ("list[0]=null", {"list": [None, [5, 6]]}),
        ("list[1][1]=7", {"list": [{"b": {"c": 1}}, [5, 7]]}),
        ("gate.accuracy.min=0.97", {"gate": {"accuracy": {"min": 0.97}}}),
        ("gate.recall[a golden.retriever].min=0.9", {"gate": {"recall[a golden.retriever]": {"min": 0.9}}}),
        ("gate.recall[3].max=1", {"gate": {"recall[3]": {"max": 1}}}),
        ('gate.f1[[x]]={"min": 0.9}', {"gate": {"f1[[x]]": {"min": 0.9}}}),
    ],
)
def test_a_way_leads_to_the_value_it_names(override: str, expected: dict[str, Any]) -> None:
    assert with_overrides(RAW, [override]) == {**RAW, **expected}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("4611686018427387905", 2**62 + 1),
        ("1e-5", 1e-5),
        ("true", True),
        ("True", True),
        ("[1, [2.5]]", [1, [2.5]]),
        ('{"a": {"b": null}}', {"a": {"b": None}}),
        ("{not json", "{not json"),
        ("NaN-free", "NaN-free"),
        ("9" * 5000, "9" * 5000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_values_are_json_or_pythons_words_or_text(text: str, value: Any) -> None:
    assert repr(with_overrides({}, [f"key={text}"])) == repr({"key": value})


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("a", "", "must be key=value, such as num_epochs=5"),
        ("=1", "", "must be key=value"),
        (".a=1", "", "must be key=value"),
        ("a b=1", "", "must be key=value"),
        ("list[-1]=1", "", "must be key=value"),
        ("list[2]=1", "list", "has 2 entries, so there is no [2] to set"),
        ("list.b=1", "list", "is not a mapping, so there is no .b to set"),
        ("list[0].b[0]=1", "list[0].b", "is not a list, so there is no [0] to set"),
        ("missing.b=1", "", "has no missing to set a part of"),
        ('a={"b": 1, "b": 2}', "", "has the key 'b' twice in one mapping"),
        ("a=NaN", "", "NaN is not a number a run can use"),
        ("a=[1, -Infinity]", "", "-Infinity is not a number a run can use"),
        ("a=" + "[" * 100_000, "", "is nested too deep"),
    ],
    ids=lambda value: value[:20],
)
def test_a_way_that_leads_nowhere_says_where_it_ends(override: str, path: str, message: str) -> None:
    before = copy.deepcopy(RAW)
    with pytest.raises(ParamsError) as caught:
        with_overrides(RAW, ["a=9", override])

    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in problem.message
    assert str(caught.value).startswith("--set ")
    assert len(str(caught.value)) < 200
    assert before == RAW


def test_overrides_apply_in_order_and_leave_the_original_alone() -> None:
    before = copy.deepcopy(RAW)
    changed = with_overrides(
        RAW, ["list[0].b={}", "list[0].b.e=1", "list[0].b.e=2", 'list[1]=[{"f": 0}]', "list[1][0].f=3"]
    )

    assert changed["list"] == [{"b": {"e": 2}}, [{"f": 3}]]
    assert before == RAW
    untouched = with_overrides(RAW, [])
    untouched["list"][0]["b"]["c"] = 99
    assert before == RAW


def test_whatever_python_objects_a_config_holds_are_left_to_params() -> None:
    generator = (number for number in range(3))  # cannot be copied
    config = small(optim_kwargs={"betas": generator})
    assert "got a generator" in refused(Params.load, config, ["num_epochs=2"])["optim_kwargs.betas"]


def test_params_are_checked_after_overrides() -> None:
    config = digits_config()
    params = Params.load(config, ["num_epochs=7", "net_arch[0].kwargs.out_channels=64", "optim_class=torch.optim.SGD"])
    assert params.num_epochs == 7
    assert params.net_arch[0].kwargs["out_channels"] == 64
    assert params.optim_class == "torch.optim.SGD"
    assert config == digits_config()

    found = refused(
        Params.load, json.dumps(config), ["num_epochs=0", "learnign_rate=1", "net_arch[0].class=torch.nn.X"]
    )
    assert set(found) == {"num_epochs", "learnign_rate", "net_arch[0].class"}


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_override_gives_a_dict_or_a_params_error(key: str, value: str) -> None:
    for override in (f"{key}={value}", f"a={value}", f"list[0].{key}={value}"):
        changed, message = {}, ""
        try:
            changed = with_overrides(RAW, [override])
        except ParamsError as error:
            message = str(error)
        assert message.isprintable()
        if not message:
            assert set(changed) >= set(RAW)
            assert len(changed) <= len(RAW) + 1
