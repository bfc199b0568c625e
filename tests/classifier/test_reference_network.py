"""The params example as first published: what is wrong with it, step by step, until it is right."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from components.classifier.check import Checked, check
from components.classifier.network import network_of
from components.shared.params.params import Params, parse
from components.shared.params.parsed import ParamsWarning
from components.shared.params.source import read_raw
from tests.configs import REFERENCE_PARAMS, refused
from tests.reference_params import params as reference
from tests.shared.params.test_params import REFERENCE_KEYS

IGNORED = r"learning_rate_schedule\[0\]\.kwargs\.verbose: torch has dropped this option; it is ignored"
NO_WARNING = pytest.mark.filterwarnings(
    "ignore:learning_rate_schedule.*verbose:components.shared.params.parsed.ParamsWarning"
)


def checked(source: Any) -> Checked:
    return check(parse(*read_raw(source)))


def mended(*, channels: bool = False, block: bool = False) -> dict[str, Any]:
    """The example with the third Conv2d's channels mended, or with the repeated block dropped."""
    config: dict[str, Any] = copy.deepcopy(reference)
    if channels:
        config["net_arch"][8]["kwargs"]["in_channels"] = 64
    if block:
        del config["net_arch"][8:12]
    return config


def test_it_has_exactly_the_keys_of_the_key_list() -> None:
    assert set(reference) == set(REFERENCE_KEYS)


def test_its_dropped_option_is_a_warning_and_everything_else_is_understood() -> None:
    with pytest.warns(ParamsWarning, match=IGNORED):
        params = Params.load(reference)
    assert params.status_targets.kafka_servers == ("localhost:9092",)
    assert params.status_targets.credentials_file == "neuroengineering-334116-422f8a1aefd9.json"
    assert len(params.net_arch) == 20
    assert params.net_arch[0].class_ == "torch.nn.Conv2d"
    assert [entry.class_ for entry in params.learning_rate_schedule] == [
        "torch.optim.lr_scheduler.ExponentialLR",
        "torch.optim.lr_scheduler.ReduceLROnPlateau",
    ]


@NO_WARNING
def test_word_for_word_its_third_convolution_does_not_fit() -> None:
    assert refused(checked, reference) == {
        "net_arch[8].kwargs.in_channels": "torch.nn.Conv2d: is made for 32 channels, but net_arch[7] "
        "(torch.nn.MaxPool2d) gives 64 channels (64×7×7)"
    }


@NO_WARNING
def test_with_its_channels_mended_the_last_pool_gets_a_single_pixel() -> None:
    (path,) = found = refused(checked, mended(channels=True))
    assert path == "net_arch[15].kwargs.kernel_size"
    assert found[path].startswith("torch.nn.MaxPool2d: gets a 1×1 image from net_arch[14] (torch.nn.ELU), and a window")
    assert "of 2×2 needs at least 2×2" in found[path]


@NO_WARNING
def test_without_the_repeated_block_it_works() -> None:
    params, table, _ = checked(mended(block=True))
    assert table.parameters == 406_218
    assert table.multiply_adds == 5_237_760
    sides = [row.output_shape[-1] for row in table.rows if row.name in ("Conv2d", "MaxPool2d")]
    assert sides == [12, 11, 8, 7, 5, 4, 2, 1]

    network = network_of(params)
    assert sum(parameter.numel() for parameter in network.parameters()) == 406_218
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@NO_WARNING
def test_the_embedded_example_is_the_one_that_works() -> None:
    fixed, _, _ = checked(mended(block=True))
    embedded, _, _ = checked(REFERENCE_PARAMS)
    brokers = {"GOOGLE_APPLICATION_CREDENTIALS", "PUB_SUB_TOPIC", "PUB_SUB_PROJECT", "PUB_SUB_SUBSCRIPTION"}
    brokers |= {"KAFKA_HOST", "KAFKA_TOPIC", "device"}
    assert {key: value for key, value in embedded.to_dict().items() if key not in brokers} == {
        key: value for key, value in fixed.to_dict().items() if key not in brokers
    }


@NO_WARNING
def test_its_other_mistakes_are_found_together_with_its_network() -> None:
    config = {**mended(channels=True), "num_epochs": 0, "optim_kwargs": {"momentun": 0}}
    assert set(refused(checked, config)) == {"num_epochs", "optim_kwargs.momentun", "net_arch[15].kwargs.kernel_size"}
