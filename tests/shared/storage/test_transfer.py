from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from components.shared.storage.location import Location
from components.shared.storage.transfer import Transfer, run_all


@pytest.mark.mended(
    14,
    input="a disk that is full when the file of a large object is begun",
    before="the fetch ended as if it were whole",
    now="the error is the fetch's",
)
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_between_tasks_is_an_error_of_the_transfer() -> None:
    done = []

    def tasks() -> Iterator[Callable[[], None]]:
        yield lambda: done.append(1)
        raise OSError(28, "No space left on device", "x.part")

    with pytest.raises(OSError, match="No space left on device"):
        run_all(Transfer(Location("gs", "bucket", "key"), "down"), tasks())
