"""Settings of any form never end in a traceback, and sound ones are what `shutterline settings` prints of them."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.cli import main
from pipelines.compiled import PlatformName
from pipelines.settings.kubeflow import KubeflowStep
from pipelines.settings.vertex import VertexStep
from pipelines.vertex_limits import ACCELERATORS
from tests.pipelines.settings.compiling import compile_file, printed, write_settings
from tests.pipelines.settings.test_fields import fields_of

STEPS = ("every-step", "data-prep", "train", "evaluate", "exit")
KEYS = sorted(
    {part for step in (KubeflowStep, VertexStep) for field in fields_of(step) for part in field.split(".")}
    | {*STEPS, "target", "checkpoints", "events", "type"}
)
_WORDS = st.sampled_from(
    ["16Gi", "500m", "/shared", "gs://bucket/x", "kubeflow", "vertex", "NVIDIA_L4", "Equal", "auto"]
)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | _WORDS
_ANYTHING = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
_ANY_SETTINGS = st.dictionaries(
    st.sampled_from([*STEPS, "target", "checkpoints", "events"]),
    _ANYTHING | st.dictionaries(st.sampled_from(KEYS), _ANYTHING, max_size=4),
    max_size=4,
)

_NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
_VALUES = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)
_VARIABLES = st.from_regex(r"X_[A-F0-9_]{1,12}", fullmatch=True)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with some of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


_RETRY = some(
    times=st.integers(0, 20),
    pause_s=st.integers(1, 3600),
    factor=st.integers(1, 10),
    window_s=st.integers(60, 3600),
)
_COMMON = {
    "cpu": st.sampled_from(["1", 2, 0.5, "250m", "3.5"]),
    "memory": st.sampled_from(["8Gi", "9000Mi", "40G", "70000M"]),
    "env": st.dictionaries(_VARIABLES, st.text("abc XYZ09-./", max_size=12), max_size=3),
    "cache": st.booleans(),
    "retry": _RETRY,
}
_KUBEFLOW_STEP = some(
    **_COMMON,
    cpu_request=st.just("100m"),
    memory_request=st.sampled_from(["256Mi", "300M"]),
    gpu=some(count=st.integers(0, 64), resource=st.sampled_from(["nvidia.com/gpu", "amd.com/gpu"])),
    shm=st.sampled_from(["64Mi", "250M"]),
    node_selector=st.dictionaries(_NAMES, _VALUES, max_size=2),
    tolerations=st.lists(
        some(key=_NAMES, effect=st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"])), max_size=3
    ),
    secret_env=st.dictionaries(
        _VARIABLES.map("S{}".format), st.fixed_dictionaries({"secret": _NAMES, "key": _VALUES}), max_size=2
    ),
    labels=st.dictionaries(_NAMES, _VALUES, max_size=2),
    annotations=st.dictionaries(_NAMES, st.text("abc XYZ09-./", max_size=20), max_size=2),
    pull_secrets=st.lists(_NAMES, max_size=2),
    pull_policy=st.sampled_from(["Always", "IfNotPresent", "Never"]),
    timeout_s=st.integers(1, 10**6),
    security=some(run_as_user=st.integers(1, 10**6), run_as_non_root=st.booleans()),
)
_VERTEX_STEP = some(
    **_COMMON,
    accelerator=st.sampled_from(
        [
            {"type": kind, "count": count}
            for kind, machines in ACCELERATORS.items()
            for count, machine in machines.items()
            if machine.cpus >= 4 and machine.memory_gb >= 72
        ]
    ),
)
_SOUND: Mapping[PlatformName, st.SearchStrategy[dict[str, Any]]] = {
    "kubeflow": some(
        **dict.fromkeys(STEPS, _KUBEFLOW_STEP),
        checkpoints=st.sampled_from(["s3://bucket/c", "auto"]),
        events=st.sampled_from(["s3://bucket/e", "gs://bucket/e", "auto"]),
    ),
    "vertex": some(
        **dict.fromkeys(STEPS, _VERTEX_STEP),
        checkpoints=st.sampled_from(["gs://bucket/c", "auto"]),
        events=st.sampled_from(["gs://bucket/e", "auto"]),
    ),
}


def shown(target: PlatformName, said: Any, directory: Path) -> tuple[int, str, str]:
    """The exit code of `shutterline settings`, and what it wrote to its two outputs."""
    (directory / "settings.yaml").write_text(said if isinstance(said, str) else yaml.safe_dump(said))
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["settings", "--target", target, "--settings", str(directory / "settings.yaml")])
    return code, out.getvalue(), err.getvalue()


@pytest.mark.slow
@settings(max_examples=150)
@given(target=st.sampled_from(["kubeflow", "vertex"]), said=_ANY_SETTINGS)
@example(target="kubeflow", said={"target": ["kubeflow"]})
@example(target="kubeflow", said={"train": {"retry": {"pause_s": None}}})
@example(target="vertex", said={"every-step": {"accelerator": {"type": ["NVIDIA_L4"]}}})
def test_no_settings_end_in_a_traceback(target: PlatformName, said: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        code, out, err = shown(target, said, Path(directory))

    assert (code, bool(out)) in ((0, True), (2, False))
    if code == 0:
        assert all(line.startswith("warning: ") for line in err.splitlines())
    else:
        assert err.startswith("error: ")


@settings(max_examples=40)
@given(target=st.sampled_from(["kubeflow", "vertex"]), data=st.data())
def test_what_is_printed_of_sound_settings_is_accepted_and_means_the_same(
    target: PlatformName, data: st.DataObject
) -> None:
    said = data.draw(_SOUND[target])
    with tempfile.TemporaryDirectory() as directory:
        code, out, err = shown(target, said, Path(directory))
        assert code == 0
        assert all(line.startswith("warning: ") for line in err.splitlines())
        again = shown(target, out, Path(directory))

    assert again == (0, out, err)


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_what_is_printed_compiles_to_the_same_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: PlatformName
) -> None:
    said = {"every-step": {"env": {"B": "2", "A": "1"}, "retry": {"times": 3}}, "train": {"cpu": 3}}
    file = write_settings(tmp_path / "settings.yaml", said)
    capsys.readouterr()
    assert main(["settings", "--target", target, "--settings", str(file)]) == 0
    again = write_settings(tmp_path / "printed.yaml", capsys.readouterr().out)

    first, second = (
        compile_file(target, settings_file, tmp_path / f"{settings_file.stem}-pipeline.yaml")
        for settings_file in (file, again)
    )

    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("kubeflow", {"train": {"gpu": None, "shm": None, "retry": None}}),
        ("vertex", {"checkpoints": None, "train": {"accelerator": None, "cache": None}}),
    ],
)
def test_what_was_taken_away_is_printed_as_null_and_stays_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: PlatformName, said: dict[str, Any]
) -> None:
    once = printed(target, capsys, "--settings", write_settings(tmp_path / "settings.yaml", said))
    (tmp_path / "printed.json").write_text(json.dumps(once))

    assert once["train"] | said["train"] == once["train"]
    assert printed(target, capsys, "--settings", tmp_path / "printed.json") == once
