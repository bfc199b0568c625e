"""The process that exports the network beside a training: what ends it, and what it ends."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.shared.errors import ParamsError, ShutterlineError
from components.shared.signals import Terminated
from components.train.__main__ import main
from components.train.graph_export import GraphExport
from components.train.graph_files import graph_key, keep_graph
from components.train.train import train
from tests.configs import layer
from tests.examples import small, write_params
from tests.train.networks import RANDOM, long_steps

ROOT = Path(__file__).parents[2]
REASON = (
    "net_arch[1]: torch.nn.FractionalMaxPool2d cannot be expressed in ONNX, as which a model is kept: it has no "
    "operator for aten.fractional_max_pool2d; choose another layer"
)


@pytest.fixture(autouse=True)
def _exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each network exported, whatever other tests have kept."""
    monkeypatch.delenv("SHUTTERLINE_GRAPHS")


def exporters(parent: int) -> list[int]:
    """Process ids of the exports that a process has started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state = (process / "stat").read_text().rpartition(")")[2].split()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"components.train.graph_export" in command and int(state[1]) == parent:
            found.append(int(process.name))
    return found


def until(condition: Callable[[], object], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def exporter() -> int:
    """Process id of the export of this process; it has no command line yet in a moment of its start."""
    until(lambda: exporters(os.getpid()))
    (process,) = exporters(os.getpid())
    return process


def test_a_network_that_cannot_be_expressed_ends_the_training(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path / "params.json", net_arch=RANDOM, num_epochs=100_000)

    with long_steps():
        assert main(["--dataset", str(few), "--model", str(tmp_path / "model"), "--params", str(params)]) == 2

    error = capsys.readouterr().err
    assert error.count(REASON) == 1
    assert "Traceback" not in error
    assert not (tmp_path / "model" / "model.json").exists()
    assert exporters(os.getpid()) == []


def test_leaving_ends_the_process() -> None:
    with GraphExport(small(net_arch=RANDOM)) as graph:
        process = exporter()
        assert not graph.has_failed()
    assert not Path(f"/proc/{process}").exists()


def test_leaving_ends_a_process_that_has_not_yet_read_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    for _ in range(20):  # whether the pipe is closed before the request, while or after it is written
        with GraphExport(small(num_epochs=1)):
            pass


def test_a_process_that_is_killed_is_an_error() -> None:
    with GraphExport(small(net_arch=RANDOM)) as graph:
        os.kill(exporter(), signal.SIGKILL)
        with pytest.raises(
            ShutterlineError, match="exports the network to ONNX ended by SIGKILL; is memory short"
        ) as error:
            graph.wait()
        assert not isinstance(error.value, ParamsError)


def test_a_process_that_fails_is_an_error_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so is not there')\n")
    monkeypatch.syspath_prepend(tmp_path)
    reason = "to ONNX ended with exit code 1: ImportError: libtorch.so is not there$"
    with GraphExport(small(net_arch=RANDOM)) as graph, pytest.raises(ShutterlineError, match=reason):
        graph.wait()


def test_a_process_that_ends_as_if_refused_but_gives_no_reason_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit(2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        GraphExport(small(net_arch=RANDOM)) as graph,
        pytest.raises(ShutterlineError, match="to ONNX ended with exit code 2; is memory short"),
    ):
        graph.wait()


KEPT = small(net_arch=[layer("Conv2d", in_channels=1, out_channels=3, kernel_size=2), layer("ReLU6")])
EXPORTED = """
import sys
from pathlib import Path
from components.shared.params.params import Params
from components.train.graph_export import GraphExport
with GraphExport(Params.load(sys.argv[1], [])) as graph:
    graph.keep_in(Path(sys.argv[2]))
    sys.stdout.buffer.write(graph.wait())
"""


def foreign(file: Path) -> Path:
    """The name that fits a file of another content."""
    return file.with_name(f"{file.name[:23]}{hashlib.sha256(b'no graph').hexdigest()}.onnx")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the network that another process has exported, by the source as it is in another folder."""
    folder = tmp_path_factory.mktemp("somewhere else")
    shutil.copytree(ROOT / "components", folder / "components", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "params.json").write_text(json.dumps(KEPT.to_dict()))
    command = [sys.executable, "-c", EXPORTED, "params.json", "checkpoints"]
    variables = os.environ | {"PYTHONPATH": str(folder), "SHUTTERLINE_GRAPHS": ""}
    content = subprocess.run(command, cwd=folder, env=variables, stdout=subprocess.PIPE, check=True).stdout
    (file,) = (folder / "checkpoints").iterdir()
    assert file.read_bytes() == content
    return file


@pytest.mark.slow
def test_an_earlier_attempts_graph_is_taken_where_it_is_whole_and_runnable(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept, content = tmp_path / "checkpoints", elsewhere.read_bytes()
    kept.mkdir()
    file = Path(shutil.copy(elsewhere, kept))

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise ImportError('not now')\n")  # so that no export can succeed
    monkeypatch.syspath_prepend(tmp_path / "broken")
    with GraphExport(KEPT, kept) as graph:
        assert (graph.wait(), exporters(os.getpid())) == (content, [])
    with GraphExport(small(net_arch=[layer("ReLU6")]), kept) as graph, pytest.raises(ShutterlineError, match="not now"):
        graph.wait()

    # An operator's layer, whose module may change, whatever it is called.
    monkeypatch.setenv("SHUTTERLINE_MODULES", "torchlike")
    own = small(net_arch=[{"class": "torchlike.Layer"}])
    request = {"net_arch": own.to_dict()["net_arch"], "image": own.image_shape, "classes": own.n_classes}
    keep_graph(tmp_path / "own", graph_key(request), content)
    with GraphExport(own, tmp_path / "own") as graph, pytest.raises(ShutterlineError, match="not now"):
        graph.wait()

    file.write_bytes(content[:-1])
    with GraphExport(KEPT, kept) as graph, pytest.raises(ShutterlineError, match="not now"):
        graph.wait()
    waits = "waiting for the network's export to ONNX"  # where that takes long
    damaged = f"{file}: is damaged, and the network is exported again"
    assert [each for each in caplog.messages if each != waits] == [damaged]
    assert list(kept.iterdir()) == []


@pytest.mark.slow
def test_a_graph_that_is_not_the_networks_is_exported_again_to_the_bytes_of_another_process_and_folder(
    elsewhere: Path, few: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = tmp_path / "graphs"
    graphs.mkdir()
    monkeypatch.setenv("SHUTTERLINE_GRAPHS", str(graphs))
    file = Path(shutil.copy(elsewhere, graphs))
    wanted = train(dataset=few, model=tmp_path / "wanted", params=KEPT).selection
    file.rename(foreign(file)).write_bytes(b"no graph")

    assert train(dataset=few, model=tmp_path / "model", params=KEPT).selection == wanted

    assert sum("is not this network's, and it is exported again" in line for line in caplog.messages) == 1
    assert [each.name for each in graphs.iterdir()] == [file.name]
    content, again = [(tmp_path / name / "model.onnx").read_bytes() for name in ("wanted", "model")]
    assert content == again
    user = os.environ.get("USER", "root").encode()
    assert not [text for text in (b"somewhere", b"/components", b".py", user) if text in content]


def test_waiting_can_be_ended() -> None:
    def poll() -> None:
        raise Terminated

    with pytest.raises(Terminated), GraphExport(small(net_arch=RANDOM)) as graph:
        graph.wait(poll)
    assert exporters(os.getpid()) == []


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this Linux does not weigh sessions")
def test_an_export_that_is_waited_for_has_its_share_of_the_machine() -> None:
    with GraphExport(small(net_arch=RANDOM)) as graph:
        weight = Path(f"/proc/{exporter()}/autogroup")
        until(lambda: weight.read_text().endswith(" 19\n"))

        def poll() -> None:
            if weight.read_text().endswith(" 0\n"):
                raise Terminated

        with pytest.raises(Terminated):
            graph.wait(poll)


def test_a_training_that_is_killed_leaves_no_export(few: Path, tmp_path: Path) -> None:
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    params = write_params(tmp_path / "params.json", num_epochs=100_000)
    places = ["--dataset", str(few), "--model", str(tmp_path / "model"), "--params", str(params)]
    variables = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    training = subprocess.Popen(
        [sys.executable, "-m", "components.train", *places],
        cwd=ROOT,
        env=os.environ | variables,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: exporters(training.pid) or training.poll() is not None)
    (process,) = exporters(training.pid)

    training.kill()
    training.wait()

    until(lambda: not Path(f"/proc/{process}").exists())
    assert list((tmp_path / "home").iterdir()) == []
    assert [path.name for path in (tmp_path / "tmp").rglob("*") if "onnx" in path.name] == []
