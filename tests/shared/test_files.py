"""Files as steps read them: what is no file is refused at once, and a file's size has a bound."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from components.data_prep.__main__ import main as data_prep
from components.shared.files import open_regular, read_regular
from components.shared.strict_json import StrictJsonError, parse_json, read_json
from components.train.__main__ import main as train
from pipelines.cli import main as shutterline
from tests.examples import DIGITS, SMALL, write_digits, write_params

SECONDS = 300


@pytest.fixture(autouse=True)
def _nothing_waits() -> Iterator[None]:
    """A reader that waits for a pipe's other end is told to stop; nothing else takes that long."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError("waited for what never comes")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def piped(file: Path) -> Path:
    """A pipe in the place of a file, if there is one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    return file


def refused(code: int, capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    error = capsys.readouterr().err
    assert code == 2, error
    assert "Traceback" not in error
    for part in parts:
        assert part in error


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        *((name, ["validate", "FILE"], "cannot be read: is a pipe") for name in ("p.json", "p.yaml", "pipeline.yaml")),
        ("params.py", ["validate", "FILE"], "params.py: there is no such file"),
        ("s.yaml", ["settings", "--target", "kubeflow", "--settings", "FILE"], "s.yaml: cannot be read: is a pipe"),
        ("i.json", ["compile", "-o", "FILE.yaml", "--images", "FILE"], "i.json: cannot be read: is a pipe"),
        ("run.train.0.jsonl", ["events", "replay", "FILE"], "is a pipe"),
    ],
)
def test_a_command_does_not_wait_for_a_pipe(
    name: str, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(piped(tmp_path / name))
    refused(shutterline([word.replace("FILE", file) for word in words]), capsys, message)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_weights(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = write_params(tmp_path / "params.json", initial_weights=str(piped(tmp_path / name)))
    dataset, model = write_digits(tmp_path / "dataset"), tmp_path / "model"
    code = train(["--dataset", str(dataset), "--model", str(model), "--params", str(params)])
    refused(code, capsys, f"initial_weights: {tmp_path / name}: is a pipe")


@pytest.mark.parametrize("name", ["dataset.json", "train/labels.npy", "test/images-00000.npy"])
def test_datasets(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params, dataset = write_params(tmp_path / "params.json"), write_digits(tmp_path / "dataset")
    piped(dataset / name)
    code = train(["--dataset", str(dataset), "--model", str(tmp_path / "model"), "--params", str(params)])
    refused(code, capsys, str(dataset / name))


@pytest.mark.parametrize("suffix", [".json", ".pt"])
def test_checkpoints(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params, dataset = write_params(tmp_path / "params.json", save_freq=1), write_digits(tmp_path / "dataset")
    command = ["--dataset", str(dataset), "--model", str(tmp_path / "model"), "--params", str(params)]
    assert train(command) == 0
    for file in (tmp_path / "model-checkpoints").glob(f"*{suffix}"):
        piped(file)
    assert train(command) == 0
    error = capsys.readouterr().err
    assert error.count("is damaged and passed over") == 2
    assert "is a pipe, not a file" in error or "has 0 bytes" in error


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train/info.csv", "train/a/1.png"])
def test_data(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = write_params(tmp_path / "params.json")
    piped(tmp_path / "data" / name)
    code = data_prep(
        ["--data", str(tmp_path / "data"), "--dataset", str(tmp_path / "dataset"), "--params", str(params)]
    )
    refused(code, capsys, str(tmp_path / "data"))


def test_credentials(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(piped(tmp_path / "account.json"))
    topics = {"PUB_SUB_PROJECT": "project", "PUB_SUB_TOPIC": "status", "GOOGLE_APPLICATION_CREDENTIALS": file}
    params = write_params(tmp_path / "params.json", **topics)
    words = ["--data", str(DIGITS), "--dataset", str(tmp_path / "dataset"), "--params", str(params)]
    refused(data_prep(words), capsys, f"GOOGLE_APPLICATION_CREDENTIALS: {file} cannot be read: is a pipe")

    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SSL")
    monkeypatch.setenv("KAFKA_SSL_CAFILE", file)
    params = write_params(tmp_path / "params.json", KAFKA_HOST="localhost:1", KAFKA_TOPIC="status")
    refused(data_prep(words), capsys, f"KAFKA_SSL_CAFILE: {file} cannot be read: is a pipe")


def listen(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(file))


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (os.mkfifo, "is a pipe, not a file"),
        (Path.mkdir, "Is a directory"),
        (listen, "is a socket, not a file"),
        (lambda file: file.symlink_to("/dev/null"), "is a device, not a file"),
        (lambda file: file.symlink_to(file), "Too many levels of symbolic links"),
        (lambda file: None, "No such file or directory"),
    ],
    ids=["pipe", "directory", "socket", "device", "circle", "nothing"],
)
def test_what_is_no_file_is_not_opened(put: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    put(tmp_path / "it")
    with pytest.raises(OSError, match=message) as caught:
        open_regular(tmp_path / "it")
    assert caught.value.filename in (str(tmp_path / "it"), tmp_path / "it")


def test_a_file_has_a_largest_size(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("it")
    assert read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="is larger than 4 bytes"):
        read_regular(tmp_path / "it", 4)
    with pytest.raises(OSError, match="is larger than 4 bytes"):  # one of the kernel's, which has no size before
        read_regular("/proc/self/status", 4)


def test_a_shells_pipe_will_do_where_that_is_allowed() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"token")
        os.close(writer)
        assert read_regular(f"/dev/fd/{reader}", 10, shell_pipes=True) == b"token"
        with pytest.raises(OSError, match="is a pipe, not a file"):
            read_regular(f"/dev/fd/{reader}", 10)
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 1}', "has the key 'a' twice"),
        ('{"a": {"b": 1, "b": 2}}', "has the key 'b' twice"),
        ("[NaN]", "NaN is not a number"),
        ("[-1e400]", "-1e400 is beyond what a number can be"),
        ("[" * 100_000, "is nested too deep"),
    ],
)
def test_json_is_the_standards(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StrictJsonError, match=message):
        parse_json(text)
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(StrictJsonError, match=message):
        read_json(tmp_path / "it.json")


def test_json_that_is_the_standards_is_read() -> None:
    assert parse_json(json.dumps(SMALL).encode()) == SMALL
    with pytest.raises(UnicodeDecodeError):
        parse_json(b'"\xff"')
