"""Whose a checkpoint is: one of other params or data is refused with what differs, unless told to start over."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from components.shared.artifacts.artifact import WRITING_MARKER
from components.shared.errors import CheckpointError
from components.shared.params.params import Params
from components.shared.params.training_id import FREE
from components.train.__main__ import main
from components.train.checkpoints.format import list_checkpoints
from components.train.checkpoints.resume import Checkpoints, find_checkpoint
from components.train.step import train_step
from tests.examples import SMALL, small, write_digits, write_params
from tests.train.interrupting import LOG, at_step, ended, inputs_of, steps_kept, trained, weights_in
from tests.train.trials import PLAIN_ARCH


def arch(channels: int) -> list[dict[str, Any]]:
    layers = copy.deepcopy(SMALL["net_arch"])
    layers[0]["kwargs"]["out_channels"] = layers[1]["kwargs"]["num_features"] = channels
    return list(layers)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"net_arch": arch(16)}, "net_arch[0].kwargs.out_channels: 8 there, 16 here"),
        ({"net_arch": PLAIN_ARCH}, "net_arch: 3 entries there, 2 here"),
        ({"optim_kwargs": {"weight_decay": 0.5}}, "optim_kwargs.weight_decay: 0.5 here alone"),
        (
            {"optim_class": "torch.optim.SGD"},
            "optim_class: the text 'torch.optim.AdamW' there, the text 'torch.optim.SGD' here",
        ),
        ({"learning_rate": 0.02}, "learning_rate: 0.01 there, 0.02 here"),
        ({"batch_size": 16}, "batch_size: 32 there, 16 here"),
        ({"manual_seed": 1}, "manual_seed: 0 there, 1 here"),
        ({"num_epochs": 1}, "num_epochs: 1 here, and epoch 2 is trained there; ask for at least 2"),
        ({"ema_decay": 0.9}, "ema_decay: 0.0 there, 0.9 here"),
        ({"precision": "bf16"}, "precision: the text 'auto' there, the text 'bf16' here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_params_are_refused_with_what_differs(
    dataset: Path, finished: Path, changes: dict[str, Any], difference: str
) -> None:
    kept, weights = steps_kept(finished), weights_in(finished)

    with pytest.raises(CheckpointError) as refused:
        trained(dataset, finished, small(**changes))

    assert difference in str(refused.value)
    assert str(finished / "checkpoints") in str(refused.value)
    assert "--start-over" in str(refused.value)
    assert (steps_kept(finished), weights_in(finished)) == (kept, weights), "what is there is left as it is"


def test_other_data_is_refused(finished: Path, tmp_path: Path) -> None:
    other = write_digits(tmp_path / "other", 240)

    with pytest.raises(CheckpointError, match=r"the dataset: SHA-256 \w{12}… there"):
        trained(other, finished, small())


OTHERWISE: dict[str, Any] = {
    "GOOGLE_APPLICATION_CREDENTIALS": "key.json",
    "PUB_SUB_PROJECT": "vision-1",
    "PUB_SUB_TOPIC": "runs",
    "PUB_SUB_SUBSCRIPTION": "runs-sub",
    "TIMEOUT": 7.0,
    "KAFKA_HOST": "broker",
    "KAFKA_TOPIC": "runs",
    "device": "auto",
    "mode": "notebook",
    "eval_metric_compute_freq": "batch",
    "eval_batch_size": 7,
    "test_fraction": 0.3,
    "validation_fraction": 0.1,
    "max_unreadable": 0.5,
    "alpha_background": "black",
    "image_fit": "pad",
    "image_interpolation": "box",
    "data_layout": "folders",
    "on_leakage": "fail",
    "on_status_error": "fail",
    "save_freq": 1,
    "checkpoint_minutes": None,
    "keep_checkpoints": 1,
    "compile": "never",
    "gradient_checkpointing": True,
    "step": "graph",
    "data_placement": "host",
    "gate": {"accuracy": {"min": 0.9}},
    "baseline": "gs://bucket/baseline",
    "publish_uri": "gs://bucket/models",
    "recipe": "scratch-small",
}
WEIGHTLESS = ["save_freq", "checkpoint_minutes", "keep_checkpoints", "eval_batch_size", "data_placement"]


def test_what_is_free_is_an_option_and_does_not_hinder(dataset: Path, finished: Path) -> None:
    assert OTHERWISE.keys() == FREE <= Params.model_fields.keys()
    # A recipe's name alone: what it fills in counts.
    params = small(**OTHERWISE | {"recipe": None}).model_copy(update={"recipe": OTHERWISE["recipe"]})
    assert all(getattr(params, key) != getattr(small(), key) for key in FREE)

    digest = inputs_of(dataset, small()).dataset_sha256
    found = find_checkpoint(finished / "checkpoints", params, digest, LOG)
    assert found is not None
    assert found.manifest.finished


def test_what_is_free_changes_no_weight(dataset: Path, finished: Path, tmp_path: Path) -> None:
    trained(dataset, tmp_path, small(**{key: OTHERWISE[key] for key in WEIGHTLESS}))

    assert weights_in(tmp_path) == weights_in(finished)


@pytest.mark.slow
def test_the_command_line_refuses_and_starts_over_when_asked(
    dataset: Path, finished_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "other.json", net_arch=PLAIN_ARCH, num_epochs=1)
    command = ["--dataset", str(dataset), "--model", str(finished_copy / "model"), "--params", str(params)]
    command += ["--checkpoints", str(finished_copy / "checkpoints")]

    assert main(command) == 2
    log = capsys.readouterr().err
    assert "net_arch: 3 entries there, 2 here" in log
    assert "num_epochs: 1 here, and epoch 2 is trained there" in log
    assert "Traceback" not in log
    assert steps_kept(finished_copy) == [14]

    assert main([*command, "--start-over"]) == 0
    assert steps_kept(finished_copy) == [7]
    assert "going on" not in capsys.readouterr().err


def beside(folder: Path) -> Path:
    """A finished run whose checkpoints are in the default directory."""
    (folder / "checkpoints").rename(folder / "model-checkpoints")
    return folder


def test_checkpoints_of_a_finished_run_go_with_its_model_when_another_run_replaces_it(
    dataset: Path, finished_copy: Path
) -> None:
    result = trained(dataset, beside(finished_copy), small(learning_rate=0.02), checkpoints=None)

    assert result.resumed_from is None
    assert result.checkpoints == finished_copy / "model-checkpoints"


@pytest.mark.usefixtures("every_step_reports")
def test_checkpoints_of_an_unfinished_run_are_kept_in_the_default_directory(few: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model-checkpoints"
    ended(few, tmp_path, small(), at_step(3), checkpoints=None)
    before = [path.read_bytes() for path in list_checkpoints(directory)]
    assert before

    with pytest.raises(CheckpointError, match=r"(?s)model-checkpoints: .*--start-over.*learning_rate: 0.01 there"):
        trained(few, tmp_path, small(learning_rate=0.02), checkpoints=None)
    assert [path.read_bytes() for path in list_checkpoints(directory)] == before

    over = Checkpoints(directory, start_over=True)
    assert trained(few, tmp_path, small(learning_rate=0.02), checkpoints=over).resumed_from is None


def test_checkpoints_whose_model_was_not_written_are_those_of_an_unfinished_run(
    dataset: Path, finished_copy: Path
) -> None:
    folder = beside(finished_copy)
    (folder / "model" / "model.json").unlink()
    (folder / "model" / WRITING_MARKER).touch()  # as a kill at the end leaves it

    with pytest.raises(CheckpointError, match="holds checkpoints of another run"):
        trained(dataset, folder, small(learning_rate=0.02), checkpoints=None)

    assert trained(dataset, folder, small(), checkpoints=None).resumed_from == "its end, after epoch 2"


def test_a_group_that_is_started_again_goes_on_although_its_options_say_to_start_over(
    dataset: Path, finished: Path, finished_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resumed_from() -> object:
        model, checkpoints = finished_copy / "model", finished_copy / "checkpoints"
        again = train_step(dataset=dataset, model=model, params=small(), checkpoints=checkpoints, start_over=True)
        return again.report()["resumed_from"]

    assert resumed_from() is None
    assert weights_in(finished_copy) == weights_in(finished)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # torchrun's
    assert resumed_from() is not None
