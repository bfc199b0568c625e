"""The speed-of-light report: what is counted, and what it may not cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.classifier.network import examine
from components.shared.model import TIME_SHARES, open_model
from components.shared.params_types import LayerSpec
from components.train import speed
from components.train.acceleration import flops_of_training
from components.train.train import train
from tests.configs import layer
from tests.examples import small
from tests.train.trials import trainer_of

ARCH = [
    layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3, bias=False),  # 6×6×4 values of 9 products
    layer("ReLU"),
    layer("Conv2d", in_channels=4, out_channels=8, kernel_size=3, bias=False),  # 4×4×8 of 36
]
FIRST, SECOND, LAST = 6 * 6 * 4 * 9, 4 * 4 * 8 * 36, 4 * 4 * 8 * 10


@pytest.mark.parametrize(
    ("frozen", "products"),
    [
        (0, 2 * FIRST + 3 * SECOND + 3 * LAST),  # nobody needs the gradient of the images
        (1, 1 * FIRST + 2 * SECOND + 3 * LAST),
        (3, 1 * FIRST + 1 * SECOND + 2 * LAST),
    ],
)
def test_what_is_not_computed_is_not_counted(frozen: int, products: int) -> None:
    specs = [LayerSpec.model_validate(entry) for entry in ARCH]
    assert flops_of_training(examine(specs, (8, 8, 1), 10, frozen_layers=frozen)) == 2 * products


def test_every_run_reports_it(dataset: Path, tmp_path: Path) -> None:
    result = train(dataset=dataset, model=tmp_path / "model", params=small(num_epochs=3))
    found = open_model(tmp_path / "model").manifest.provenance.speed

    assert found is not None
    assert found.samples_per_second == result.images_per_second
    assert found.constant_tensor_samples_per_second is not None
    assert found.of_constant_tensor == pytest.approx(
        found.samples_per_second / found.constant_tensor_samples_per_second
    )
    assert found.flops_per_second is not None
    assert found.matmul_flops_per_second is not None
    assert found.of_matmul == pytest.approx(found.flops_per_second / found.matmul_flops_per_second)
    assert set(found.shares) == set(TIME_SHARES)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert (found.precision, found.compiled, found.data, found.processes) == ("fp32", False, "resident", 1)


def test_measuring_changes_nothing_of_the_model(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(dataset=dataset, model=tmp_path / "measured", params=small(flip_images=True))

    def full(device: torch.device, precision: str) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(speed, "_constant_rate", lambda trainer: full(trainer.device, ""))
    monkeypatch.setattr(speed, "matmul_rate", full)
    train(dataset=dataset, model=tmp_path / "unmeasured", params=small(flip_images=True))

    for name in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / "measured" / name).read_bytes() == (tmp_path / "unmeasured" / name).read_bytes()
    found = open_model(tmp_path / "unmeasured").manifest.provenance.speed
    assert found is not None
    assert (found.of_constant_tensor, found.of_matmul) == (None, None)


def test_an_average_keeps_the_counters_of_the_network(dataset: Path) -> None:
    trainer = trainer_of(
        dataset,
        ema_decay=0.9,
        net_arch=[
            layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3),
            layer("BatchNorm2d", num_features=4),
        ],
    )
    trainer.train_rest(lambda: None)
    steps = trainer.position.step
    assert steps > 1
    assert trainer.evaluated_network.state_dict()["features.1.num_batches_tracked"] == steps
    assert trainer.average is not None
    assert trainer.average.n_averaged.device.type == "cpu"
