"""Params as the shutterline command takes them: also from a Python file, and checked with torch where it is there.

A Python file is code, and is run as its owner would run it. Only this command does so, at a person's desk; containers
and compiled pipelines take data alone.
"""

from __future__ import annotations

import importlib.util
import json
import runpy
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.errors import InputError, ParamsError, Problem, ShutterlineError
from components.shared.params import source as params_source
from components.shared.params.params import Params, ParamsWarning, read_raw
from components.shared.params.types import first_line
from components.shared.storage.location import place

if TYPE_CHECKING:
    from components.classifier.network import LayerTable

EXAMPLES = Path(__file__).parent / "examples"
EXAMPLE_PARAMS = EXAMPLES / "digits.json"
EXAMPLE_DATA = EXAMPLES / "digits"
# Linux takes 131,072 bytes for one argument. In it are the params, as a text within JSON, and where every artifact is.
MAX_ARGUMENT = 100 * 1024
# What has to be set anew for other data than the example's.
OF_THE_DATA = ("image_height", "image_width", "is_image_color", "n_classes", "net_arch")
HOW_TO_GET_PARAMS = (
    "`shutterline params > params.json` writes the example's to begin with; set "
    f"{', '.join(OF_THE_DATA[:-1])} and {OF_THE_DATA[-1]} as your images need them, and add --params params.json"
)


@dataclass(frozen=True)
class Checked:
    """Params that passed every check this installation can make.

    Attributes:
        params: The params.
        table: The network's layer table; None where torch is not installed, or the check ran elsewhere.
        warnings: What has no effect.
    """

    params: Params
    table: LayerTable | None
    warnings: list[str]


def params_or_example(params: str | None, data: str | None = None) -> str:
    """What ``--params`` names; without it the example's params, which are for the example's data alone.

    Args:
        params: ``--params``, if it is given.
        data: ``--data``, if it is given.

    Raises:
        InputError: There is ``--data`` of one's own, and no ``--params``.
    """
    if params is None and data is not None and Path(data).resolve() != EXAMPLE_DATA.resolve():
        raise InputError(
            f"--data needs --params: without it the example's digits decide the network; {HOW_TO_GET_PARAMS}"
        )
    return params or str(EXAMPLE_PARAMS)


def are_example(text: str) -> bool:
    """Whether the network and the images of params, a JSON text, are the example's; of what are no params: no."""
    example = Params.load(str(EXAMPLE_PARAMS))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParamsWarning)
            params = Params.from_dict(params_source.from_json(text, None), None)
    except ParamsError:
        return False
    return all(getattr(params, key) == getattr(example, key) for key in OF_THE_DATA)


class CheckElsewhere:
    """The same check in a process of its own, which goes on while this one imports kfp.

    The process that then waits for a training of hours never holds torch, which takes 400 MB. Where torch is loaded
    already, a second process would only load it again, so the check is made here.

    Args:
        source: As for :func:`load_checked`.
        overrides: As for :func:`load_checked`.
    """

    def __init__(self, source: str, overrides: Sequence[str]) -> None:
        self._checked = load_checked(source, overrides) if "torch" in sys.modules else None
        if self._checked is not None:
            return
        changes = [word for override in overrides for word in ("--set", override)]
        # -P: a file torch.py in the user's directory is not torch.
        command = [sys.executable, "-P", "-m", "pipelines.cli", "validate", source, "--json", "--elsewhere", *changes]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603

    def result(self) -> Checked:
        """Wait for the check.

        Raises:
            ParamsError: With every problem found.
            InputError: The check needs an extra that is not installed.
            ShutterlineError: The check itself broke.
        """
        if self._checked is not None:
            return self._checked
        printed, told = self._process.communicate()
        try:
            document = json.loads(printed)
            if document["status"] == "valid":
                return Checked(Params.from_dict(document["params"]), None, document["warnings"])
            refused = document["error"]
            if refused["type"] == InputError.__name__:
                raise InputError(refused["message"])
            problems = [Problem(problem["path"], problem["message"]) for problem in refused["problems"]]
        except (ValueError, KeyError) as error:
            raise ShutterlineError(f"the check of the params broke off:\n{told.strip()}") from error
        raise ParamsError(problems, refused["source"])


def load_checked(source: str, overrides: Sequence[str]) -> Checked:
    """Read params from a ``.json``, ``.yaml`` or ``.py`` file or a JSON text, and check them.

    Raises:
        ParamsError: With every problem found.
    """
    raw, name = read_python(Path(source)) if source.endswith(".py") else read_raw(source)
    return _checked(raw, name, overrides)


def text_checked(text: str, name: str, overrides: Sequence[str]) -> Checked:
    """Read params from a JSON text, whatever else it looks like, and check them.

    Args:
        text: The text.
        name: What messages call it by.
        overrides: As for :func:`load_checked`.

    Raises:
        ParamsError: With every problem found.
    """
    return _checked(params_source.from_json(text, name), name, overrides)


def _checked(raw: dict[str, Any], name: str | None, overrides: Sequence[str]) -> Checked:
    raw = params_source.with_overrides(raw, overrides)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ParamsWarning)
        if importlib.util.find_spec("torch") is None:
            params, table = Params.from_dict(raw, name), None
        else:
            from components.classifier.check import check_dict

            params, table = check_dict(raw, name)
    _require_argument(params, name)
    ignored = [str(warning.message) for warning in caught if issubclass(warning.category, ParamsWarning)]
    return Checked(params, table, ignored)


def require_weights(params: Params, source: str) -> None:
    """See that the path of ``initial_weights`` is there, before anything starts; a place in a bucket is not asked for.

    Args:
        params: The run's options, which train on this machine.
        source: What messages call them by.

    Raises:
        ParamsError: Nothing is there.
    """
    start = place(params.initial_weights) if params.initial_weights else None
    if isinstance(start, Path) and not start.exists():
        message = f"{start}: there is no such file or model directory on this machine"
        raise ParamsError([Problem("initial_weights", message)], source)


def _require_argument(params: Params, name: str | None) -> None:
    """See that a pipeline can hand the params to its steps, which it does inside one argument of a command."""
    size = max(len(json.dumps(text)) for text in (params.to_json(), params.to_form()))
    if size > MAX_ARGUMENT:
        params_source.fail(
            f"take {size:,} bytes as an argument of a pipeline's step, and at most {MAX_ARGUMENT:,} reach it; write "
            "many layers of net_arch as one class of a module of yours (SHUTTERLINE_MODULES), or run the steps by "
            "python -m components.…, whose --params FILE may be larger",
            name,
        )


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
        with redirect_stdout(sys.stderr):  # what the file prints is not what the command prints
            found = runpy.run_path(name, init_globals=given).get("params")
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        params_source.fail(f"fails when it is run: {type(error).__name__}: {first_line(error)}", name)
    finally:
        sys.path.remove(str(path.parent))
    if not isinstance(found, dict):
        params_source.fail("defines no dict called params", name)
    return found, name
