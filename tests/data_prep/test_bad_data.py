from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from components.data_prep.__main__ import main
from tests.conftest import BAD_INPUT
from tests.data_prep.bad_data import BAD_DATA, PARAMS_JSON, BadData
from tests.data_prep.building import files_of


@pytest.mark.parametrize("bad", BAD_DATA, ids=lambda bad: bad.name)
def test_bad_data_ends_with_one_line_that_says_what_is_wrong(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
    bad: BadData,
) -> None:
    (tmp_path / "in").mkdir()
    data = bad.make(tmp_path / "in")

    code = main(["--data", str(data), "--dataset", str(tmp_path / "out"), "--params", PARAMS_JSON])

    told = capsys.readouterr()
    errors = [line for line in told.err.splitlines() if " ERROR " in line]
    assert code == 2
    assert len(errors) == 1, told.err
    assert bad.expected in errors[0]
    # Nothing but log lines, so no traceback and no second line of a message.
    assert [line for line in told.err.splitlines() if " data-prep " not in line] == []
    assert told.out == ""
    assert not (tmp_path / "out").exists() or files_of(tmp_path / "out") == {}
    message = errors[0].partition(" failed: ")[2].replace(f"{tmp_path}/", "")
    record_property(BAD_INPUT, (f"data: {bad.name}", message))
