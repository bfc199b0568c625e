"""The table of what a real cluster showed names tests that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "tests" / "peers" / "trainer" / "README.md"


def test_each_row_names_tests_that_are_there_or_says_that_it_was_not_tried_again() -> None:
    _, _, table = README.read_text("utf-8").partition("| what | 0.5.0 | now | test |\n|---|---|---|---|\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert len(rows) > 30
    for what, _, now, tests in rows:
        named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", tests)
        assert named or now == "not tried again" or what.startswith("**"), what
        assert tests.count("`") == 2 * len(named), what
        for file, name in named:
            tree = ast.parse((ROOT / file).read_text("utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"
