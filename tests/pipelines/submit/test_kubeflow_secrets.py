"""Secrets reach Kubeflow in the headers they are for, and appear nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.cli import main
from tests.peers.kfp_api import KfpApi, bare, moment
from tests.pipelines.submit.conftest import Submit, Told

TOKEN, COOKIE = "eyJhbGciOi.planted.token", "authservice_session=planted-cookie-value"
PASSWORD = "planted-password-9"  # noqa: S105 - it is to look like one
PLANTED = (TOKEN, "planted-cookie-value", PASSWORD)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, kfp_api: KfpApi) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", PASSWORD)
    monkeypatch.setenv("SHUTTERLINE_KFP_COOKIE", COOKIE)
    monkeypatch.setenv("SHUTTERLINE_KFP_TOKEN", TOKEN)
    kfp_api.token, kfp_api.cookie = TOKEN, COOKIE


def assert_unseen(text: str) -> None:
    for secret in PLANTED:
        assert secret not in text


def assert_unsent(api: KfpApi) -> None:
    """Headers apart, of which just two carry one."""
    for sent in api.sent:
        assert_unseen(f"{sent.path} {sent.query} {sent.body.decode()}")
        carrying = [name for name, value in sent.headers.items() if any(secret in value for secret in PLANTED)]
        assert sorted(carrying) == ["authorization", "cookie"]


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("options", [["--json"], ["--follow"], ["--dry-run"]])
def test_no_secret_is_in_a_request_or_in_what_is_printed(
    kfp_api: KfpApi, submit: Submit, capsys: Told, options: list[str]
) -> None:
    error = f"login with {PASSWORD} failed; sent Bearer {TOKEN}"
    kfp_api.script = [failed := moment("failed")]
    for node in failed.nodes.values():
        node["message"] = node.get("message") and f"main: {error}"
    failed.logs = {"train": f"12:00:00 train     ERROR failed: {error}\nsasl.password={PASSWORD}\n"}
    assert submit(*options) == (1 if options == ["--follow"] else 0)
    out, err = capsys.readouterr()
    assert_unseen(out + err)
    assert_unsent(kfp_api)
    assert len(kfp_api.runs) == (0 if options == ["--dry-run"] else 1)
    if options == ["--follow"]:
        assert "train failed after 8 s: login with [redacted] failed" in err
        assert "  | 12:00:00 train     ERROR failed: login with [redacted] failed" in err


@pytest.mark.usefixtures("planted")
def test_a_refusal_that_quotes_a_secret_is_redacted(kfp_api: KfpApi, submit: Submit, capsys: Told) -> None:
    body = json.dumps({"message": f"rejected {TOKEN} and {COOKIE} and {PASSWORD}"}).encode()
    kfp_api.page = (403, body)
    assert submit("--json") == 2
    out, err = capsys.readouterr()
    assert "rejected [redacted]" in err
    assert_unseen(out + err)


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("option", "values"),
    [
        *((option, PLANTED) for option in ("--experiment", "--service-account", "--namespace", "--name")),
        *((option, PLANTED) for option in ("--token-file", "--ca-file")),
        *((option, [f"gs://bucket/{PASSWORD}"]) for option in ("--data", "--checkpoints")),
        ("--set", [f"KAFKA_TOPIC={PASSWORD}"]),
        ("KF_PIPELINES_UI_ENDPOINT", [f"http://{PASSWORD}", f"http://me:{PASSWORD}@ui"]),
    ],
)
def test_a_secret_that_would_be_sent_or_shown_is_refused(
    kfp_api: KfpApi,
    submit: Submit,
    capsys: Told,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    values: Sequence[str],
    dry: list[str],
) -> None:
    for value in values:
        if option.startswith("--"):
            given = [option, value, *(["--set", "KAFKA_HOST=broker"] if option == "--set" else [])]
        else:
            monkeypatch.setenv(option, value)
            given = []
        assert submit(*given, *dry) == 2
        out, err = capsys.readouterr()
        assert ("--params" if option == "--set" else option) in err
        assert_unseen(out + err)
    assert kfp_api.sent == []


@pytest.mark.usefixtures("planted")
def test_a_server_that_makes_a_secret_part_of_an_id(
    kfp_api: KfpApi, upload: Submit, submit: Submit, capsys: Told
) -> None:
    kfp_api.id_suffix = f"-{PASSWORD}"
    for command in (upload, submit):
        assert command("--json") == 0
        out, err = capsys.readouterr()
        assert "[redacted]" in out
        assert_unseen(out + err)


@pytest.mark.usefixtures("planted")
def test_a_file_with_a_secret_of_this_environment_is_not_uploaded(
    kfp_api: KfpApi, kubeflow_file: Path, tmp_path: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "correcthorsebattery")
    given = "componentInputParameter: pipelinechannel--data"  # a secret that is a word is found where it is a value
    for name, old, new in (
        ("KAFKA_SASL_PASSWORD", "gs://bucket/digits", f"gs://bucket/{PASSWORD}"),
        ("SHUTTERLINE_KFP_TOKEN", "gs://bucket/digits", f"gs://bucket/{TOKEN}"),
        ("the token or the cookie of this command", "gs://bucket/digits", "gs://bucket/planted-cookie-value"),
        ("DB_PASSWORD", given, "runtimeValue: {constant: correcthorsebattery}"),
    ):
        file = tmp_path / "pipeline.yaml"
        file.write_text(kubeflow_file.read_text().replace(old, new))
        assert main(["upload", str(file), "--host", kfp_api.url, "--unchecked"]) == 2
        err = capsys.readouterr().err
        assert f"holds the secret that {name} has here" in err
        assert_unseen(err)
    assert kfp_api.sent == []


def test_a_tokens_file_is_read_again_when_it_is_replaced(
    kfp_api: KfpApi, submit: Submit, tmp_path: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    kfp_api.token = TOKEN

    def replaced() -> None:
        kfp_api.token = "planted-token-of-the-next-hour"  # noqa: S105 - a test's
        file.write_text(kfp_api.token)

    kfp_api.when_run_is_made = replaced
    kfp_api.script = [bare("SUCCEEDED")]
    assert submit("--token-file", str(file), "--follow") == 0
    out, err = capsys.readouterr()
    assert_unseen(out + err)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    assert submit() == 0


@pytest.mark.parametrize(
    ("content", "why"),
    [("", "is empty"), ("planted token", "without spaces"), ("planted-\x00-token", "one line"), (None, "cannot be")],
)
def test_a_tokens_file_without_a_token(
    submit: Submit, tmp_path: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch, content: str | None, why: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    for named_by, options in (("--token-file", ["--token-file", str(file)]), ("KF_PIPELINES_SA_TOKEN_PATH", [])):
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
        assert submit(*options) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {named_by} {file}: ")
        assert why in err
        assert "planted" not in err
