"""The network: its table before anything is built, and the same shapes and parameters once it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.classifier.network import LayerTable, build_network, examine, network_of
from components.shared.params.params import Params
from components.shared.params.types import LayerSpec
from pipelines.cli import main
from tests.configs import Entry, check_dict, digits_config, layer, refused, small


def specs(*entries: Entry) -> list[LayerSpec]:
    return [LayerSpec.model_validate(entry) for entry in entries]


CONV = layer("Conv2d", in_channels=3, out_channels=6, kernel_size=[3, 2], stride=[2, 1], padding=1, bias=False)
TABLE_OF = specs(
    CONV, layer("BatchNorm2d", num_features=6), layer("ReLU", inplace=True), layer("MaxPool2d", kernel_size=2)
)


def table() -> LayerTable:
    return examine(TABLE_OF, (9, 8, 3), 5)


def test_the_table_has_a_row_for_every_layer_and_the_two_appended() -> None:
    found = table()
    assert found.input_shape == (3, 9, 8)
    assert [(row.place, row.name, row.output_shape) for row in found.rows] == [
        ("net_arch[0]", "Conv2d", (6, 5, 9)),
        ("net_arch[1]", "BatchNorm2d", (6, 5, 9)),
        ("net_arch[2]", "ReLU", (6, 5, 9)),
        ("net_arch[3]", "MaxPool2d", (6, 2, 4)),
        ("appended", "Flatten", (48,)),
        ("appended", "Linear", (5,)),
    ]
    assert found.features == 48


def test_parameters_and_multiply_adds_are_those_of_a_hand_count() -> None:
    found = table()
    convolution, product = 3 * 3 * 2 * 6, 48 * 5
    assert [row.parameters for row in found.rows] == [convolution, 2 * 6, 0, 0, 0, product + 5]
    assert [row.multiply_adds for row in found.rows] == [convolution * 5 * 9, 0, 0, 0, 0, product]
    assert found.parameters == 108 + 12 + 245
    assert found.multiply_adds == 108 * 45 + 240


def test_values_are_those_alive_at_one_time() -> None:
    """A result overwritten in place, or a view, counts once, and not at all when nothing refers to it any more."""
    found = table()
    images, convolved, pooled = 3 * 9 * 8, 6 * 5 * 9, 6 * 2 * 4
    assert [row.live_values for row in found.rows] == [
        images + convolved,
        2 * convolved + 2 * 6,  # and room for the batch's statistics
        convolved,
        convolved + 2 * pooled,  # and where each maximum was
        pooled,
        pooled + 5,
    ]
    assert found.live_values == images + found.rows[1].live_values  # the images are the caller's


@pytest.mark.parametrize(
    ("entry", "image", "multiply_adds"),
    [
        (layer("Conv2d", in_channels=4, out_channels=8, kernel_size=3, groups=2), (8, 8), 8 * 2 * 9 * 36),
        (layer("ConvTranspose2d", in_channels=4, out_channels=2, kernel_size=2, stride=2), (8, 8), 4 * 2 * 4 * 64),
        (layer("Linear", in_features=8, out_features=3), (5, 8), 4 * 5 * 8 * 3),
        (layer("AvgPool2d", kernel_size=2), (8, 8), 0),
    ],
)
def test_multiply_adds_of_each_kind(entry: Entry, image: tuple[int, int], multiply_adds: int) -> None:
    # One channel becomes four, so that there is something to group.
    first = layer("Conv2d", in_channels=1, out_channels=4, kernel_size=1)
    assert examine(specs(first, entry), (*image, 1), 2).rows[1].multiply_adds == multiply_adds


def test_the_table_prints_as_aligned_lines() -> None:
    lines = table().lines()
    assert lines[0].split() == ["layer", "class", "output", "parameters", "multiply-adds"]
    assert lines[2].split() == ["input", "3×9×8"]
    assert lines[3].split() == ["net_arch[0]", "Conv2d", "6×5×9", "108", "4,860"]
    assert lines[-3] == lines[1]
    assert lines[-2].split() == ["total", "365", "5,100"]
    assert lines[-1].split() == ["trainable", "365"]
    assert len({len(line) for line in [lines[0], *lines[3:-1]]}) == 1


def test_the_network_is_what_the_table_says() -> None:
    network = build_network(TABLE_OF, (9, 8, 3), 5)
    found = table()
    shapes = []
    for module in [*network.features, network.classifier]:
        module.register_forward_hook(lambda module, given, output: shapes.append(tuple(output.shape[1:])))
    output = network(torch.rand(2, 3, 9, 8))

    assert output.shape == (2, 5)
    assert shapes == [row.output_shape for row in found.rows if row.name != "Flatten"]
    assert sum(parameter.numel() for parameter in network.parameters()) == found.parameters
    assert network.n_classes == 5
    assert network.live_values == found.live_values
    assert torch.isfinite(output).all()


def test_the_network_gives_logits_and_not_probabilities() -> None:
    torch.manual_seed(0)
    network = build_network(specs(layer("Identity")), (2, 2, 1), 3)
    image = torch.rand(1, 1, 2, 2)
    expected = image.flatten(1) @ network.classifier.weight.T + network.classifier.bias
    assert torch.allclose(network(image), expected)


def test_initial_weights_follow_from_torchs_seed() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(network_of(Params.from_dict(digits_config())).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["features.0.weight"], weights[2]["features.0.weight"])


def test_examining_takes_no_memory_and_no_randomness() -> None:
    before = torch.random.get_rng_state()
    vast = layer("Conv2d", in_channels=1, out_channels=2**20, kernel_size=1000, padding=500)
    found = examine(specs(vast, layer("AdaptiveAvgPool2d", output_size=1)), (1000, 1000, 1), 10)
    assert found.parameters > 10**12
    assert torch.equal(torch.random.get_rng_state(), before)


SIDE = st.integers(1, 12)


@given(
    *(SIDE, SIDE, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)),
    st.sampled_from(["MaxPool2d", "AvgPool2d", "LPPool2d"]),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_a_network_that_passes_runs_and_one_that_fails_is_refused_in_words(
    height: int, width: int, kernel: int, stride: int, padding: int, dilation: int, pool: str, batch: int
) -> None:
    pooling: dict[str, Any] = {"norm_type": 2} if pool == "LPPool2d" else {}
    window = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    arch = [layer("Conv2d", in_channels=1, out_channels=2, **window), layer(pool, kernel_size=kernel, **pooling)]
    config = small(image_height=height, image_width=width, batch_size=batch, net_arch=arch)

    def side(size: int) -> int:
        convolved = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        return (convolved - kernel) // kernel + 1 if convolved >= kernel else 0

    fits = min(side(height), side(width)) > 0
    if not fits:
        (path,) = refused(check_dict, config)
        assert path.startswith("net_arch[")
        return
    params, found, _ = check_dict(config)
    assert found.rows[1].output_shape == (2, side(height), side(width))
    output = network_of(params)(torch.rand(batch, 1, height, width))
    assert output.shape == (batch, 2)


def test_batch_statistics_of_one_value_are_refused_where_a_batch_is_one_image() -> None:
    config = small(
        net_arch=[layer("AdaptiveAvgPool2d", output_size=1), layer("BatchNorm2d", num_features=1)], batch_size=2
    )
    check_dict(config)
    (message,) = refused(check_dict, {**config, "batch_size": 1}).values()
    assert "Expected more than 1 value per channel when training" in message


def test_shapes_are_checked_although_other_keys_are_wrong_and_not_guessed_without_theirs() -> None:
    config = small(net_arch=[layer("Linear", in_features=9, out_features=4)])
    found = refused(check_dict, {**config, "num_epochs": 0, "learning_rate": "x"})
    assert set(found) == {"num_epochs", "learning_rate", "net_arch[0].kwargs.in_features"}
    assert set(refused(check_dict, {**config, "image_width": 0})) == {"image_width"}


FROZEN_ARCH = [
    layer("Dropout", p=0.5),
    layer("ReLU"),
    layer("Conv2d", in_channels=1, out_channels=2, kernel_size=3),
    layer("Flatten"),
]


def test_validate_prints_all_parameters_and_the_trainable_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "params.json"
    file.write_text(json.dumps(small(net_arch=FROZEN_ARCH, frozen_layers=3, initial_weights="earlier")))

    assert main(["validate", str(file), "--elsewhere"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["net_arch[2]", "Conv2d", "2×6×6", "20", "648"] in lines
    assert ["total", "166", "792"] in lines
    assert ["trainable", "146"] in lines

    assert main(["validate", str(file), "--elsewhere", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["parameters"], document["trainable_parameters"]) == (166, 146)
    assert [(row["parameters"], row["trainable"]) for row in document["layers"]][2::3] == [(20, 0), (146, 146)]


@pytest.mark.parametrize(
    ("arch", "frozen", "what"),
    [
        (FROZEN_ARCH, 3, "net_arch[2] (Conv2d) as it is initialised, 20 random parameters in all"),
        (FROZEN_ARCH, 4, "net_arch[2] (Conv2d) as it is initialised, 20 random parameters in all"),
        ([layer("BatchNorm2d", num_features=1, affine=False)], 1, "net_arch[0] (BatchNorm2d) as it is initialised"),
    ],
)
def test_random_weights_are_not_frozen(arch: list[Entry], frozen: int, what: str) -> None:
    config = small(net_arch=arch, frozen_layers=frozen)
    assert refused(check_dict, config) == {
        "frozen_layers": f"would keep {what}; name the weights that it is to keep by initial_weights, or set "
        "frozen_layers to 0"
    }
    check_dict(config | {"initial_weights": "earlier"})


@pytest.mark.parametrize(
    ("arch", "effect"),
    [
        (FROZEN_ARCH[:2], "freezing only turns dropout off"),
        ([layer("ReLU"), layer("Flatten")], "freezing has no effect"),
    ],
)
def test_frozen_layers_without_parameters_are_noted(arch: list[Entry], effect: str) -> None:
    message = f"frozen_layers: the first 2 layers of net_arch have no parameters; {effect}"
    assert check_dict(small(net_arch=arch, frozen_layers=2)).notes == (message,)
