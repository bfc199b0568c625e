"""Every rule, by a file that has what it looks for and one that only seems to."""

from __future__ import annotations

import re

import pytest

import pipelines.lint.rules
from pipelines.compiled import PLATFORMS, PlatformName
from pipelines.lint.rules import RULES
from tests.pipelines.lint.bases import Pipeline, findings
from tests.pipelines.lint.cases import AWS_KEY, PRIVATE_KEY, accelerator, both, env, foreign, image, option, params
from tests.pipelines.lint.found import FOUND
from tests.pipelines.lint.sound import SOUND


def test_every_rule_has_a_file_that_has_it_and_one_that_has_not() -> None:
    rules = {rule.id for rule in RULES}
    assert {case.rule for case in FOUND.values()} == rules
    assert {case.rule for case in SOUND.values()} == rules


def test_every_rule_is_documented() -> None:
    rows = re.findall(r"^([a-z-]+)  +(\S.*)$", pipelines.lint.rules.__doc__ or "", flags=re.MULTILINE)
    assert rows == [("rule", "looks for"), *((rule.id, rule.title) for rule in RULES)]
    assert all(rule.check.__doc__ for rule in RULES)


@pytest.mark.parametrize("target", PLATFORMS)
def test_what_compile_writes_is_sound(target: PlatformName) -> None:
    assert findings(Pipeline(target)) == []


@pytest.mark.parametrize("name", FOUND)
def test_it_is_found(name: str) -> None:
    case = FOUND[name]
    pipeline = Pipeline(case.target)
    case.change(pipeline)

    found = [
        (finding.severity, finding.where) for finding in findings(pipeline, case.target) if finding.rule == case.rule
    ]

    assert found == [(case.severity, case.where)]


@pytest.mark.parametrize("name", SOUND)
def test_it_is_not_found_where_it_is_not(name: str) -> None:
    case = SOUND[name]
    pipeline = Pipeline(case.target)
    case.change(pipeline)

    assert [finding for finding in findings(pipeline, case.target) if finding.rule == case.rule] == []


@pytest.mark.parametrize("name", FOUND)
def test_a_finding_says_what_and_what_to_do_and_shows_no_secret(name: str) -> None:
    case = FOUND[name]
    pipeline = Pipeline(case.target)
    case.change(pipeline)

    for finding in findings(pipeline, case.target):
        assert finding.message
        assert finding.advice
        for secret in ("hunter2!", AWS_KEY, "0f" * 20, PRIVATE_KEY.splitlines()[1]):
            assert secret not in str(finding)


def test_a_secret_that_the_parser_quotes_is_not_shown() -> None:
    pipeline = Pipeline("vertex")
    both(env("DB_PASSWORD", "correct horse"), lambda p: p.task("train")["retryPolicy"].update(
        maxRetryCount="correct horse"))(pipeline)  # fmt: skip

    found = findings(pipeline)

    assert {finding.rule for finding in found} >= {"ir-schema", "secret-value"}
    assert "correct horse" not in str(found)


def test_errors_come_first_and_in_the_order_of_the_rules() -> None:
    pipeline = Pipeline("kubeflow")
    both(accelerator("NVIDIA_L4"), env("PASSWORD", "x" * 9), option("a"), params(batch_siz="3"))(pipeline)
    both(foreign("train"), foreign("evaluate"))(pipeline)
    pipeline.container("train")["image"] = "registry.example/train:1.0"

    found = [(finding.rule, finding.where.split(".")[-2]) for finding in findings(pipeline)]

    assert found == [
        ("secret-value", "env[1]"),
        ("params", "params"),
        ("foreign-accelerator", "accelerator"),
        ("unpinned-image", "container"),
        ("security", "exec-evaluate"),
        ("security", "exec-train"),
    ]


def test_the_target_that_is_asked_for_goes_before_the_files_own() -> None:
    assert findings(Pipeline("kubeflow")) == []

    rules = {finding.rule for finding in findings(Pipeline("kubeflow"), "vertex")}

    assert {"foreign-platform", "foreign-accelerator", "vertex-limits"} <= rules


def test_without_a_target_mixed_accelerators_are_found() -> None:
    pipeline = Pipeline("vertex")
    accelerator("nvidia.com/gpu")(pipeline)
    asked = {"type": "NVIDIA_L4", "count": "1"}
    pipeline.resources("evaluate")["accelerator"] = asked
    for executor in pipeline.spec["deploymentSpec"]["executors"].values():
        executor["container"].pop("env")

    found = [finding.where for finding in findings(pipeline) if finding.rule == "foreign-accelerator"]

    assert found == ["deploymentSpec.executors"]


def test_a_short_word_that_is_a_secret_does_not_blot_out_where_it_is() -> None:
    pipeline = Pipeline("vertex")
    env("TRAIN_TOKEN", "train")(pipeline)

    assert [(finding.rule, finding.where) for finding in findings(pipeline)] == [
        ("secret-value", "deploymentSpec.executors.exec-train.container.env[1].value")
    ]


def test_an_image_that_names_a_login_is_not_shown_with_it() -> None:
    pipeline = Pipeline("vertex")
    image("user:hunter2!@registry.example/train:1.0")(pipeline)

    found = [finding for finding in findings(pipeline) if finding.rule == "unpinned-image"]

    assert [finding.message for finding in found] == ["…@registry.example/train:1.0 is no name of an image"]
    assert "hunter2!" not in str(findings(pipeline))


@pytest.mark.parametrize(("kind", "target"), [("nvidia.com/gpu", "kubeflow"), ("NVIDIA_L4", "vertex")])
def test_a_file_that_does_not_say_is_known_by_its_accelerators(kind: str, target: PlatformName) -> None:
    pipeline = Pipeline("vertex")
    accelerator(kind)(pipeline)
    for executor in pipeline.spec["deploymentSpec"]["executors"].values():
        executor["container"].pop("env")
        executor["container"]["resources"].pop("resourceMemoryLimit")

    assert findings(pipeline) == findings(pipeline, target)
    assert ("shared-memory" in {finding.rule for finding in findings(pipeline)}) == (target == "kubeflow")
