from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from components.shared.decoding.batches import decode_batches
from components.shared.decoding.content import UnreadableImageError
from components.shared.decoding.images import DecodingMemory
from components.shared.decoding.rendering import Rendering
from components.shared.limits import free_memory
from tests.shared.decoding.pictures import plain, read_image, save

MB = 1_000_000


def test_threads_wait_until_what_they_need_is_free() -> None:
    memory = DecodingMemory(100, 200)
    together = threading.Barrier(2)

    def take(count: int) -> None:
        with memory.reserve(count):
            together.wait(60)  # two at once

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(take, [50] * 40))

    assert memory.peak == 100


def test_one_that_needs_more_than_all_share_is_alone() -> None:
    memory = DecodingMemory(100, 200)
    with pytest.raises(RuntimeError), memory.reserve(100):  # an error gives back what was taken
        raise RuntimeError
    inside: list[int] = []
    seen: list[list[int]] = []

    def take(count: int) -> None:
        with memory.reserve(count):
            inside.append(count)
            seen.append(list(inside))
            inside.remove(count)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(take, [40, 150] * 30))

    assert memory.peak == 150
    assert all(len(others) == 1 for others in seen if 150 in others)


def test_what_is_more_than_there_is_is_refused_at_once() -> None:
    memory = DecodingMemory(100 * MB, 200 * MB)
    too_much = pytest.raises(ValueError, match="needs 201 MB of memory to be decoded, and 200 MB are free")
    with memory.reserve(100 * MB), too_much, memory.reserve(201 * MB):
        pass


def test_half_of_what_is_free_is_shared() -> None:
    memory = DecodingMemory.of_half_the_free()
    assert memory.limit > 100 * MB
    assert memory.total == memory.limit // 2
    assert abs(memory.limit - free_memory()) < memory.limit / 2


def _large_images(folder: Path, count: int, side: int) -> list[Path]:
    first = save(folder / "0.png", plain(77, side, side), compress_level=1).read_bytes()
    for index in range(1, count):
        (folder / f"{index}.png").write_bytes(first)
    return [folder / f"{index}.png" for index in range(count)]


def test_images_are_decoded_side_by_side_as_far_as_memory_goes(tmp_path: Path) -> None:
    files = _large_images(tmp_path, 8, 3000)
    memory = DecodingMemory(300 * MB, 600 * MB)

    (batch,) = decode_batches(files, Rendering((4, 4, 1)), size=16, memory=memory, threads=16)

    assert batch.reasons == [""] * 8
    assert np.unique(batch.images).tolist() == [77]
    assert 100 * MB < memory.peak <= 300 * MB


def test_an_image_that_never_fits_is_set_aside(tmp_path: Path) -> None:
    _large_images(tmp_path, 1, 3000)
    reason = "needs 126 MB of memory to be decoded, and 100 MB are free; make it smaller, or give the step more memory"
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(tmp_path / "0.png", (4, 4, 1), memory=DecodingMemory(50 * MB, 100 * MB))


# Prints the most memory that decoding takes, of which `allowed` addresses may be had.
_DECODE = """
import resource, sys
from pathlib import Path
from components.shared.decoding.batches import decode_batches
from components.shared.decoding.images import DecodingMemory
from components.shared.decoding.rendering import Rendering

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

folder, total, threads, allowed = Path(sys.argv[1]), *map(int, sys.argv[2:])
if allowed:
    resource.setrlimit(resource.RLIMIT_AS, (kilobytes("VmSize") * 1024 + allowed,) * 2)
before, memory = kilobytes("VmRSS"), DecodingMemory(total, total)
files = sorted(folder.glob("*.png"))
for batch in decode_batches(files, Rendering((4, 4, 3)), size=16, memory=memory, threads=threads):
    print(batch.reasons.count(""), *filter(None, batch.reasons), sep="|")
print((kilobytes("VmHWM") - before) * 1024)
"""


def _decode(folder: Path, total: int, threads: int, allowed: int = 0) -> tuple[str, int]:
    command = [sys.executable, "-c", _DECODE, str(folder), str(total), str(threads), str(allowed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result, most = done.stdout.splitlines()
    return result, int(most)


def test_what_is_freed_is_given_back_whichever_thread_had_it(tmp_path: Path) -> None:
    _large_images(tmp_path, 16, 4000)

    result, most = _decode(tmp_path, 250 * MB, threads=16)

    assert result == "16"
    assert 50 * MB < most < 250 * MB


def test_an_image_for_which_memory_is_refused_is_set_aside(tmp_path: Path) -> None:
    _large_images(tmp_path, 1, 5000)
    _large_images(tmp_path / "small", 1, 50)
    (tmp_path / "small" / "0.png").rename(tmp_path / "1.png")

    result, _ = _decode(tmp_path, 2**40, threads=1, allowed=100 * MB)

    assert result == "1|needs more memory to be decoded than is free; give the step more memory"
