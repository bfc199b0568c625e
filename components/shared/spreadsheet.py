"""Texts in CSV files that a spreadsheet may open."""

from __future__ import annotations

import re

# What a spreadsheet takes for a formula, which may run a program (OWASP, CSV injection); and the apostrophe itself, so
# that no two names become one.
_FORMULA = re.compile("(?:^|(?<=;))(?=[\" ]*[=+\\-@'\uff1d\uff0b\uff0d\uff20])")


def as_cell(name: str) -> str:
    """A name as a spreadsheet shows it: what begins as a formula does gets an apostrophe before it.

    So does what follows a semicolon, at which a spreadsheet of many countries divides cells, quotes or not.
    """
    return _FORMULA.sub("'", name)
