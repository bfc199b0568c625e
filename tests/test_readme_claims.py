"""README on data and training: every claim names its tests, and here are those of claims that no other test holds."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from components.data_prep.__main__ import main as data_prep
from components.evaluate.__main__ import main as evaluate
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.model import open_model
from components.train.__main__ import main as train
from components.train.launch import processes_for
from components.train.precision import choose_compiling, choose_precision
from pipelines.cli import main
from pipelines.params_files import EXAMPLE_DATA, EXAMPLES
from tests.examples import small, write_params
from tests.kill.draws import draws_of, runs
from tests.peers.fixtures import gcs_bucket as gcs_bucket
from tests.peers.fixtures import gcs_server as gcs_server
from tests.peers.gcs import GcsBucket
from tests.pipelines.test_readme import README, blocks
from tests.readme_claims import CLAIMS, SECTIONS, WITHOUT_A_CLAIM
from tests.train.trials import trainer_of

GPU = torch.device("cuda")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the three steps leave, of training in bf16."""
    folder = tmp_path_factory.mktemp("made")
    params = ["--params", str(write_params(folder / "params.json", precision="bf16"))]
    where = {name: str(folder / name) for name in ("dataset", "model", "evaluation")}
    assert data_prep(["--data", str(EXAMPLE_DATA), "--dataset", where["dataset"], *params]) == 0
    assert train(["--dataset", where["dataset"], "--model", where["model"], *params]) == 0
    given = ["--model", where["model"], "--dataset", where["dataset"], "--evaluation", where["evaluation"]]
    assert evaluate([*given, *params]) == 0
    return folder


def printed_blocks() -> list[str]:
    """README's blocks of no language: what commands print."""
    return [text for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S) if not language]


def test_the_layer_table_is_what_validate_prints(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = [block for block in printed_blocks() if block.startswith("layer ")]

    assert main(["validate", str(EXAMPLES / "reference.json")]) == 0

    printed = capsys.readouterr().out.splitlines()
    for line in shown.splitlines():
        assert line == "…" or line in printed


def test_the_message_of_a_network_that_does_not_fit_is_the_real_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (shown,) = [block for block in printed_blocks() if block.startswith("error: params.py: ")]
    (tmp_path / "params.py").write_bytes((ROOT / "tests" / "reference_params.py").read_bytes())
    monkeypatch.chdir(tmp_path)

    assert main(["validate", "params.py"]) == 2

    said = " ".join(capsys.readouterr().err.split())
    assert " ".join(shown.split()).removeprefix("error: params.py: ") in said
    assert "params.py" in said


def test_the_steps_leave_what_the_table_names(made: Path) -> None:
    table = README.partition("## What the steps leave")[2].partition("\n## ")[0]
    for step in ("dataset", "model", "evaluation"):
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {step} |")]
        expected = {name.rstrip("/") for name in re.findall(r"`([\w-]+\.\w+|tensorboard/)`", row)} - {
            "network.pt2",
            "torch.export",
        }
        found = {path.name for path in (made / step).iterdir()}
        assert expected <= found
        assert found - expected <= {"train", "validation", "test"}, "folders of arrays"
        assert json.loads((made / step / f"{step}.json").read_text())


def test_checkpoints_are_two_files_each_beside_the_model(made: Path) -> None:
    names = sorted(path.name for path in (made / "model-checkpoints").iterdir() if path.suffix in (".pt", ".json"))
    assert names
    assert all(re.fullmatch(r"epoch-\d{5}-batch-\d{6}\.(pt|json)", name) for name in names)
    assert [name for name in names if name.endswith(".pt")] == [
        name.replace(".json", ".pt") for name in names if name.endswith(".json")
    ]


def test_the_export_takes_bytes_and_gives_probabilities(made: Path) -> None:
    program = torch.export.load(made / "model" / "model.pt2").module()
    probabilities = program(torch.randint(0, 256, (3, 8, 8, 1), dtype=torch.uint8))
    assert probabilities.shape == (3, 10)
    assert probabilities.sum(1).tolist() == pytest.approx([1.0] * 3)


def test_evaluation_computes_in_float32_what_was_trained_in_bf16(made: Path) -> None:
    split = open_dataset(made / "dataset").splits["test"]
    probabilities = torch.export.load(made / "model" / "model.pt2").module()(
        torch.from_numpy(np.concatenate(split.shards))
    )
    with (made / "evaluation" / "predictions.csv").open(newline="") as file:
        losses = torch.tensor([float(row["loss"]) for row in csv.DictReader(file)])

    expected = -probabilities[torch.arange(len(losses)), torch.from_numpy(np.array(split.labels))].log()
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)  # bf16 has 8 bits, an error of 4e-3


def test_layout_is_channels_last(made: Path) -> None:
    trainer = trainer_of(made / "dataset")
    seen: list[bool] = []
    first = trainer.network.features[0]
    first.register_forward_hook(
        lambda module, given, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    trainer.train_rest(lambda: None)
    assert seen
    assert all(seen)


@pytest.mark.parametrize(("has_bf16", "name"), [(True, "bf16"), (False, "fp32")])
def test_precision_is_bf16_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    assert choose_precision(small(), GPU).name == name


def test_compile_is_for_long_runs_on_a_gpu() -> None:
    # triton comes with torch's CUDA build alone.
    assert choose_compiling(small(), GPU, 1e17).is_on == (importlib.util.find_spec("triton") is not None)
    assert not choose_compiling(small(), GPU, 1e15).is_on


@pytest.mark.parametrize(
    ("wanted", "device", "processes"),
    [("auto", "auto", 4), ("auto", "cuda", 4), ("auto", "cuda:0", 1), ("1", "auto", 1), ("2", "auto", 2)],
)
def test_every_gpu_of_a_node_is_used_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch, wanted: str, device: str, processes: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes_for(wanted, device) == processes


def test_the_trainjob_starts_a_command_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    (job,) = [block for block in blocks("yaml") if "kind: TrainJob" in block]
    trainer = yaml.safe_load(job)["spec"]["trainer"]
    assert trainer["command"] == ["python", "-m", "components.train"]

    with pytest.raises(SystemExit):
        train(["--help"])
    options = capsys.readouterr().out
    for word in trainer["args"]:
        assert f"{word.partition('=')[0]} " in options


@pytest.mark.slow
def test_torchrun_starts_training_too(made: Path, tmp_path: Path) -> None:
    words = shlex.split("-m torch.distributed.run --standalone --nproc-per-node 2 -m components.train")
    model = tmp_path / "model"
    given = ["--dataset", str(made / "dataset"), "--model", str(model), "--params", str(made / "params.json")]

    subprocess.run([sys.executable, *words, *given], check=True, capture_output=True, timeout=200)

    (newest, *_) = sorted((tmp_path / "model-checkpoints").glob("*.json"), reverse=True)
    document: dict[str, Any] = json.loads(newest.read_text())
    assert document["processes"] == 2
    assert open_model(model).manifest.history


def test_checkpoint_minutes_saves_between_epochs(made: Path, tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=1, checkpoint_minutes=1e-9, keep_checkpoints=100)

    assert train(["--dataset", str(made / "dataset"), "--model", str(tmp_path / "model"), "--params", str(params)]) == 0

    batches = {file.stem.partition("-batch-")[2] for file in (tmp_path / "model-checkpoints").glob("epoch-00001-*.pt")}
    assert batches - {"000000"}, "within the epoch"


def test_checkpoints_lie_beside_a_model_in_a_bucket(made: Path, gcs_bucket: GcsBucket, tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.json", num_epochs=1)
    model = f"{gcs_bucket.uri}/model"

    assert train(["--dataset", str(made / "dataset"), "--model", model, "--params", str(params)]) == 0

    assert "model/model.json" in gcs_bucket.names("model/")
    assert any(name.endswith(".pt") for name in gcs_bucket.names("model-checkpoints/"))


def test_killings_are_as_many_as_asked_for_and_repeat_with_their_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTTERLINE_KILLS", "0.1")
    monkeypatch.setenv("SHUTTERLINE_KILL_SEED", "7")
    assert len(runs(60)) == 6
    first = draws_of("suite", 1).random()
    assert draws_of("suite", 1).random() == first
    monkeypatch.setenv("SHUTTERLINE_KILL_SEED", "8")
    assert draws_of("suite", 1).random() != first


def sentences(section: str) -> list[str]:
    """The sentences of a section without its blocks of code; a row of a table is one."""
    found = []
    for block in re.split(r"\n\s*\n|\n(?=\|)", re.sub(r"^```.*?^```$", "", section, flags=re.M | re.S)):
        text = " ".join(block.split())
        if text.startswith("|"):
            found += [] if re.fullmatch(r"[|\- ]+", text) else [text]
        elif not text.startswith("#"):
            found += [sentence for sentence in re.split(r"(?<=[.:;])\s+(?=[A-Z`*(])", text) if sentence]
    return found


def test_every_sentence_on_data_and_training_names_the_tests_that_hold_it() -> None:
    shown = [
        sentence
        for title in SECTIONS
        for sentence in sentences(README.partition(f"\n{title}\n")[2].partition("\n## ")[0])
    ]

    unheld = [one for one in shown if not any(phrase in one for phrase in (*CLAIMS, *WITHOUT_A_CLAIM))]
    gone = [phrase for phrase in CLAIMS if not any(phrase in one for one in shown)]

    assert not unheld, "sentences without a test in tests/readme_claims.py"
    assert not gone, "phrases in tests/readme_claims.py that README no longer has"


@pytest.mark.parametrize("phrase", CLAIMS)
def test_the_tests_of_a_claim_are_there(phrase: str) -> None:
    for test in CLAIMS[phrase]:
        file, _, name = test.partition("::")
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"\ndef {name}(" in source if name else "\ndef test_" in source, test
