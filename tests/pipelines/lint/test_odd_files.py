"""Whatever a file holds, as long as it loads: findings, and never a traceback."""

from __future__ import annotations

import copy
import datetime
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.shared.errors import InputError
from pipelines.compiled import PLATFORMS, PlatformName, read_compiled
from pipelines.lint.finding import Finding
from pipelines.lint.rules import RULES, lint
from pipelines.lint.view import View
from tests.pipelines.lint.bases import Pipeline
from tests.pipelines.lint.found import FOUND

Way = tuple[str | int, ...]

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "/", "{{$.inputs}}", "0s", "1Gi", "gs://b", "*", "a/b", "@sha256:", ":", "[", "{", "-"]),
    st.just(datetime.date(2026, 11, 24)),
    st.just(b"\xff"),
    st.builds(list),
    st.builds(dict),
    st.lists(st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=5), st.integers()), st.one_of(st.integers(), st.none()), max_size=3),
)


def ways(value: Any, way: Way = ()) -> list[Way]:
    """The way to everything a document holds."""
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [way, *(found for key, item in inner for found in ways(item, (*way, key)))]


def replaced(document: Any, way: Way, value: Any) -> None:
    for key in way[:-1]:
        document = document[key]
    document[way[-1]] = value


def removed(document: Any, way: Way) -> None:
    for key in way[:-1]:
        document = document[key]
    del document[way[-1]]


def base(target: PlatformName) -> Pipeline:
    pipeline = Pipeline(target)
    for case in FOUND.values():
        # One that has much of what rules look at.
        if case.target == target and case.rule in ("pod-conflicts", "names", "credentials-file", "limits"):
            case.change(pipeline)
    # A case's own values are not to be changed.
    pipeline.spec, pipeline.second = copy.deepcopy((pipeline.spec, pipeline.second))
    return pipeline


def written(
    pipeline: Pipeline, file: Path, targets: tuple[PlatformName | None, ...] = (None, *PLATFORMS)
) -> list[Finding]:
    try:
        compiled = read_compiled(pipeline.write(file))
    except InputError:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [finding for target in targets for finding in lint(compiled, target)]


@pytest.mark.slow
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), target=st.sampled_from(PLATFORMS))
def test_no_change_of_a_file_ends_in_a_traceback(tmp_path: Path, data: st.DataObject, target: PlatformName) -> None:
    pipeline = base(target)
    for _ in range(data.draw(st.integers(1, 4))):
        document = data.draw(st.sampled_from([part for part in (pipeline.spec, pipeline.second) if part]))
        way = data.draw(st.sampled_from(ways(document)[1:] or [()]))
        if not way:
            continue
        if data.draw(st.booleans()):
            replaced(document, way, data.draw(ODD))
        else:
            removed(document, way)

    for finding in written(pipeline, tmp_path / "pipeline.yaml"):
        assert finding.rule in {rule.id for rule in RULES}
        assert finding.severity in ("error", "warning")
        assert all((finding.where, finding.message, finding.advice))


@pytest.mark.parametrize("odd", [None, 5, "text", [None], {1: 2}], ids=str)
def test_no_part_need_be_what_it_should(tmp_path: Path, odd: Any) -> None:
    whole = base("kubeflow")
    keys = {str(way[-1]) for document in (whole.spec, whole.second or {}) for way in ways(document)[1:]}
    assert len(keys) > 100
    for key in sorted(keys):
        pipeline = base("kubeflow")
        for document in (pipeline.spec, pipeline.second or {}):
            for way in [way for way in ways(document)[1:] if str(way[-1]) == key]:
                try:
                    replaced(document, way, odd)
                except (KeyError, TypeError, IndexError):  # what held it was replaced already
                    continue
        written(pipeline, tmp_path / "pipeline.yaml", ("kubeflow",))


def test_a_component_that_is_made_of_itself_is_gone_through_once(tmp_path: Path) -> None:
    pipeline = Pipeline("vertex")
    before = len(View(read_compiled(pipeline.write(tmp_path / "pipeline.yaml")), None).steps)
    dag = pipeline.spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    dag["again"] = {"componentRef": {"name": "comp-exit-handler-1"}}

    after = read_compiled(pipeline.write(tmp_path / "pipeline.yaml"))

    assert len(View(after, None).steps) == before == 4
    assert ("dangling-reference", "components.comp-exit-handler-1") in {
        (finding.rule, finding.where) for finding in lint(after, None)
    }


def test_components_that_multiply_are_gone_through_for_a_while_and_no_longer(tmp_path: Path) -> None:
    spec: dict[str, Any] = {
        "pipelineInfo": {"name": "p"},
        "root": {"dag": {"tasks": {"a": {"componentRef": {"name": "c0"}}}}},
        "deploymentSpec": {"executors": {"e": {"container": {"image": "i"}}}},
        "components": {
            f"c{n}": {"dag": {"tasks": {key: {"componentRef": {"name": f"c{n + 1}"}} for key in "abcdefgh"}}}
            for n in range(30)
        },
    }
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(spec))

    assert lint(read_compiled(file), None)
