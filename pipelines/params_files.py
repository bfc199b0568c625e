"""Params as the shutterline command takes them: also from a Python file, and checked with torch where it is there.

A Python file is code, and is run as its owner would run it. Only this command does so, at a person's desk; containers
and compiled pipelines take data alone.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared import params_source
from components.shared.params import Params, ParamsWarning, read_raw
from components.shared.params_types import first_line

if TYPE_CHECKING:
    from components.classifier.network import LayerTable

EXAMPLES = Path(__file__).parent / "examples"
EXAMPLE_PARAMS = EXAMPLES / "digits.json"
EXAMPLE_DATA = EXAMPLES / "digits"


class Checked:
    """Params that passed every check this installation can make.

    Attributes:
        params: The params.
        table: The network's layer table; None where torch is not installed.
        warnings: What has no effect.
    """

    def __init__(self, params: Params, table: LayerTable | None, ignored: list[str]) -> None:
        self.params = params
        self.table = table
        self.warnings = ignored


def load_checked(source: str, overrides: Sequence[str]) -> Checked:
    """Read params from a ``.json``, ``.yaml`` or ``.py`` file or a JSON text, and check them.

    Raises:
        ParamsError: With every problem found.
    """
    raw, name = read_python(Path(source)) if source.endswith(".py") else read_raw(source)
    raw = params_source.with_overrides(raw, overrides)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ParamsWarning)
        if importlib.util.find_spec("torch") is None:
            params, table = Params.from_dict(raw, name), None
        else:
            from components.classifier.check import check_dict

            params, table = check_dict(raw, name)
    ignored = [str(warning.message) for warning in caught if issubclass(warning.category, ParamsWarning)]
    return Checked(params, table, ignored)


def read_python(path: Path) -> tuple[dict[str, Any], str]:
    """The dict ``params`` of a Python file; the name ``torch`` is there without an import.

    Raises:
        ParamsError: The file is not there, fails, or leaves no dict of that name.
    """
    name = str(path)
    if not path.is_file():
        params_source.fail("there is no such file", name)
    given = {}
    if importlib.util.find_spec("torch") is not None:
        import torch

        given["torch"] = torch
    sys.path.insert(0, str(path.parent))
    try:
        found = runpy.run_path(name, init_globals=given).get("params")
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        params_source.fail(f"fails when it is run: {type(error).__name__}: {first_line(error)}", name)
    finally:
        sys.path.remove(str(path.parent))
    if not isinstance(found, dict):
        params_source.fail("defines no dict called params", name)
    return found, name
