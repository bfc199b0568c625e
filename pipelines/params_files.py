"""Params as the shutterline command takes them: also from a Python file, and checked with torch where it is installed.

A Python file is code, and is run as its owner would run it. Only this command does so, at a person's desk; containers
and compiled pipelines take data alone.
"""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.artifacts.model import onnx_file, onnx_of, open_model
from components.shared.errors import ArtifactError, InputError, ParamsError
from components.shared.files import require_writable
from components.shared.params.params import Params, parse
from components.shared.params.parsed import Parsed
from components.shared.params.source import fail, from_json, read_raw, with_overrides
from components.shared.storage.location import AnyPath, lies_within, parse_location
from components.shared.text import first_line

if TYPE_CHECKING:
    from components.classifier.network import LayerTable

EXAMPLES = Path(__file__).parent / "examples"
EXAMPLE_PARAMS = EXAMPLES / "digits.json"
EXAMPLE_DATA = EXAMPLES / "digits"
# Linux takes 131,072 bytes for one argument. In it are the params, as a text within JSON, and where every artifact is.
MAX_ARGUMENT = 100 * 1024
# What has to be set anew for other data than the example's.
OF_THE_DATA = ("image_height", "image_width", "is_image_color", "n_classes", "net_arch")
HOW_TO_GET_PARAMS = "`shutterline init --data DIR` writes params.yaml for the images there; add --params params.yaml"


@dataclass(frozen=True)
class Checked:
    """Params that passed every check this installation can make.

    Attributes:
        table: The network's layers; None where torch is not installed.
        warnings: What has no effect.
    """

    params: Params
    table: LayerTable | None
    warnings: Sequence[str]


def is_own(data: str | None) -> bool:
    """Whether data are given, and others than the example's."""
    return data is not None and Path(data).resolve() != EXAMPLE_DATA.resolve()


def params_or_example(params: str | None, data: str | None = None, option: str = "--data") -> str:
    """What ``--params`` names; without it the example's params, which are for the example's data alone.

    Raises:
        InputError: There are data of one's own, given by `option`, and no ``--params``.
    """
    if params is None and is_own(data):
        raise InputError(
            f"{option} needs --params: without it the example's digits decide the network; {HOW_TO_GET_PARAMS}"
        )
    return params or str(EXAMPLE_PARAMS)


def are_example(text: str) -> bool:
    """Whether the network and the images of params, a JSON text, are the example's; of what are no params: no."""
    example = Params.load(EXAMPLE_PARAMS)
    try:
        params = parse(from_json(text)).params
    except ParamsError:
        return False
    return all(getattr(params, key, None) == getattr(example, key) for key in OF_THE_DATA)


def read_params(source: str, overrides: Sequence[str]) -> Parsed:
    """Params of a ``.json``, ``.yaml`` or ``.py`` file or a JSON text, read without a look at the network.

    Raises:
        ParamsError: It cannot be read, or an override does not fit it.
    """
    if not source.endswith(".py"):
        return parse(*read_raw(source, overrides))
    return parse(with_overrides(_read_python(Path(source)), overrides), source)


def load_checked(source: str, overrides: Sequence[str]) -> Checked:
    """As :func:`read_params`, and checked."""
    return check_params(read_params(source, overrides))


def check_params(parsed: Parsed) -> Checked:
    """Check params with torch where it is installed.

    Raises:
        ParamsError: With every problem found, or too large for a pipeline, which gives them to its steps inside one
            argument of a command.
    """
    if importlib.util.find_spec("torch") is None:
        found = Checked(parsed.sound(), None, parsed.notes)
    else:
        from components.classifier.check import check

        checked = check(parsed)
        found = Checked(checked.params, checked.table, checked.notes)
    size = max(len(json.dumps(text)) for text in (found.params.to_json(), found.params.to_form()))
    if size > MAX_ARGUMENT:
        fail(
            f"take {size:,} bytes as an argument of a pipeline's step, and at most {MAX_ARGUMENT:,} reach it; write "
            "many layers of net_arch as one class of a module of yours (SHUTTERLINE_MODULES), or run the steps by "
            "python -m components.…, whose --params FILE may be larger",
            parsed.source,
        )
    return found


def locations_of(params: Params) -> dict[str, AnyPath]:
    """Where the params have something read from, or published to, by the keys that name it."""
    named = {key: getattr(params, key) for key in ("initial_weights", "baseline", "publish_uri")}
    return {key: parse_location(value) for key, value in named.items() if value}


def require_inputs(params: Params, source: str) -> None:
    """Require that ``initial_weights`` and ``baseline`` are there and can be used; a bucket is not asked."""
    here = {key: where for key, where in locations_of(params).items() if isinstance(where, Path)}
    for key, what in (("initial_weights", "file or model directory"), ("baseline", "model directory")):
        if key in here and not here[key].exists():
            fail(f"{here[key]}: there is no such {what} on this machine", source, key)
    if "baseline" in here:
        _require_comparable(here["baseline"], params, source)


def _require_comparable(where: Path, params: Params, source: str) -> None:
    """Refuse a baseline that evaluation would refuse, when the training is paid for."""
    try:
        baseline = open_model(where, onnx_file).manifest
        onnx_of(baseline, where)
    except ArtifactError as error:
        fail(str(error), source, "baseline")
    ours, theirs = (params.n_classes, *params.stored_shape), (len(baseline.classes), *baseline.resized.as_tuple())
    for key in ("image_fit", "image_interpolation"):
        if (of_baseline := getattr(baseline, key)) != (wanted := getattr(params, key)):
            fail(f"{where}: is a model of {key} {of_baseline}, and the params say {wanted}", source, "baseline")
    if ours != theirs:
        spelled = ("{} classes of {} × {} pixels in {} channel(s)".format(*each) for each in (theirs, ours))
        fail(f"{where}: is a model of {next(spelled)}, and the params are of {next(spelled)}", source, "baseline")


def require_destination(params: Params, data: AnyPath) -> None:
    """Require that models can be published where ``publish_uri`` says, and not into the data; a bucket is not asked."""
    where = locations_of(params).get("publish_uri")
    if where is not None and lies_within(where, data):
        raise InputError(f"publish_uri {where}: is in the data, {data}, where the next run would read it")
    if isinstance(where, Path):
        require_writable("publish_uri", where)


def _read_python(path: Path) -> dict[str, Any]:
    """The dict ``params`` of a Python file; the name ``torch`` is there without an import."""
    name = str(path)
    if not path.is_file():
        fail("there is no such file", name)
    given = {}
    if importlib.util.find_spec("torch") is not None:
        import torch

        given["torch"] = torch
    sys.path.insert(0, str(path.parent))
    try:
        with redirect_stdout(sys.stderr):  # what the file prints is not what the command prints
            found = runpy.run_path(name, init_globals=given).get("params")
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        fail(f"fails when it is run: {type(error).__name__}: {first_line(error)}", name)
    finally:
        sys.path.remove(str(path.parent))
    if not isinstance(found, dict):
        fail("defines no dict called params", name)
    return found
