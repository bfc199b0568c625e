"""The three steps with every input and output in a bucket: the same bytes as with paths, errors in the user's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.data_prep.__main__ import main as data_prep
from components.evaluate.__main__ import main as evaluate
from components.shared.artifacts.artifact import contents_folder
from components.shared.artifacts.evaluation import open_evaluation
from components.shared.events.spool import spools_of
from components.train.__main__ import main as train
from pipelines.params_files import EXAMPLE_DATA, EXAMPLE_PARAMS
from tests.examples import SMALL
from tests.peers.object_store import Bucket
from tests.pipelines.conftest import Capsys, Command, Environment

# The network of other tests, whose export is shared.
SET = ("num_epochs=2", "save_freq=1", "device=cpu", f"net_arch={json.dumps(SMALL['net_arch'])}")
SHORT = ["--params", str(EXAMPLE_PARAMS), *(part for change in SET for part in ("--set", change))]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same steps with paths."""
    out = tmp_path_factory.mktemp("local")
    assert data_prep(["--data", str(EXAMPLE_DATA), "--dataset", str(out / "dataset"), *SHORT]) == 0
    assert train(["--dataset", str(out / "dataset"), "--model", str(out / "model"), *SHORT]) == 0
    return out


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: Environment) -> Path:
    """Where the steps keep what travels, and nothing else."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def reported(capsys: Capsys) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_a_run_through_a_bucket_is_the_run_through_paths(
    bucket: Bucket, local: Path, scratch: Path, capsys: Capsys
) -> None:
    for file in EXAMPLE_DATA.iterdir():
        bucket.write(f"in/digits/{file.name}", file.read_bytes())
    uri = f"{bucket.uri}/out"
    capsys.readouterr()

    assert data_prep(["--data", f"{bucket.uri}/in/digits", "--dataset", f"{uri}/dataset", "--json", *SHORT]) == 0
    assert reported(capsys)["report"]["dataset"] == f"{uri}/dataset"
    published = bucket.objects("out/dataset/")
    manifest = published.pop("out/dataset/dataset.json")
    assert published == {
        f"out/dataset/{contents_folder(manifest)}/{file.relative_to(local / 'dataset').as_posix()}": file.read_bytes()
        for file in (local / "dataset").rglob("*")
        if file.is_file() and file.name not in (".shutterline-writing", ".stamps")  # which are of this machine
    }

    argv = ["--dataset", f"{uri}/dataset", "--model", f"{uri}/model", "--checkpoints", f"{uri}/kept", "--json"]
    assert train([*argv, *SHORT]) == 0
    report = reported(capsys)["report"]
    assert (report["model"], report["checkpoints"]) == (f"{uri}/model", f"{uri}/kept")
    contents = f"out/model/{contents_folder(bucket.read('out/model/model.json'))}"
    assert bucket.read(f"{contents}/model.safetensors") == (local / "model" / "model.safetensors").read_bytes()
    assert any(name.startswith(f"{contents}/tensorboard/") for name in bucket.names("out/model/"))
    assert bucket.names("out/kept/") == [
        # The one before the last epoch's evaluation, which a longer run would not make, is kept for that.
        f"out/kept/epoch-{at}.{suffix}"
        for at in ("00002-batch-000000", "00002-batch-000021", "00003-batch-000000")
        for suffix in ("json", "pt")
    ]

    places = ["--model", f"{uri}/model", "--dataset", f"{uri}/dataset", "--evaluation", f"{uri}/evaluation"]
    assert evaluate([*places, "--json", *SHORT]) == 0
    record = reported(capsys)
    contents = contents_folder(bucket.read("out/evaluation/evaluation.json"))
    assert record["report"]["report_file"] == f"{uri}/evaluation/{contents}/report.html"
    fetched = scratch / "fetched"
    for name, data in bucket.objects("out/evaluation/").items():
        file = fetched / name.removeprefix("out/evaluation/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    assert open_evaluation(fetched).manifest.metrics["accuracy"] == record["report"]["metrics"]["accuracy"]

    # What is left on this machine: the events' spools, and nothing of what travelled.
    left = {path.name for path in scratch.glob("shutterline-*")}
    theirs = {name for name in left if name.startswith(("shutterline-server-", "shutterline-test-"))}  # of the peers
    assert all(name.startswith("shutterline-events-") for name in left - theirs)
    assert list(scratch.glob("shutterline-*/events/*"))


def test_only_what_a_step_reads_is_fetched(bucket: Bucket, local: Path, capsys: Capsys) -> None:
    for kind in ("dataset", "model"):
        for file in (local / kind).rglob("*"):
            if file.is_file():
                bucket.write(f"{kind}/{file.relative_to(local / kind).as_posix()}", file.read_bytes())
    # Gone, so that whoever fetches it fails.
    for name in bucket.names("dataset/train/"):
        bucket.delete(name)
    bucket.delete("model/model.safetensors")
    places = ["--model", f"{bucket.uri}/model", "--dataset", f"{bucket.uri}/dataset"]
    assert evaluate([*places, "--evaluation", f"{bucket.uri}/evaluation", *SHORT]) == 0
    assert train(["--dataset", f"{bucket.uri}/dataset", "--model", f"{bucket.uri}/again", *SHORT]) == 2
    assert f"{bucket.uri}/dataset/train/" in capsys.readouterr().err
    assert bucket.names("again") == []


@pytest.mark.parametrize("what", ["params", "data", "output"])
def test_a_step_that_cannot_work_leaves_the_bucket_as_it_was_and_names_the_uri(
    bucket: Bucket, local: Path, what: str, capsys: Capsys
) -> None:
    for file in (local / "dataset").rglob("*.*"):
        bucket.write(f"dataset/{file.relative_to(local / 'dataset').as_posix()}", file.read_bytes())
    bucket.write("other/notes.txt", b"mine")
    before = bucket.objects()
    source = f"{bucket.uri}/{'nothing' if what == 'data' else 'dataset'}"
    model = f"{bucket.uri}/{'other' if what == 'output' else 'model'}"
    changed = ["--set", "image_height=9", "--set", "image_width=9"] if what == "params" else []
    capsys.readouterr()
    assert train(["--dataset", source, "--model", model, *SHORT, *changed]) == 2
    said = capsys.readouterr().err
    assert {"params": f"the dataset {source} has 8", "data": source, "output": model}[what] in said
    assert "Traceback" not in said
    assert bucket.objects() == before


def test_events_of_a_step_whose_output_is_in_a_bucket_are_kept_here(
    bucket: Bucket, scratch: Path, monkeypatch: Environment
) -> None:
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", "one")
    assert data_prep(["--data", str(EXAMPLE_DATA), "--dataset", f"{bucket.uri}/dataset", *SHORT]) == 0
    (kept,) = (path for path in scratch.glob("shutterline-events-*/events") if spools_of(path, "one"))
    assert len(spools_of(kept, "one")) == 1


@pytest.mark.slow
def test_the_pipeline_takes_its_data_from_a_bucket_and_keeps_its_checkpoints_in_its_directory(
    gcs_bucket: Bucket, tmp_path: Path, command: Command
) -> None:
    for file in EXAMPLE_DATA.iterdir():
        gcs_bucket.write(f"digits/{file.name}", file.read_bytes())
    changed = ["--params", EXAMPLE_PARAMS, "--set", "num_epochs=1", "--set", "device=cpu"]
    done = command(
        "-m", "pipelines.cli", "run", "--data", f"{gcs_bucket.uri}/digits", "--out", "out", "--json", *changed
    )
    assert done.returncode == 0, done.stderr
    assert f"fetched {gcs_bucket.uri}/digits/train-labels-idx1-ubyte.gz: 1 files" in done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == "succeeded"
    assert Path(document["artifacts"]["checkpoints"]) == tmp_path / "out" / "checkpoints"


@pytest.mark.parametrize("text", ["gs://", "hdfs://host/data", "https://storage.example/data", "s3://bucket/../up"])
def test_what_is_no_location_is_bad_input(text: str, capsys: Capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        data_prep(["--data", text, "--dataset", "out", *SHORT])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("python -m components.data_prep: error: argument --data: ")
