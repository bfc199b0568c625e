from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples import write_digits


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "dataset")
