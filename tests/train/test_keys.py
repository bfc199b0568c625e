"""The keys of the params that training reads: changing one changes what it should, and only that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components.classifier.device import make_repeatable
from components.classifier.images import Normaliser
from components.classifier.network import network_of
from components.data_prep.prepare import prepare
from components.evaluate.evaluate import evaluate
from components.shared.artifacts.dataset import open_dataset
from components.shared.artifacts.model import ModelManifest, open_model
from components.shared.errors import DeviceError, InputError
from components.train.checkpoints.format import list_checkpoints, read_checkpoint_manifest, read_state
from tests.configs import layer, schedule, transform
from tests.examples import DIGITS, small
from tests.train.interrupting import trained
from tests.train.trials import PLAIN_ARCH, epochs, network_input, trainer_of


def weights(dataset: Path, out: Path, **changes: Any) -> bytes:
    trained(dataset, out, small(**changes))
    return (out / "model" / "model.safetensors").read_bytes()


def manifest(dataset: Path, out: Path, **changes: Any) -> ModelManifest:
    trained(dataset, out, small(**changes))
    return open_model(out / "model").manifest


def test_batch_size(dataset: Path) -> None:
    assert [len(trainer_of(dataset, batch_size=size).slices) for size in (32, 100, 200)] == [7, 2, 1]


def test_color_trains(tmp_path: Path) -> None:
    mean, std = [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]
    changes: dict[str, Any] = {"net_arch": [layer("Conv2d", in_channels=3, out_channels=4, kernel_size=3)]}
    changes |= {"is_image_color": True, "normalise_mean": mean, "normalise_std": std}
    prepare(data=DIGITS, dataset=tmp_path / "data", params=small(**changes))

    trainer, indices = trainer_of(tmp_path / "data", **changes), torch.arange(5)
    stored = trainer.training.images.take(indices).permute(0, 3, 1, 2) / 255
    normalised = (stored - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(network_input(trainer, indices), normalised, atol=1e-6)
    first, second = epochs(trainer, 2)
    assert second < first


def test_shuffle_dataset(dataset: Path) -> None:
    shuffled, stored = (trainer_of(dataset, shuffle_dataset=is_on) for is_on in (True, False))

    first, second = shuffled.epoch_order(), shuffled.epoch_order()

    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, torch.arange(200))
    for _ in range(2):
        assert torch.equal(stored.epoch_order(), torch.arange(200))


def test_flip_images_and_flip_probability(few: Path, dataset: Path, tmp_path: Path) -> None:
    plain = weights(few, tmp_path / "plain")

    assert weights(few, tmp_path / "flips", flip_images=True) != plain
    assert weights(few, tmp_path / "never", flip_images=True, flip_probability=0) == plain
    always, indices = trainer_of(dataset, flip_images=True, flip_probability=1), torch.arange(5)
    stored = network_input(trainer_of(dataset), indices)
    assert torch.equal(network_input(always, indices), stored.flip(2, 3))


def test_flips_are_for_training_only(few: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"learning_rate": 1e-30, "net_arch": PLAIN_ARCH}

    plain, flipped = (manifest(few, tmp_path / str(on), flip_images=on, **changes).history for on in (False, True))

    assert plain[0].loss == flipped[0].loss
    assert plain[0].train_loss != flipped[0].train_loss


def test_normalise_images_mean_and_std(few: Path, tmp_path: Path) -> None:
    own = open_dataset(few).manifest.normalisation

    assert manifest(few, tmp_path / "none", normalise_images=False).normalisation is None
    assert manifest(few, tmp_path / "auto").normalisation == own
    given = manifest(few, tmp_path / "given", normalise_mean=[0.5], normalise_std=[0.25]).normalisation
    assert given is not None
    assert (given.mean, given.std) == ([0.5], [0.25])
    files = {(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("none", "auto", "given")}
    assert len(files) == 3


def test_additional_transforms(few: Path, dataset: Path, tmp_path: Path) -> None:
    inverted, indices = [transform("RandomInvert", p=0.5)], torch.arange(64)
    plain = trainer_of(dataset, normalise_images=False)
    changed = trainer_of(dataset, normalise_images=False, additional_transforms=inverted)
    kept = plain.training.images.take(indices).permute(0, 3, 1, 2) / 255

    plain.normalise = changed.normalise = Normaliser(None, torch.device("cpu"))
    given = network_input(changed, indices)
    is_kept, is_inverted = ((given - image).abs().amax((1, 2, 3)) < 1e-6 for image in (kept, 1 - kept))
    assert (is_kept ^ is_inverted).all()
    assert 16 < is_inverted.sum() < 48
    crops = {"additional_transforms": [transform("RandomCrop", size=[8, 8], padding=2)]}
    one, two, without = (
        weights(few, tmp_path / name, **changes) for name, changes in (("a", crops), ("b", crops), ("c", {}))
    )
    assert one == two != without


def test_manual_seed(few: Path, tmp_path: Path) -> None:
    seeds = [0, 1, 2**32, 2**62 + 1]

    files = {weights(few, tmp_path / str(seed), manual_seed=seed) for seed in seeds}

    assert len(files) == len(seeds)
    assert open_model(tmp_path / str(2**62 + 1) / "model").manifest.provenance.params["manual_seed"] == 2**62 + 1


def test_net_arch_and_n_classes(few: Path, tmp_path: Path) -> None:
    plain = manifest(few, tmp_path / "plain", net_arch=PLAIN_ARCH)

    assert plain.parameters == 1 * 8 * 9 + 8 + 8 * 9 * 10 + 10
    assert network_of(small(n_classes=3)).classifier.out_features == 3
    with pytest.raises(InputError, match="n_classes"):
        prepare(data=DIGITS, dataset=tmp_path / "data", params=small(n_classes=9))


def test_num_epochs_eval_freq_save_freq_and_keep_checkpoints(few: Path, tmp_path: Path) -> None:
    history = manifest(few, tmp_path, num_epochs=7, eval_freq=3, save_freq=2, keep_checkpoints=3).history

    assert [record.epoch for record in history] == [1, 2, 3, 4, 5, 6, 7]
    assert [record.epoch for record in history if record.accuracy is not None] == [3, 6, 7]
    kept = list_checkpoints(tmp_path / "checkpoints")
    names = ["epoch-00007-batch-000000", "epoch-00007-batch-000002", "epoch-00008-batch-000000"]
    assert [file.stem for file in kept] == names, "the last epoch is evaluated against eval_freq"
    last = read_checkpoint_manifest(kept[-1])
    assert last.finished
    state = read_state(kept[-1], last)
    assert len(state["history"]) == 7
    assert set(state["network"]) == set(network_of(small()).state_dict())


def test_optim_class_optim_kwargs_and_learning_rate(few: Path, tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {
        "adamw": {},
        "sgd": {"optim_class": "torch.optim.SGD"},
        "momentum": {"optim_class": "torch.optim.SGD", "optim_kwargs": {"momentum": 0.9}},
        "slower": {"learning_rate": 0.001},
    }

    files = {weights(few, tmp_path / name, **changes) for name, changes in runs.items()}

    assert len(files) == len(runs)
    assert open_model(tmp_path / "slower" / "model").manifest.history[0].learning_rate == 0.001


def test_backbone_learning_rate_and_decay_biases_and_norms(
    few: Path, tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    decay = {"optim_kwargs": {"weight_decay": 1.0}}
    whole = load_file(trained(few, tmp_path / "whole", small(**decay)).model / "model.safetensors")
    kept = load_file(
        trained(few, tmp_path / "kept", small(**decay, decay_biases_and_norms=False)).model / "model.safetensors"
    )
    assert not any(message.startswith("backbone") for message in heard.messages)
    assert (whole["features.1.weight"] < kept["features.1.weight"]).all()

    trained(few, tmp_path / "still", small(backbone_learning_rate=1e-30, optim_kwargs={"weight_decay": 0}))
    make_repeatable(small().manual_seed)
    still, start = load_file(tmp_path / "still" / "model" / "model.safetensors"), network_of(small()).state_dict()
    assert not torch.equal(still["classifier.weight"], start["classifier.weight"])
    assert torch.equal(still["features.0.weight"], start["features.0.weight"])
    rates = "AdamW: head: 730 values, rate 0.01, weight decay 0; backbone: 96 values, rate 1e-30, weight decay 0"
    assert rates in heard.messages


PLATEAU = {"factor": 0.5, "patience": 0, "threshold": 1e9, "threshold_mode": "abs"}


@pytest.mark.parametrize(
    ("schedules", "rates"),
    [
        (
            [schedule("ExponentialLR", gamma=0.5), schedule("StepLR", step_size=2, gamma=0.1)],
            [0.8, 0.4, 0.02, 0.01, 0.0005, 0.00025],
        ),
        # Judged in evaluated epochs.
        ([schedule("ReduceLROnPlateau", mode="min", **PLATEAU)], [0.8, 0.8, 0.8, 0.8, 0.4, 0.4]),
        ([schedule("ReduceLROnPlateau", mode="max", **PLATEAU)], [0.8, 0.8, 0.8, 0.8, 0.4, 0.4]),
    ],
    ids=["two", "plateau of the loss", "plateau of the accuracy"],
)
def test_learning_rate_schedule(few: Path, tmp_path: Path, schedules: list[Any], rates: list[float]) -> None:
    changes: dict[str, Any] = {"num_epochs": 6, "eval_freq": 2, "learning_rate": 0.8}
    history = manifest(few, tmp_path, **changes, learning_rate_schedule=schedules).history

    assert [record.learning_rate for record in history] == pytest.approx(rates)


def test_device(few: Path, tmp_path: Path) -> None:
    assert trained(few, tmp_path / "cpu", small(device="cpu")).device.startswith("cpu")
    if torch.cuda.is_available():
        assert trained(few, tmp_path / "cuda", small(device="cuda")).device.startswith("cuda")
    else:
        assert trained(few, tmp_path / "auto", small(device="auto")).device.startswith("cpu")
        with pytest.raises(DeviceError, match="cuda"):
            trained(few, tmp_path / "cuda", small(device="cuda"))


def test_mode_script_without_a_terminal_is_one_line_an_epoch(
    few: Path, tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    trained(few, tmp_path, small(num_epochs=3, mode="script"))

    lines = [message for message in heard.messages if message.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]


def test_eval_metric_compute_freq_and_eval_batch_size(
    dataset: Path, finished: Path, tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    def batch_lines(**changes: Any) -> tuple[int, dict[str, float]]:
        heard.clear()
        evaluation = tmp_path / "evaluation"
        result = evaluate(model=finished / "model", dataset=dataset, evaluation=evaluation, params=small(**changes))
        lines = [message for message in heard.messages if message.startswith("batch ")]
        return len(lines), result.findings.metrics

    whole, metrics = batch_lines(eval_metric_compute_freq="epoch", eval_batch_size=30)
    assert whole == 0
    for size, batches in ((1, 100), (30, 4), (1000, 1)):
        assert batch_lines(eval_metric_compute_freq="batch", eval_batch_size=size) == (batches, metrics)
