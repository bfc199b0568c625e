"""One process of a group: what the environment says, and how it hands over its end."""

from __future__ import annotations

import logging
import re
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from components.shared import process_group as module
from components.shared.errors import DivergedError, GroupLostError, InputError, ParamsError, Problem
from components.shared.logs import log_to_stderr, step_logger
from components.shared.process_group import (
    Member,
    error_of,
    forget_outcome,
    has_restarted_clean,
    leave_outcome,
    mark_end,
    member,
    note_restarted_clean,
    outcome_in,
    require_rendezvous,
    settled,
    should_report,
)


@pytest.fixture(autouse=True)
def _second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")


def test_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert member() == Member(rank=1, size=2, local_rank=1, local_size=2, restarts=1)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name)
    assert member() == Member()


def test_what_is_missing_to_find_the_others_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node-0")
    monkeypatch.delenv("MASTER_PORT", raising=False)

    with pytest.raises(InputError, match="WORLD_SIZE is 2, and MASTER_PORT is not set"):
        require_rendezvous()

    monkeypatch.setenv("MASTER_PORT", "29500")
    require_rendezvous()
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(InputError, match="RANK is 2, and must be less than WORLD_SIZE, which is 2"):
        require_rendezvous()


def test_an_error_is_told_by_one_process_or_by_the_one_that_has_it() -> None:
    error = InputError("no")

    assert not should_report(error), "before they have found each other: the first of a node tells it"
    mark_end(error, ends_together=False)
    assert should_report(error), "this process's own"
    assert not should_report(GroupLostError("another one's"))
    mark_end(error, ends_together=True)
    assert not should_report(error), "every process's"


def test_of_ends_the_one_counts_that_starting_again_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(module.OUTCOMES_VARIABLE, str(tmp_path))
    lost = {"error": {"type": "GroupLostError", "message": "lost"}}
    diverged = {"error": {"type": "DivergedError", "message": "nan"}}
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert leave_outcome(lost, 1) == 1
    assert settled() is None
    forget_outcome()
    assert outcome_in(tmp_path) is None

    assert leave_outcome(lost, 1) == 1
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert leave_outcome(diverged, 1) == 1

    outcome = outcome_in(tmp_path)
    assert outcome is not None
    assert outcome.document == diverged
    assert settled() is not None
    error = DivergedError("nan")
    mark_end(error, ends_together=True)
    assert leave_outcome(diverged, 1, error) == 0, "torch elastic has nothing to do where all end alike"


def test_errors_travel_whole_between_processes() -> None:
    error = ParamsError([Problem("batch_size", "must be at least 1"), Problem("", "no")], "p.json")

    other = copy(error)  # as pickle does it

    assert (str(other), other.problems, other.source) == (str(error), error.problems, "p.json")


def test_the_others_log_what_is_wrong_and_who_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger("shutterline").level
    try:
        log_to_stderr()
        step_logger("train").info("started")
        step_logger("train").warning("odd")
    finally:
        logging.getLogger("shutterline").setLevel(before)

    assert capsys.readouterr().err.split(maxsplit=1)[1] == "train     WARNING rank 1: odd\n"


def test_what_was_begun_anew_is_not_begun_anew_by_later_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_restarted_clean(), "without a launcher: by any earlier start"
    note_restarted_clean()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not has_restarted_clean()

    monkeypatch.setenv(module.OUTCOMES_VARIABLE, str(tmp_path))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not has_restarted_clean(), "the first start ended before it had saved anything"
    note_restarted_clean()
    assert has_restarted_clean()
    assert outcome_in(tmp_path) is None, "a mark is no outcome"
    assert settled() is None
    assert has_restarted_clean()


@pytest.mark.parametrize(
    ("document", "exit_code", "kind", "message"),
    [
        (
            {"type": "ParamsError", "message": "…", "source": "p.json",
             "problems": [{"path": "batch_size", "message": "does not fit; 16 would"}]},
            2, ParamsError, r"p\.json: batch_size: does not fit; 16 would",
        ),
        ({"type": "DivergedError", "message": "nan"}, 1, DivergedError, "nan"),
        ({"type": "OddError", "message": "odd"}, 2, InputError, "odd"),
    ],
)  # fmt: skip
def test_what_one_node_knows_for_good_all_end_with(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    document: dict[str, Any],
    exit_code: int,
    kind: type[Exception],
    message: str,
) -> None:
    monkeypatch.setenv(module.OUTCOMES_VARIABLE, str(tmp_path))
    assert leave_outcome({"error": document}, exit_code) == exit_code

    outcome = settled()
    assert outcome is not None
    error = error_of(outcome)
    assert type(error) is kind
    assert re.search(message, str(error))
    mark_end(error, ends_together=True)
    assert leave_outcome({"error": document}, exit_code, error) == 0, "torch elastic starts nothing again"
