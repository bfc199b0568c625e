from __future__ import annotations

import re
from pathlib import Path

from tests.mended import LINES


def test_every_line_of_the_table_has_a_test() -> None:
    files = Path(__file__).parent.rglob("*.py")
    marked = {int(line) for file in files for line in re.findall(r"mark\.mended\(\s*(\d+)", file.read_text())}
    assert marked == set(LINES)
