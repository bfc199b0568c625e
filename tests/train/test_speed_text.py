"""The speed-of-light report in TensorBoard and in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.shared.artifacts.model import Speed
from components.train.curves import Curves
from components.train.speed import speed_lines, speed_markdown, speed_rows, time_shares
from tests.train.manifests import SPEED

UNKNOWN = Speed(samples_per_second=12.3, precision="fp32", compiled=True, data="mapped", shares={}, processes=2)


def test_tensorboard_shows_it_as_text_and_as_scalars(tmp_path: Path) -> None:
    with Curves(tmp_path) as curves:
        curves.speed(SPEED, epoch=7)

    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    (text,) = events.Tensors("speed_of_light/text_summary")
    assert text.step == 7
    assert text.tensor_proto.string_val[0].decode() == speed_markdown(SPEED)
    scalars = {tag: events.Scalars(tag)[0] for tag in events.Tags()["scalars"]}
    assert {scalar.step for scalar in scalars.values()} == {7}
    rates = {name: value for name, value in SPEED.model_dump().items() if isinstance(value, float)}
    expected = {f"speed/{name}": value for name, value in rates.items()}
    expected |= {f"time/{name}": share for name, share in SPEED.shares.items()}
    assert {tag: scalar.value for tag, scalar in scalars.items()} == pytest.approx(expected)
    assert len(expected) == 6 + 7


def test_tensorboard_shows_no_figure_that_was_not_measured(tmp_path: Path) -> None:
    with Curves(tmp_path) as curves:
        curves.speed(UNKNOWN, epoch=1)

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["speed/samples_per_second"]


def unmeasured(reason: str, *figures: str) -> Speed:
    nothing = ("constant_tensor_samples_per_second", "matmul_flops_per_second")
    gone = [*nothing, *figures, *(f"{figure}_range" for figure in figures)]
    return SPEED.model_copy(update={**dict.fromkeys(gone), "why_not": dict.fromkeys(figures, reason)})


TRAINING = "training (bf16, not compiled, images on the device, processes: 1)"
TIME = (
    "time: data 5.0 %, forward and backward 70.0 %, optimiser 10.0 %, evaluation 8.0 %, checkpoints 2.0 %, "
    "status 1.0 %, other 4.0 %"
)
WHY = "not measurable here (ratios 0.62 to 1.31)"
SHORT = "not measured in a run under 30 s"


@pytest.mark.parametrize(
    ("speed", "lines"),
    [
        (
            SPEED,
            [
                f"speed: {TRAINING} 123,456 images/s, 3.2 TFLOP/s; the same step fed one random batch 130,000 "
                "images/s, reached 95.0 % (93.0 % to 98.0 % in 5 rounds); matrix products on this device 700 TFLOP/s, "
                "reached 0.5 % (0.4 % to 0.5 % in 5 rounds)",
                TIME,
            ],
        ),
        (
            unmeasured(WHY, "of_constant_tensor"),
            [
                f"speed: {TRAINING} 123,456 images/s, 3.2 TFLOP/s; the same step fed one random batch {WHY}; matrix "
                "products on this device –, reached 0.5 % (0.4 % to 0.5 % in 5 rounds)",
                TIME,
            ],
        ),
        (unmeasured(SHORT, "of_constant_tensor", "of_matmul"), [f"speed: {SHORT}", TIME]),
        (
            UNKNOWN,
            [
                "speed: training (fp32, compiled, images on the host's disk, mapped, processes: 2) 12.3 images/s; the "
                "same step fed one random batch –; matrix products on this device –"
            ],
        ),
    ],
    ids=["measured", "in part", "not", "version 0.5"],
)
def test_the_log_has_rates_or_the_reason_and_the_parts_of_the_time(speed: Speed, lines: list[str]) -> None:
    assert speed_lines(speed) == lines


def test_the_text_is_tables_in_markdown() -> None:
    rates, shares = speed_markdown(SPEED).split("\n\n")

    row = "| the same step fed one random batch | 130,000 images/s | 95.0 % (93.0 % to 98.0 % in 5 rounds) |"
    assert rates.splitlines()[3] == row
    assert shares.splitlines()[3] == "| forward and backward | 70.0 % |"
    for table in (rates, shares):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_model_of_version_0_6_has_no_range_and_no_reason() -> None:
    fields = SPEED.model_dump(exclude={"of_constant_tensor_range", "of_matmul_range", "rounds", "why_not"})

    assert speed_rows(Speed.model_validate(fields))[1][2] == "95.0 %"


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        (0.0, "0 FLOP/s"),
        (999.4, "999 FLOP/s"),
        (999.6, "1 kFLOP/s"),
        (1.5e9, "1.5 GFLOP/s"),
        (9.89e14, "989 TFLOP/s"),
        (2e18, "2 EFLOP/s"),
        (2e23, "2e+05 EFLOP/s"),
    ],
)
def test_operations_have_the_prefix_that_fits(rate: float, shown: str) -> None:
    assert speed_rows(SPEED.model_copy(update={"matmul_flops_per_second": rate}))[2][1] == shown


def test_shares_are_in_the_order_of_a_step_and_unknown_ones_last() -> None:
    shares = {"other": 0.1, "weather": 0.2, "data": 0.3, "evaluation": 0.4}
    names = [name for name, _ in time_shares(SPEED.model_copy(update={"shares": shares}))]
    assert names == ["data", "evaluation", "other", "weather"]
