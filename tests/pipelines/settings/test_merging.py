"""How a step's settings are put together: the defaults, what a file says of every step, what it says of this one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.cli import main
from pipelines.compiled import PLATFORMS, PlatformName
from tests.pipelines.settings.compiling import (
    EXAMPLES,
    compiled_with,
    example_files,
    places_of,
    printed,
    write_settings,
)


def put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str], **settings: Any) -> dict[str, Any]:
    """What every step gets on Kubeflow."""
    said = {key.replace("_", "-"): value for key, value in settings.items()}
    return printed("kubeflow", capsys, "--settings", write_settings(tmp_path / "settings.yaml", said))


def test_a_steps_own_word_goes_before_every_steps_and_that_before_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    default = put_together(tmp_path, capsys, train={})
    steps = put_together(tmp_path, capsys, every_step={"cpu": "3"}, train={"cpu": "5"})
    assert default["train"]["cpu"] == "4"
    assert [steps[name]["cpu"] for name in ("data-prep", "train", "evaluate", "publish", "exit")] == [
        "3",
        "5",
        "3",
        "3",
        "3",
    ]
    assert [steps[name]["memory"] for name in steps if name != "target"] == ["4Gi", "16Gi", "8Gi", "2Gi", "512Mi"]


def test_mappings_are_joined_and_the_later_value_of_a_key_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = put_together(
        tmp_path, capsys,
        every_step={"labels": {"team": "vision", "cost": "1"}, "env": {"A": "every"}},
        train={"labels": {"cost": "2"}, "env": {"B": "train"}},
    )  # fmt: skip
    assert steps["train"]["labels"] == {"team": "vision", "cost": "2"}
    assert steps["train"]["env"] == {"A": "every", "B": "train"}
    assert steps["exit"]["env"] == {"A": "every"}


def test_lists_are_appended_and_nothing_stands_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu, spot = {"key": "nvidia.com/gpu"}, {"key": "a.io/spot"}
    steps = put_together(
        tmp_path, capsys,
        every_step={"pull_secrets": ["one"], "tolerations": [gpu]},
        train={"pull_secrets": ["two", "one"], "tolerations": [spot, gpu]},
    )  # fmt: skip
    assert steps["train"]["pull_secrets"] == ["one", "two"]
    assert [entry["key"] for entry in steps["train"]["tolerations"]] == ["nvidia.com/gpu", "a.io/spot"]
    assert steps["exit"]["pull_secrets"] == ["one"]


def test_null_takes_away_what_was_said_before(tmp_path: Path) -> None:
    whole = {"every-step": {"timeout_s": 60}, "train": {"gpu": None, "shm": None, "security": None, "timeout_s": None}}
    places = places_of(compiled_with(tmp_path, "kubeflow", whole), "train")
    assert "accelerator" not in places["container"]["resources"]
    assert places["kubernetes"] == {}
    evaluate = places_of(compiled_with(tmp_path, "kubeflow", whole), "evaluate")
    assert evaluate["kubernetes"]["activeDeadlineSeconds"] == "60"


def test_null_takes_away_mappings_lists_and_entries_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = {
        "env": {"A": "every", "B": "every"},
        "labels": {"team": "vision"},
        "tolerations": [{"key": "a.io/spot"}],
        "volumes": [{"claim": "shared", "path": "/shared"}],
        "secret_env": {"TOKEN": {"secret": "s", "key": "k"}},
    }
    own = {
        "env": {"A": None, "C": "train"},
        "labels": None,
        "tolerations": None,
        "volumes": None,
        "secret_env": {"TOKEN": None, "B_TOKEN": {"secret": "s", "key": "k"}},
    }
    steps = put_together(tmp_path, capsys, every_step=every, train=own)
    assert {key: steps["train"].get(key) for key in every} == {
        "env": {"B": "every", "C": "train"},
        "labels": {},
        "tolerations": [],
        "volumes": [],
        "secret_env": {"B_TOKEN": {"secret": "s", "key": "k", "optional": False}},
    }
    assert steps["evaluate"]["env"] == {"A": "every", "B": "every"}
    assert steps["evaluate"]["labels"] == {"team": "vision"}


def test_a_variable_of_every_step_may_be_a_secret_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every, own = {"env": {"USER_NAME": "me"}}, {"secret_env": {"USER_NAME": {"secret": "s", "key": "k"}}}
    steps = put_together(tmp_path, capsys, every_step=every, train={**own, "env": {"USER_NAME": None}})
    assert steps["train"]["env"] == {}
    assert set(steps["train"]["secret_env"]) == {"USER_NAME"}


def test_a_step_with_nothing_below_it_is_as_if_it_were_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_settings(tmp_path / "settings.yaml", "every-step:\n  # cpu: 1\ntrain:\n  # gpu: {count: 0}\nexit:\n")
    assert printed("kubeflow", capsys, "--settings", file) == printed("kubeflow", capsys)


def test_no_retries_are_asked_for_where_they_are_taken_away(tmp_path: Path) -> None:
    said = {"data-prep": {"retry": None}, "train": {"retry": {"times": 0}}, "evaluate": {"retry": {"times": None}}}
    pipeline = compiled_with(tmp_path, "vertex", said)
    for step in said:
        assert "retryPolicy" not in places_of(pipeline, step)["task"], step


@pytest.mark.parametrize(("target", "key"), [("kubeflow", "gpu"), ("vertex", "accelerator")])
def test_training_alone_gets_an_accelerator_and_none_on_the_cpu(
    capsys: pytest.CaptureFixture[str], target: PlatformName, key: str
) -> None:
    for device, having in (("cpu", []), ("auto", ["train"]), ("cuda", ["train"])):
        steps = printed(target, capsys, "--set", f"device={device}")
        assert [name for name in ("data-prep", "train", "evaluate", "exit") if key in steps[name]] == having, device


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("kubeflow", {"gpu": {"count": 1}}),
        ("vertex", {"accelerator": {"type": "NVIDIA_L4"}, "cpu": "8", "memory": "32G"}),
    ],
)
def test_an_accelerator_that_the_cpu_leaves_idle_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: Any, said: dict[str, Any]
) -> None:
    compiled_with(tmp_path, target, {"train": said}, "--set", "device=cpu")
    assert "warning: train: an accelerator is rented, but the params say device cpu" in capsys.readouterr().err


def test_json_is_read_like_yaml_and_underscores_like_hyphens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text('{"every_step": {"cpu": 3}, "data_prep": {"cpu": 0.5}}')
    steps = printed("kubeflow", capsys, "--settings", tmp_path / "settings.json")
    assert steps["train"]["cpu"] == "3"
    assert steps["data-prep"]["cpu"] == "0.5"


def test_the_schema_takes_what_is_taken_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guide = re.findall(r"```yaml\n(.*?)```", (EXAMPLES.parents[1] / "README.md").read_text(), re.DOTALL)
    sound = [yaml.safe_load(text) for text in (*guide, *(file.read_text() for file in example_files()))]
    sound += [{"target": "kubeflow", "train": {"cpu": 8, "env": {"A": None}, "volumes": None, "gpu": None}}]
    sound += [{"target": "vertex", "train": None, "every-step": None}]
    wrong = [{"cpu": "zebra"}, {"cpu": 0}, {"memory": 16}, {"memory": "1K"}, {"env": {"A": 1}}, {"volume": []}]
    schemas = {target: printed(target, capsys, "--schema") for target in PLATFORMS}
    for settings in sound:
        jsonschema.validate(settings, schemas[settings["target"]])
    for number, step in enumerate(wrong):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"train": step}, schemas["kubeflow"])
        file = write_settings(tmp_path / f"{number}.yaml", {"train": step})
        assert main(["settings", "--target", "kubeflow", "--settings", str(file)]) == 2


def test_settings_without_a_target_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_settings(tmp_path / "settings.yaml", {"train": {"cpu": "1"}})
    assert main(["compile", "--settings", str(file), "-o", str(tmp_path / "pipeline.yaml")]) == 2
    assert "--settings needs --target, kubeflow or vertex" in capsys.readouterr().err
    assert main(["compile", "--cache", "-o", str(tmp_path / "pipeline.yaml")]) == 2
    assert "--cache needs --target, kubeflow or vertex" in capsys.readouterr().err
