"""The params example as first published, with its repeated block dropped: it trains, from the dict and from JSON."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from components.data_prep.prepare import prepare
from components.shared.params.params import Params
from components.shared.params.parsed import ParamsWarning
from components.train.train import train
from tests.examples import DIGITS
from tests.reference_params import params as reference


@pytest.mark.slow
def test_the_reference_without_its_repeated_block_trains(tmp_path: Path) -> None:
    raw: dict[str, Any] = copy.deepcopy(reference)
    del raw["net_arch"][8:12]
    raw |= {"num_epochs": 1, "device": "cpu"}
    with pytest.warns(ParamsWarning, match=r"learning_rate_schedule\[0\]\.kwargs\.verbose"):
        from_dict = Params.from_dict(raw)
    assert Params.load(from_dict.to_json()) == from_dict
    prepare(data=DIGITS, dataset=tmp_path / "data", params=from_dict)

    result = train(dataset=tmp_path / "data", model=tmp_path / "model", params=from_dict)

    assert result.parameters == 406_218
