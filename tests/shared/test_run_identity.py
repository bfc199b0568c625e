"""Which run a step belongs to: by the environment, then the platform, then an id of its own."""

from __future__ import annotations

import socket
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from components.shared.errors import DataError, DivergedError, GroupLostError, InputError
from components.shared.events.data import Emit
from components.shared.events.event import EventSource, is_run_id
from components.shared.events.spool import events_in
from components.shared.params.params import Params
from components.shared.run import (
    PIPELINE_NAME,
    StepRun,
    as_run_id,
    checkpoints_of_run,
    events_of_checkpoints,
    run_of_artifact,
    run_of_placeholders,
    step_run,
)
from components.shared.signals import Terminated
from components.shared.step import StepFailed, run_step
from components.shared.storage.location import parse_location
from tests.shared.test_step import PARAMS, Result

UUID = "0a1b2c3d-4e5f-6789-abcd-ef0123456789"
TASK_UUID = "ffffffff-0000-1111-2222-333333333333"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "SHUTTERLINE_RUN_ID SHUTTERLINE_EVENTS KFP_RETRY_INDEX KFP_POD_NAME KFP_POD_UID RANK LOCAL_RANK WORLD_SIZE"
    for name in (*names.split(), "PET_NNODES"):
        monkeypatch.delenv(name, raising=False)


def test_a_step_that_was_started_by_itself_is_a_run_of_its_own(tmp_path: Path) -> None:
    one, other = step_run(tmp_path / "model"), step_run(tmp_path / "model")
    assert one == StepRun(one.run, None, 0, tmp_path / "events", shared=False, host=socket.gethostname())
    assert is_run_id(one.run)
    assert one.run != other.run


def test_the_platform_is_believed_and_the_environment_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert step_run(in_pipeline=True, platform_run=UUID) == StepRun(
        UUID, PIPELINE_NAME, 0, None, shared=False, host=socket.gethostname(), platform_run=UUID
    )
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", "named.by-us_1")
    monkeypatch.setenv("SHUTTERLINE_EVENTS", str(tmp_path / "shared"))
    monkeypatch.setenv("KFP_RETRY_INDEX", "3")
    assert step_run(tmp_path / "model", platform_run=UUID) == StepRun(
        "named.by-us_1", None, 3, tmp_path / "shared", shared=True, host=socket.gethostname(), platform_run=UUID
    )


def test_no_two_starts_have_one_id_and_a_pods_is_its_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod's host name is cut at 63 characters, so that all steps have the same; Retry uses a pod's name again."""
    assert step_run().process != step_run().process
    monkeypatch.setenv("KFP_POD_NAME", "shutterline-image-classifier-hqblv-retry-system-container-impl-1920548461")
    monkeypatch.setenv("KFP_POD_UID", TASK_UUID)
    found = step_run()
    assert (found.process, found.host) == (
        TASK_UUID, "shutterline-image-classifier-hqblv-retry-system-container-impl-1920548461",
    )  # fmt: skip
    assert EventSource("run", "train", 0, found.process).source == f"/shutterline/runs/run/train/{TASK_UUID}"
    assert EventSource("run", "train", 0, "/\udcff").source == "/shutterline/runs/run/train/%2F%3F"
    # Torch elastic starts several processes in one pod, and again.
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert TASK_UUID not in (step_run().process, step_run().process)


@pytest.mark.parametrize("scheme", ["gs", "s3", "minio"])
def test_events_may_be_in_a_bucket_or_beside_the_runs_artifacts(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("SHUTTERLINE_EVENTS", f"{scheme}://bucket/events")
    found = step_run()
    assert str(found.bucket) == f"{scheme.replace('minio', 's3')}://bucket/events"
    assert found.shared
    assert found.events is not None
    monkeypatch.setenv("SHUTTERLINE_EVENTS", "auto")
    artifact = f"{scheme}://mlpipeline/v2/artifacts/image-classifier/{UUID}/train/{TASK_UUID}/model"
    expected = f"{scheme.replace('minio', 's3')}://mlpipeline/v2/artifacts/image-classifier/{UUID}/events"
    assert str(step_run(artifact=artifact).bucket) == expected
    local = step_run(artifact="/home/me/out/image-classifier-7/train/model")
    assert (local.events, local.bucket) == (Path("/home/me/out/image-classifier-7/events"), None)


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("auto", "auto needs the location of a run's artifacts, and nothing is none; name one"),
        ("ftp://host/events", "ftp:// is not known here"),
        ("s3://B/events", "that is no bucket's name"),
    ],
)
def test_a_location_that_events_cannot_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, named: str, reason: str
) -> None:
    monkeypatch.setenv("SHUTTERLINE_EVENTS", named)
    with pytest.raises(InputError, match=r"^SHUTTERLINE_EVENTS: ") as refused:
        step_run()
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("index", "attempt"), [("0", 0), ("12", 12), ("-1", 0), ("1.5", 0), ("two", 0), (" 1", 0), ("9" * 5000, 0)]
)
def test_the_attempt_is_the_platforms(monkeypatch: pytest.MonkeyPatch, index: str, attempt: int) -> None:
    monkeypatch.setenv("KFP_RETRY_INDEX", index)
    assert step_run().attempt == attempt


def test_events_lie_beside_what_is_made_wherever_one_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert step_run(Path("runs/1/model")).events == tmp_path / "runs" / "1" / "events"
    assert step_run(Path("model")).events == tmp_path / "events"


@pytest.mark.parametrize("name", ["../run", "a b", "-run", "a/b", "ä", "x" * 129, "run\n"])
def test_a_name_that_is_no_run_id_ends_the_step_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", name)
    monkeypatch.setenv("SHUTTERLINE_EVENTS", str(tmp_path))
    reason = f"SHUTTERLINE_RUN_ID: must be 1 to 128 letters, digits or the characters ._-, got {name!r}"
    with pytest.raises(InputError) as refused:
        step_run()
    assert str(refused.value) == reason

    with pytest.raises(StepFailed) as ended:
        run_step("train", PARAMS, lambda params, emit: Result())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"ERROR failed: {reason}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "run"),
    [
        # Kubeflow: ROOT/PIPELINE/RUN/TASK/UUID/ARTIFACT, the root on any store.
        (f"minio://mlpipeline/v2/artifacts/image-classifier/{UUID}/train/{TASK_UUID}/model", UUID),
        (f"s3://bucket/image-classifier/{UUID}/train/{TASK_UUID}/model?endpoint=a/b/c/d", UUID),
        (f"gs://bucket/image-classifier/{UUID.upper()}/train/{TASK_UUID}/model", UUID.upper()),
        # Vertex AI: ROOT/PROJECT/JOB/TASK_ID/ARTIFACT.
        (
            "gs://bucket/root/123456789/image-classifier-20261123140000/train_-4857297/model",
            "image-classifier-20261123140000",
        ),
        # kfp's local runners: ROOT/PIPELINE-TIME/TASK/ARTIFACT.
        (
            "/home/me/runs/1/local_outputs/image-classifier-2026-11-23-14-00-00-123456/train/model",
            "image-classifier-2026-11-23-14-00-00-123456",
        ),
        ("local_outputs/pipeline 1 of 2/train/model", "pipeline-1-of-2"),
        ("a/b/c", ""),
        ("model", ""),
        ("", ""),
    ],
)
def test_an_artifacts_place_tells_the_run(uri: str, run: str) -> None:
    assert run_of_artifact(uri) == run


@pytest.mark.parametrize(
    ("artifact", "expected"),
    [
        (
            f"minio://mlpipeline/v2/artifacts/image-classifier/{UUID}/train/{TASK_UUID}/model?region=x",
            f"s3://mlpipeline/v2/artifacts/image-classifier/{UUID}/checkpoints",
        ),
        ("gs://bucket/root/123456789/job-1/train_-4857297/model", "gs://bucket/root/123456789/job-1/checkpoints"),
        (
            "/home/me/out/image-classifier-7/train/model",
            "/home/me/out/image-classifier-7/checkpoints",
        ),
    ],
)
def test_checkpoints_lie_beside_the_runs_artifacts_whatever_the_attempt(artifact: str, expected: str) -> None:
    assert str(checkpoints_of_run("auto", artifact, "0f1e")) == expected
    assert str(checkpoints_of_run("auto", artifact.replace(TASK_UUID, UUID), "0f1e")) == expected  # another attempt's
    assert str(checkpoints_of_run("gs://bucket/kept", artifact, "0f1e")) == "gs://bucket/kept/0f1e"
    assert str(checkpoints_of_run("/shared/kept", artifact, "0f1e")) == "/shared/kept/0f1e"
    assert checkpoints_of_run("", artifact, "0f1e") is None
    with pytest.raises(InputError, match=r"^checkpoints: auto needs the location of a run's artifacts, and model is n"):
        checkpoints_of_run("auto", "model", "0f1e")


def test_the_exit_step_finds_the_same_run_by_the_jobs_names() -> None:
    assert run_of_placeholders(UUID, "image-classifier-x7k2p") == UUID
    assert run_of_placeholders("8372947239472394", "image-classifier-1") == "image-classifier-1"


@example("x" * 300)
@given(st.text(st.characters(exclude_categories=[])) | st.from_regex(r"[._\-a-z /]*", fullmatch=True))
def test_any_name_becomes_a_run_id_or_nothing(text: str) -> None:
    assert is_run_id(as_run_id(text)) or as_run_id(text) == ""
    assert as_run_id(as_run_id(text)) == as_run_id(text)
    assert run_of_artifact(f"root/{text}") == "" or is_run_id(run_of_artifact(f"root/{text}"))


@pytest.mark.parametrize(
    ("size", "there"), [(None, "is not set"), ("", "is not set"), ("1", "is 1"), ("two", "is two"), ("-2", "is -2")]
)
def test_a_rank_of_no_group_is_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, size: str | None, there: str
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("SHUTTERLINE_RECORDS", str(tmp_path))

    run_step("train", PARAMS, lambda params, emit: Result())

    logged = capsys.readouterr().err.splitlines()
    expected = f"train     WARNING RANK is 1, and is ignored: WORLD_SIZE {there}, so this process is alone"
    assert logged[0].endswith(expected)
    assert logged[1].endswith("train     started")
    assert (tmp_path / "train.json").exists()


def test_events_of_a_bucket_wait_in_a_folder_of_the_users_own() -> None:
    events = step_run(parse_location("gs://bucket/model")).events
    assert events is not None
    assert Path(tempfile.gettempdir()) in events.parents
    assert stat.S_IMODE(events.parent.stat().st_mode) == 0o700


def test_a_group_that_was_started_again_is_another_attempt_of_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night-7")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    found = []
    for retry in (0, 1):
        for restart in range(4):
            monkeypatch.setenv("KFP_RETRY_INDEX", str(retry))
            monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restart))
            found.append(step_run())

    assert [run.attempt for run in found] == list(range(8)), "as the platform's retries and torch's restarts follow"
    assert {run.run for run in found} == {"night-7"}


def test_checkpoints_whose_path_cannot_be_looked_at_keep_no_events(tmp_path: Path) -> None:
    """What is wrong with it, such as one above it that may not be entered, is said where checkpoints are opened."""
    assert events_of_checkpoints(str(tmp_path / "new"), "") == tmp_path / "new" / "events"
    assert events_of_checkpoints(str(tmp_path / ("x" * 300) / "checkpoints"), "") is None


ELASTIC = {"TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}
TRAINER = {"PET_NNODES": "2"}  # set by Kubeflow Trainer in its pods
SPENT = ELASTIC | {"TORCHELASTIC_RESTART_COUNT": "3"}


@pytest.mark.parametrize(
    ("environment", "error", "again"),
    [
        ({}, ValueError("broken"), None),
        ({}, Terminated(), None),
        (ELASTIC, GroupLostError("another one's"), True),
        (ELASTIC, DataError("/data: is empty"), None),
        (ELASTIC, DivergedError("nan"), None),
        (ELASTIC, Terminated(), None),
        (ELASTIC, KeyboardInterrupt(), None),
        (SPENT, GroupLostError("another one's"), None),
        (SPENT | TRAINER, GroupLostError("another one's"), True),
        (TRAINER, ValueError("broken"), True),
        (TRAINER, Terminated(), True),
        (TRAINER, DataError("/data: is empty"), None),
        (TRAINER, DivergedError("nan"), None),
    ],
)
def test_an_end_that_a_next_attempt_is_likely_to_follow_says_so(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    error: BaseException,
    again: bool | None,
) -> None:
    def fail(params: Params, emit: Emit) -> Result:
        raise error

    monkeypatch.setenv("SHUTTERLINE_EVENTS", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StepFailed):
        run_step("train", PARAMS, fail)
    assert [event.data.starts_again for event in events_in(tmp_path) if event.is_terminal] == [again]
