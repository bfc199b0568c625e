from __future__ import annotations

import gzip
import struct
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.data_prep.prepare import prepare
from components.shared.artifacts.dataset import open_dataset
from components.shared.errors import DataError
from tests.data_prep.building import IMAGES, LABELS, idx_bytes, idx_folder, info_csv, params

quick = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def _prepares_or_says_why(folder: Path, data: Path) -> None:
    problem = ""
    try:
        prepare(data=data, dataset=folder / "out", params=params(max_unreadable=1))
        open_dataset(folder / "out")
    except DataError as error:
        problem = str(error)
    assert problem.isprintable()
    assert (folder / "out" / "dataset.json").exists() is not bool(problem)


sizes = st.integers(0, 7) | st.sampled_from([2**16, 2**31, 2**32 - 1])
idx_like = st.builds(
    lambda type_code, dims, values: struct.pack(f">BBBB{len(dims)}I", 0, 0, type_code, len(dims), *dims) + values,
    st.sampled_from([8, 8, 8, 9, 13, 0]),
    st.lists(sizes, max_size=5),
    st.binary(max_size=120),
)
cut_or_changed = st.builds(
    lambda at, put, whole: whole[:at] + put + whole[at + len(put) :],
    st.integers(0, 40),
    st.binary(max_size=4),
    st.sampled_from([idx_bytes(IMAGES), idx_bytes(LABELS), gzip.compress(idx_bytes(IMAGES), mtime=0)]),
)


@quick
@given(
    content=st.binary(max_size=200) | idx_like | idx_like.map(gzip.compress) | cut_or_changed,
    name=st.sampled_from(["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"]),
    end=st.sampled_from(["", ".gz"]),
)
def test_any_idx_file(content: bytes, name: str, end: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data = idx_folder(Path(temporary) / "data")
        idx_folder(data, split="t10k")
        (data / name).unlink()
        (data / f"{name}{end}").write_bytes(content)
        _prepares_or_says_why(Path(temporary), data)


cells = st.sampled_from(["0.png", "1.png", "./0.png", "../0.png", "a/0.png", "a", ".", "/", "x", "cat", "dog", ""])
rows = st.lists(st.lists(cells | st.text(max_size=6), max_size=4).map(",".join), max_size=8).map("\n".join)
tables = st.builds(
    lambda header, body: f"{header}\n{body}",
    st.sampled_from(["files,type", "type,files", "files,type,more", "\ufefffiles,type", '"files" ,type', "files"]),
    rows,
)


@quick
@given(text=(tables | st.text(max_size=80)).map(lambda text: text.encode("utf-8", "replace")) | st.binary(max_size=80))
def test_any_table(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        train = info_csv(Path(temporary) / "data" / "train", "", ["0.png", "1.png", "a/0.png"])
        (train / "info.csv").write_bytes(text)
        _prepares_or_says_why(Path(temporary), train.parent)
