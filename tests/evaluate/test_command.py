from __future__ import annotations

import json
import subprocess
import sys

import pytest

from components.evaluate.__main__ import main
from components.evaluate.evaluate import evaluate
from components.shared.artifacts.evaluation import open_evaluation
from tests.evaluate.conftest import Parts

# The evaluation image has none of these.
WITHOUT_OTHERS = """
import sys
for name in ("torch", "torchvision", "safetensors", "kfp", "sklearn", "scipy", "pandas"):
    sys.modules[name] = None
from components.evaluate.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_evaluates_without_torch_scikit_learn_and_kfp(parts: Parts) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_OTHERS, *parts.command("--json")],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "succeeded"
    assert open_evaluation(parts.evaluation).manifest.images == 50


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from components.evaluate.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'PIL', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "--evaluation PLACE" in done.stdout


def test_json_is_one_document(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(parts.command("--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["step"], document["status"]) == ("evaluate", "succeeded")
    manifest = open_evaluation(parts.evaluation).manifest
    assert document["report"]["metrics"] == manifest.metrics


def test_without_json_nothing_is_printed_to_standard_output(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(parts.command("--set", "eval_metric_compute_freq=batch", "--set", "eval_batch_size=25")) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "evaluate  batch 2/2  loss " in printed.err
    assert f"evaluate  report: {parts.evaluation / 'report.html'}" in printed.err


def test_the_report_names_the_run(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", "run-42")
    assert main(parts.command()) == 0
    assert (
        '<h1>Evaluation of run <bdi class="whole">run-42</bdi></h1>' in (parts.evaluation / "report.html").read_text()
    )
    evaluate(**parts.arguments())  # by itself, not as a step
    assert "<h1>Evaluation</h1>" in (parts.evaluation / "report.html").read_text()


@pytest.mark.parametrize("missing", ["--model", "--dataset", "--evaluation", "--params"])
def test_every_directory_is_needed(parts: Parts, capsys: pytest.CaptureFixture[str], missing: str) -> None:
    command = parts.command()
    at = command.index(missing)
    with pytest.raises(SystemExit) as end:
        main(command[:at] + command[at + 2 :])
    assert end.value.code == 2
    assert missing in capsys.readouterr().err
