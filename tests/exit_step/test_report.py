from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.exit_step.__main__ import main
from components.exit_step.report import OUTCOMES, report_end
from components.shared.errors import InputError
from tests.examples import write_params


@pytest.mark.parametrize(("state", "outcome"), [*OUTCOMES.items(), ("Succeeded", "succeeded")])
def test_every_platforms_word_has_one_meaning(state: str, outcome: str) -> None:
    assert report_end(state=state).outcome == outcome


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(InputError, match="'DONE' is not a final state"):
        report_end(state="DONE")


def test_a_steps_own_error_is_told_before_the_platforms(tmp_path: Path) -> None:
    record = {"step": "train", "status": "failed", "seconds": 1.0, "error": {"type": "X", "message": "no room"}}
    (tmp_path / "train.json").write_text(json.dumps(record))
    (tmp_path / "broken.json").write_text("{")

    end = report_end(state="FAILED", message="Task failed.", records=tmp_path)

    assert end.reason == "train: no room"
    assert end.steps == {"train": "failed"}
    assert report_end(state="FAILED", message="Task failed.").reason == "Task failed."
    assert report_end(state="FAILED").reason == "the platform gave no reason"


def test_the_command_line_says_it_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = write_params(tmp_path / "params.json")

    assert main(["--state", "COMPLETE", "--params", str(params), "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["report"]["outcome"] == "succeeded"
