"""Publishing to a directory: what is there, twice, by two at once, killed in the middle, and what is refused."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from components.evaluate.evaluate import evaluate
from components.publish.__main__ import main
from components.publish.publish import PublishResult, publish
from components.shared.artifacts.evaluation import open_evaluation
from components.shared.artifacts.model import open_model
from components.shared.errors import ArtifactError, InputError, ParamsError
from components.shared.events.data import Succeeded
from components.shared.files import sha256_of
from tests.evaluate.conftest import Parts, params_of, parts_in, write_model


def published(parts: Parts, root: Path, **changes: Any) -> PublishResult:
    return publish(model=parts.model, evaluation=parts.evaluation, params=params_of(publish_uri=str(root), **changes))


def files_in(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def hidden(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.name.startswith(".")]


def test_a_version_is_a_model_and_an_evaluation_with_a_card_and_sums(ready: Parts, root: Path) -> None:
    result = published(ready, root)

    version = root / result.version
    assert result.event(1.5) == Succeeded(1.5, artifacts={"published": str(version)})
    assert result.report() == {
        "published": str(version),
        "version": result.version,
        "is_new": True,
        "files": result.files,
        "bytes": sum(path.stat().st_size for path in version.rglob("*") if path.is_file()),
    }
    assert open_model(version).manifest == open_model(ready.model).manifest
    assert open_evaluation(version / "evaluation").manifest == open_evaluation(ready.evaluation).manifest
    assert (version / "model_card.md").read_text() == result.card
    # Its name is what is in it, as a stock tool says it.
    checked = subprocess.run(
        ["/usr/bin/sha256sum", "-c", "SHA256SUMS"], cwd=version, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    sums = (version / "SHA256SUMS").read_bytes()
    assert {line.split(None, 1)[1] for line in sums.decode().splitlines()} == files_in(version).keys() - {"SHA256SUMS"}
    moment, _, digest = result.version.rpartition("-")
    assert digest == hashlib.sha256(sums).hexdigest()[:12]
    ended = datetime.fromisoformat(open_evaluation(ready.evaluation).manifest.ended)
    assert moment == ended.strftime("%Y%m%d-%H%M%S")
    assert hidden(root) == []


def test_the_same_again_changes_nothing(ready: Parts, root: Path) -> None:
    first = published(ready, root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    second = published(ready, root)

    assert (second.version, second.is_new) == (first.version, False)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_another_evaluation_is_another_version(tmp_path: Path, root: Path) -> None:
    parts = parts_in(tmp_path)
    evaluate(**parts.arguments())
    first = published(parts, root)
    evaluate(**parts.arguments(params=params_of(gate={"accuracy": {"min": 0.0}})))
    second = published(parts, root)

    assert {path.name for path in root.iterdir()} == {first.version, second.version}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda version: (version / "model.onnx").write_bytes(b"x"), "model.onnx"),
        (lambda version: (version / "model.json").unlink(), "model.json"),
        (lambda version: (version / "more.txt").write_text("x"), "more.txt"),
    ],
)
def test_what_else_is_there_is_refused_and_left_alone(ready: Parts, root: Path, change: Any, name: str) -> None:
    version = root / published(ready, root).version
    change(version)
    before = files_in(root)

    with pytest.raises(InputError, match=rf"{name}: is not what this version has there"):
        published(ready, root)
    assert files_in(root) == before


def _publish_in_a_process(parts: Parts, root: Path, start: Any, results: Any) -> None:
    start.wait()
    results.put(published(parts, root).is_new)


def test_of_publishers_at_once_one_publishes_and_all_succeed(ready: Parts, root: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=_publish_in_a_process, args=(ready, root, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()

    assert sorted(results.get() for _ in processes) == [False, False, False, True]
    (version,) = root.iterdir()
    open_model(version)


@pytest.mark.parametrize("copied", [0, 1, 4])
def test_a_publisher_killed_in_the_middle_leaves_no_version(ready: Parts, root: Path, copied: int) -> None:
    child = os.fork()
    if child == 0:
        count = iter(range(100))
        real = shutil.copyfile

        def copy_or_die(source: Path, target: Path) -> Any:
            if next(count) == copied:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(source, target)

        shutil.copyfile = copy_or_die  # type: ignore[assignment]
        try:
            published(ready, root)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path for path in root.iterdir() if not path.name.startswith(".")] == [], "no version"

    result = published(ready, root)
    assert result.is_new
    assert [path.name for path in root.iterdir()] == [result.version], "what the killed one left is gone"


def test_a_model_that_is_not_the_one_evaluated_is_refused(tmp_path: Path, root: Path) -> None:
    parts = parts_in(tmp_path)
    evaluate(**parts.arguments())
    shutil.rmtree(parts.model)
    write_model(parts.model, parts.params, dataset=parts.dataset, seed=2)

    with pytest.raises(ArtifactError, match=r"is not the model that was evaluated in .* evaluate this one"):
        published(parts, root)
    assert not root.exists()


@pytest.mark.parametrize("what", ["model", "evaluation"])
def test_nothing_is_published_into_what_is_published(ready: Parts, what: str) -> None:
    inside: Path = getattr(ready, what) / "published"
    with pytest.raises(InputError, match=f"publish_uri .* is in the {what} directory, .*; name another directory"):
        published(ready, inside)
    assert not inside.exists()


def test_a_model_that_does_not_pass_is_refused(tmp_path: Path, root: Path) -> None:
    parts = parts_in(tmp_path)
    gate = {"accuracy": {"min": 1.0}}
    evaluate(**parts.arguments(params=params_of(gate=gate)))
    with pytest.raises(ArtifactError, match=r"does not pass the gate, and is not published: accuracy 0\.\d+"):
        published(parts, root)

    evaluate(**parts.arguments())
    with pytest.raises(ArtifactError, match="was evaluated without the gate of the params"):
        published(parts, root, gate=gate)

    evaluate(**parts.arguments(params=params_of(gate={"accuracy": {"min": 0.0}})))
    with pytest.raises(ArtifactError, match="was evaluated without the gate of the params"):
        published(parts, root, gate=gate)
    assert not root.exists()


@pytest.mark.parametrize("what", ["model", "evaluation"])
def test_what_is_damaged_or_incomplete_is_refused(tmp_path: Path, root: Path, what: str) -> None:
    parts = parts_in(tmp_path)
    evaluate(**parts.arguments())
    file = {"model": parts.model / "model.safetensors", "evaluation": parts.evaluation / "report.html"}[what]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="damaged"):
        published(parts, root)
    assert not root.exists()


def test_a_destination_is_needed_and_must_be_writable(ready: Parts, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="publish_uri: is required to publish a model"):
        publish(model=ready.model, evaluation=ready.evaluation, params=params_of())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"publish_uri .*file: cannot be written by user \d+"):
        published(ready, tmp_path / "file")


def test_the_command_line(ready: Parts, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--model", str(ready.model), "--evaluation", str(ready.evaluation), "--params", ready.params.to_json()]
    assert main([*command, "--set", f"publish_uri={root}", "--json"]) == 0
    out, log = capsys.readouterr()
    report = json.loads(out)["report"]
    assert f"published {report['published']}" in log

    assert main([*command, "--set", f"publish_uri={root}"]) == 0
    assert f"was published already: {report['published']}" in capsys.readouterr().err
    assert main(command) == 2
    assert "publish_uri: is required" in capsys.readouterr().err
