"""Progress as Kubeflow Trainer shows it: what is reported of a step and how often, and that trouble costs nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.shared.errors import DataError, RetryableError
from components.shared.events.data import Emit, Progress
from components.shared.kubeflow import trainer_status
from components.shared.kubeflow.trainer_status import TrainerServer
from components.shared.params.params import Params
from components.shared.run import step_run
from components.shared.step import StepFailed, run_step
from tests.peers.tls import Certificates
from tests.peers.trainer_status import TrainerStatusServer
from tests.shared.events.sample_events import progress
from tests.shared.test_step import PARAMS, Result

TOKEN = "eyJ.a-token-of-trainers.sig"  # noqa: S105 - of a test


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TrainerStatusServer]:
    """The server that the environment names; between two reports there is no time, unless a test says otherwise."""
    monkeypatch.setattr(trainer_status, "EVERY_S", 0.0)
    for bound in ("ATTEMPT_S", "LAST_S"):
        monkeypatch.setattr(trainer_status, bound, 60.0)  # of a busy machine
    monkeypatch.setenv("SHUTTERLINE_RUN_ID", "run-1")
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:1")  # leads out of the cluster
    for name in ("RANK", "WORLD_SIZE", "SHUTTERLINE_EVENTS"):
        monkeypatch.delenv(name, raising=False)
    with TrainerStatusServer(tmp_path, token=TOKEN) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def run(*steps: Progress | Callable[[], object], error: BaseException | None = None) -> int:
    """The exit code of a step that emits progress, does something between, and ends."""

    def work(params: Params, emit: Emit) -> Result:
        for step in steps:
            if isinstance(step, Progress):
                emit(step)
            else:
                step()
        if error is not None:
            raise error
        return Result()

    try:
        run_step("train", PARAMS, work, lambda: step_run())
    except StepFailed as failed:
        return int(str(failed.code))
    return 0


def figures(report: dict[str, Any]) -> dict[str, str]:
    return {metric["name"]: metric["value"] for metric in report["metrics"]}


def test_the_newest_progress_is_reported_and_100_at_the_end(
    server: TrainerStatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_status, "EVERY_S", 1e6)
    first = replace(progress(300, 1000), eta_seconds=12.3, device="cpu")  # a run that goes on from its epoch 300
    further = [progress(epoch, 1000) for epoch in range(301, 601)]
    assert run(Progress(50, 100, unit="bytes"), first, lambda: server.wait(1), *further) == 0
    reported, last = server.reports
    assert reported == {
        "progressPercentage": 30,
        "estimatedRemainingSeconds": 13,
        "metrics": [
            {"name": "epoch", "value": "300"},
            {"name": "samples_per_second", "value": "51234.5"},
            {"name": "learning_rate", "value": "0.001"},
            {"name": "train_loss", "value": "0.00332226"},
            {"name": "accuracy", "value": "0.996678"},
        ],
        "lastUpdatedTime": reported["lastUpdatedTime"],
    }
    assert (last["progressPercentage"], last["estimatedRemainingSeconds"]) == (100, 0)  # stopped early, and done
    assert figures(last) == figures(reported) | {
        "epoch": "600", "train_loss": "0.00166389", "accuracy": "0.5",  # the step's own last figure
    }  # fmt: skip


@pytest.mark.parametrize("error", [DataError("no"), KeyboardInterrupt()])
def test_a_step_that_does_not_succeed_stays_where_it_was(
    server: TrainerStatusServer, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(trainer_status, "EVERY_S", 1e6)
    assert run(progress(1, 4), lambda: server.wait(1), progress(2, 4), progress(4, 4), error=error) != 0
    assert [report["progressPercentage"] for report in server.reports] == [25, 99]  # its model was still to come


def test_a_step_without_progress_reports_its_success_alone(server: TrainerStatusServer) -> None:
    assert run(error=DataError("bad")) == 2
    assert server.answers == []
    assert run() == 0
    assert [(report["progressPercentage"], figures(report)) for report in server.reports] == [
        (100, {"accuracy": "0.5"})
    ]


def test_what_trainer_does_not_take_is_left_out_with_a_count(
    server: TrainerStatusServer, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [*(f"{'é' * 70}{number}" for number in range(2)), "", *(f"recall of {number}" for number in range(300))]
    many = replace(
        progress(9, 4), metrics=dict.fromkeys(names, 0.1234567), eta_seconds=1e12, learning_rate=float("nan"), losses={}
    )
    none = Progress(0, 0, eta_seconds=float("nan"), metrics={"f1": float("inf"), "recall": None})
    assert run(none, lambda: server.wait(1), many, lambda: server.wait(2)) == 0
    bare, report, _ = server.reports
    assert bare.keys() == {"metrics", "lastUpdatedTime"}
    assert bare["metrics"] == []
    assert (report["progressPercentage"], report["estimatedRemainingSeconds"]) == (99, 2**31 - 1)
    assert len(report["metrics"]) == 256
    assert list(figures(report))[:4] == ["epoch", "samples_per_second", "é" * 64, "recall of 0"]
    (warning,) = (line for line in capfd.readouterr().err.splitlines() if "WARNING" in line)
    assert warning.endswith("47 metrics are not reported to Kubeflow Trainer, which takes 256 and 64 kB")


def test_a_report_of_256_long_names_fits_into_64_kb(
    server: TrainerStatusServer, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [chr(0x1F600 + number) * 64 for number in range(250)]
    assert run(replace(progress(1, 4), metrics=dict.fromkeys(names, 0.123456)), lambda: server.wait(1)) == 0
    assert server.answers == [200, 200]
    assert 200 < len(server.reports[0]["metrics"]) < 250
    assert capfd.readouterr().err.count("metrics are not reported") == 1


TROUBLE: dict[str, tuple[tuple[int, dict[str, str]] | None, str]] = {
    "refused": ((403, {}), "answers 403, broken for a test"),
    "wrong": ((422, {}), "answers 422, broken for a test"),
    "busy": ((429, {"Retry-After": "0"}), "answers 429, broken for a test"),
    "broken": ((500, {}), "answers 500, broken for a test"),
    "moved": ((307, {"Location": "https://localhost:1/"}), "answers 307, broken for a test"),
    "silent": (None, "does not answer within 0.2 s"),
}


@pytest.mark.parametrize(("fault", "reason"), TROUBLE.values(), ids=TROUBLE)
def test_trouble_is_logged_once_with_its_reason_and_its_end_once(
    server: TrainerStatusServer,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: tuple[int, dict[str, str]] | None,
    reason: str,
) -> None:
    monkeypatch.setattr(trainer_status, "ATTEMPT_S", 0.2 if fault is None else 60.0)
    server.faults.extend([fault] * 3)
    assert run(progress(1, 4), lambda: server.wait(4), progress(2, 4), lambda: server.wait(5)) == 0
    assert [report["progressPercentage"] for report in server.reports] == [25, 50, 100]
    _, trouble, back, _ = capfd.readouterr().err.splitlines()
    where = f"127.0.0.1:{server.port}"
    assert trouble.endswith(f"WARNING progress is not reported to Kubeflow Trainer: {where}: {reason}; going on")
    assert back.endswith(" progress is reported to Kubeflow Trainer again")


def test_a_server_that_asks_for_time_has_it_until_the_end(server: TrainerStatusServer) -> None:
    server.faults.append((429, {"Retry-After": "3600"}))
    assert run(progress(1, 4), lambda: server.wait(1), *(progress(epoch, 400) for epoch in range(2, 300))) == 0
    assert server.answers == [429, 200]
    assert [figures(report)["epoch"] for report in server.reports] == ["299"]


@pytest.mark.parametrize("is_silent", [False, True], ids=["nobody there", "accepts and never answers"])
def test_a_server_that_is_away_costs_the_end_a_bounded_moment(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_silent: bool
) -> None:
    monkeypatch.setattr(trainer_status, "LAST_S", 0.1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if is_silent:
            listener.listen()
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", f"https://127.0.0.1:{listener.getsockname()[1]}/status")
        assert run(progress(1, 4), progress(2, 4)) == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if "Kubeflow Trainer" in line]
    assert len(warnings) == 1
    assert "WARNING progress is not reported to Kubeflow Trainer" in warnings[0]


def test_only_the_authority_that_trainer_names_is_trusted(
    server: TrainerStatusServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = Certificates(tmp_path / "other").ca_file
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_CA_CERT", str(other))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert run(progress(1, 4)) == 0
    assert server.answers == []
    assert "its certificate is not trusted: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"KUBEFLOW_TRAINER_SERVER_URL": "http://localhost:1/status"}, "_URL must be https://HOST:PORT/PATH"),
        ({"KUBEFLOW_TRAINER_SERVER_URL": "https://me:pw@localhost:1/status"}, "_URL must be https://HOST:PORT/PATH"),
        ({"KUBEFLOW_TRAINER_SERVER_URL": "https://localhost:99999/x"}, "_URL must be https://HOST:PORT/PATH"),
        ({"KUBEFLOW_TRAINER_SERVER_CA_CERT": ""}, "_URL is set, and not both of KUBEFLOW_TRAINER_SERVER_CA_CERT and"),
        ({"KUBEFLOW_TRAINER_SERVER_CA_CERT": "/none/ca.crt"}, "/none/ca.crt: No such file or directory; going on"),
        (
            {"KUBEFLOW_TRAINER_SERVER_TOKEN": "/none/token"},
            "the file that KUBEFLOW_TRAINER_SERVER_TOKEN names holds no",
        ),
        ({"KUBEFLOW_TRAINER_SERVER_URL": f"https://{'x' * 70}.svc:1/status"}, f"{'x' * 70}.svc:1: "),
    ],
)
def test_settings_that_cannot_be_used_are_one_warning(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], reason: str
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    assert run(progress(1, 4), progress(2, 4)) == 0
    (warning,) = (line for line in capfd.readouterr().err.splitlines() if "WARNING" in line)
    assert "progress is not reported to Kubeflow Trainer: " in warning
    assert reason in warning
    assert "pw" not in warning


def test_a_token_is_read_each_time_and_never_shown(
    server: TrainerStatusServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def renew() -> None:
        server.wait(1)
        server.authorized = {"eyJ.the-next-token-of-trainers.sig"}
        server.token_file.write_text("eyJ.the-next-token-of-trainers.sig", "ascii")

    assert run(progress(1, 4), renew, progress(2, 4)) == 0
    assert set(server.answers) == {200}
    server.authorized = set()
    assert run(progress(1, 4)) == 0
    assert server.answers[-1] == 403
    assert "of-trainers" not in capfd.readouterr().err


def test_of_a_group_the_first_reports_also_where_status_is_logged(
    server: TrainerStatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHUTTERLINE_STATUS", "log")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(progress(1, 4)) == 0
    assert server.answers == []
    monkeypatch.setenv("RANK", "0")
    assert run(progress(1, 4)) == 0
    assert server.reports[-1]["progressPercentage"] == 100


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"trainerStatus": {"progressPercentage": 140, "lastUpdatedTime": "2026-11-28T07:02:41Z"}}, "answers 422, "),
        ({"trainerStatus": {"progressPercentage": 40}}, "answers 422, "),
        (
            {"trainerStatus": {"metrics": [{"name": "", "value": "1"}], "lastUpdatedTime": "2026-11-28T07:02:41Z"}},
            "422",
        ),
        ({"more": "x" * 2**16}, "answers 413, Payload too large"),
    ],
)
def test_the_test_server_refuses_what_trainers_refused(body: dict[str, Any], answer: str) -> None:
    server = TrainerServer.from_environment()
    assert server is not None
    server.post(b"{}", 20)
    with pytest.raises(RetryableError, match=answer):
        server.post(json.dumps(body).encode(), 20)
    other = replace(server, url=server.url.replace("train-1", "train-2"))
    with pytest.raises(RetryableError, match="answers 403"):
        other.post(b"{}", 20)
