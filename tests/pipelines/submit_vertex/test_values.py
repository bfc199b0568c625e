"""Values of a run's inputs, of a compiled pipeline that somebody else may have written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipelines.cli import main
from pipelines.compiled import CompiledPipeline
from tests.examples import SMALL
from tests.pipelines.submit_vertex.conftest import DATA

WHERE = ["--project", "my-project", "--location", "us-central1", "--staging-bucket", "gs://bucket"]


def submitted(compiled: CompiledPipeline, params: str) -> int:
    """Submit a pipeline whose own params are this text, with one of them changed."""
    compiled.spec["root"]["inputDefinitions"]["parameters"]["params"]["defaultValue"] = params
    compiled.file.write_text(yaml.safe_dump(compiled.spec))
    options = [*WHERE, "--data", DATA, "--set", "num_epochs=7", "--unchecked", "--dry-run"]
    return main(["submit", str(compiled.file), *options])


@pytest.mark.parametrize("kind", ["py", "json", "yaml"])
def test_a_file_that_a_pipeline_names_in_the_place_of_its_params_is_not_read(
    compiled: CompiledPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    ran, named = tmp_path / "ran", tmp_path / f"params.{kind}"
    code = f"from pathlib import Path\nPath({str(ran)!r}).touch()\nparams = {SMALL!r}\n"
    named.write_text(code if kind == "py" else json.dumps(SMALL))
    capsys.readouterr()

    assert submitted(compiled, str(named)) == 2

    out, err = capsys.readouterr()
    assert err.startswith(f"error: {compiled.file}: its params: is not JSON: ")
    assert (out, err.count("\n")) == ("", 1)
    assert not ran.exists()


def test_a_text_is_changed(compiled: CompiledPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()

    assert submitted(compiled, json.dumps(SMALL)) == 0

    _, request = json.loads(capsys.readouterr().out)["requests"]
    sent = request["body"]["runtimeConfig"]["parameterValues"]["params"]
    assert json.loads(sent)["num_epochs"] == 7
