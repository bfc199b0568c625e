"""Settings of any form never end in a traceback, and sound ones are what `shutterline settings` prints of them."""

from __future__ import annotations

import io
import json
import tempfile
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
from tests.pipelines.settings.compiling import printed, write_settings
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


def shown(target: PlatformName, said: Any, directory: Path) -> tuple[int, str, str]:
    """The exit code of `shutterline settings`, and what it wrote to its two outputs."""
    (directory / "settings.yaml").write_text(said if isinstance(said, str) else yaml.safe_dump(said))
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["settings", "--target", target, "--settings", str(directory / "settings.yaml")])
    return code, out.getvalue(), err.getvalue()


@settings(max_examples=30)
@given(target=st.sampled_from(["kubeflow", "vertex"]), said=_ANY_SETTINGS)
@example(target="kubeflow", said={"target": ["kubeflow"]})
@example(target="kubeflow", said={"train": {"retry": {"pause_s": None}}})
@example(target="vertex", said={"every-step": {"accelerator": {"type": ["NVIDIA_L4"]}}})
@example(target="kubeflow", said={"train": {"gpu": None, "labels": {"a": "b"}, "tolerations": [{"key": "a"}]}})
@example(target="vertex", said={"every-step": {"retry": {"times": 3}, "env": {"A": "b"}}, "exit": {"retry": None}})
def test_no_settings_end_in_a_traceback_and_what_is_printed_means_the_same(
    target: PlatformName, said: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        code, out, err = shown(target, said, Path(directory))
        again = shown(target, out, Path(directory)) if code == 0 else None
    assert (code, bool(out)) in ((0, True), (2, False))
    if code == 0:
        assert all(line.startswith("warning: ") for line in err.splitlines())
        assert again == (0, out, err)
    else:
        assert err.startswith("error: ")


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
